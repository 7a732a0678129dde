"""Compute metrics and errors from arrays of labels and predictions, using only NumPy.

Input: labels and predictions in the same order. Output: one number, or one error per record.
"""

from collections.abc import Sequence
from math import isnan

import numpy as np
from numpy.typing import NDArray

from driftline.config.stream_sections import Metric, Task
from driftline.wire.events import Value

Values = Sequence[Value] | NDArray[np.object_] | NDArray[np.float64]


def higher_is_better(metric: Metric) -> bool:
    """Return whether a higher value of this metric is better.

    >>> higher_is_better("accuracy"), higher_is_better("mae")
    (True, False)
    """
    return metric in ("accuracy", "balanced_accuracy", "f1_macro")


def errors(task: Task, labels: Values, predictions: Values) -> NDArray[np.float64]:
    """Return each record's error, float64 (n,).

    The error is 0 or 1 for classification, and the absolute error for regression.

    >>> errors("classification", ["a", "b"], ["a", "a"])
    array([0., 1.])
    >>> errors("regression", [1.0, 2.0], [1.5, 0.0])
    array([0.5, 2. ])
    """
    if task == "regression":
        return np.abs(_numbers(labels) - _numbers(predictions))
    return np.asarray(_names(labels) != _names(predictions), dtype=np.float64)


def evaluate(metric: Metric, task: Task, labels: Values, predictions: Values) -> float:
    """Compute a metric over one or more records.

    `balanced_accuracy` is the mean recall over the classes that occur as labels. `f1_macro` is the
    mean F1 over the classes that occur as labels or predictions. Both follow scikit-learn's
    definitions. Raises ValueError if there are no records.

    >>> evaluate("balanced_accuracy", "classification", ["a", "a", "a", "b"], ["a", "a", "b", "b"])
    0.8333333333333333
    """
    if len(labels) == 0:
        raise ValueError(f"cannot compute {metric} without records")
    if metric == "rmse":
        return float(np.sqrt(np.mean(errors(task, labels, predictions) ** 2)))
    if metric in ("mae", "accuracy"):
        mean = float(np.mean(errors(task, labels, predictions)))
        return mean if metric == "mae" else 1.0 - mean
    truth, predicted_as = _names(labels), _names(predictions)
    present = sorted(set(truth) if metric == "balanced_accuracy" else {*truth, *predicted_as})
    values = []
    for name in present:
        right = float(np.sum((truth == name) & (predicted_as == name)))
        actual, predicted = float(np.sum(truth == name)), float(np.sum(predicted_as == name))
        values.append(
            right / actual if metric == "balanced_accuracy" else 2 * right / (actual + predicted)
        )
    return float(np.mean(values))


def better(metric: Metric, one: float, other: float) -> bool:
    """Return whether `one` is strictly better than `other`. NaN is worse than any number.

    >>> better("mae", 1.0, 2.0), better("accuracy", 0.5, 0.5), better("mae", 1.0, float("nan"))
    (True, False, True)
    """
    if isnan(other):
        return not isnan(one)
    return one > other if higher_is_better(metric) else one < other


def _numbers(values: Values) -> NDArray[np.float64]:
    return np.asarray(values, dtype=np.float64)


def _names(values: Values) -> NDArray[np.object_]:
    names = np.empty(len(values), dtype=object)
    names[:] = list(values)
    return names
