"""Estimate an array's autocorrelation, and how much it increases the variance of the mean.

Input: columns or errors in time order. Output: the block length for resampling the values, and the
variance inflation of their mean.
"""

from math import ceil, log10, sqrt
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_BATCHES: Final = (25, 50, 100, 200)  # batch sizes to try, in values
_LEAST_BATCHES: Final = 8
# 1.28 × 2.3. The normal distribution's 90% quantile is 1.28, and a median-based estimate has a
# relative standard deviation of 2.3 / √(number of batches).
_SURE: Final = 3.0

# Autocorrelations below this many standard deviations are treated as zero (2 in Politis and White).
_SIGNIFICANT: Final = 2.0
# Larger correlations are never treated as zero. If a series changes so slowly that its correlations
# are uncertain by more than this, it must not pass for an independent one.
_LARGE: Final = 0.5
# The search for significant lags ends at the first lag that is followed by a long enough run of
# autocorrelations that are treated as zero. The run must be longer than `_QUIET` (Politis and
# White, for up to 10^25 records). It must also be longer than `_QUIET_SHARE` times the lag, because
# up to 80% of a seasonal cycle may be negative or treated as zero.
_QUIET: Final = 5
_QUIET_SHARE: Final = 8.0


def politis_white(values: Floats) -> int:
    """Return the block length for resampling a series (n,) with overlapping blocks.

    The method is from Politis and White, "Automatic Block-Length Selection for the Dependent
    Bootstrap" (2004), with Patton's correction (2009). The block length is optimal for estimating
    the variance of a mean. This implementation differs from the paper in two ways. Lags are not
    limited to about the square root of n. A block is at least as long as the last significant lag,
    so that a seasonal cycle fits into a block.
    """
    count = len(values)
    reach, weighted, own = _correlated(values)
    if not reach:
        return 1
    lags = np.arange(1, len(weighted) + 1)
    spectrum = own + 2.0 * weighted.sum()
    slope = 2.0 * (weighted * lags).sum()
    best = (1.5 * slope**2 / spectrum**2 * count) ** (1 / 3) if spectrum else 1.0
    return max(1, reach, min(ceil(best), ceil(3.0 * sqrt(count))))


def resampled_variance(values: Floats, block: int) -> float:
    """Return the variance of a mean in a moving-block resample of a series (n,), as a share of its
    true variance. Resamples with blocks of this length lack the covariance across the bounds
    between blocks. The result is between 0.5 and 1."""
    reach, weighted, own = _correlated(values)
    if not reach:
        return 1.0
    spectrum = own + 2.0 * float(weighted.sum())
    slope = 2.0 * float((weighted * np.arange(1, len(weighted) + 1)).sum())
    return min(1.0, max(0.5, 1.0 - slope / (block * spectrum))) if spectrum > 0.0 else 1.0


def variance_inflation(values: Floats) -> float:
    """Return the variance inflation of the mean of a series (n,): the long-run variance divided by
    the variance, at least 1. Small correlations at long lags are included."""
    reach, weighted, own = _correlated(values)
    by_lags = 1.0 + 2.0 * float(weighted.sum()) / own if reach else 1.0
    return max(by_lags, variance_inflation_between_changes(values))


def variance_inflation_between_changes(values: Floats) -> float:
    """Return the variance inflation of a series' mean, ignoring occasional level changes.

    The estimate uses batch means (Schmeiser, "Batch size effects in the analysis of simulation
    output", 1982). A few level changes hardly affect the median distance between neighbouring batch
    means. Even small correlations are detected, at lags up to the length of the longest batch. An
    estimate from few batches is uncertain, so the result is a lower bound with 90% confidence.
    """
    return max([1.0, *(_by_batches(values, size) for size in _BATCHES)])


def _by_batches(values: Floats, size: int) -> float:
    count = len(values) // size
    if count < _LEAST_BATCHES:
        return 1.0
    batches = values[-count * size :].reshape(count, size)
    variance = float(batches.var(axis=1).mean())
    if not variance:
        return 1.0
    apart = float(np.median(np.abs(np.diff(batches.mean(axis=1)))))
    # Half of all normally distributed values are within 0.6745 standard deviations of the mean. The
    # difference between two batch means has twice the variance of one batch mean.
    found = (apart / 0.6745) ** 2 / 2.0 * size / variance
    return found / (1.0 + _SURE / sqrt(count))


def _correlated(values: Floats) -> tuple[int, Floats, float]:
    """Return the last significant lag, the covariances at lags from 1 to twice that lag, and the
    variance. The covariances are weighted with a flat-top window (Politis and Romano 1995). The lag
    is 0 if the values are constant or independent, or if there are too few of them."""
    count = len(values)
    none = 0, np.empty(0), 0.0
    if count < 10 or not np.ptp(values):
        return none
    covariance = _autocovariance(values)
    reach = _reach(covariance / covariance[0], count)
    if not reach:
        return none
    lags = np.arange(1, min(2 * reach, len(covariance) - 1) + 1)
    weighted = np.minimum(1.0, 2.0 * (1.0 - lags / lags[-1])) * covariance[lags]
    return reach, weighted, float(covariance[0])


def _reach(correlations: Floats, count: int) -> int:
    """Return the last lag with a significant positive correlation, or 0 if there is none.
    `correlations` (m,) start at lag 0. An estimated correlation is less certain if neighbouring
    values are correlated (Bartlett 1946).

    Negative correlations never make a mean less certain. Removing a season also leaves small ones
    between equal phases.
    """
    # Correlations that alternate in sign may decay slowly but hardly affect a mean, so smooth them
    # out.
    smooth = np.convolve(correlations, (0.25, 0.5, 0.25), mode="same")[1:-1]
    alike = int(np.argmax(np.append(smooth, -1.0) <= 0.0))
    variance = (1.0 + 2.0 * (smooth[:alike] ** 2).sum()) / count
    limit = min(_LARGE, _SIGNIFICANT * sqrt(log10(count) * variance))
    heard = np.concatenate(([0], np.flatnonzero(smooth >= limit) + 1))
    gaps = np.diff(np.append(heard, 10 * count))
    return int(heard[np.argmax(gaps > np.maximum(_QUIET, _QUIET_SHARE * heard))])


def _autocovariance(values: Floats) -> Floats:
    """Return the autocovariance at lags from 0 to a quarter of the series' length."""
    count = len(values)
    size = 1 << (2 * count - 1).bit_length()
    spectrum = np.abs(np.fft.rfft(values - values.mean(), size)) ** 2
    found: Floats = np.fft.irfft(spectrum, size)[: count // 4 + 1] / count
    return found
