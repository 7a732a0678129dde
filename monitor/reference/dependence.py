"""How long records hang together, and what that takes from what they say.

In: columns or errors in the order of time. Out: the length of blocks for resampling them; how much
more their mean varies than that of independent ones.
"""

from collections.abc import Sequence
from math import ceil, log10, sqrt
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_BATCHES: Final = (25, 50, 100, 200)  # values in one
_LEAST_BATCHES: Final = 8
# 1.28 standard deviations of the estimate by a median, which are 2.3 over the root of their number.
_SURE: Final = 3.0

# An autocorrelation below so many standard deviations counts as none (Politis and White's 2).
_SIGNIFICANT: Final = 2.0
# It takes so many of them in a row to end it (theirs, for up to 10^25 records), and so many times
# those up to there: a season's are quiet for half of its length.
_QUIET: Final = 5
_QUIET_SHARE: Final = 3.0


def block_length(columns: Sequence[Floats]) -> int:
    """The longest that any of the columns (n,) asks for; at least 1."""
    return max((politis_white(values) for values in columns), default=1)


def politis_white(values: Floats) -> int:
    """The length of overlapping blocks for resampling a series (n,).

    Politis and White, "Automatic Block-Length Selection for the Dependent Bootstrap" (2004), with
    Patton's correction (2009): best for the variance of a mean. Two things differ. Correlations are
    followed as far as they go, not up to a lag of about the root of n, and a block is no shorter
    than that: a season must fit into it.
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


def inflation(values: Floats) -> float:
    """By how much the mean of a series (n,) varies more than that of as many independent values:
    its long-run variance over its variance, 1 or more, from the same correlations, and from those
    that are too small for that and reach far."""
    reach, weighted, own = _correlated(values)
    by_lags = 1.0 + 2.0 * float(weighted.sum()) / own if reach else 1.0
    return max(by_lags, inflation_between_changes(values))


def inflation_between_changes(values: Floats) -> float:
    """The same of a series whose level has changed now and then, which is no part of it.

    From means of batches (Schmeiser, "Batch size effects in the analysis of simulation output",
    1982): how far neighbouring ones are apart in the median, which a change here and there does not
    move. It sees correlations that are small and reach far, up to the longest batch. Few batches
    say little: what counts is what they exceed in nine of ten cases.
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
    # A normal variable is within 0.6745 standard deviations in half of all cases; of a difference
    # the variance is twice that of a mean.
    found = (apart / 0.6745) ** 2 / 2.0 * size / variance
    return found / (1.0 + _SURE / sqrt(count))


def _correlated(values: Floats) -> tuple[int, Floats, float]:
    """The last lag that counts; the covariances of lags from 1 to twice that by a flat-top window
    (Politis and Romano 1995); the variance. A lag of 0 where values are few, constant or
    independent."""
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
    """The last lag that counts, of correlations (m,) of lags from 0 on; 0 if none does.

    A correlation of a series of which neighbours go together is less certain (Bartlett 1946).
    """
    # Values that alternate go together for ever, and bring no mean out of its way.
    smooth = np.convolve(correlations, (0.25, 0.5, 0.25), mode="same")[1:-1]
    alike = int(np.argmax(np.append(smooth, -1.0) <= 0.0))
    variance = (1.0 + 2.0 * (smooth[:alike] ** 2).sum()) / count
    limit = _SIGNIFICANT * sqrt(log10(count) * variance)
    heard = np.concatenate(([0], np.flatnonzero(np.abs(smooth) >= limit) + 1))
    gaps = np.diff(np.append(heard, 10 * count))
    return int(heard[np.argmax(gaps > np.maximum(_QUIET, _QUIET_SHARE * heard))])


def _autocovariance(values: Floats) -> Floats:
    """Of lags 0 to a quarter of the length."""
    count = len(values)
    size = 1 << (2 * count - 1).bit_length()
    spectrum = np.abs(np.fft.rfft(values - values.mean(), size)) ** 2
    found: Floats = np.fft.irfft(spectrum, size)[: count // 4 + 1] / count
    return found
