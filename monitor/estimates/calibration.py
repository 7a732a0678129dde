"""Estimate a classifier's metric without labels, by calibrating its scores (NumPy arrays).

Input: held-out scores and labels, then a window's scores and predictions. Output: the expected
metric.

The method is confidence-based performance estimation (CBPE), as documented by NannyML. Each class's
scores are calibrated separately, one class against all others. Each record's calibrated scores are
then scaled to sum to 1. They give the expected weight of each label at each prediction or score,
from which the metric is computed. Isotonic calibration assumes only that a higher score means a
higher probability.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from driftline.config.measure import Measure
from driftline.learning.confusion import confusion_metric, confusion_slopes
from driftline.learning.metrics import MIN_PROBABILITY
from driftline.learning.ranking import grouped, ranking_metric, ranking_slopes
from driftline.models.package_reference import MAX_REFERENCE_ROWS, Reference
from monitor.bottom_k_sample import Sample
from monitor.class_scores import packed, unpacked
from monitor.estimates.estimator import Array, Guess, Places


class Map(NamedTuple):
    """A piecewise linear calibration map from ascending scores (u,) to probabilities (u,)."""

    scores: Array
    probabilities: Array

    def __call__(self, scores: Array) -> Array:
        """Return probabilities (n,) for scores (n,)."""
        found: Array = np.interp(scores, self.scores, self.probabilities)
        return found


class Predicted(NamedTuple):
    """Scores (n, k), and the indices of the predicted classes (n,)."""

    scores: Array
    classes: Places


class Calibration:
    """An `Approach` that learns one calibration map per class."""

    def __init__(
        self, measure: Measure, classes: tuple[str, ...], predicted: Predicted, actual: Places
    ) -> None:
        self._measure = measure
        self._classes = classes
        self._predicted = predicted
        self._actual = actual
        # The gradient (m, k) for each held-out record and each label that it could have.
        known = np.eye(predicted.scores.shape[1])[actual]
        self._slopes = expected_metric(measure, classes, known, predicted)[1]

    @classmethod
    def of(cls, measure: Measure, reference: Reference) -> "Calibration | None":
        """Build a `Calibration` from a model's held-out records. Return None if scores or class
        names are missing, if a predicted class is not among the class names, or if no record has
        both finite scores and a label among the class names."""
        scores, classes = reference.held_scores, reference.classes
        newest = slice(-MAX_REFERENCE_ROWS, None)
        actual = _places(reference.held_labels[newest], classes)
        predicted = _places(reference.held_predictions[newest], classes)
        if scores is None or len(classes) != scores.shape[1] or (predicted < 0).any():
            return None
        # Exclude records whose label is not among the class names, or whose scores are not finite.
        known = (actual >= 0) & np.isfinite(scores[newest]).all(axis=1)
        if not known.any():
            return None
        # Round held-out scores in the same way as the scores of a window's records.
        kept = unpacked(packed(scores[newest][known]))
        return cls(measure, classes, Predicted(kept, predicted[known]), actual[known])

    def __len__(self) -> int:
        return len(self._actual)

    def fit(self, places: Places) -> list[Map]:
        """Return one calibration map per class, fitted to the held-out records at the
        indices `places`."""
        return [
            isotonic(self._predicted.scores[places, place], self._actual[places] == place)
            for place in range(self._predicted.scores.shape[1])
        ]

    def held(self, places: Places) -> Predicted:
        """See `Approach`."""
        return Predicted(self._predicted.scores[places], self._predicted.classes[places])

    def inputs(self, sample: Sample) -> Predicted | None:
        """See `Approach`. Return None if a score is missing, or if a predicted class is not among
        the reference's class names."""
        if sample.scores is None:
            return None
        classes = _places(sample.predictions, self._classes)
        predicted = Predicted(sample.scores.matrix(self._classes), classes)
        whole = not np.isnan(predicted.scores).any() and (predicted.classes >= 0).all()
        return predicted if whole else None

    def guess(self, fitted: list[Map], inputs: Predicted) -> Guess:
        """See `Approach`."""
        probabilities = calibrated(fitted, inputs.scores)
        value, slopes = expected_metric(self._measure, self._classes, probabilities, inputs)
        means, variances = _moments(probabilities, slopes)
        return Guess(value, means, variances)

    def residuals(self, fitted: list[Map], places: Places) -> tuple[Array, Array]:
        """See `Approach`."""
        predicted = self.held(places)
        slopes = self._slopes[places]
        means, variances = _moments(calibrated(fitted, predicted.scores), slopes)
        return slopes[np.arange(len(places)), self._actual[places]] - means, variances


def expected_metric(
    measure: Measure, classes: tuple[str, ...], probabilities: Array, predicted: Predicted
) -> tuple[float, Array]:
    """Return the metric that is expected of n records, and its gradient (n, k) with respect to the
    weight of each record with each possible label, if all weights sum to 1.

    `probabilities` (n, k) contains the probability of each label. With probabilities of 0 and 1,
    the result is the realised metric.
    """
    count = len(probabilities)
    if measure.is_ranking:
        place = classes.index(cast(str, measure.positive))
        ranking, at = grouped(predicted.scores[:, place], probabilities[:, place])
        shares = type(ranking)(ranking.positives / count, ranking.negatives / count)
        of_positives, of_negatives = ranking_slopes(measure.name, shares)
        slopes = np.repeat(of_negatives[at][:, None], probabilities.shape[1], axis=1)
        slopes[:, place] = of_positives[at]
        return ranking_metric(measure.name, ranking), slopes
    if measure.name == "log_loss":
        slopes = -np.log(np.maximum(predicted.scores, MIN_PROBABILITY))
        return float((probabilities * slopes).sum() / count), slopes
    matrix = np.zeros((probabilities.shape[1], probabilities.shape[1]))
    for place in range(len(matrix)):
        of_place = probabilities[predicted.classes == place]
        matrix[:, place] = of_place.sum(axis=0) / count
    slopes = confusion_slopes(measure, classes, matrix)
    return confusion_metric(measure, classes, matrix), slopes[:, predicted.classes].T


def isotonic(scores: Array, hits: NDArray[np.bool_]) -> Map:
    """Return the non-decreasing map that minimises the squared distance to `hits`.

    This is isotonic regression (Zadrozny and Elkan, Transforming classifier scores into accurate
    multiclass probability estimates, 2002). `scores` and `hits` have shape (n,)
    with n ≥ 1.

    >>> isotonic(np.array([0.1, 0.2, 0.2, 0.9]), np.array([False, True, False, True]))(
    ...     np.array([0.0, 0.15, 0.2, 1.0])
    ... ).round(6).tolist()
    [0.0, 0.25, 0.5, 1.0]
    """
    from scipy.optimize import isotonic_regression

    unique, places = np.unique(scores, return_inverse=True)
    counts = np.bincount(places).astype(np.float64)
    shares = np.bincount(places, weights=hits) / counts
    # Rounding errors may produce a value just above 1.
    fitted = np.clip(isotonic_regression(shares, weights=counts).x, 0.0, 1.0)
    return Map(unique, fitted)


def calibrated(maps: Sequence[Map], scores: Array) -> Array:
    """Return probabilities (n, k) for `scores` (n, k). Each row sums to 1. If all maps return 0 for
    a row, its probabilities are equal."""
    found = np.column_stack([fit(scores[:, place]) for place, fit in enumerate(maps)])
    total = found.sum(axis=1, keepdims=True)
    equal = np.full_like(found, 1.0 / found.shape[1])
    whole: Array = np.divide(found, total, out=equal, where=total > 0)
    return whole


def _moments(probabilities: Array, slopes: Array) -> tuple[Array, Array]:
    """Return the mean and the variance (both (n,)) of each record's slope. `slopes` (n, k) contains
    the slope for each possible label, and `probabilities` (n, k) contains each label's
    probability."""
    means: Array = (probabilities * slopes).sum(axis=1)
    variances: Array = (probabilities * slopes**2).sum(axis=1) - means**2
    return means, np.maximum(variances, 0.0)


def _places(names: NDArray[Any], classes: Sequence[str]) -> Places:
    """Return each name's index in `classes`, or -1 if the name is not in `classes`."""
    places = {name: place for place, name in enumerate(classes)}
    return np.array([places.get(name, -1) for name in names], dtype=np.intp)
