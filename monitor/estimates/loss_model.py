"""Estimate a regression model's metric without labels, using a model that predicts the losses.

Input: arrays of held-out inputs, predictions and losses, then a window's inputs and predictions.
Output: the expected metric. The method is direct loss estimation (DLE), as documented by
NannyML: a small scikit-learn regressor learns to predict the loss that the metric implies (squared,
if the metric is the root of a mean square) from the inputs and the prediction.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from driftline.config.measure import Measure
from driftline.config.stream import Stream
from driftline.learning.metrics import Answers, from_mean_loss, losses
from driftline.models.package_reference import Reference
from driftline.wire.columns import Columns
from monitor.bottom_k_sample import Sample
from monitor.estimates.estimator import MIN_HELD, Array, Guess, Places

# There are few rows and errors are noisy, so use small trees with many records per leaf.
PARAMETERS: Final[Mapping[str, Any]] = {
    "max_iter": 15,
    "max_leaf_nodes": 4,
    "min_samples_leaf": 20,
    "learning_rate": 0.1,
    "early_stopping": False,
    "random_state": 0,
}


# scikit-learn's trees use float32. If a loss exceeds this value, all losses are divided by the
# largest loss before the fit.
LARGEST_UNSCALED: Final = 1e30


class Fit(NamedTuple):
    """A regressor, and the unit in which it predicts losses."""

    regressor: Any
    unit: float


class LossModel:
    """An `Approach` that learns to predict each record's loss."""

    def __init__(
        self,
        measure: Measure,
        matrix: Array,
        losses: Array,
        levels: Mapping[str, Mapping[str, int]],
        numbers: tuple[str, ...],
    ) -> None:
        self._measure = measure
        self._matrix = matrix
        self._losses = losses
        self._levels = levels
        self._numbers = numbers
        mean = float(losses.mean())
        self._slope = _slope(measure, mean)
        # Assume that a loss's standard deviation is proportional to its expected value.
        self._relative_variance = float(losses.var()) / mean**2 if mean > 0 else 0.0

    @classmethod
    def of(cls, stream: Stream, reference: Reference) -> "LossModel | None":
        """Build a `LossModel` from a model's held-out records. Return None if columns are missing,
        or if there are fewer than `MIN_HELD` records."""
        columns = reference.held_columns
        if columns is None or len(columns) < MIN_HELD:
            return None
        newest = slice(-len(columns), None)
        measure = stream.judged_by
        predictions = reference.held_predictions[newest]
        errors = losses(measure, reference.held_labels[newest], Answers(predictions))
        levels = {
            name: {value: place for place, value in enumerate(_distinct(values))}
            for name, values in columns.categories.items()
        }
        numbers = tuple(columns.numbers)
        matrix = _matrix(columns, predictions, numbers, levels)
        return cls(measure, matrix, errors**2 if measure.is_root else errors, levels, numbers)

    def __len__(self) -> int:
        return len(self._losses)

    def fit(self, places: Places) -> Fit:
        """Fit a regressor to the losses at the indices `places`. Columns that are entirely
        missing are ignored."""
        from sklearn.ensemble import HistGradientBoostingRegressor
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # via sklearn

        matrix, losses = self._matrix[places], self._losses[places]
        # scikit-learn rejects columns that contain only missing values. Fill such columns with a
        # constant, on which no tree can split.
        matrix[:, np.isnan(matrix).all(axis=0)] = 0.0
        largest = float(losses.max())
        unit = largest if largest > LARGEST_UNSCALED else 1.0
        with threadpool_limits(1):  # a single thread makes the result reproducible
            model = HistGradientBoostingRegressor(**PARAMETERS)
            return Fit(model.fit(matrix, losses / unit), unit)

    def held(self, places: Places) -> Array:
        """See `Approach`."""
        return self._matrix[places]

    def inputs(self, sample: Sample) -> Array | None:
        """See `Approach`. Return None if a column is missing."""
        columns = sample.columns
        whole = columns.numbers.keys() >= set(self._numbers)
        if not (whole and columns.categories.keys() >= self._levels.keys()):
            return None
        return _matrix(columns, sample.predictions, self._numbers, self._levels)

    def guess(self, fitted: Fit, inputs: Array) -> Guess:
        """See `Approach`."""
        losses = _predicted(fitted, inputs)
        mean = float(losses.mean())
        slope = _slope(self._measure, mean)
        value = from_mean_loss(self._measure, mean, mean)
        return Guess(value, slope * losses, slope**2 * self._relative_variance * losses**2)

    def residuals(self, fitted: Fit, places: Places) -> tuple[Array, Array]:
        """See `Approach`."""
        expected = _predicted(fitted, self._matrix[places])
        variances = self._slope**2 * self._relative_variance * expected**2
        return self._slope * (self._losses[places] - expected), variances


def _predicted(fitted: Fit, inputs: Array) -> Array:
    losses = fitted.regressor.predict(inputs) * fitted.unit
    found: Array = np.maximum(0.0, losses)  # a loss is never negative
    return found


def _slope(measure: Measure, mean: float) -> float:
    """Return the derivative of the metric with respect to the mean loss."""
    if not measure.is_root:
        return 1.0
    return 0.5 / float(np.sqrt(mean)) if mean > 0 else 0.0


def _matrix(
    columns: Columns,
    predictions: NDArray[Any],
    numbers: tuple[str, ...],
    levels: Mapping[str, Mapping[str, int]],
) -> Array:
    """Return a matrix (n, number of columns + 1) of the columns, followed by the prediction. A
    category is encoded as its index, or as NaN if it is missing or unknown."""
    found = [columns.numbers[name] for name in numbers]
    for name, places in levels.items():
        values = columns.categories[name]
        found.append(np.array([places.get(value, np.nan) for value in values], dtype=np.float64))
    return np.column_stack([*found, np.asarray(predictions, dtype=np.float64)])


def _distinct(values: NDArray[np.object_]) -> list[str]:
    return sorted({value for value in values if value is not None})
