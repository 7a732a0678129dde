"""Define the metrics that a stream file can choose: their names, tasks, directions and parameters.

Input: the stream file's key `metric`, a name or a table. Output: a frozen `Measure`. The functions
that compute metrics are in `driftline.learning.metrics`.
"""

import hashlib
from collections.abc import Iterator
from typing import Annotated, Final, Literal, NamedTuple

import msgspec
from msgspec import Meta

from driftline.config.stream_sections import Task

Metric = Literal[
    "accuracy",
    "balanced_accuracy",
    "f1_macro",
    "f1",
    "roc_auc",
    "average_precision",
    "log_loss",
    "cost",
    "mae",
    "rmse",
    "rmsle",
    "pinball_loss",
]

# The probability of each record that a metric is computed from: of the positive class or of the
# record's label. None: the metric needs no probabilities.
UsedScore = Literal["positive", "label"] | None
Parameter = Literal["positive", "quantile", "costs"]


class MetricKind(NamedTuple):
    """What is known about a metric from its name alone."""

    task: Task
    higher_is_better: bool
    meaning: str
    parameter: Parameter | None = None  # the parameter that the metric requires
    uses: UsedScore = None


# The names are those of scikit-learn's functions or scorers, without prefixes such as `neg_`.
METRIC_KINDS: Final[dict[Metric, MetricKind]] = {
    "accuracy": MetricKind("classification", True, "share of correct predictions"),
    "balanced_accuracy": MetricKind("classification", True, "mean recall of the classes"),
    "f1_macro": MetricKind("classification", True, "mean F1 of the classes"),
    "f1": MetricKind("classification", True, "F1 of the positive class", "positive"),
    "roc_auc": MetricKind(
        "classification", True, "area under the ROC curve", "positive", "positive"
    ),
    "average_precision": MetricKind(
        "classification", True, "area under the precision-recall curve", "positive", "positive"
    ),
    "log_loss": MetricKind(
        "classification", False, "mean negative log-probability of the label", uses="label"
    ),
    "cost": MetricKind("classification", False, "mean cost of a prediction", "costs"),
    "mae": MetricKind("regression", False, "mean absolute error"),
    "rmse": MetricKind("regression", False, "root mean squared error"),
    "rmsle": MetricKind("regression", False, "root mean squared error of log(1 + value)"),
    "pinball_loss": MetricKind("regression", False, "mean loss of a quantile", "quantile"),
}

# Examples for error messages and for `driftline init`.
EXAMPLES: Final[dict[Parameter, str]] = {
    "positive": 'metric = { name = "roc_auc", positive = "fraud" }',
    "quantile": 'metric = { name = "pinball_loss", quantile = 0.9 }',
    "costs": 'metric = { name = "cost", costs = { fraud = { ok = 50.0 }, ok = { fraud = 1.0 } } }',
}


class Measure(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The metric by which models are compared and watched, with its parameters.

    >>> measure = Measure("average_precision", positive="fraud")
    >>> measure.higher_is_better, measure.kind.uses, measure.loss
    (True, 'positive', 'placement:fraud')
    """

    name: Annotated[
        Metric,
        Meta(
            description="; ".join(f"{name}: {kind.meaning}" for name, kind in METRIC_KINDS.items())
        ),
    ]
    positive: Annotated[
        str | None, Meta(description="f1, roc_auc and average_precision: the class to find")
    ] = None
    quantile: Annotated[
        Annotated[float, Meta(gt=0, lt=1)] | None,
        Meta(description="pinball_loss: the quantile that the model predicts"),
    ] = None
    costs: Annotated[
        dict[str, dict[str, Annotated[float, Meta(ge=0)]]] | None,
        Meta(
            description="cost: the cost of each prediction by label, as { label = { prediction = "
            "cost } }; by default, a wrong prediction costs 1 and a correct one 0"
        ),
    ] = None

    @property
    def kind(self) -> MetricKind:
        """Return what is known from the metric's name."""
        return METRIC_KINDS[self.name]

    @property
    def higher_is_better(self) -> bool:
        """Return whether a higher value is better."""
        return self.kind.higher_is_better

    @property
    def needs_scores(self) -> bool:
        """Return whether the metric is computed from probabilities."""
        return self.kind.uses is not None

    @property
    def is_ranking(self) -> bool:
        """Return whether the metric depends only on the order of the positive class's scores."""
        return self.kind.uses == "positive"

    @property
    def is_root(self) -> bool:
        """Return whether the metric is the root of a mean of squared losses."""
        return self.name in ("rmse", "rmsle")

    @property
    def is_binary(self) -> bool:
        """Return whether each record's loss is 0 or 1."""
        return self.kind.task == "classification" and not self.needs_scores and self.name != "cost"

    @property
    def is_mean(self) -> bool:
        """Return whether the metric is the mean of the records' losses, or the root of the mean of
        their squares."""
        return self.kind.task == "regression" or self.name in ("accuracy", "log_loss", "cost")

    @property
    def is_bounded(self) -> bool:
        """Return whether each loss is between 0 and 1."""
        return self.is_binary or self.is_ranking

    @property
    def loss(self) -> str:
        """Return a name for the loss that the detectors watch, "" for the task's default loss.

        The default losses are 0/1 errors and absolute errors. Metrics with the same loss have the
        same partial aggregates. Losses with different names must never be mixed.
        """
        match self.name:
            case "roc_auc" | "average_precision":
                return f"placement:{self.positive}"
            case "f1":
                return f"f1:{self.positive}"
            case "cost":
                # Sort the costs, so that the order in the file does not matter.
                costs = msgspec.json.encode(self.costs, order="deterministic")
                return f"cost:{hashlib.sha256(costs).hexdigest()[:12]}"
            case "pinball_loss":
                return f"pinball_loss:{self.quantile}"
            case "log_loss" | "rmsle":
                return self.name
        return ""

    def cost(self, label: str, prediction: str) -> float:
        """Return what this prediction costs if this is the label.

        >>> Measure("cost", costs={"a": {"b": 5.0}}).cost("a", "b")
        5.0
        """
        return (self.costs or {}).get(label, {}).get(prediction, float(label != prediction))


def default_measure(task: Task) -> Measure:
    """Return the metric of streams that do not choose one."""
    return Measure("accuracy" if task == "classification" else "mae")


def higher_is_better(metric: Metric) -> bool:
    """Return whether a higher value of this metric is better.

    >>> higher_is_better("accuracy"), higher_is_better("mae")
    (True, False)
    """
    return METRIC_KINDS[metric].higher_is_better


def metrics_for(task: Task) -> tuple[Metric, ...]:
    """Return the metrics of a task, in the order of `METRIC_KINDS`."""
    return tuple(name for name, kind in METRIC_KINDS.items() if kind.task == task)


def wrong_parameters(measure: Measure) -> Iterator[tuple[Parameter, str, str]]:
    """Yield the parameters that are missing or do not belong to the metric: the name of the
    parameter, what was expected, and a hint."""
    needed = measure.kind.parameter
    values: dict[Parameter, object] = {
        "positive": measure.positive,
        "quantile": measure.quantile,
        "costs": measure.costs,
    }
    for parameter, value in values.items():
        if parameter == needed and value is None:
            example = EXAMPLES[parameter].replace('"roc_auc"', f'"{measure.name}"')
            yield parameter, f"Missing, but {measure.name} requires it", f"for example {example}"
        elif parameter != needed and value is not None:
            names = [name for name, kind in METRIC_KINDS.items() if kind.parameter == parameter]
            yield parameter, f"Expected only with {' or '.join(names)}, got {measure.name}", ""
