"""Compute realised metrics of classes from counts of label and prediction (no I/O).

Input and output are as in `monitor.metric_sums`. Counts can be merged in any order.
"""

import math
from collections import Counter

import numpy as np
from numpy.typing import NDArray

from driftline.config.measure import Measure
from driftline.learning.confusion import (
    class_loss,
    confusion_matrix,
    confusion_metric,
    confusion_slopes,
)
from driftline.learning.metrics import Answers, Values, losses
from driftline.wire.events import Value
from driftline.wire.partial_aggregates import ModelAggregate, Pair
from monitor.metric_sums import HeldErrors, PackedTally, welch_p_value
from monitor.parts_codec import MAX_PAIRS


class ClassTally:
    """A tally of class outcomes: the number of outcomes for each pair of label and prediction."""

    def __init__(self, measure: Measure) -> None:
        self._measure = measure
        self.records = 0
        self._pairs: Counter[tuple[Value, Value]] = Counter()

    def add(self, labels: Values, answers: Answers) -> NDArray[np.float64]:
        self.records += len(labels)
        self._pairs.update(zip(labels, answers.predictions, strict=True))
        return losses(self._measure, labels, answers)

    def merge(self, other: "ClassTally") -> None:
        self.records += other.records
        self._pairs.update(other._pairs)

    def merge_aggregate(self, aggregate: ModelAggregate) -> None:
        for pair in aggregate.pairs:
            self.records += pair.count
            self._pairs[pair.label, pair.prediction] += pair.count

    def packed(self) -> list[PackedTally]:
        pairs = [Pair(*names, count) for names, count in self._pairs.items()]
        return [
            PackedTally(pairs=tuple(pairs[start : start + MAX_PAIRS]))
            for start in range(0, max(1, len(pairs)), MAX_PAIRS)
        ]

    def metric(self) -> float:
        return confusion_metric(self._measure, *confusion_matrix(self._pairs))

    def standard_error(self) -> float:
        classes, counts = confusion_matrix(self._pairs)
        shares = counts / self.records
        slopes = confusion_slopes(self._measure, classes, shares)
        mean = float((shares * slopes).sum())
        return math.sqrt(max(0.0, float((shares * slopes**2).sum()) - mean**2) / self.records)

    def error(self) -> float:
        return self._sum_of_losses() / self.records

    def p_value(self, held: HeldErrors, variance_inflation: float = 1.0) -> float:
        total = self._sum_of_losses()
        if not self._measure.is_binary:
            mean = total / self.records
            variance = max(0.0, self._sum_of_losses(2) / self.records - mean**2) / self.records
            return welch_p_value(mean, variance, held, variance_inflation)
        from scipy.stats import fisher_exact

        before, count = int(held.values.sum()), len(held.values)
        table = [(total, self.records - total), (before, count - before)]
        # Autocorrelated records carry less information than independent records, so divide the
        # counts by the variance inflation.
        counts = [[round(number / variance_inflation) for number in row] for row in table]
        return float(fisher_exact(counts, alternative="greater").pvalue)

    def _sum_of_losses(self, power: int = 1) -> float:
        # `fsum` rounds only once, so the order of the pairs does not matter.
        return math.fsum(
            count * class_loss(self._measure, label, prediction) ** power
            for (label, prediction), count in self._pairs.items()
        )
