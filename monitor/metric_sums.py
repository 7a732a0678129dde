"""Compute realised metrics from exact sums of losses, without any I/O.

Input: arrays of labels and answers, or another worker's sums. Output: the stream's metric, the mean
error, and whether this error is significantly higher than the model's held-out error. All sums are
counts or fixed-point integers, so they can be merged in any order with the same result.

An error is the loss that the metric implies, see `driftline.learning.metrics.losses`.
"""

import math
from typing import Any, Final, NamedTuple, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from driftline.config.measure import Measure
from driftline.learning.metrics import Answers, Values, from_mean_loss, losses
from driftline.wire.partial_aggregates import ErrorSums, ModelAggregate, Pair, ScoreCounts

# Errors are multiplied by 2^64 and stored as integers. This factor preserves all bits of errors
# above 1e-3, and 12 significant digits of errors around 1e-7. Python integers do not overflow.
FIXED_POINT_BITS: Final = 64
# Larger errors are clipped to this value, whose square times 2^64 is still a finite float.
MAX_ERROR: Final = 1e140


class HeldErrors(msgspec.Struct, frozen=True):
    """A model's held-out errors: `values` (m,), m ≥ 1, in time order, and the variance of their
    mean, assuming independent records."""

    values: NDArray[np.float64]
    variance: float

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> "HeldErrors":
        """Return errors that are independent of each other, one for each record."""
        return cls(values, float(values.var()) / len(values))

    @property
    def mean(self) -> float:
        """Return the mean error."""
        return float(self.values.mean())

    @property
    def dependence(self) -> float:
        """Return how much larger the variance of the mean is than for independent errors. The
        placements of a ranking depend on each other: all are shares of the same negatives."""
        alone = float(self.values.var()) / len(self.values)
        ratio = self.variance / alone if alone > 0.0 else 1.0
        return ratio if math.isfinite(ratio) else 1.0


class PackedTally(NamedTuple):
    """A tally's sums, or a chunk of them, in the format of a partial aggregate."""

    pairs: tuple[Pair, ...] = ()
    sums: ErrorSums | None = None
    ranks: ScoreCounts | None = None


class Tally(Protocol):
    """Mergeable sums over outcomes, from which one metric is computed."""

    records: int

    def add(self, labels: Values, answers: Answers) -> NDArray[np.float64]:
        """Add outcomes, and return what the pane's sample stores for each of them (n,): its error,
        or, for a ranking metric, 1 for the positive class and 0 for others."""

    def merge(self, other: Any) -> None:
        """Add the sums of another tally of the same kind."""

    def merge_aggregate(self, aggregate: ModelAggregate) -> None:
        """Add the sums from a partial aggregate."""

    def packed(self) -> list[PackedTally]:
        """Return the sums as one or more chunks, to be merged in any order."""

    def metric(self) -> float:
        """Return the metric over all outcomes, or NaN if it is undefined. At least one outcome
        must have been added."""

    def standard_error(self) -> float:
        """Return the metric's standard error, assuming independent outcomes. The result is too
        small if errors are autocorrelated. At least one outcome must have been added."""

    def error(self) -> float:
        """Return the mean error, or NaN if it is undefined. At least one outcome must have been
        added."""

    def p_value(self, held: HeldErrors, variance_inflation: float = 1.0) -> float:
        """Return the p-value of the mean error under the hypothesis that the model's error has not
        increased, compared with the model's `held` errors. `variance_inflation` is the factor by
        which autocorrelation increases the variance of a mean error. The result is NaN if the mean
        error is undefined."""


class NumberTally:
    """A tally of numeric errors, such as absolute errors or negative log-probabilities: fixed-point
    sums of the errors and of their squares and fourth powers."""

    def __init__(self, measure: Measure) -> None:
        self._measure = measure
        self.records = 0
        self._sum = 0
        self._squares = 0
        self._fourths = 0  # scaled by 2^128; the other sums are scaled by 2^64

    def add(self, labels: Values, answers: Answers) -> NDArray[np.float64]:
        errors = np.minimum(losses(self._measure, labels, answers), MAX_ERROR)
        self.records += len(errors)
        self._sum += _fixed(errors)
        squares = _fixed_each(errors * errors)
        self._squares += sum(squares)
        self._fourths += sum(square * square for square in squares)
        return errors

    def merge(self, other: "NumberTally") -> None:
        self.records += other.records
        self._sum += other._sum
        self._squares += other._squares
        self._fourths += other._fourths

    def merge_aggregate(self, aggregate: ModelAggregate) -> None:
        self.records += aggregate.records
        if aggregate.sums is not None:
            self._sum += int(aggregate.sums.errors)
            self._squares += int(aggregate.sums.squares)
            self._fourths += int(aggregate.sums.fourths)

    def packed(self) -> list[PackedTally]:
        sums = ErrorSums(str(self._sum), str(self._squares), str(self._fourths))
        return [PackedTally(sums=sums)]

    def metric(self) -> float:
        return from_mean_loss(self._measure, self.error(), self._mean(self._squares))

    def standard_error(self) -> float:
        # `_deviation` computes n Σx² - (Σx)² with integers, so the subtraction loses no precision.
        if self._measure.is_root:
            # Delta method: the standard error of √x is the standard error of x, divided by 2√x.
            root = self.metric()
            spread = self._deviation(self._squares, self._fourths)
            return spread / (2.0 * root) / math.sqrt(self.records) if root else 0.0
        spread = self._deviation(self._sum, self._squares << FIXED_POINT_BITS)
        return spread / math.sqrt(self.records)

    def error(self) -> float:
        return self._mean(self._sum)

    def p_value(self, held: HeldErrors, variance_inflation: float = 1.0) -> float:
        mean = self.error()
        variance = max(0.0, self._mean(self._squares) - mean * mean) / self.records
        return welch_p_value(mean, variance, held, variance_inflation)

    def _deviation(self, total: int, squares: int) -> float:
        """Return the standard deviation of values, given the sum of the values, scaled by 2^64, and
        the sum of their squares, scaled by 2^128."""
        scaled = max(0, self.records * squares - total * total)
        return math.isqrt(scaled) / (self.records << FIXED_POINT_BITS)

    def _mean(self, total: int) -> float:
        # Dividing two integers with `/` rounds only once, even if both are too large for a float.
        return total / (self.records << FIXED_POINT_BITS)


class ErrorComparison(msgspec.Struct, frozen=True):
    """A comparison of a window's error with its model's held-out error."""

    reference_error: float
    p_value: float
    is_degraded: bool


def compare_error(
    tally: Tally,
    held: HeldErrors | None,
    *,
    variance_inflation: float = 1.0,
    level: float,
    min_loss: float,
) -> ErrorComparison | None:
    """Compare a tally's mean error with the mean of the held-out errors. Return None if there are
    no outcomes or no held-out errors, or if the tally's mean error is undefined. `is_degraded` is
    True if the tally's mean error exceeds the held-out mean by at least the fraction `min_loss`,
    and the p-value is below `level`."""
    if held is None or not tally.records or math.isnan(error := tally.error()):
        return None
    p_value = tally.p_value(held, variance_inflation)
    return ErrorComparison(
        held.mean, p_value, p_value < level and error >= held.mean * (1.0 + min_loss)
    )


def welch_p_value(
    mean: float, variance: float, held: HeldErrors, variance_inflation: float
) -> float:
    """Return the p-value of Welch's test, whose statistic is approximately normal because windows
    are large. `variance` is the variance of `mean`, assuming independent records."""
    spread = math.sqrt(variance_inflation * (variance + held.variance))
    if spread == 0.0:
        return 0.0 if mean > held.mean else 1.0
    return 0.5 * math.erfc((mean - held.mean) / spread / math.sqrt(2.0))


def _fixed(values: NDArray[np.float64]) -> int:
    """Return the sum of `values` as a fixed-point integer."""
    return sum(_fixed_each(values))


def _fixed_each(values: NDArray[np.float64]) -> list[int]:
    """Return each value as a fixed-point integer. Scaling by a power of two is exact. Any remaining
    fraction is truncated."""
    return list(map(int, np.ldexp(values, FIXED_POINT_BITS).tolist()))
