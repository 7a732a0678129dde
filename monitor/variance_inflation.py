"""Estimate how much autocorrelation increases the variance of a model's mean error.

Input: errors in time order, and optionally each error's phase within a season. Output: the variance
inflation, which is 1 for independent errors of any distribution.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Places = NDArray[np.intp]

# Numbers of neighbouring errors per batch. Short batches detect short-range correlation in few
# errors. Long batches contain correlation that lasts up to their length. All are multiples of the
# first.
_BATCHES: Final = (5, 10, 25, 50, 100, 200, 400)
_LEAST_BATCHES: Final = 8
# A level change affects at most two differences of neighbouring batches. If the level may change,
# the largest differences are left out, so that two or more changes do not count as autocorrelation.
# More batches are then needed.
_LEAST_DROPPED: Final = 4
_DROPPED_SHARE: Final = 0.05
# With 32 shuffles, the standard deviation of a shuffled series is known to 13%.
_SHUFFLES: Final = 32
# The estimate of a batch length is ignored if it exceeds the shuffles' mean by less than the first
# number of their standard deviations, used in full from the second number on, and in part in
# between. A hard limit of 3.5 missed a true inflation of 2.9 in one of two series of 2,000 errors.
_EVIDENCE: Final = (2.5, 4.0)
# Estimates are lowered by this many standard deviations, because the largest of several estimates
# is too large on average. With a half, the error detector raised no alarm in 120 windows of 1,000
# errors in blocks of 200, whose rate of 20% had a standard deviation of 10% between blocks.
_LOWERED: Final = 0.5


def variance_inflation(
    errors: Floats, phases: Places | None = None, *, changing: bool = False
) -> float:
    """Return the variance inflation of the mean of `errors` (n,): the long-run variance divided by
    the variance, at least 1.

    The method compares batch means (Schmeiser, "Batch size effects in the analysis of simulation
    output", 1982) with the batch means of the same errors in random order. Shuffled errors are
    independent and have the same distribution, so the comparison has no bias for rare errors. The
    result is the largest estimate of all lengths, each lowered a little, and closer to 1 if its
    length shows no clear evidence of autocorrelation. `phases`, (n,) and non-negative, removes a
    season: each error is compared with the mean error of its phase. If `changing`, a few changes of
    the level do not count as autocorrelation.
    """
    largest_error = float(np.abs(errors).max(initial=0.0))
    if len(errors) < _BATCHES[0] * _LEAST_BATCHES or not 0.0 < largest_error < np.inf:
        return 1.0
    values = errors / largest_error  # so that squares cannot overflow
    if phases is not None:
        values = values - _phase_means(values, phases)
    if not np.ptp(values):
        return 1.0
    shuffled = np.random.default_rng(0).permuted(np.tile(values, (_SHUFFLES, 1)), axis=1)
    # The series itself, followed by the shuffled series, in batches of the smallest size.
    batches = _means(np.vstack((values, shuffled)), _BATCHES[0])
    largest = 1.0
    for size in _BATCHES:
        if len(values) // size < _LEAST_BATCHES + (_LEAST_DROPPED if changing else 0):
            break
        means = _means(batches, size // _BATCHES[0])
        differences = _differences(means, changing=changing)
        mean, deviation = float(differences[1:].mean()), float(differences[1:].std())
        if mean <= 0.0:
            continue  # nearly all batches are equal, so this length shows nothing
        # The cube root of a mean of squares is almost normally distributed (Wilson and Hilferty,
        # "The distribution of chi-square", 1931), the mean itself is not.
        roots = np.cbrt(differences)
        evidence = (roots[0] - roots[1:].mean()) / max(roots[1:].std(), 1e-12)
        weight = np.interp(evidence, _EVIDENCE, (0.0, 1.0))
        estimate = differences[0] / (mean + _LOWERED * deviation)
        largest = max(largest, float(1.0 + weight * (estimate - 1.0)))
    return largest


def _means(series: Floats, size: int) -> Floats:
    """Return the means of batches of `size` values, from each of the series (s, n)."""
    count = series.shape[1] // size
    found: Floats = series[:, -count * size :].reshape(len(series), count, size).mean(axis=2)
    return found


def _differences(means: Floats, *, changing: bool) -> Floats:
    """Return the mean squared difference of neighbouring batch means (s, k) for each of s series;
    if `changing`, without the largest differences."""
    squares = np.sort(np.diff(means, axis=1) ** 2, axis=1)
    dropped = max(_LEAST_DROPPED, round(_DROPPED_SHARE * means.shape[1])) if changing else 0
    kept: Floats = squares[:, : squares.shape[1] - dropped].mean(axis=1)
    return kept


def _phase_means(errors: Floats, phases: Places) -> Floats:
    """Return for each error the mean of all errors in its phase."""
    counts = np.bincount(phases)
    means: Floats = np.bincount(phases, weights=errors) / np.maximum(counts, 1)
    return means[phases]
