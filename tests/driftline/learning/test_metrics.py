"""Our metrics, which use only NumPy, equal those of scikit-learn."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss

from driftline.config.measure import Measure, Metric, default_measure, higher_is_better
from driftline.learning.metrics import (
    Answers,
    answers_of,
    better,
    evaluate,
    losses,
    unsuitable,
    used_scores,
)
from tests.measures import CLASS_METRICS, MEASURES, NUMBER_METRICS, by_scikit_learn

CLASSES = ("a", "b", "c")
numbers = st.floats(-1e6, 1e6)
number_pairs = st.lists(st.tuples(numbers, numbers), min_size=1, max_size=40)


@st.composite
def classified(draw: st.DrawFn) -> tuple[list[str], list[str], np.ndarray]:
    """Draw labels, predictions and probabilities (n, 3), with ties."""
    count = draw(st.integers(2, 30))
    labels = draw(st.lists(st.sampled_from(CLASSES), min_size=count, max_size=count))
    predictions = draw(st.lists(st.sampled_from(CLASSES), min_size=count, max_size=count))
    weights = draw(
        st.lists(st.tuples(*[st.integers(0, 5)] * 3).filter(any), min_size=count, max_size=count)
    )
    probabilities = np.array(weights, dtype=np.float64)
    return labels, predictions, probabilities / probabilities.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("name", CLASS_METRICS)
@pytest.mark.filterwarnings("ignore::UserWarning")
@given(drawn=classified())
def test_classification_metrics_equal_those_of_scikit_learn(
    name: Metric,
    drawn: tuple[list[str], list[str], np.ndarray],
) -> None:
    labels, predictions, probabilities = drawn
    if name in ("roc_auc", "average_precision"):
        labels = ["a", "b", *labels[2:]]  # otherwise, the metric is undefined
    answers = answers_of(MEASURES[name], labels, predictions, probabilities, CLASSES)
    found = evaluate(MEASURES[name], labels, answers)
    expected = by_scikit_learn(name, labels, predictions, probabilities, CLASSES)
    assert found == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("name", NUMBER_METRICS)
@given(pairs=number_pairs)
def test_regression_metrics_equal_those_of_scikit_learn(
    name: Metric, pairs: list[tuple[float, float]]
) -> None:
    labels, predictions = (list(column) for column in zip(*pairs, strict=True))
    found = evaluate(MEASURES[name], labels, Answers(predictions))
    assert found == pytest.approx(by_scikit_learn(name, labels, predictions))


def test_log_loss_equals_that_of_scikit_learn_if_no_probability_is_0() -> None:
    labels, rows = ["a", "b", "b"], np.array([[0.9, 0.1], [0.4, 0.6], [0.7, 0.3]])
    answers = answers_of(Measure("log_loss"), labels, labels, rows, ("a", "b"))
    assert evaluate(Measure("log_loss"), labels, answers) == pytest.approx(log_loss(labels, rows))


@pytest.mark.parametrize("name", MEASURES)
def test_correct_predictions_have_the_best_metric(name: Metric) -> None:
    measure = MEASURES[name]
    if measure.kind.task == "classification":
        right, wrong = ["a", "b", "a", "c"], ["b", "b", "c", "a"]
        sure = np.array([[float(label == name) for name in CLASSES] for label in right])
        answers = answers_of(measure, right, right, sure, CLASSES)
        bad = answers_of(measure, right, wrong, 1.0 - sure, CLASSES)
        best = evaluate(measure, right, answers)
        at_best = 1.0 if higher_is_better(name) else 0.125 if name == "cost" else 0.0
        assert best == at_best  # `COSTS` charges for a correct "b"
        assert better(measure, best, evaluate(measure, right, bad))
    else:
        numbers = [1.0, 2.0, 1.0]
        best = evaluate(measure, numbers, Answers(numbers))
        assert best == 0.0
        assert better(measure, best, evaluate(measure, numbers, Answers([2.0, 2.0, 3.0])))
    assert not better(measure, best, best)
    assert better(measure, best, math.nan)
    assert not better(measure, math.nan, best)


@pytest.mark.parametrize("name", [n for n in MEASURES if n not in ("roc_auc", "average_precision")])
@given(drawn=classified(), pairs=number_pairs)
def test_the_losses_are_those_whose_mean_the_metric_is(
    name: Metric,
    drawn: tuple[list[str], list[str], np.ndarray],
    pairs: list[tuple[float, float]],
) -> None:
    measure = MEASURES[name]
    if measure.kind.task == "classification":
        labels, predictions, rows = drawn
        answers = answers_of(measure, labels, predictions, rows, CLASSES)
        found = losses(measure, labels, answers)
        value = evaluate(measure, labels, answers)
    else:
        truth, said = (list(column) for column in zip(*pairs, strict=True))
        found = losses(measure, truth, Answers(said))
        value = evaluate(measure, truth, Answers(said))
    assert (found >= 0).all()
    if name in ("accuracy", "cost", "log_loss", "mae", "pinball_loss"):
        mean = float(found.mean())
        assert value == pytest.approx(1.0 - mean if measure.higher_is_better else mean)
    elif measure.is_root:
        assert value == pytest.approx(math.sqrt(float((found**2).mean())))


def test_the_loss_of_f1_ignores_confusions_among_the_other_classes() -> None:
    answers = Answers(["a", "b", "c", "a"])
    assert losses(MEASURES["f1"], ["a", "a", "b", "b"], answers).tolist() == [0, 1, 0, 1]


def test_metrics_without_the_positive_class_are_undefined() -> None:
    labels, scores = ["b", "c"], np.array([0.1, 0.2])
    for name in ("f1", "roc_auc", "average_precision"):
        answers = Answers(["b", "b"], scores)
        assert math.isnan(evaluate(MEASURES[name], labels, answers))


def test_arrays_and_lists_give_the_same_metrics() -> None:
    labels = np.array(["a", "b"], dtype=object)
    assert evaluate(Measure("accuracy"), labels, Answers(["a", "a"])) == 0.5
    assert evaluate(Measure("mae"), np.array([1.0]), Answers([3.0])) == 2.0


@pytest.mark.parametrize("name", MEASURES)
def test_a_metric_of_no_records_is_an_error(name: Metric) -> None:
    with pytest.raises(ValueError, match=f"{name} without records"):
        evaluate(MEASURES[name], [], Answers([], np.zeros(0)))


@pytest.mark.parametrize("name", ["roc_auc", "average_precision", "log_loss"])
def test_a_model_without_probabilities_is_an_error(name: Metric) -> None:
    with pytest.raises(ValueError, match=f"{name} needs probabilities"):
        answers_of(MEASURES[name], ["a"], ["a"], None, CLASSES)
    assert "needs probabilities" in unsuitable(MEASURES[name], CLASSES, has_scores=False)
    assert not unsuitable(default_measure("classification"), CLASSES, has_scores=False)


def test_a_positive_class_that_the_model_does_not_know_is_an_error() -> None:
    found = unsuitable(Measure("f1", positive="A"), CLASSES, has_scores=True)
    assert found == (
        "metric f1 needs the class 'A', but the model was trained on the classes a, b, c"
    )


def test_the_scores_of_outcomes_are_those_that_the_metric_uses() -> None:
    rows = [{"a": 0.2, "b": 0.8}, None]
    positive = used_scores(MEASURES["roc_auc"], ["b", "b"], rows)
    assert positive is not None
    assert positive[0] == 0.2
    assert math.isnan(positive[1])
    of_label = used_scores(MEASURES["log_loss"], ["b", "new"], [rows[0], rows[0]])
    assert of_label is not None
    assert of_label.tolist() == [0.8, 0.0]  # a label that the model does not know
    assert used_scores(MEASURES["accuracy"], ["b"], rows[:1]) is None
