"""Metrics from merged sums equal scikit-learn's metrics of all outcomes."""

import itertools
import math
import random
from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftline.config.measure import Measure, Metric
from driftline.learning.metrics import Answers, answers_of, losses
from driftline.learning.ranking import score_codes
from driftline.wire.partial_aggregates import ErrorSums, ModelAggregate
from monitor.confusion import ClassTally
from monitor.metric_sums import HeldErrors, NumberTally, Tally, compare_error
from monitor.score_ranks import MAX_SCORES, RankTally
from monitor.tallies import new_tally
from tests.measures import MEASURES, by_scikit_learn

CLASSES = ("a", "b", "c")
MAE, RMSE, ACCURACY = Measure("mae"), Measure("rmse"), Measure("accuracy")
by_metric = pytest.mark.parametrize("name", MEASURES)
number = st.floats(-1e9, 1e9).filter(lambda value: value == 0 or abs(value) > 1e-3)


class Outcomes:
    """Random outcomes, with few distinct scores and numbers, so that there are ties."""

    def __init__(self, name: Metric, count: int, seed: int) -> None:
        self.name, self.measure = name, MEASURES[name]
        rng = np.random.default_rng(seed)
        self.labels: list[str] | list[float]
        self.predictions: list[str] | list[float]
        self.rows = rng.integers(1, 6, size=(count, 3)) / 1.0
        self.rows = (self.rows / self.rows.sum(axis=1, keepdims=True)).round(3)
        if self.measure.kind.task == "classification":
            self.labels = ["a", "b", *rng.choice(CLASSES, size=count - 2).tolist()]
            self.predictions = rng.choice(CLASSES, size=count).tolist()
        else:
            self.labels = (rng.integers(-2, 9, size=count) / 4).tolist()
            self.predictions = (rng.integers(-2, 9, size=count) / 4).tolist()

    def answers(self) -> Answers:
        if self.measure.kind.task == "regression":
            return Answers(self.predictions)
        return answers_of(self.measure, self.labels, self.predictions, self.rows, CLASSES)

    def tally(self, places: Sequence[int]) -> Tally:
        made = new_tally(self.measure)
        if len(places):
            answers = self.answers().take(np.array(places, dtype=np.intp))
            made.add([self.labels[place] for place in places], answers)
        return made


def sent(tally: Tally) -> list[ModelAggregate]:
    """Return a tally's chunks as other workers receive them. The first chunk has the count."""
    chunks = [
        ModelAggregate(model="m", records=0 if place else tally.records, **chunk._asdict())
        for place, chunk in enumerate(tally.packed())
    ]
    return [msgspec.json.decode(msgspec.json.encode(c), type=ModelAggregate) for c in chunks]


@by_metric
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("seed", range(5))
def test_realised_metrics_equal_those_of_scikit_learn(name: Metric, seed: int) -> None:
    outcomes = Outcomes(name, 60, seed)
    found = outcomes.tally(range(60)).metric()
    expected = by_scikit_learn(name, outcomes.labels, outcomes.predictions, outcomes.rows, CLASSES)
    # Scores are rounded: those with three decimals keep their order, except for rare ties.
    assert found == pytest.approx(expected, abs=2e-3 if outcomes.measure.is_ranking else 1e-9)


@by_metric
@given(cuts=st.lists(st.integers(0, 30), max_size=4), seed=st.integers(0, 99))
def test_any_division_into_partial_aggregates_gives_exactly_the_same_window(
    name: Metric, cuts: list[int], seed: int
) -> None:
    outcomes = Outcomes(name, 30, seed)
    whole, merged = outcomes.tally(range(30)), new_tally(outcomes.measure)
    order = random.Random(seed).sample(range(30), 30)
    bounds = [0, *sorted(cuts), 30]
    chunks = [
        chunk
        for start, end in itertools.pairwise(bounds)
        if start < end
        for chunk in sent(outcomes.tally(order[start:end]))
    ]
    for chunk in reversed(chunks):
        merged.merge_aggregate(chunk)
    halves = outcomes.tally(order[:11])
    halves.merge(outcomes.tally(order[11:]))
    held = HeldErrors.of(losses(outcomes.measure, outcomes.labels, outcomes.answers()))
    for other in (merged, halves):
        assert other.records == whole.records
        assert other.metric() == whole.metric()
        assert other.error() == whole.error()
        assert other.standard_error() == whole.standard_error()
        assert other.p_value(held) == whole.p_value(held)


@by_metric
def test_the_error_is_the_mean_of_the_losses_that_detectors_watch(name: Metric) -> None:
    outcomes = Outcomes(name, 50, 3)
    expected = losses(outcomes.measure, outcomes.labels, outcomes.answers()).mean()
    assert outcomes.tally(range(50)).error() == pytest.approx(float(expected), abs=2e-3)


def test_many_distinct_scores_are_sent_in_chunks() -> None:
    measure = MEASURES["roc_auc"]
    tally, every = RankTally(measure), np.arange(1_000_001) / 1e6
    scores = every[np.unique(score_codes(every), return_index=True)[1]][: 2 * MAX_SCORES]
    count = len(scores)
    tally.add(["a", "b"] * (count // 2), Answers(["a"] * count, scores))
    chunks = sent(tally)
    assert len(chunks) > 1
    came = RankTally(measure)
    for chunk in chunks:
        came.merge_aggregate(chunk)
    assert (came.records, came.metric()) == (count, tally.metric())


def test_a_window_without_the_positive_class_has_no_metric_and_is_not_compared() -> None:
    for name in ("roc_auc", "average_precision"):
        tally = new_tally(MEASURES[name])
        tally.add(["b", "c"], Answers(["b", "b"], np.array([0.1, 0.2])))
        assert math.isnan(tally.metric())
        assert math.isnan(tally.error())
        held = HeldErrors.of(np.array([0.1, 0.2]))
        assert compare_error(tally, held, level=0.005, min_loss=0.1) is None


def test_a_worse_ranking_is_a_degradation() -> None:
    rng = np.random.default_rng(0)
    labels = rng.choice(["a", "b"], size=1000, p=[0.05, 0.95]).tolist()
    positive = np.array(labels) == "a"
    measure = MEASURES["average_precision"]

    def scores(shift: float) -> Answers:
        odds = rng.normal(size=1000) + shift * positive
        return Answers(labels, (1 / (1 + np.exp(-odds))).round(6))

    held = HeldErrors.of(losses(measure, labels, scores(2.0)))
    found = []
    for shift in (2.0, 0.5):
        tally = RankTally(measure)
        tally.add(labels, scores(shift))
        compared = compare_error(tally, held, level=0.005, min_loss=0.1)
        assert compared is not None
        found.append(compared.is_degraded)
    assert found == [False, True]


@given(outcomes=st.lists(st.tuples(st.floats(0, 1e300), st.just(0.0)), min_size=1))
def test_sums_of_any_size_are_encoded_and_decoded_unchanged(
    outcomes: list[tuple[float, float]],
) -> None:
    labels, said = zip(*outcomes, strict=True)
    tallies: list[tuple[Tally, Measure, Sequence[str | float]]] = [
        (NumberTally(MAE), MAE, labels),
        (ClassTally(ACCURACY), ACCURACY, tuple(map(str, labels))),
    ]
    for tally, measure, values in tallies:
        tally.add(values, Answers(said))
        came = new_tally(measure)
        for chunk in sent(tally):
            came.merge_aggregate(chunk)
        assert (came.records, came.error()) == (tally.records, tally.error())


def tally(wrong: int, right: int) -> Tally:
    result = ClassTally(ACCURACY)
    result.add(["a"] * (wrong + right), Answers(["b"] * wrong + ["a"] * right))
    return result


def test_a_degradation_must_be_significant_and_large_enough() -> None:
    trained = HeldErrors.of(np.array([1.0] * 100 + [0.0] * 900))
    found = compare_error(tally(40, 160), trained, level=0.005, min_loss=0.1)
    assert found is not None
    assert (found.reference_error, found.is_degraded) == (0.1, True)
    for wrong, right in ((21, 179), (5, 195)):  # an increase within chance; a smaller error
        found = compare_error(tally(wrong, right), trained, level=0.005, min_loss=0.1)
        assert found is not None
        assert not found.is_degraded
    many = HeldErrors.of(np.array([1.0] * 10_000 + [0.0] * 90_000))
    found = compare_error(tally(10_600, 89_400), many, level=0.005, min_loss=0.1)
    assert found is not None
    assert found.p_value < 1e-4
    assert not found.is_degraded  # an increase of 6%: significant, but too small to matter


def test_an_increase_of_autocorrelated_errors_is_less_significant() -> None:
    trained = HeldErrors.of(np.array([1.0] * 100 + [0.0] * 900))
    wrong = tally(35, 165)
    numbers, errors = NumberTally(MAE), np.repeat([0.0, 1.0], [165, 35])
    numbers.add(errors.tolist(), Answers([0.0] * 200))
    for tested in (wrong, numbers):
        plain, in_runs = (
            compare_error(tested, trained, variance_inflation=more, level=0.005, min_loss=0.1)
            for more in (1.0, 8.0)
        )
        assert plain is not None
        assert in_runs is not None
        assert plain.is_degraded
        assert not in_runs.is_degraded


def test_without_held_out_errors_there_is_no_result() -> None:
    assert compare_error(tally(3, 3), None, level=0.005, min_loss=0.1) is None


def test_a_degradation_of_absolute_errors_is_found() -> None:
    rng = np.random.default_rng(0)
    trained = HeldErrors.of(np.abs(rng.normal(size=2000)))
    same, worse = NumberTally(MAE), NumberTally(MAE)
    errors = np.abs(rng.normal(size=500))
    same.add(errors.tolist(), Answers([0.0] * 500))
    worse.add((1.5 * errors).tolist(), Answers([0.0] * 500))
    verdicts = [compare_error(t, trained, level=0.005, min_loss=0.1) for t in (same, worse)]
    assert [verdict is not None and verdict.is_degraded for verdict in verdicts] == [False, True]


def test_constant_errors_cause_no_division_by_zero() -> None:
    same = NumberTally(RMSE)
    same.add([1.0], Answers([0.0]))
    assert same.p_value(HeldErrors.of(np.ones(10))) == 1.0
    assert same.p_value(HeldErrors.of(np.zeros(10))) == 0.0
    assert math.isclose(same.metric(), 1.0)


# ---- standard errors -----------------------------------------------------------------------------


@by_metric
def test_the_standard_error_is_the_deviation_of_the_metric_by_chance(name: Metric) -> None:
    rng = np.random.default_rng(5)
    measure, values, expected = MEASURES[name], [], []
    for _ in range(400):
        tally = new_tally(measure)
        if measure.kind.task == "regression":
            # Labels of 3 with errors of up to 2, so that rmsle is computed without clipping.
            tally.add([3.0] * 300, Answers((3.0 + np.clip(rng.normal(size=300), -2, 2)).tolist()))
        else:
            labels = rng.choice(CLASSES, size=300, p=[0.2, 0.5, 0.3])
            wrong = rng.random(300) < 0.2
            other = rng.choice(CLASSES, size=300)
            odds = np.exp(rng.normal(size=(300, 3)) + 1.5 * (labels[:, None] == np.array(CLASSES)))
            rows = odds / odds.sum(axis=1, keepdims=True)
            predictions = np.where(wrong, other, labels).tolist()
            names = labels.tolist()
            tally.add(names, answers_of(measure, names, predictions, rows, CLASSES))
        values.append(tally.metric())
        expected.append(tally.standard_error())
    # The standard deviation of 400 values is known to 3.5%.
    assert np.mean(expected) == pytest.approx(np.std(values), rel=0.12)


@given(outcomes=st.lists(st.tuples(number, number), min_size=2, max_size=20))
def test_standard_errors_of_absolute_errors_equal_those_of_numpy(
    outcomes: list[tuple[float, float]],
) -> None:
    tally, root = NumberTally(MAE), NumberTally(RMSE)
    labels, said_ = zip(*outcomes, strict=True)
    errors = tally.add(labels, Answers(said_))
    root.merge(tally)
    expected = np.std(errors) / math.sqrt(len(errors))
    # Squares are rounded at the 16th digit, so deviations at the 8th digit of the largest error.
    allowed = 1e-7 * float(np.max(errors)) + 1e-9
    assert tally.standard_error() == pytest.approx(expected, rel=1e-6, abs=allowed)
    assert math.isfinite(root.standard_error())


def test_the_standard_error_is_0_if_all_errors_are_equal() -> None:
    assert tally(0, 50).standard_error() == 0.0
    for measure in (MAE, RMSE):
        same = NumberTally(measure)
        same.add([1e140, 1e140], Answers([0.0, 0.0]))
        assert same.standard_error() == 0.0
    none = NumberTally(RMSE)
    none.add([1.0], Answers([1.0]))
    assert none.standard_error() == 0.0


def test_old_partial_aggregates_without_fourth_powers_have_an_rmse_error_of_0() -> None:
    part = ModelAggregate(model="a", records=2, sums=ErrorSums(str(3 << 64), str(5 << 64)))
    mae, rmse = NumberTally(MAE), NumberTally(RMSE)
    mae.merge_aggregate(part)
    rmse.merge_aggregate(part)
    assert mae.standard_error() == pytest.approx(0.5 / math.sqrt(2))
    assert rmse.standard_error() == 0.0
