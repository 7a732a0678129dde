"""Every metric with parameters, for tests that all metrics must pass."""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics

from driftline.config.measure import METRIC_KINDS, Measure, Metric
from driftline.learning.metrics import MIN_PROBABILITY

COSTS: Final = {"a": {"b": 5.0}, "b": {"a": 2.0, "b": 0.5}}
PARAMETERS: Final[dict[str, Measure]] = {
    "f1": Measure("f1", positive="a"),
    "roc_auc": Measure("roc_auc", positive="a"),
    "average_precision": Measure("average_precision", positive="a"),
    "cost": Measure("cost", costs=COSTS),
    "pinball_loss": Measure("pinball_loss", quantile=0.9),
}
MEASURES: Final[dict[Metric, Measure]] = {
    name: PARAMETERS.get(name, Measure(name)) for name in METRIC_KINDS
}
TOML: Final[dict[Metric, str]] = {
    **{name: f'"{name}"' for name in METRIC_KINDS},
    "f1": '{ name = "f1", positive = "a" }',
    "roc_auc": '{ name = "roc_auc", positive = "a" }',
    "average_precision": '{ name = "average_precision", positive = "a" }',
    "cost": '{ name = "cost", costs = { a = { b = 5.0 }, b = { a = 2.0, b = 0.5 } } }',
    "pinball_loss": '{ name = "pinball_loss", quantile = 0.9 }',
}
CLASS_METRICS: Final = [n for n, kind in METRIC_KINDS.items() if kind.task == "classification"]
NUMBER_METRICS: Final = [n for n, kind in METRIC_KINDS.items() if kind.task == "regression"]


def by_scikit_learn(
    name: Metric,
    labels: list[str] | list[float],
    predictions: list[str] | list[float],
    probabilities: NDArray[np.float64] | None = None,
    classes: tuple[str, ...] = (),
) -> float:
    """Return scikit-learn's value of a metric with the parameters in `MEASURES`."""
    match name:
        case "accuracy":
            return float(metrics.accuracy_score(labels, predictions))
        case "balanced_accuracy":
            return float(metrics.balanced_accuracy_score(labels, predictions))
        case "f1_macro":
            return float(metrics.f1_score(labels, predictions, average="macro", zero_division=0))
        case "f1":
            both = [[value == "a" for value in values] for values in (labels, predictions)]
            return float(metrics.f1_score(*both, zero_division=np.nan))
        case "roc_auc" | "average_precision":
            assert probabilities is not None
            score = getattr(metrics, f"{name}_score")
            positive = [label == "a" for label in labels]
            return float(score(positive, probabilities[:, classes.index("a")]))
        case "log_loss":
            assert probabilities is not None
            clipped = np.maximum(probabilities, MIN_PROBABILITY)
            places = [classes.index(str(label)) for label in labels]
            one = np.eye(len(classes))[places]
            return float(-(one * np.log(clipped)).sum(axis=1).mean())
        case "cost":
            matrix = metrics.confusion_matrix(labels, predictions, labels=list(classes))
            costs = [[MEASURES["cost"].cost(y, p) for p in classes] for y in classes]
            return float((matrix * np.array(costs)).sum() / matrix.sum())
        case "mae":
            return float(metrics.mean_absolute_error(labels, predictions))
        case "rmse":
            return float(metrics.root_mean_squared_error(labels, predictions))
        case "rmsle":
            both_clipped = [np.maximum(values, 0.0) for values in (labels, predictions)]
            return float(metrics.root_mean_squared_log_error(*both_clipped))
        case "pinball_loss":
            return float(metrics.mean_pinball_loss(labels, predictions, alpha=0.9))
