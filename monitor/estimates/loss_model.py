"""Estimate the error of a regression model with a second model of its errors.

In: held-out inputs, predictions and errors, then inputs and predictions of a window. Out: the
expected mae or rmse. The method is direct loss estimation (DLE) as NannyML documents it: a small
regressor learns the absolute (for rmse, squared) error from the inputs and the prediction.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from driftline.config.stream import Stream
from driftline.config.stream_sections import Metric
from driftline.models.reference import Reference
from driftline.wire.columns import Columns
from monitor.bottom_k_sample import Sample
from monitor.estimates.estimator import MIN_HELD, Array, Guess, Places

# There are few rows and errors are noisy, so trees are small, with many records per leaf.
PARAMETERS: Final[Mapping[str, Any]] = {
    "max_iter": 15,
    "max_leaf_nodes": 4,
    "min_samples_leaf": 20,
    "learning_rate": 0.1,
    "early_stopping": False,
    "random_state": 0,
}


# Trees calculate in float32. Losses above this are divided by the largest one for the fit.
LARGEST_UNSCALED: Final = 1e30


class Fit(NamedTuple):
    """A regressor, and the unit in which it predicts losses."""

    regressor: Any
    unit: float


class LossModel:
    """Learn the loss of a record."""

    def __init__(
        self,
        metric: Metric,
        matrix: Array,
        losses: Array,
        levels: Mapping[str, Mapping[str, int]],
        numbers: tuple[str, ...],
    ) -> None:
        self._metric: Metric = metric
        self._matrix = matrix
        self._losses = losses
        self._levels = levels
        self._numbers = numbers
        mean = float(losses.mean())
        self._slope = _slope(metric, mean)
        # Assume that losses deviate in proportion to their size, by one coefficient of variation.
        self._relative_variance = float(losses.var()) / mean**2 if mean > 0 else 0.0

    @classmethod
    def of(cls, stream: Stream, reference: Reference) -> "LossModel | None":
        """Build from a model's held-out records. None if they are few or lack columns."""
        columns = reference.held_columns
        if columns is None or len(columns) < MIN_HELD:
            return None
        newest = slice(-len(columns), None)
        errors = reference.errors[newest]
        metric = stream.judged_by
        levels = {
            name: {value: place for place, value in enumerate(_distinct(values))}
            for name, values in columns.categories.items()
        }
        numbers = tuple(columns.numbers)
        matrix = _matrix(columns, reference.held_predictions[newest], numbers, levels)
        losses = errors**2 if metric == "rmse" else errors
        return cls(metric, matrix, losses, levels, numbers)

    def __len__(self) -> int:
        return len(self._losses)

    def fit(self, places: Places) -> Fit:
        """Fit a regressor to the losses. It makes no use of columns without any value."""
        from sklearn.ensemble import HistGradientBoostingRegressor
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # of sklearn

        matrix, losses = self._matrix[places], self._losses[places]
        # scikit-learn raises for a column without any value. No tree can split a constant one.
        matrix[:, np.isnan(matrix).all(axis=0)] = 0.0
        largest = float(losses.max())
        unit = largest if largest > LARGEST_UNSCALED else 1.0
        with threadpool_limits(1):  # a fixed order of sums makes the result reproducible
            model = HistGradientBoostingRegressor(**PARAMETERS)
            return Fit(model.fit(matrix, losses / unit), unit)

    def held(self, places: Places) -> Array:
        """See `Approach`."""
        return self._matrix[places]

    def inputs(self, sample: Sample) -> Array | None:
        """See `Approach`. None if a column is missing."""
        columns = sample.columns
        whole = columns.numbers.keys() >= set(self._numbers)
        if not (whole and columns.categories.keys() >= self._levels.keys()):
            return None
        return _matrix(columns, sample.predictions, self._numbers, self._levels)

    def guess(self, fitted: Fit, inputs: Array) -> Guess:
        """See `Approach`."""
        losses = _predicted(fitted, inputs)
        mean = float(losses.mean())
        slope = _slope(self._metric, mean)
        value = float(np.sqrt(mean)) if self._metric == "rmse" else mean
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


def _slope(metric: Metric, mean: float) -> float:
    """Return the derivative of the metric with respect to the mean loss."""
    if metric == "mae":
        return 1.0
    return 0.5 / float(np.sqrt(mean)) if mean > 0 else 0.0


def _matrix(
    columns: Columns,
    predictions: NDArray[Any],
    numbers: tuple[str, ...],
    levels: Mapping[str, Mapping[str, int]],
) -> Array:
    """Return (n, columns and prediction). A category is its index, NaN if missing or unknown."""
    found = [columns.numbers[name] for name in numbers]
    for name, places in levels.items():
        values = columns.categories[name]
        found.append(np.array([places.get(value, np.nan) for value in values], dtype=np.float64))
    return np.column_stack([*found, np.asarray(predictions, dtype=np.float64)])


def _distinct(values: NDArray[np.object_]) -> list[str]:
    return sorted({value for value in values if value is not None})
