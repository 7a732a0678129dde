"""Realised metrics from sums that merge exactly, whatever the order in which outcomes were read.

In: labels and predictions, or sums of another worker. Out: the stream's metric, the mean error, and
whether that is worse than the model's held-out error. Counts and fixed-point whole numbers, never
sums of floats.
"""

import math
import operator
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from driftline.events import ErrorSums, ModelPart, Pair, Value
from driftline.stream import Metric, Task

# An error times 2^64, as a whole number, keeps all bits of any error above 1e-3, and 12 digits of
# one of 1e-7; Python's whole numbers do not overflow.
FIXED_POINT_BITS: Final = 64
# A larger error counts as this one: its square, in fixed point, is still a float.
MAX_ERROR: Final = 1e140


class Tally(Protocol):
    """Sums over outcomes."""

    records: int

    def add(self, labels: Sequence[Value], predictions: Sequence[Value]) -> NDArray[np.float64]:
        """Count outcomes; returns their errors (n,)."""

    def merge(self, other: Any) -> None:
        """Add the sums of another tally of the same kind."""

    def merge_part(self, part: ModelPart) -> None:
        """Add the sums that came over the wire."""

    def packed(self) -> tuple[tuple[Pair, ...], ErrorSums | None]:
        """The sums for the wire."""

    def metric(self, metric: Metric) -> float:
        """The metric over all outcomes; at least one."""

    def error(self) -> float:
        """The mean error; at least one outcome."""

    def p_value(self, reference: NDArray[np.float64]) -> float:
        """Of a mean error this high if the model were as good as on `reference`, (m,) errors."""


def new_tally(task: Task) -> Tally:
    """An empty tally."""
    return ClassTally() if task == "classification" else NumberTally()


class ClassTally:
    """Counts of (label, prediction)."""

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

    def merge_part(self, part: ModelPart) -> None:
        for pair in part.pairs:
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

    def error(self) -> float:
        return self._wrong() / self.records

    def p_value(self, reference: NDArray[np.float64]) -> float:
        from scipy.stats import fisher_exact

        wrong, before = self._wrong(), int(reference.sum())
        table = [[wrong, self.records - wrong], [before, len(reference) - before]]
        return float(fisher_exact(table, alternative="greater").pvalue)

    def _wrong(self) -> int:
        return sum(
            count for (label, prediction), count in self._pairs.items() if label != prediction
        )


class NumberTally:
    """Fixed-point sums of the absolute errors and of their squares."""

    def __init__(self) -> None:
        self.records = 0
        self._sum = 0
        self._squares = 0

    def add(self, labels: Sequence[Value], predictions: Sequence[Value]) -> NDArray[np.float64]:
        errors = np.abs(np.array(labels, np.float64) - np.array(predictions, np.float64))
        errors = np.minimum(errors, MAX_ERROR)
        self.records += len(errors)
        self._sum += _fixed(errors)
        self._squares += _fixed(errors * errors)
        return errors

    def merge(self, other: "NumberTally") -> None:
        self.records += other.records
        self._sum += other._sum
        self._squares += other._squares

    def merge_part(self, part: ModelPart) -> None:
        self.records += part.records
        if part.sums is not None:
            self._sum += int(part.sums.errors)
            self._squares += int(part.sums.squares)

    def packed(self) -> tuple[tuple[Pair, ...], ErrorSums | None]:
        return (), ErrorSums(str(self._sum), str(self._squares))

    def metric(self, metric: Metric) -> float:
        return math.sqrt(self._mean(self._squares)) if metric == "rmse" else self.error()

    def error(self) -> float:
        return self._mean(self._sum)

    def p_value(self, reference: NDArray[np.float64]) -> float:
        mean, known = self.error(), float(reference.mean())
        variance = max(0.0, self._mean(self._squares) - mean * mean) / self.records
        spread = math.sqrt(variance + float(reference.var()) / len(reference))
        if spread == 0.0:
            return 0.0 if mean > known else 1.0
        # Welch's statistic; windows are large enough for the normal distribution.
        return 0.5 * math.erfc((mean - known) / spread / math.sqrt(2.0))

    def _mean(self, total: int) -> float:
        # Division of whole numbers rounds once, also where both are too large for a float.
        return total / (self.records << FIXED_POINT_BITS)


class Rise(msgspec.Struct, frozen=True):
    """How the error of a window compares with the held-out error of its model."""

    reference_error: float
    p_value: float
    worse: bool


def rise(
    tally: Tally, reference: NDArray[np.float64], *, level: float, min_loss: float
) -> Rise | None:
    """Whether the error rose significantly, and by `min_loss` of it or more; None if unknown."""
    if not len(reference) or not tally.records:
        return None
    before = float(np.mean(reference))
    p_value = tally.p_value(reference)
    return Rise(before, p_value, p_value < level and tally.error() >= before * (1.0 + min_loss))


def _fixed(values: NDArray[np.float64]) -> int:
    """The sum in fixed point. Scaling by a power of two is exact; each value is cut, then added."""
    return sum(map(int, np.ldexp(values, FIXED_POINT_BITS).tolist()))
