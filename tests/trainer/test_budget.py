"""A search's budget: never exceeded, the same for equal searches, and shared by all candidates."""

from collections.abc import Sequence

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from driftline.config.candidates import MIN_FIT_ROWS, WORK, default_candidates, least_budget
from driftline.config.stream import loads
from driftline.errors import StreamFileError
from trainer.budget import LeftOut, cost, fitted_rows, limit_rows, spend
from trainer.candidates import Candidate, Parameters, candidate

CLASSIFIERS = tuple(name for name in WORK if name != "linear_regression")
GENEROUS = 10**12

Fit = tuple[str, int, int, str]


class Recorder:
    """Counts the work of what it is asked to do. The losses are given, tuning picks the last
    point."""

    def __init__(self, lengths: Sequence[int], losses: Sequence[float | None]) -> None:
        self._lengths = lengths
        self._losses = losses
        self.fits: list[Fit] = []
        self.tuned: list[tuple[str, int, int, int]] = []
        self.work = 0

    def train(self, candidate: Candidate, place: int, parameters: Parameters) -> float | None:
        rows = fitted_rows(candidate, self._lengths[place])
        self.work += candidate.work * max(MIN_FIT_ROWS, rows)
        self.fits.append((candidate.name, place, rows, str(parameters)))
        return self._losses[len(self.fits) % len(self._losses)]

    def tune(self, candidate: Candidate, place: int, rows: int, points: int) -> Parameters:
        assert rows <= fitted_rows(candidate, self._lengths[place])
        assert 2 <= points <= len(candidate.grid)
        self.work += points * candidate.work * max(MIN_FIT_ROWS, rows)
        self.tuned.append((candidate.name, place, rows, points))
        return candidate.grid[points - 1]


def kinds(names: Sequence[str]) -> list[Candidate]:
    return [candidate(name, "classification") for name in names]


@given(
    names=st.lists(st.sampled_from(CLASSIFIERS), min_size=1, max_size=6, unique=True),
    lengths=st.lists(st.integers(10, 500_000), min_size=1, max_size=12),
    more=st.integers(0, 10_000_000),
    losses=st.lists(st.none() | st.floats(0, 1), min_size=1, max_size=7),
    tune=st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_the_budget_is_never_exceeded_and_every_candidate_is_tried(
    names: list[str], lengths: list[int], more: int, losses: list[float | None], tune: bool
) -> None:
    budget = least_budget(tuple(names)) + more
    first, again = Recorder(lengths, losses), Recorder(lengths, losses)
    left_out = spend(kinds(names), lengths, budget, first, tune=tune)
    assert first.work <= budget
    defaults = [(kind.name, str(kind.grid[0])) for kind in kinds(names)]
    assert [(name, used) for name, _, _, used in first.fits[: len(names)]] == defaults
    assert all(rows >= min(lengths[0], MIN_FIT_ROWS) for *_, rows, _ in first.fits[: len(names)])
    assert tune or not first.tuned
    assert spend(kinds(names), lengths, budget, again, tune=tune) == left_out
    assert (again.fits, again.tuned) == (first.fits, first.tuned)


@given(
    names=st.lists(st.sampled_from(CLASSIFIERS), min_size=1, max_size=6, unique=True),
    length=st.integers(10, 500_000),
    more=st.integers(0, 10_000_000),
)
@settings(deadline=None)
def test_rows_are_limited_only_if_the_work_is_too_much(
    names: list[str], length: int, more: int
) -> None:
    work = least_budget(tuple(names)) // 2 + more
    before, after = kinds(names), limit_rows(kinds(names), length, work)
    assert sum(cost(kind, length) for kind in after) <= work
    if sum(cost(kind, length) for kind in before) <= work:
        assert [fitted_rows(k, length) for k in after] == [fitted_rows(k, length) for k in before]


def test_a_generous_budget_leaves_nothing_out() -> None:
    recorder = Recorder([8_000, 4_000, 2_000], [0.5])
    left_out = spend(
        kinds(default_candidates("classification")), [8_000, 4_000, 2_000], GENEROUS, recorder
    )
    assert left_out == [LeftOut()] * 5
    assert len(recorder.tuned) == 15
    assert {(rows, points) for name, _, rows, points in recorder.tuned if "tree" in name} == {
        (8_000, 6),
        (4_000, 6),
        (2_000, 6),
    }


def test_expensive_candidates_are_trained_on_the_newest_rows_if_there_are_too_many() -> None:
    names, recorder = default_candidates("classification"), Recorder([400_000], [0.5])
    left_out = spend(kinds(names), [400_000], 2_000_000, recorder)
    rows = {name: count for name, _, count, _ in recorder.fits[:5]}
    assert 1_000 < rows["random_forest"] < rows["hist_gradient_boosting"] < rows["decision_tree"]
    assert 180_000 < rows["decision_tree"] < 400_000
    assert left_out[names.index("random_forest")].rows == 400_000 - rows["random_forest"]


def test_the_best_candidate_is_trained_on_more_ranges_than_the_worst() -> None:
    names = ("random_forest", "sklearn.naive_bayes.GaussianNB")  # they need equal work
    lengths = [8_000, 4_000, 2_000, 1_000]
    recorder = Recorder(lengths, [0.2, 0.1])  # of the first fits, the first has the lower loss
    left_out = spend(kinds(names), lengths, 1_000_000, recorder, tune=False)
    assert left_out == [LeftOut(), LeftOut(ranges=[2])]


def test_ranges_that_lead_to_the_same_rows_are_tried_once() -> None:
    recorder = Recorder([90_000, 45_000, 22_500, 11_250], [0.5])
    spend(
        kinds(["k_nearest_neighbours"]),
        [90_000, 45_000, 22_500, 11_250],
        GENEROUS,
        recorder,
        tune=False,
    )
    assert [rows for *_, rows, _ in recorder.fits] == [20_000, 11_250]


def test_tuning_uses_fewer_rows_before_it_uses_fewer_points() -> None:
    def tuned(budget: int) -> list[tuple[int, int]]:
        recorder = Recorder([8_000], [0.5])
        spend(kinds(["decision_tree"]), [8_000], budget, recorder)
        return [(rows, points) for _, _, rows, points in recorder.tuned]

    assert tuned(8_000 * 8) == [(8_000, 6)]
    assert tuned(8_000 * 8 - 1) == [(4_000, 6)]
    assert tuned(16_000 + 6_000) == [(1_000, 6)]
    assert tuned(16_000 + 5_999) == [(1_000, 5)]
    assert tuned(16_000 + 1_999) == []


def test_a_budget_that_is_too_small_for_the_candidates_is_rejected() -> None:
    text = """
version = 1
name = "paint"
task = "classification"
target = "sold"
features = { price = "number" }
models = { candidates = ["random_forest", "decision_tree"], budget = BUDGET }
"""
    assert loads(text.replace("BUDGET", "62000")).models.budget == 62_000
    with pytest.raises(StreamFileError, match=r"\[models.budget\] Expected at least 62000"):
        loads(text.replace("BUDGET", "61999"))
