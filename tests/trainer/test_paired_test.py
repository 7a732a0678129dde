"""The sequential test promotes better models soon, and equal or worse models hardly ever."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from driftline.config.measure import Measure, Metric
from driftline.learning.metrics import Answers, evaluate
from tests.measures import CLASS_METRICS, MEASURES
from trainer.paired_test import (
    MAX_ROWS,
    Gains,
    State,
    block_size,
    decide,
    dependence_of,
    looks,
    row_gains,
)

Floats = NDArray[np.float64]


def play(values: Floats, dependence: int = 1, largest_loss: float = 1.0) -> tuple[State, int]:
    """Return the result of all looks, and the number of rows after which it is known."""
    for count in looks():
        state = decide(Gains(values[:count], largest_loss), dependence)
        if state != "open":
            return state, count
    raise AssertionError("the last look must decide")


def signs(seed: int, better: float, worse: float) -> Floats:
    """Return independent gains: a share of wins and a share of losses."""
    random = np.random.default_rng(seed)
    return random.choice([-1.0, 0.0, 1.0], size=MAX_ROWS, p=[worse, 1 - better - worse, better])


def in_blocks(seed: int, size: int) -> tuple[Floats, int]:
    """Return gains of equally good models whose error rates change every `size` rows.

    The second value is the dependence of the champion's earlier errors.
    """
    random = np.random.default_rng(seed)

    def errors() -> Floats:
        rates = np.repeat(random.choice([0.05, 0.35], size=8_000 // size + MAX_ROWS // size), size)
        return (random.random(len(rates)) < rates).astype(float)

    champion, challenger = errors(), errors()
    return (champion - challenger)[8_000:], dependence_of(champion[:8_000])


def test_equal_models_hardly_ever_win() -> None:
    won = [play(signs(seed, 0.05, 0.05))[0] == "won" for seed in range(30)]
    assert sum(won) <= 1


@pytest.mark.parametrize("size", [50, 200, 400])
def test_equal_models_hardly_ever_win_if_their_errors_come_in_blocks(size: int) -> None:
    won = [play(*in_blocks(seed, size))[0] == "won" for seed in range(30)]
    assert sum(won) <= 1


@pytest.mark.parametrize("size", [50, 200, 400])
def test_runs_of_equal_gains_count_as_one_gain(size: int) -> None:
    random = np.random.default_rng(size)
    for _ in range(20):
        blocks = random.choice([-1.0, 0.0, 1.0], size=MAX_ROWS // size, p=[0.1, 0.8, 0.1])
        assert play(np.repeat(blocks, size))[0] == "lost"


def test_a_model_better_by_two_points_wins_within_twice_the_rows_of_a_fixed_test() -> None:
    fixed = (2.326 + 1.282) ** 2 * 0.1 / 0.02**2
    results = [play(signs(seed, 0.06, 0.04)) for seed in range(30)]
    in_time = [state == "won" and rows <= 2 * fixed for state, rows in results]
    assert sum(in_time) >= 25


def test_a_far_better_model_wins_after_a_hundred_rows() -> None:
    results = [play(signs(seed, 0.35, 0.05)) for seed in range(20)]
    assert all(state == "won" for state, _ in results)
    assert np.median([rows for _, rows in results]) <= 103


def test_a_worse_model_loses_long_before_the_last_look() -> None:
    results = [play(signs(seed, 0.04, 0.06)) for seed in range(20)]
    assert all(state == "lost" for state, _ in results)
    assert np.median([rows for _, rows in results]) < 2_000


def test_a_few_informative_rows_cannot_win() -> None:
    values = np.zeros(1_000)
    values[::100] = 1.0
    assert decide(Gains(values, 1.0)) == "open"


@pytest.mark.parametrize("seed", range(20))
def test_small_gains_do_not_win_if_a_rare_large_loss_is_possible(seed: int) -> None:
    """Amounts are mostly 0. The challenger always predicts 0, so it is worse on average."""
    random = np.random.default_rng(seed)
    truth = np.where(random.random(MAX_ROWS) < 0.002, random.exponential(500.0, MAX_ROWS), 0.0)
    champion, challenger = np.where(truth > 0, truth * 0.9, 0.5), np.zeros(MAX_ROWS)
    for count in looks():
        gains = row_gains(
            Measure("mae"),
            truth[:count],
            Answers(challenger[:count]),
            Answers(champion[:count]),
            largest_loss=450.0,
        )
        if (state := decide(gains)) != "open":
            break
    assert state == ("won" if np.abs(truth).mean() < np.abs(truth - champion).mean() else "lost")


@pytest.mark.parametrize("metric", ["f1_macro", "balanced_accuracy"])
def test_a_model_that_ignores_a_rare_class_does_not_win_before_the_class_has_occurred(
    metric: Metric,
) -> None:
    labels = np.array(["no"] * 400, dtype=object)
    champion = np.array((["yes"] + ["no"] * 3) * 100, dtype=object)  # many false alarms
    gains = row_gains(
        Measure(metric), labels, Answers(labels), Answers(champion), classes=("no", "yes")
    )
    assert decide(gains) == "open"


@pytest.mark.parametrize("name", CLASS_METRICS)
@given(data=st.data())
def test_the_mean_of_the_gains_is_the_difference_of_the_metric(
    name: Metric, data: st.DataObject
) -> None:
    measure, names = MEASURES[name], st.lists(st.sampled_from("abc"), min_size=30, max_size=30)
    labels, *answered = (np.array(data.draw(names), dtype=object) for _ in range(3))
    shares = st.lists(st.integers(0, 10), min_size=30, max_size=30)
    ours, theirs = (
        Answers(each, np.array(data.draw(shares)) / 10 if measure.needs_scores else None)
        for each in answered
    )
    difference = evaluate(measure, labels, ours) - evaluate(measure, labels, theirs)
    assume(np.isfinite(difference))
    gains = row_gains(measure, labels, ours, theirs)
    sign = 1.0 if measure.higher_is_better else -1.0
    assert gains.values.mean() == pytest.approx(sign * difference)


@pytest.mark.parametrize("name", ["roc_auc", "average_precision"])
def test_a_better_ranking_of_a_rare_class_wins_and_an_equal_one_does_not(name: Metric) -> None:
    measure, random = MEASURES[name], np.random.default_rng(0)
    labels = np.where(random.random(MAX_ROWS) < 0.05, "a", "b").astype(object)
    signal = 2.0 * (labels == "a")
    champion, equal, better = (
        Answers(labels, part * signal + random.normal(size=MAX_ROWS)) for part in (0.3, 0.3, 1.0)
    )

    def ended(challenger: Answers) -> tuple[State, int]:
        for count in looks():
            first = slice(0, count)
            if not (labels[first] == "a").any():
                continue
            gains = row_gains(measure, labels[first], challenger.take(first), champion.take(first))
            if (state := decide(gains)) != "open":
                return state, count
        return "open", MAX_ROWS

    state, count = ended(better)
    assert state == "won"
    assert count < 5_000
    assert ended(equal)[0] == "lost"


def test_a_champion_without_a_finite_prediction_loses_the_row() -> None:
    labels = np.zeros(60)
    answers = Answers(labels + 1), Answers(np.full(60, np.nan))
    gains = row_gains(Measure("rmse"), labels, *answers)
    assert np.isfinite(gains.values).all()
    assert gains.values.min() > 0


def test_blocks_are_as_long_as_the_dependence() -> None:
    random = np.random.default_rng(0)
    assert block_size(random.normal(size=5_000)) <= 8
    assert block_size(np.repeat(random.normal(size=100), 50)) >= 50


@given(st.integers(0, 2**32 - 1), st.floats(0, 0.2), st.floats(0, 0.2))
def test_the_last_look_decides(seed: int, better: float, worse: float) -> None:
    assert play(signs(seed, better, worse))[0] in ("won", "lost")
