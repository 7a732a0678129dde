"""Metrics from merged sums equal scikit-learn's metrics of all outcomes."""

import math
import random

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    f1_score,
    mean_absolute_error,
    root_mean_squared_error,
)

from driftline.config.stream_sections import Metric
from driftline.wire.partial_aggregates import ErrorSums, ModelAggregate
from monitor.metric_sums import ClassTally, NumberTally, Tally, compare_error

SCORES = {
    "accuracy": accuracy_score,
    "balanced_accuracy": balanced_accuracy_score,
    "f1_macro": lambda labels, said: f1_score(labels, said, average="macro", zero_division=0),
    "mae": mean_absolute_error,
    "rmse": root_mean_squared_error,
}
pairs = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abcd")), min_size=1)
number = st.floats(-1e9, 1e9).filter(lambda value: value == 0 or abs(value) > 1e-3)


@pytest.mark.filterwarnings("ignore::UserWarning")
@given(outcomes=pairs, cut=st.integers(0, 20))
@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy", "f1_macro"])
def test_classification_metrics_equal_those_of_scikit_learn(
    metric: Metric, outcomes: list[tuple[str, str]], cut: int
) -> None:
    whole, other = ClassTally(), ClassTally()
    labels, said_ = zip(*outcomes, strict=True)
    errors = whole.add(labels[:cut], said_[:cut]), other.add(labels[cut:], said_[cut:])
    assert np.concatenate(errors).tolist() == [label != said for label, said in outcomes]
    whole.merge(other)
    assert whole.records == len(outcomes)
    assert whole.metric(metric) == pytest.approx(SCORES[metric](labels, said_))


@given(outcomes=st.lists(st.tuples(number, number), min_size=1), seed=st.integers(0, 9))
@pytest.mark.parametrize("metric", ["mae", "rmse"])
def test_regression_metrics_do_not_depend_on_the_order(
    metric: Metric, outcomes: list[tuple[float, float]], seed: int
) -> None:
    tally, shuffled = NumberTally(), NumberTally()
    labels, said_ = zip(*outcomes, strict=True)
    tally.add(labels, said_)
    for label, said in random.Random(seed).sample(outcomes, len(outcomes)):
        shuffled.add([label], [said])
    assert tally.metric(metric) == pytest.approx(SCORES[metric](labels, said_))
    assert tally.metric(metric) == shuffled.metric(metric)


@given(outcomes=st.lists(st.tuples(st.floats(0, 1e300), st.just(0.0)), min_size=1))
def test_sums_of_any_size_are_encoded_and_decoded_unchanged(
    outcomes: list[tuple[float, float]],
) -> None:
    labels, said = zip(*outcomes, strict=True)
    for tally, values in ((NumberTally(), labels), (ClassTally(), tuple(map(str, labels)))):
        tally.add(values, said)
        pairs, sums = tally.packed()
        part = ModelAggregate(model="a", records=tally.records, pairs=pairs, sums=sums)
        came = type(tally)()
        came.merge_aggregate(msgspec.json.decode(msgspec.json.encode(part), type=ModelAggregate))
        assert (came.records, came.error()) == (tally.records, tally.error())


def tally(wrong: int, right: int) -> Tally:
    result = ClassTally()
    result.add(["a"] * (wrong + right), ["b"] * wrong + ["a"] * right)
    return result


def test_a_degradation_must_be_significant_and_large_enough() -> None:
    trained = np.array([1.0] * 100 + [0.0] * 900)
    found = compare_error(tally(40, 160), trained, level=0.005, min_loss=0.1)
    assert found is not None
    assert (found.reference_error, found.is_degraded) == (0.1, True)
    for wrong, right in ((21, 179), (5, 195)):  # an increase within chance; a smaller error
        found = compare_error(tally(wrong, right), trained, level=0.005, min_loss=0.1)
        assert found is not None
        assert not found.is_degraded
    many = np.array([1.0] * 10_000 + [0.0] * 90_000)
    found = compare_error(tally(10_600, 89_400), many, level=0.005, min_loss=0.1)
    assert found is not None
    assert found.p_value < 1e-4
    assert not found.is_degraded  # an increase of 6%: significant, but too small to matter


def test_an_increase_of_autocorrelated_errors_is_less_significant() -> None:
    trained = np.array([1.0] * 100 + [0.0] * 900)
    wrong = tally(35, 165)
    numbers, errors = NumberTally(), np.repeat([0.0, 1.0], [165, 35])
    numbers.add(errors.tolist(), [0.0] * 200)
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
    assert compare_error(tally(3, 3), np.empty(0), level=0.005, min_loss=0.1) is None


def test_a_degradation_of_absolute_errors_is_found() -> None:
    rng = np.random.default_rng(0)
    trained = np.abs(rng.normal(size=2000))
    same, worse = NumberTally(), NumberTally()
    errors = np.abs(rng.normal(size=500))
    same.add(errors.tolist(), [0.0] * 500)
    worse.add((1.5 * errors).tolist(), [0.0] * 500)
    verdicts = [compare_error(t, trained, level=0.005, min_loss=0.1) for t in (same, worse)]
    assert [verdict is not None and verdict.is_degraded for verdict in verdicts] == [False, True]


def test_constant_errors_cause_no_division_by_zero() -> None:
    same = NumberTally()
    same.add([1.0], [0.0])
    assert same.p_value(np.ones(10)) == 1.0
    assert same.p_value(np.zeros(10)) == 0.0
    assert math.isclose(same.metric("rmse"), 1.0)


# ---- standard errors -----------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy", "f1_macro", "mae", "rmse"])
def test_the_standard_error_is_the_deviation_of_the_metric_by_chance(metric: Metric) -> None:
    rng = np.random.default_rng(5)
    values, said_to_be = [], []
    for _ in range(400):
        tally: Tally
        if metric in ("mae", "rmse"):
            tally = NumberTally()
            tally.add(rng.normal(size=300).tolist(), [0.0] * 300)
        else:
            tally = ClassTally()
            labels = rng.choice(["a", "b", "c"], size=300, p=[0.6, 0.3, 0.1])
            wrong = rng.random(300) < 0.2
            other = rng.choice(["a", "b", "c"], size=300)
            tally.add(labels.tolist(), np.where(wrong, other, labels).tolist())
        values.append(tally.metric(metric))
        said_to_be.append(tally.standard_error(metric))
    # The standard deviation of 400 values is known to 3.5%.
    assert np.mean(said_to_be) == pytest.approx(np.std(values), rel=0.12)


@given(outcomes=st.lists(st.tuples(number, number), min_size=2, max_size=20))
def test_standard_errors_of_absolute_errors_equal_those_of_numpy(
    outcomes: list[tuple[float, float]],
) -> None:
    tally = NumberTally()
    labels, said_ = zip(*outcomes, strict=True)
    errors = tally.add(labels, said_)
    expected = np.std(errors) / math.sqrt(len(errors))
    # Squares are rounded at the 16th digit, so deviations at the 8th digit of the largest error.
    allowed = 1e-7 * float(np.max(errors)) + 1e-9
    assert tally.standard_error("mae") == pytest.approx(expected, rel=1e-6, abs=allowed)
    assert math.isfinite(tally.standard_error("rmse"))


def test_the_standard_error_is_0_if_all_errors_are_equal() -> None:
    assert tally(0, 50).standard_error("accuracy") == 0.0
    same = NumberTally()
    same.add([1e140, 1e140], [0.0, 0.0])
    assert (same.standard_error("mae"), same.standard_error("rmse")) == (0.0, 0.0)
    none = NumberTally()
    none.add([1.0], [1.0])
    assert none.standard_error("rmse") == 0.0


def test_old_partial_aggregates_without_fourth_powers_have_an_rmse_error_of_0() -> None:
    part = ModelAggregate(model="a", records=2, sums=ErrorSums(str(3 << 64), str(5 << 64)))
    came = NumberTally()
    came.merge_aggregate(part)
    assert came.standard_error("mae") == pytest.approx(0.5 / math.sqrt(2))
    assert came.standard_error("rmse") == 0.0
