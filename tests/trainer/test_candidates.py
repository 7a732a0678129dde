"""Candidates by name or class path; the best one by the stream's metric is chosen."""

import numpy as np
import pytest

from driftline.config.stream import Stream
from driftline.errors import TrainingError
from tests.training import CLASSIFICATION, REGRESSION, label, record, with_candidates
from trainer.candidates import NAMES, candidate
from trainer.collect import from_records
from trainer.rows import TrainingRows
from trainer.search import Range, fit, search, tune


def rows(stream: Stream, count: int = 300) -> TrainingRows:
    records = [record(i) for i in range(count)]
    return from_records(stream, records, [label(stream, r) for r in records]).rows


EVERYTHING, HELD = Range("all", np.arange(240)), np.arange(240, 300)


@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize("name", NAMES)
def test_every_candidate_can_be_trained_for_its_task(name: str, task: str) -> None:
    stream = CLASSIFICATION if task == "classification" else REGRESSION
    if {name, task} in (
        {"linear_regression", "classification"},
        {"logistic_regression", "regression"},
    ):
        with pytest.raises(TrainingError, match=f"does not support {task}"):
            candidate(name, stream.task)
        return
    found, trials = search(
        with_candidates(stream, name, tune=False), rows(stream), [EVERYTHING], HELD
    )
    assert found.metric > 0.85 if task == "classification" else found.metric < 1.0
    assert [(trial.candidate, trial.rows) for trial in trials] == [(name, 240)]
    assert len(candidate(name, stream.task).grid) <= 6


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("no_such_name", "unknown candidate"),
        ("no.such.module.Class", "No module named"),
        ("sklearn.tree.NoSuchTree", "NoSuchTree"),
        ("collections.Counter", "not a scikit-learn estimator"),
        ("sklearn.tree.plot_tree", "not a scikit-learn estimator"),
        ("sklearn.tree.DecisionTreeRegressor", "does not support classification"),
        ("sklearn.multioutput.MultiOutputClassifier", "without arguments"),
    ],
)
def test_an_error_explains_a_wrong_class_path(path: str, what: str) -> None:
    with pytest.raises(TrainingError, match=what):
        candidate(path, "classification")


def test_any_estimator_can_be_used_by_its_class_path() -> None:
    found, _ = search(
        with_candidates(CLASSIFICATION, "sklearn.naive_bayes.GaussianNB"),
        rows(CLASSIFICATION),
        [EVERYTHING],
        HELD,
    )
    assert found.fitted.candidate.name == "sklearn.naive_bayes.GaussianNB"
    assert found.fitted.parameters == {}


def test_the_candidate_with_the_best_metric_is_chosen_and_all_trials_are_listed() -> None:
    steps: list[str] = []
    found, trials = search(
        with_candidates(REGRESSION, "decision_tree", "linear_regression", tune=False),
        rows(REGRESSION),
        [EVERYTHING, Range("since 100", np.arange(100, 240))],
        HELD,
        lambda step, done, total: steps.append(f"{done}/{total} {step}"),
    )
    assert found.fitted.candidate.name == "linear_regression"
    assert found.metric == min(trial.metric for trial in trials)
    assert [(t.candidate, t.range, t.rows) for t in trials] == [
        ("decision_tree", "all", 240),
        ("linear_regression", "all", 240),
        ("linear_regression", "since 100", 140),
        ("decision_tree", "since 100", 140),
    ]
    assert steps[1] == "1/4 training linear_regression on all"
    assert steps[-1] == "4/4 training"


def test_a_candidate_that_fails_does_not_affect_the_others() -> None:
    stream = with_candidates(
        CLASSIFICATION, "sklearn.naive_bayes.MultinomialNB", "decision_tree"
    )  # the first does not accept negative numbers
    given = rows(stream)
    given.columns.numbers["price"][:] -= 100
    _, trials = search(stream, given, [EVERYTHING], HELD)
    assert [trial.candidate for trial in trials] == ["decision_tree"]


def test_labels_of_a_single_class_are_an_error() -> None:
    given = rows(CLASSIFICATION)
    given.labels[:] = "yes"
    with pytest.raises(TrainingError, match="only one class"):
        search(CLASSIFICATION, given, [EVERYTHING], HELD)


def test_a_held_out_class_that_was_not_in_training_counts_as_an_error() -> None:
    given = rows(CLASSIFICATION)
    given.labels[HELD[:10]] = "perhaps"
    found, _ = search(CLASSIFICATION, given, [EVERYTHING], HELD)
    assert found.fitted.schema.classes == ("no", "yes")
    assert found.metric <= 50 / 60


def test_tuning_chooses_from_the_grid_and_can_be_turned_off() -> None:
    kind = candidate("decision_tree", "regression")
    assert tune(REGRESSION, kind, rows(REGRESSION)) in kind.grid
    assert tune(with_candidates(REGRESSION, tune=False), kind, rows(REGRESSION)) == kind.grid[0]


def test_tuning_that_fails_leaves_the_default_parameters() -> None:
    kind, given = candidate("logistic_regression", "classification"), rows(CLASSIFICATION, 100)
    given.labels[:80] = "yes"  # tuning learns from one class only
    given.labels[80:] = "no"
    assert tune(CLASSIFICATION, kind, given) == kind.grid[0]


def test_nearest_neighbours_are_trained_only_on_the_newest_rows() -> None:
    kind = candidate("k_nearest_neighbours", "classification")
    assert kind.max_rows == 20_000
    many = rows(CLASSIFICATION, 60)
    fitted = fit(
        CLASSIFICATION, type(kind)(kind.name, kind.grid, kind.build, 50), kind.grid[0], many
    )
    assert fitted.estimator[-1].n_samples_fit_ == 50
