"""Compute realised metrics from exact sums over labels and predictions, without any I/O.

Input: arrays of labels and predictions, or another worker's sums. Output: the stream's metric, the
mean error, and whether this error is significantly higher than the model's held-out error. All sums
are counts or fixed-point integers, so they can be merged in any order with the same result.
"""

import math
import operator
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from driftline.config.stream_sections import Metric, Task
from driftline.wire.events import Value
from driftline.wire.partial_aggregates import ErrorSums, ModelAggregate, Pair

# Errors are multiplied by 2^64 and stored as integers. This factor preserves all bits of errors
# above 1e-3, and 12 significant digits of errors around 1e-7. Python integers do not overflow.
FIXED_POINT_BITS: Final = 64
# Larger errors are clipped to this value, whose square times 2^64 is still a finite float.
MAX_ERROR: Final = 1e140


class Tally(Protocol):
    """Mergeable sums over outcomes."""

    records: int

    def add(self, labels: Sequence[Value], predictions: Sequence[Value]) -> NDArray[np.float64]:
        """Add outcomes, and return their errors (n,)."""

    def merge(self, other: Any) -> None:
        """Add the sums of another tally of the same kind."""

    def merge_aggregate(self, aggregate: ModelAggregate) -> None:
        """Add the sums from a partial aggregate."""

    def packed(self) -> tuple[tuple[Pair, ...], ErrorSums | None]:
        """Return the sums in the format of a partial aggregate."""

    def metric(self, metric: Metric) -> float:
        """Return the metric over all outcomes. At least one outcome must have been added."""

    def standard_error(self, metric: Metric) -> float:
        """Return the metric's standard error, assuming independent outcomes. The result is too
        small if errors are autocorrelated. At least one outcome must have been added."""

    def error(self) -> float:
        """Return the mean error. At least one outcome must have been added."""

    def p_value(self, reference: NDArray[np.float64], variance_inflation: float = 1.0) -> float:
        """Return the p-value of the mean error under the hypothesis that the model's error has not
        increased. `reference` (m,) contains the model's held-out errors. `variance_inflation` is
        the factor by which autocorrelation increases the variance of a mean error."""


def new_tally(task: Task) -> Tally:
    """Return an empty tally for a task."""
    return ClassTally() if task == "classification" else NumberTally()


class ClassTally:
    """A tally of class outcomes: the number of outcomes for each pair of label and prediction."""

    def __init__(self) -> None:
        self.records = 0
        self._pairs: Counter[tuple[Value, Value]] = Counter()

    def add(self, labels: Sequence[Value], predictions: Sequence[Value]) -> NDArray[np.float64]:
        self.records += len(labels)
        self._pairs.update(zip(labels, predictions, strict=True))
        wrong = list(map(operator.ne, labels, predictions))
        return np.array(wrong, dtype=np.float64)

    def merge(self, other: "ClassTally") -> None:
        self.records += other.records
        self._pairs.update(other._pairs)

    def merge_aggregate(self, aggregate: ModelAggregate) -> None:
        for pair in aggregate.pairs:
            self.records += pair.count
            self._pairs[pair.label, pair.prediction] += pair.count

    def packed(self) -> tuple[tuple[Pair, ...], ErrorSums | None]:
        return tuple(Pair(*names, count) for names, count in self._pairs.items()), None

    def metric(self, metric: Metric) -> float:
        if metric == "accuracy":
            return (self.records - self._wrong()) / self.records
        labels: Counter[Value] = Counter()
        predictions: Counter[Value] = Counter()
        for (label, prediction), count in self._pairs.items():
            labels[label] += count
            predictions[prediction] += count
        if metric == "balanced_accuracy":
            return math.fsum(
                self._pairs[label, label] / count for label, count in labels.items()
            ) / len(labels)
        classes = labels.keys() | predictions.keys()
        return math.fsum(
            2 * self._pairs[name, name] / (labels[name] + predictions[name]) for name in classes
        ) / len(classes)

    def standard_error(self, metric: Metric) -> float:
        names = sorted({name for pair in self._pairs for name in pair}, key=str)
        places = {name: place for place, name in enumerate(names)}
        shares = np.zeros((len(names), len(names)))
        for (label, prediction), count in self._pairs.items():
            shares[places[label], places[prediction]] = count / self.records
        slopes = slopes_of(metric, shares)
        mean = float((shares * slopes).sum())
        return math.sqrt(max(0.0, float((shares * slopes**2).sum()) - mean**2) / self.records)

    def error(self) -> float:
        return self._wrong() / self.records

    def p_value(self, reference: NDArray[np.float64], variance_inflation: float = 1.0) -> float:
        from scipy.stats import fisher_exact

        wrong, before = self._wrong(), int(reference.sum())
        table = [[wrong, self.records - wrong], [before, len(reference) - before]]
        # Autocorrelated records carry less information than independent records, so divide the
        # counts by the variance inflation.
        counts = [[round(count / variance_inflation) for count in row] for row in table]
        return float(fisher_exact(counts, alternative="greater").pvalue)

    def _wrong(self) -> int:
        return sum(
            count for (label, prediction), count in self._pairs.items() if label != prediction
        )


class NumberTally:
    """A tally of numeric outcomes: fixed-point sums of absolute errors and of their squares and
    fourth powers."""

    def __init__(self) -> None:
        self.records = 0
        self._sum = 0
        self._squares = 0
        self._fourths = 0  # scaled by 2^128; the other sums are scaled by 2^64

    def add(self, labels: Sequence[Value], predictions: Sequence[Value]) -> NDArray[np.float64]:
        errors = np.abs(np.array(labels, np.float64) - np.array(predictions, np.float64))
        errors = np.minimum(errors, MAX_ERROR)
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

    def packed(self) -> tuple[tuple[Pair, ...], ErrorSums | None]:
        return (), ErrorSums(str(self._sum), str(self._squares), str(self._fourths))

    def metric(self, metric: Metric) -> float:
        return math.sqrt(self._mean(self._squares)) if metric == "rmse" else self.error()

    def standard_error(self, metric: Metric) -> float:
        # `_deviation` computes n Σx² - (Σx)² with integers, so the subtraction loses no precision.
        if metric == "rmse":
            # Delta method: the standard error of √x is the standard error of x, divided by 2√x.
            root = self.metric("rmse")
            spread = self._deviation(self._squares, self._fourths)
            return spread / (2.0 * root) / math.sqrt(self.records) if root else 0.0
        spread = self._deviation(self._sum, self._squares << FIXED_POINT_BITS)
        return spread / math.sqrt(self.records)

    def error(self) -> float:
        return self._mean(self._sum)

    def p_value(self, reference: NDArray[np.float64], variance_inflation: float = 1.0) -> float:
        mean, known = self.error(), float(reference.mean())
        variance = max(0.0, self._mean(self._squares) - mean * mean) / self.records
        spread = math.sqrt(
            variance_inflation * (variance + float(reference.var()) / len(reference))
        )
        if spread == 0.0:
            return 0.0 if mean > known else 1.0
        # Use Welch's statistic, which is approximately normal because windows are large.
        return 0.5 * math.erfc((mean - known) / spread / math.sqrt(2.0))

    def _deviation(self, total: int, squares: int) -> float:
        """Return the standard deviation of values, given the sum of the values, scaled by 2^64, and
        the sum of their squares, scaled by 2^128."""
        scaled = max(0, self.records * squares - total * total)
        return math.isqrt(scaled) / (self.records << FIXED_POINT_BITS)

    def _mean(self, total: int) -> float:
        # Dividing two integers with `/` rounds only once, even if both are too large for a float.
        return total / (self.records << FIXED_POINT_BITS)


def metric_of(metric: Metric, shares: NDArray[np.float64]) -> float:
    """Return the metric for a confusion matrix.

    `shares` (k, k) is the confusion matrix, with labels as rows and predictions as columns. Its
    entries sum to 1. `evaluate` returns the same result for the records that the matrix summarises.
    """
    right, actual, predicted = np.diag(shares), shares.sum(axis=1), shares.sum(axis=0)
    if metric == "accuracy":
        return float(right.sum())
    of = actual if metric == "balanced_accuracy" else (actual + predicted) / 2.0
    return float(np.mean(right[of > 0] / of[of > 0]))


def slopes_of(metric: Metric, shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a metric's gradient (k, k) with respect to the entries of the confusion matrix.

    `shares` (k, k) is the confusion matrix, with labels as rows and predictions as columns. Its
    entries sum to 1. For a gradient g, the delta method gives the metric's variance over n
    multinomial draws: (Σ pᵢⱼ gᵢⱼ² - (Σ pᵢⱼ gᵢⱼ)²) / n. For macro F1, see Takahashi et al.,
    Confidence interval for micro-averaged F1 and macro-averaged F1 scores (Applied Intelligence,
    2022).
    """
    same = np.eye(len(shares))
    if metric == "accuracy":
        return same
    right, actual, predicted = np.diag(shares), shares.sum(axis=1), shares.sum(axis=0)
    if metric == "balanced_accuracy":
        present = actual > 0
        weight = np.divide(1.0 / present.sum(), actual, out=np.zeros_like(actual), where=present)
        recall = np.divide(right, actual, out=np.zeros_like(actual), where=present)
        slopes: NDArray[np.float64] = (same - recall[:, None]) * weight[:, None]
        return slopes
    both = actual + predicted
    known = both > 0
    weight = np.divide(2.0 / known.sum(), both, out=np.zeros_like(both), where=known)
    ratio: NDArray[np.float64] = weight * np.divide(
        right, both, out=np.zeros_like(both), where=known
    )
    own: NDArray[np.float64] = same * weight[:, None]
    return own - ratio[:, None] - ratio[None, :]


class ErrorComparison(msgspec.Struct, frozen=True):
    """A comparison of a window's error with its model's held-out error."""

    reference_error: float
    p_value: float
    is_degraded: bool


def compare_error(
    tally: Tally,
    reference: NDArray[np.float64],
    *,
    variance_inflation: float = 1.0,
    level: float,
    min_loss: float,
) -> ErrorComparison | None:
    """Compare a tally's mean error with the mean of the held-out errors, `reference` (m,). Return
    None if there are no outcomes or no held-out errors. `is_degraded` is True if the tally's mean
    error exceeds the held-out mean by at least the fraction `min_loss`, and the p-value is below
    `level`."""
    if not len(reference) or not tally.records:
        return None
    before = float(np.mean(reference))
    p_value = tally.p_value(reference, variance_inflation)
    return ErrorComparison(
        before, p_value, p_value < level and tally.error() >= before * (1.0 + min_loss)
    )


def _fixed(values: NDArray[np.float64]) -> int:
    """Return the sum of `values` as a fixed-point integer."""
    return sum(_fixed_each(values))


def _fixed_each(values: NDArray[np.float64]) -> list[int]:
    """Return each value as a fixed-point integer. Scaling by a power of two is exact. Any remaining
    fraction is truncated."""
    return list(map(int, np.ldexp(values, FIXED_POINT_BITS).tolist()))
