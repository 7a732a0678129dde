"""Our metrics, which use only NumPy, equal those of scikit-learn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from driftline.config.stream_sections import Metric, Task
from driftline.learning.metrics import better, errors, evaluate, higher_is_better

names = st.sampled_from(["a", "b", "c"])
pairs = st.lists(st.tuples(names, names), min_size=1, max_size=40)
numbers = st.floats(-1e6, 1e6)
number_pairs = st.lists(st.tuples(numbers, numbers), min_size=1, max_size=40)


@given(pairs)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_classification_metrics_equal_those_of_scikit_learn(said: list[tuple[str, str]]) -> None:
    labels, predictions = (list(column) for column in zip(*said, strict=True))
    expected = {
        "accuracy": metrics.accuracy_score(labels, predictions),
        "balanced_accuracy": metrics.balanced_accuracy_score(labels, predictions),
        "f1_macro": metrics.f1_score(labels, predictions, average="macro"),
    }
    for metric, value in expected.items():
        found = evaluate(metric, "classification", labels, predictions)  # type: ignore[arg-type]
        assert found == pytest.approx(value)


@given(number_pairs)
def test_regression_metrics_equal_those_of_scikit_learn(said: list[tuple[float, float]]) -> None:
    labels, predictions = (list(column) for column in zip(*said, strict=True))
    mae = metrics.mean_absolute_error(labels, predictions)
    rmse = metrics.root_mean_squared_error(labels, predictions)
    assert evaluate("mae", "regression", labels, predictions) == pytest.approx(mae)
    assert evaluate("rmse", "regression", labels, predictions) == pytest.approx(rmse)


@given(pairs)
def test_accuracy_is_one_minus_the_mean_error(said: list[tuple[str, str]]) -> None:
    labels, predictions = zip(*said, strict=True)
    error = errors("classification", labels, predictions)
    assert set(error) <= {0.0, 1.0}
    accuracy = evaluate("accuracy", "classification", labels, predictions)
    assert accuracy == pytest.approx(1 - error.mean())


@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy", "f1_macro", "mae", "rmse"])
def test_correct_predictions_have_the_best_metrics(metric: Metric) -> None:
    task: Task = "classification" if higher_is_better(metric) else "regression"
    right: list[str | float] = ["a", "b", "a"] if task == "classification" else [1.0, 2.0, 1.0]
    wrong: list[str | float] = ["b", "b", "a"] if task == "classification" else [2.0, 2.0, 1.0]
    best = evaluate(metric, task, right, right)
    assert best == (1.0 if higher_is_better(metric) else 0.0)
    assert better(metric, best, evaluate(metric, task, right, wrong))
    assert not better(metric, best, best)


def test_arrays_and_lists_give_the_same_metrics() -> None:
    labels = np.array(["a", "b"], dtype=object)
    assert evaluate("accuracy", "classification", labels, ["a", "a"]) == 0.5
    assert evaluate("mae", "regression", np.array([1.0]), [3.0]) == 2.0


def test_a_metric_of_no_records_is_an_error() -> None:
    with pytest.raises(ValueError, match="accuracy without records"):
        evaluate("accuracy", "classification", [], [])
