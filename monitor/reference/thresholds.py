"""Calibrate drift thresholds for windows, by resampling the arrays of a model's reference.

Input: the reference's columns as bin codes, rows in time order. Output: for each window size, the
distance that each column reaches by chance, and the scores that cause a warning or an alarm. The
windows' own data is not used.
"""

from math import ceil, log
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from monitor.reference.autocorrelation import block_length
from monitor.reference.histograms import Histograms

# For each of `RESAMPLES` reference samples, `IN_A_ROW` consecutive windows are drawn, because a
# decision depends on three consecutive windows.
RESAMPLES: Final = 2_000
IN_A_ROW: Final = 3
# Minimum number of blocks in a reference. With fewer blocks, resamples are too similar to show how
# much windows vary by chance.
MIN_BLOCKS: Final = 20
# Maximum number of block starts: more starts take longer without improving the resamples.
_MAX_STARTS: Final = 500
# For tail probabilities below this value, `_tail` assumes an exponential tail. The distances' real
# tail is shorter, so the thresholds are too high rather than too low.
_TAIL: Final = 0.05
# If there are too few blocks, the threshold is this factor times the largest score of the
# reference's own windows.
_BEYOND_OWN: Final = 1.25
# Smallest threshold, used if all columns are constant: half of the score of one changed block.
_LEAST: Final = 0.5
_SEED: Final = 0

Floats = NDArray[np.float64]


class Thresholds(msgspec.Struct, frozen=True):
    """Thresholds for windows of one size. A score is a distance divided by the column's `scale`,
    the distance that about one window in a hundred reaches by chance.

    A window has drifted if a column scores at least `alarm`. It has also drifted if a column scores
    at least `warning` and any column scored at least `warning` in either of the two previous
    windows. `alarm` is None if the reference contains too few blocks.
    """

    scale: Floats  # one value for each column and column pair
    warning: float
    alarm: float | None

    @property
    def calibrated(self) -> bool:
        """Return whether the thresholds were calibrated to the requested false-alarm rate."""
        return self.alarm is not None

    def scores(self, distances: Floats) -> Floats:
        """Return scores (columns, …) for distances (columns, …)."""
        return (distances.T / self.scale).T


class ThresholdCalibration:
    """Calibrates one reference's thresholds for each window size."""

    def __init__(self, histograms: Histograms, *, rate: float, block: int | None = None) -> None:
        """`rate` is the expected number of false alarms per window. `block` is the block length in
        records, or None to estimate it."""
        self._histograms = histograms
        self._rate = rate
        self.block = block or block_length(histograms.ranks())
        self._known: dict[int, Thresholds] = {}  # by rounded window size; filled by `of`

    def of(self, records: int) -> Thresholds:
        """Return the thresholds for a window size, rounded down in steps of 10%."""
        size = rounded(records)
        if size not in self._known:
            self._known[size] = self._calibrate(size)
        return self._known[size]

    def _calibrate(self, size: int) -> Thresholds:
        if self._histograms.records < MIN_BLOCKS * self.block:
            return self._by_own_windows(size)
        distances = self._resampled(size)
        scale = self._scale(distances, size)
        highest = (distances / scale[:, None, None]).max(axis=0)  # shape (IN_A_ROW, RESAMPLES)
        # Two of three consecutive windows must score at least `warning`, so compute the smaller of
        # a window's score and the larger score of the other two windows.
        first, second, third = highest
        twice = [
            np.minimum(one, np.maximum(*others))
            for one, *others in (
                (first, second, third),
                (second, third, first),
                (third, first, second),
            )
        ]
        # The alarm rule and the warning rule each get half of the rate.
        alarm = _tail(highest.ravel(), self._rate / 2)
        warning = _tail(np.concatenate(twice), self._rate / 2)
        return Thresholds(scale, max(_LEAST, warning), max(_LEAST, warning, alarm))

    def _resampled(self, size: int) -> Floats:
        """Return distances (columns, windows in a row, resamples) between drawn windows and drawn
        references. Blocks overlap (moving blocks, Künsch 1989). References are drawn as well,
        because the reference is itself a random sample."""
        known, rng = self._histograms, np.random.default_rng(_SEED)
        total = known.records
        # Blocks of several rows save time, and do no harm even if rows are independent.
        block = min(total, max(self.block, ceil(total / _MAX_STARTS)))
        starts = _starts(total - block)
        blocks = known.counts(starts, starts + block)
        references = _drawn(rng, blocks, max(1, round(total / block)))
        found = []
        if size >= block:
            for _ in range(IN_A_ROW):
                windows = _drawn(rng, blocks, max(1, round(size / block)))
                found.append(known.distances(windows, references))
            # Only whole blocks are drawn, so rescale the distances to the exact window size.
            found = [each * np.sqrt(round(size / block) * block / size) for each in found]
        else:
            # Windows shorter than a block are correlated, so draw consecutive windows together.
            stretch = min(IN_A_ROW * size, total)
            starts = _starts(total - stretch)
            drawn = rng.integers(len(starts), size=RESAMPLES)
            for place in range(IN_A_ROW):
                first = starts + min(place * size, stretch - size)
                windows = known.counts(first, first + size)[:, drawn]
                found.append(known.distances(windows, references))
        return np.stack(found, axis=1)

    def _by_own_windows(self, size: int) -> Thresholds:
        """Return thresholds above the largest score of the reference's own windows."""
        known = self._histograms
        size = min(size, max(1, known.records // 4))
        starts = np.arange(0, known.records - size + 1, size)
        windows = known.counts(starts, starts + size)
        distances = known.distances(windows, known.total[:, None] - windows)
        scale = self._scale(distances, size)
        own = float((distances / scale[:, None]).max())
        return Thresholds(scale, max(_LEAST, _BEYOND_OWN * own), None)

    def _scale(self, distances: Floats, size: int) -> Floats:
        """Return the distance that each column reaches by chance in about one window in a hundred.

        Dividing by this distance makes the scores of all columns comparable, whether the columns
        hold numbers, flags or many categories, so that no single column determines the thresholds.
        The distance is three standard deviations above the mean, which suits both
        Kolmogorov-Smirnov distances and the absolute value of a normal variable. It is at least the
        effect of one block that occurs only in the window, because resamples underestimate the
        distances that occur by chance in a column that hardly ever changes, such as hourly
        snowfall.
        """
        flat = distances.reshape(len(distances), -1)
        least = min(self.block, size) * (1.0 / size + 1.0 / self._histograms.records)
        scale: Floats = np.maximum(flat.mean(axis=1) + 3.0 * flat.std(axis=1), least)
        return scale


def rounded(records: int, step: float = 1.1) -> int:
    """Round a window size down to a power of `step`. Rounding down never makes thresholds too low,
    because smaller windows vary more."""
    return int(step ** int(log(max(records, 1), step) + 1e-9))


def _starts(last: int) -> NDArray[np.int64]:
    found: NDArray[np.int64] = np.unique(
        np.linspace(0, last, min(last + 1, _MAX_STARTS)).astype(np.int64)
    )
    return found


def _drawn(
    rng: np.random.Generator, blocks: NDArray[np.float32], count: int
) -> NDArray[np.float32]:
    """Return sums (bins, resamples) of `count` blocks, drawn with replacement from `blocks` (bins,
    m)."""
    # Count how many times each block occurs in each resample.
    known = blocks.shape[1]
    rows = np.arange(0, RESAMPLES * known, known)[:, None]
    places = rows + rng.integers(known, size=(RESAMPLES, count))
    weights = np.bincount(places.ravel(), minlength=RESAMPLES * known)
    weights = weights.reshape(RESAMPLES, known).astype(np.float32)
    # Sums of integers below 2^24 are exact in float32, in any order of addition.
    drawn: NDArray[np.float32] = blocks @ weights.T
    return drawn


def _tail(values: Floats, share: float) -> float:
    """Return the value that the fraction `share` of `values` exceeds. For small fractions, assume
    an exponential tail."""
    if share >= _TAIL:
        return float(np.quantile(values, 1.0 - share))
    start = float(np.quantile(values, 1.0 - _TAIL))
    excess = float((values[values > start] - start).mean()) if (values > start).any() else 0.0
    return start + excess * log(_TAIL / share)
