"""Compute metrics of a ranking by score, and their gradients, from counts by score (NumPy).

Input: scores of the positive class, or the weight of the positive and negative records at each
distinct score. Output: the area under the ROC curve (`roc_auc`) or the average precision. Equal
scores are ties: they are never ordered by chance. Both metrics depend only on the counts, so the
counts of several parts of a window can be added.
"""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Codes = NDArray[np.uint16]

# Scores have six decimals, so p and 1 - p are whole millionths. `score_codes` keeps the first 12
# binary digits of the smaller of the two. Scores below 0.0041 or above 0.9959, where the scores of
# rare classes are, are kept exactly. Other scores share a code only if they differ by less than
# 0.05% of p or 1 - p.
_DIGITS: Final = 12
_MILLION: Final = 1_000_000


class Ranking(NamedTuple):
    """The weights of positive and negative records, float64 (u,), by ascending distinct score."""

    positives: Array
    negatives: Array

    @classmethod
    def of(
        cls, scores: NDArray[np.float64] | Codes, positive: NDArray[np.bool_] | Array
    ) -> "Ranking":
        """Group n records by score. `positive` (n,) contains each record's weight as a positive;
        its weight as a negative is 1 minus this."""
        return grouped(scores, np.asarray(positive, dtype=np.float64))[0]


def ranking_metric(name: str, ranking: Ranking) -> float:
    """Return `roc_auc` or `average_precision`, or NaN if there are no positive or no negative
    records. Average precision needs only positive records.

    ROC AUC is the probability that a positive record has a higher score than a negative one, with
    half the weight for ties (Hanley and McNeil, 1982). Average precision is the mean of the
    precision at each positive record's score, as in scikit-learn.

    >>> ranking = Ranking.of(np.array([0.1, 0.4, 0.4, 0.8]), np.array([0, 0, 1, 1]))
    >>> ranking_metric("roc_auc", ranking), round(ranking_metric("average_precision", ranking), 4)
    (0.875, 0.8333)
    """
    positives, negatives = ranking
    total, others = float(positives.sum()), float(negatives.sum())
    if not total or (name == "roc_auc" and not others):
        return float("nan")
    if name == "roc_auc":
        return float((positives * (_below(negatives) + negatives / 2.0)).sum() / (total * others))
    return float((positives * _precision(ranking)).sum() / total)


def ranking_slopes(name: str, ranking: Ranking) -> tuple[Array, Array]:
    """Return the metric's gradients (u,) with respect to the weights of the positive and of the
    negative records at each score.

    For weights that sum to 1, the delta method gives the variance of the metric over n records, as
    in `driftline.learning.confusion`. For ROC AUC, this is DeLong's variance (1988). If the metric
    is undefined, the gradients are 0.
    """
    positives, negatives = ranking
    value = ranking_metric(name, ranking)
    if np.isnan(value):
        return np.zeros_like(positives), np.zeros_like(negatives)
    total, others = positives.sum(), negatives.sum()
    if name == "roc_auc":
        of_positives = (_below(negatives) + negatives / 2.0) / others
        of_negatives = (_above(positives) + positives / 2.0) / total
        return (of_positives - value) / total, (of_negatives - value) / others
    # The precision at a score depends on all records with this or a higher score.
    above = _above(positives) + positives
    false = _above(negatives) + negatives
    ranked = above + false
    squared = np.where(ranked > 0, ranked**2, 1.0)
    of_positives = _precision(ranking) / total - value / total
    of_positives += np.cumsum(positives * false / squared) / total
    of_negatives = -np.cumsum(positives * above / squared) / total
    return of_positives, of_negatives


def placements(scores: NDArray[np.float64] | Codes, positive: NDArray[np.bool_]) -> Array:
    """Return each positive record's placement (m,): the share of the negative records whose scores
    are at least as high, with half the weight for equal scores.

    The mean of the placements is 1 - ROC AUC (Hanley and Hajian-Tilaki, 1997). The records keep
    their order. The result is empty if there are no positive or no negative records.

    >>> placements(np.array([0.9, 0.2, 0.5, 0.5]), np.array([True, False, True, False])).tolist()
    [0.0, 0.25]
    """
    if positive.all() or not positive.any():
        return np.zeros(0)
    ranking, at = grouped(scores, positive.astype(np.float64))
    share = (_above(ranking.negatives) + ranking.negatives / 2.0) / ranking.negatives.sum()
    placed: Array = share[at[positive]]
    return placed


def score_codes(scores: NDArray[np.float64]) -> Codes:
    """Return codes (n,) from 0 to 36,863 that order records as their scores do, except for ties
    between scores that differ by less than 0.05% of p or 1 - p.

    Only whole numbers are used, so the codes are the same on every machine. `scores` must lie
    between 0 and 1.

    >>> score_codes(np.array([0.0, 1e-6, 0.5, 0.999999, 1.0])).tolist()
    [0, 1, 18242, 36862, 36863]
    """
    millionths = np.rint(np.clip(scores, 0.0, 1.0) * _MILLION).astype(np.int64)
    smaller = np.minimum(millionths, _MILLION - millionths)
    # `frexp` gives the number of binary digits. Drop all but the first `_DIGITS` digits.
    dropped = np.maximum(np.frexp(smaller.astype(np.float64))[1] - _DIGITS, 0)
    half = 1 << (_DIGITS - 1)
    codes = (smaller >> dropped) + dropped * half
    found: Codes = np.where(millionths > smaller, _LARGEST - codes, codes).astype(np.uint16)
    return found


# Half a million has 19 binary digits, so at most 7 are dropped: codes below 0.5 reach
# 4,096 + 7 × 2,048 - 1. The codes of scores above 0.5 count down from `_LARGEST`.
_LARGEST: Final = 2 * ((1 << _DIGITS) + 7 * (1 << (_DIGITS - 1))) - 1


def grouped(
    scores: NDArray[np.float64] | Codes, weights: Array
) -> tuple[Ranking, NDArray[np.intp]]:
    """Return the weights by distinct score, and each record's index (n,) among the distinct scores.
    `weights` (n,) contains each record's weight as a positive, from 0 to 1."""
    unique, at = np.unique(scores, return_inverse=True)
    positives: Array = np.bincount(at, weights, len(unique)).astype(np.float64)
    negatives: Array = np.bincount(at, 1.0 - weights, len(unique)).astype(np.float64)
    return Ranking(positives, negatives), at


def _below(weights: Array) -> Array:
    """Return the total weight (u,) of all lower scores."""
    return np.cumsum(weights) - weights


def _above(weights: Array) -> Array:
    """Return the total weight (u,) of all higher scores."""
    return np.cumsum(weights[::-1])[::-1] - weights


def _precision(ranking: Ranking) -> Array:
    """Return the share of positive records among those with this or a higher score, (u,)."""
    positives, negatives = ranking
    right = _above(positives) + positives
    ranked = right + _above(negatives) + negatives
    return np.divide(right, ranked, out=np.zeros_like(right), where=ranked > 0)
