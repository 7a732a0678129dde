"""Compute realised ranking metrics from counts of outcomes by score (no I/O).

Input and output are as in `monitor.metric_sums`. Scores are rounded to codes, whose counts can be
merged in any order. Memory is bounded by the number of codes.
"""

import math
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from driftline.config.measure import Measure
from driftline.learning.metrics import Answers, Values, scores_of
from driftline.learning.ranking import Ranking, ranking_metric, ranking_slopes, score_codes
from driftline.wire.partial_aggregates import ModelAggregate, ScoreCounts
from monitor.metric_sums import HeldErrors, PackedTally, welch_p_value

# Maximum number of distinct scores in a chunk, which takes up to 240 kB in JSON.
MAX_SCORES: Final = 10_000

_CODE: Final = np.dtype("<u2")
_COUNT: Final = np.dtype("<i8")


class RankTally:
    """A tally of outcomes by score of the positive class. The error is 1 - ROC AUC, the mean
    placement of the positive class, also for `average_precision` (see docs/metrics.md)."""

    def __init__(self, measure: Measure) -> None:
        self._measure = measure
        self.records = 0
        self._codes = np.zeros(0, _CODE)  # distinct, ascending
        self._counts = np.zeros((2, 0), _COUNT)  # of negative (row 0) and positive outcomes

    def add(self, labels: Values, answers: Answers) -> NDArray[np.float64]:
        positive = np.fromiter(
            (label == self._measure.positive for label in labels), np.int64, len(labels)
        )
        codes = score_codes(scores_of(self._measure, answers))
        self._add(codes, np.stack([1 - positive, positive]))
        return positive.astype(np.float64)

    def merge(self, other: "RankTally") -> None:
        self._add(other._codes, other._counts)

    def merge_aggregate(self, aggregate: ModelAggregate) -> None:
        ranks = aggregate.ranks
        if ranks is not None:
            counts = [np.frombuffer(part, _COUNT) for part in (ranks.negatives, ranks.positives)]
            self._add(np.frombuffer(ranks.codes, _CODE), np.stack(counts))

    def packed(self) -> list[PackedTally]:
        return list(self._chunks())

    def _chunks(self) -> Iterator[PackedTally]:
        for start in range(0, max(1, len(self._codes)), MAX_SCORES):
            part = slice(start, start + MAX_SCORES)
            negatives, positives = self._counts[:, part]
            yield PackedTally(
                ranks=ScoreCounts(
                    codes=self._codes[part].tobytes(),
                    positives=positives.tobytes(),
                    negatives=negatives.tobytes(),
                )
            )

    def metric(self) -> float:
        return ranking_metric(self._measure.name, self._ranking())

    def standard_error(self) -> float:
        return math.sqrt(ranking_variance(self._measure.name, self._ranking()))

    def error(self) -> float:
        return 1.0 - ranking_metric("roc_auc", self._ranking())

    def p_value(self, held: HeldErrors, variance_inflation: float = 1.0) -> float:
        variance = ranking_variance("roc_auc", self._ranking())
        return welch_p_value(self.error(), variance, held, variance_inflation)

    def _add(self, codes: NDArray[Any], counts: NDArray[np.int64]) -> None:
        """Add counts (2, u) of outcomes by code (u,). Codes may occur several times."""
        self.records += int(counts.sum())
        self._codes, at = np.unique(np.concatenate([self._codes, codes]), return_inverse=True)
        every = np.concatenate([self._counts, counts], axis=1)
        self._counts = np.zeros((2, len(self._codes)), _COUNT)
        for row in range(2):
            np.add.at(self._counts[row], at, every[row])

    def _ranking(self) -> Ranking:
        negatives, positives = self._counts.astype(np.float64)
        return Ranking(positives, negatives)


def ranking_variance(name: str, ranking: Ranking) -> float:
    """Return the variance of a ranking metric, assuming independent records (delta method)."""
    count = float(ranking.positives.sum() + ranking.negatives.sum())
    shares = Ranking(ranking.positives / count, ranking.negatives / count)
    mean = second = 0.0
    for weights, slopes in zip(shares, ranking_slopes(name, shares), strict=True):
        mean += float((weights * slopes).sum())
        second += float((weights * slopes**2).sum())
    return max(0.0, second - mean**2) / count
