"""Compute metrics, and the losses that the detectors watch, from arrays, using only NumPy.

Input: labels and a model's answers in the same order. Output: one number, or one loss per record.
"""

import itertools
import math
import operator
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from driftline.config.measure import Measure
from driftline.learning.confusion import class_loss, confusion_matrix, confusion_metric
from driftline.learning.ranking import Ranking, placements, ranking_metric
from driftline.wire.events import Value

Values = Sequence[Value] | NDArray[np.object_] | NDArray[np.float64]
Array = NDArray[np.float64]

# The smallest probability in `log_loss`. Probabilities are published with six decimals, so 0 may
# be any probability below this one.
MIN_PROBABILITY: Final = 5e-7


class Answers(msgspec.Struct, frozen=True):
    """A model's answers for n records.

    `predictions` are class names or numbers (n,). `scores` (n,) contains the probability that the
    metric is computed from: of the positive class for ranking metrics, of the record's label for
    `log_loss` (see `used_scores`). It is None if the metric needs no probabilities.
    """

    predictions: Values
    scores: Array | None = None

    def take(self, at: slice | NDArray[np.intp]) -> "Answers":
        """Return the answers that `at` selects."""
        if isinstance(at, slice) or isinstance(self.predictions, np.ndarray):
            predictions: Values = self.predictions[at]  # type: ignore[index]
        else:
            predictions = [self.predictions[place] for place in at.tolist()]
        return Answers(predictions, None if self.scores is None else self.scores[at])


def evaluate(measure: Measure, labels: Values, answers: Answers) -> float:
    """Compute a metric over one or more records. All metrics follow scikit-learn's definitions.

    The result is NaN if the metric is undefined: `roc_auc` if all records or no records belong to
    the positive class, `average_precision` if no record does, and `f1` if the positive class is
    neither a label nor a prediction. `rmsle` replaces negative values with 0. Raises ValueError if
    there are no records, or if the metric needs probabilities and there are none.

    >>> evaluate(Measure("balanced_accuracy"), ["a", "a", "a", "b"], Answers(["a", "a", "b", "b"]))
    0.8333333333333333
    """
    if len(labels) == 0:
        raise ValueError(f"cannot compute {measure.name} without records")
    if measure.is_ranking:
        scores = scores_of(measure, answers)
        return ranking_metric(measure.name, Ranking.of(scores, _is_positive(measure, labels)))
    if measure.kind.task == "classification" and not measure.needs_scores:
        pairs = Counter(zip(_texts(labels), _texts(answers.predictions), strict=True))
        return confusion_metric(measure, *confusion_matrix(pairs))
    found = losses(measure, labels, answers)
    return from_mean_loss(measure, float(np.mean(found)), float(np.mean(found**2)))


def from_mean_loss(measure: Measure, loss: float, squared: float) -> float:
    """Return a metric that is a mean of losses, or the root of the mean of their squares."""
    return math.sqrt(squared) if measure.is_root else loss


def losses(measure: Measure, labels: Values, answers: Answers) -> Array:
    """Return the losses that the metric implies, float64 (n,), in the records' order.

    The loss is 0 or 1 for accuracy, balanced_accuracy and f1_macro (a wrong prediction) and for f1
    (a missed or wrongly predicted positive class), and the absolute error for mae and rmse. For
    cost and pinball_loss, it is the cost or the quantile's loss. For log_loss, it is the negative
    log-probability, and for rmsle the absolute difference of log(1 + value). A ranking has no loss
    per record: the result contains one placement for each record of the positive class, see
    `ranking.placements`.

    >>> losses(Measure("accuracy"), ["a", "b"], Answers(["a", "a"]))
    array([0., 1.])
    >>> losses(Measure("pinball_loss", quantile=0.9), [1.0, 2.0], Answers([1.5, 0.0]))
    array([0.05, 1.8 ])
    """
    if measure.is_ranking:
        return placements(scores_of(measure, answers), _is_positive(measure, labels))
    if measure.name == "log_loss":
        scores = np.maximum(scores_of(measure, answers), MIN_PROBABILITY)
        return -_each(math.log, scores)
    if measure.kind.task == "classification":
        return _class_losses(measure, _texts(labels), _texts(answers.predictions))
    truth, predicted = _numbers(labels), _numbers(answers.predictions)
    if measure.name == "pinball_loss":
        above = truth - predicted
        quantile = cast(float, measure.quantile)
        return np.maximum(quantile * above, (quantile - 1.0) * above)
    if measure.name == "rmsle":
        truth, predicted = (
            _each(math.log1p, np.maximum(values, 0.0)) for values in (truth, predicted)
        )
    return np.abs(truth - predicted)


def better(measure: Measure, one: float, other: float) -> bool:
    """Return whether `one` is strictly better than `other`. NaN is worse than any number.

    >>> mae, accuracy = Measure("mae"), Measure("accuracy")
    >>> better(mae, 1.0, 2.0), better(accuracy, 0.5, 0.5), better(mae, 1.0, float("nan"))
    (True, False, True)
    """
    if math.isnan(other):
        return not math.isnan(one)
    return one > other if measure.higher_is_better else one < other


# ---- the probabilities that a metric uses --------------------------------------------------------


def answers_of(
    measure: Measure,
    labels: Values,
    predictions: Values,
    probabilities: Array | None,
    classes: Sequence[str],
) -> Answers:
    """Return a model's answers, with the probabilities that the metric uses.

    `probabilities` (n, k) are in the order of `classes`, or None if the model returns none. A label
    that is not among the classes has probability 0. Raises ValueError, with the reason, if the
    metric needs probabilities that the model does not return.
    """
    if not measure.needs_scores:
        return Answers(predictions)
    if reason := unsuitable(measure, classes, has_scores=probabilities is not None):
        raise ValueError(reason)
    matrix = cast(Array, probabilities)
    if measure.is_ranking:
        return Answers(predictions, matrix[:, list(classes).index(cast(str, measure.positive))])
    places = {name: place for place, name in enumerate(classes)}
    at = np.array([places.get(str(label), -1) for label in labels], dtype=np.intp)
    own = matrix[np.arange(len(at)), at] if len(at) else np.zeros(0)
    return Answers(predictions, np.where(at >= 0, own, 0.0))


def used_scores(
    measure: Measure, labels: Iterable[Value], scores: Iterable[Mapping[str, float] | None]
) -> Array | None:
    """Return the probability (n,) that the metric uses from each record's scores by class.

    The probability of a class without a score is 0, and that of a record without scores is NaN. The
    result is None if the metric needs no probabilities.
    """
    if not measure.needs_scores:
        return None
    nan = float("nan")
    if measure.is_ranking:
        name = cast(str, measure.positive)
        return np.array([nan if s is None else s.get(name, 0.0) for s in scores], np.float64)
    pairs = zip(labels, scores, strict=True)
    return np.array([nan if s is None else s.get(str(y), 0.0) for y, s in pairs], np.float64)


def unsuitable(measure: Measure, classes: Sequence[str], *, has_scores: bool) -> str:
    """Return why a classifier cannot be judged by this metric, or "" if it can."""
    if measure.needs_scores and not has_scores:
        return f"metric {measure.name} needs probabilities, but the model returns none"
    if measure.positive is not None and measure.positive not in classes:
        known = ", ".join(classes[:10]) + (", …" if len(classes) > 10 else "")
        return (
            f"metric {measure.name} needs the class {measure.positive!r}, but the model was "
            f"trained on the classes {known}"
        )
    return ""


def scores_of(measure: Measure, answers: Answers) -> Array:
    """Return the answers' scores. Raises ValueError if there are none."""
    if answers.scores is None:
        raise ValueError(f"metric {measure.name} needs probabilities, but the model returns none")
    return answers.scores


def _is_positive(measure: Measure, labels: Values) -> NDArray[np.bool_]:
    return np.fromiter((label == measure.positive for label in labels), bool, len(labels))


def _class_losses(measure: Measure, labels: list[Any], predictions: list[Any]) -> Array:
    if measure.loss == "":
        return np.fromiter(map(operator.ne, labels, predictions), np.float64, len(labels))
    found = map(class_loss, itertools.repeat(measure), labels, predictions)
    return np.fromiter(found, np.float64, len(labels))


def _each(function: Callable[[float], float], values: Array) -> Array:
    """Apply a function of the standard library to each value. The results then do not depend on
    how records are batched, whereas NumPy may use other instructions for the end of an array."""
    return np.fromiter(map(function, values.tolist()), np.float64, len(values))


def _numbers(values: Values) -> Array:
    return np.asarray(values, dtype=np.float64)


def _texts(values: Values) -> list[Any]:
    return values.tolist() if isinstance(values, np.ndarray) else list(values)
