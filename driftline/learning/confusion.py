"""Compute metrics from a confusion matrix, and their gradients, using only NumPy.

Input: counts or weights of each pair of label and prediction. Output: a metric, or its gradient.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from driftline.config.measure import Measure
from driftline.wire.events import Value

Matrix = NDArray[np.float64]


def confusion_metric(measure: Measure, classes: tuple[str, ...], weights: Matrix) -> float:
    """Return a metric of class predictions, or NaN if it is undefined.

    `weights` (k, k) contains the weight of each label (row) and prediction (column), in the order
    of `classes`. `f1` is undefined if the positive class is neither a label nor a prediction.

    >>> confusion_metric(Measure("accuracy"), ("a", "b"), np.array([[2.0, 1.0], [0.0, 1.0]]))
    0.75
    """
    right, actual, predicted = np.diag(weights), weights.sum(axis=1), weights.sum(axis=0)
    match measure.name:
        case "accuracy":
            return float(right.sum() / weights.sum())
        case "cost":
            return float((weights * cost_matrix(measure, classes)).sum() / weights.sum())
        case "balanced_accuracy":
            known = actual > 0
            return float(np.mean(right[known] / actual[known]))
    both = actual + predicted
    known = _counted(measure, classes) & (both > 0)
    return float(np.mean(2.0 * right[known] / both[known])) if known.any() else float("nan")


def confusion_slopes(measure: Measure, classes: tuple[str, ...], shares: Matrix) -> Matrix:
    """Return a metric's gradient (k, k) with respect to the entries of the confusion matrix.

    `shares` (k, k) is as `weights` in `confusion_metric`, with entries that sum to 1. For a
    gradient g, the delta method gives the metric's variance over n multinomial draws:
    (Σ pᵢⱼ gᵢⱼ² - (Σ pᵢⱼ gᵢⱼ)²) / n. For F1, see Takahashi et al., Confidence interval for
    micro-averaged F1 and macro-averaged F1 scores (Applied Intelligence, 2022). If the metric is
    undefined, the gradient is 0.
    """
    same = np.eye(len(shares))
    if measure.name == "accuracy":
        return same
    if measure.name == "cost":
        return cost_matrix(measure, classes)
    right, actual, predicted = np.diag(shares), shares.sum(axis=1), shares.sum(axis=0)
    if measure.name == "balanced_accuracy":
        present = actual > 0
        weight = np.divide(1.0 / present.sum(), actual, out=np.zeros_like(actual), where=present)
        recall = np.divide(right, actual, out=np.zeros_like(actual), where=present)
        slopes: Matrix = (same - recall[:, None]) * weight[:, None]
        return slopes
    both = actual + predicted
    known = _counted(measure, classes) & (both > 0)
    weight = np.divide(2.0 / max(1, known.sum()), both, out=np.zeros_like(both), where=known)
    ratio: Matrix = weight * np.divide(right, both, out=np.zeros_like(both), where=known)
    own: Matrix = same * weight[:, None]
    return own - ratio[:, None] - ratio[None, :]


def class_loss(measure: Measure, label: Value, prediction: Value) -> float:
    """Return the loss of one prediction that the detectors watch.

    For `cost`, the loss is the cost. For `f1`, it is 1 if the positive class was missed or wrongly
    predicted: F1 does not depend on how the other classes are confused. Otherwise, it is 1 if the
    prediction is wrong.

    >>> f1 = Measure("f1", positive="a")
    >>> class_loss(f1, "a", "b"), class_loss(f1, "b", "a"), class_loss(f1, "b", "c")
    (1.0, 1.0, 0.0)
    """
    if measure.name == "cost":
        return measure.cost(str(label), str(prediction))
    if measure.name == "f1":
        return float((label == measure.positive) != (prediction == measure.positive))
    return float(label != prediction)


def cost_matrix(measure: Measure, classes: tuple[str, ...]) -> Matrix:
    """Return the cost (k, k) of each label (row) and prediction (column)."""
    costs = [[measure.cost(label, prediction) for prediction in classes] for label in classes]
    return np.array(costs, dtype=np.float64).reshape(len(classes), len(classes))


def _counted(measure: Measure, classes: tuple[str, ...]) -> NDArray[np.bool_]:
    """Return a mask (k,) of the classes whose F1 counts."""
    if measure.name == "f1_macro":
        return np.ones(len(classes), dtype=bool)
    return np.array([name == measure.positive for name in classes], dtype=bool)


def confusion_matrix(pairs: Mapping[tuple[Value, Value], int]) -> tuple[tuple[str, ...], Matrix]:
    """Return all classes in order, and the counts (k, k) by label (row) and prediction (column)."""
    classes = tuple(sorted({str(name) for pair in pairs for name in pair}))
    places = {name: place for place, name in enumerate(classes)}
    counts = np.zeros((len(classes), len(classes)))
    for (label, prediction), count in pairs.items():
        counts[places[str(label)], places[str(prediction)]] = count
    return classes, counts
