"""A search stays within its work budget, and tries every candidate."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftline.config.stream import Stream, loads
from driftline.wire.events import Trial
from tests.training import CLASSIFICATION, label, record, with_candidates
from trainer.candidates import NAMES, Candidate, candidate
from trainer.collect import from_records
from trainer.search import Range, search
from trainer.work_budget import LEAST_ROWS, WorkBudget, work_of

KINDS = [candidate(name, "classification") for name in NAMES if name != "linear_regression"]
ROWS = from_records(
    CLASSIFICATION, [(r, label(CLASSIFICATION, r)) for r in map(record, range(1_200))]
).rows
CLASSIFICATION_NAMES = tuple(kind.name for kind in KINDS if kind.name != "neural_network")
HELD = np.arange(1_000, 1_200)
RANGES = [Range("since 840", np.arange(840, 1_000)), Range("all", np.arange(1_000))]


def found(budget: int, *names: str, tune: bool = True) -> tuple[Trial, ...]:
    stream: Stream = with_candidates(CLASSIFICATION, *names, budget=budget, tune=tune)
    return search(stream, ROWS, RANGES, HELD)[1]


def worked(trials: Sequence[Trial]) -> float:
    return sum(work_of(candidate(t.candidate, "classification"), t.rows) for t in trials)


@given(
    st.lists(st.sampled_from(KINDS), min_size=1),
    st.lists(st.integers(0, 100_000), min_size=1, max_size=3),
    st.integers(1, 2_000_000),
)
def test_equal_rows_are_as_many_as_the_share_allows(
    kinds: list[Candidate], sizes: list[int], total: int
) -> None:
    def work(rows: int) -> float:
        return sum(work_of(kind, min(size, rows)) for kind in kinds for size in sizes)

    rows = WorkBudget(total).equal_rows(kinds, sizes, 0.5)
    assert rows >= LEAST_ROWS
    assert work(rows) <= total / 2 or rows == LEAST_ROWS
    assert work(rows + 1) > total / 2 or rows >= max(LEAST_ROWS, *sizes)


@given(st.sampled_from(KINDS), st.integers(0, 1_000_000), st.integers(1, 6))
def test_the_affordable_rows_never_exceed_the_budget(
    kind: Candidate, total: int, fits: int
) -> None:
    budget = WorkBudget(total)
    rows = budget.rows(kind, fits=fits)
    assert rows >= 0
    if rows:
        budget.spend(kind, rows, fits=fits)
    assert budget.spent <= budget.total


@pytest.mark.parametrize("budget", [200_000, 250_000, 1_000_000])
def test_a_search_tries_every_candidate_and_stays_within_its_budget(budget: int) -> None:
    trials = found(budget, *CLASSIFICATION_NAMES)
    assert {trial.candidate for trial in trials} == set(CLASSIFICATION_NAMES)
    assert worked(trials) <= budget


def test_all_candidates_are_compared_on_the_same_rows() -> None:
    trees = "sklearn.ensemble.ExtraTreesClassifier"
    trials = found(200_000, "random_forest", "neural_network", trees, tune=False)
    compared = trials[:6]
    first, second = compared[0].rows, compared[3].rows
    assert [t.rows for t in compared] == [first] * 3 + [second] * 3
    assert first == 160, "the range has no more rows"
    assert 160 < second < 1_000
    assert compared[3].range == f"newest {second} of all"


def test_the_best_candidate_gets_all_rows_if_the_budget_allows() -> None:
    trials = found(200_000, "decision_tree", "random_forest", "neural_network", tune=False)
    best = min(trials, key=lambda trial: -trial.metric).candidate
    assert max(t.rows for t in trials if t.candidate == best) == 1_000


def test_ranges_that_consist_of_the_same_rows_are_compared_once() -> None:
    names = ("random_forest", "neural_network", "sklearn.ensemble.ExtraTreesClassifier")
    trials = found(200_000, *names, "hist_gradient_boosting", tune=False)
    assert [trial.rows for trial in trials[:4]] == [160] * 4
    tried = [(trial.candidate, trial.range, trial.rows) for trial in trials]
    assert len(set(tried)) == len(tried)
    assert {trial.range for trial in trials[:4]} == {"since 840"}


def test_equal_searches_make_equal_trials() -> None:
    names = ("decision_tree", "k_nearest_neighbours")
    assert found(200_000, *names) == found(200_000, *names)


def test_what_a_search_leaves_out_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "trainer.search")
    found(200_000, "random_forest", "hist_gradient_boosting", "neural_network")
    assert "no budget" in caplog.text


def test_a_fit_counts_at_most_the_rows_that_it_uses() -> None:
    neighbours = candidate("k_nearest_neighbours", "classification")
    assert work_of(neighbours, 10**6) == 20_000 * neighbours.work.per_row


def test_the_default_candidates_include_a_forest_and_boosting_but_no_neural_network() -> None:
    names = loads(
        'version = 1\nname = "s"\ntask = "classification"\ntarget = "y"\n[features]\nx = "number"\n'
    ).models.candidates
    assert {"random_forest", "hist_gradient_boosting", "decision_tree"} <= set(names)
    assert "neural_network" not in names
