"""Calibrate thresholds for a window's distances on the reference that it is compared with.

In: the reference's columns as codes, in time order. Out: for each size of window, the distance that
each column has by chance, and the scores that make a window a warning or an alarm. It uses no data
of windows.
"""

from math import ceil, log
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from monitor.reference.autocorrelation import block_length
from monitor.reference.histograms import Histograms

# Number of drawn references, and of consecutive windows for each. A decision uses three windows.
RESAMPLES: Final = 2_000
IN_A_ROW: Final = 3
# With fewer blocks, resamples differ too little to estimate chance.
MIN_BLOCKS: Final = 20
# Number of block starts: more do not improve the resamples, and take longer.
_MAX_STARTS: Final = 500
# Beyond this share, the tail is taken as exponential. The real tail of distances is shorter.
_TAIL: Final = 0.05
# Without enough blocks, the threshold is the largest score of the reference's windows times this.
_BEYOND_OWN: Final = 1.25
# The smallest threshold, used if all columns are constant: half of the score of one changed block.
_LEAST: Final = 0.5
_SEED: Final = 0

Floats = NDArray[np.float64]


class Thresholds(msgspec.Struct, frozen=True):
    """Thresholds for windows of one size. A score is a distance divided by its `scale`, which about
    one window in a hundred reaches by chance.

    A window has drifted if a column scores `alarm` or more. It has also drifted if a column scores
    `warning` or more, and so did one in the two windows before it. `alarm` is None if the reference
    is too short for its blocks.
    """

    scale: Floats  # one value for each column and pair of columns
    warning: float
    alarm: float | None

    @property
    def calibrated(self) -> bool:
        """Return whether the rate of false events is known."""
        return self.alarm is not None

    def scores(self, distances: Floats) -> Floats:
        """Return the scores (columns, …) of distances (columns, …)."""
        return (distances.T / self.scale).T


class ThresholdCalibration:
    """Calibrate thresholds by size of window, for one reference."""

    def __init__(self, histograms: Histograms, *, rate: float, block: int | None = None) -> None:
        """`rate`: false events per window. `block`: records in a block, None to estimate it."""
        self._histograms = histograms
        self._rate = rate
        self.block = block or block_length(histograms.ranks())
        self._known: dict[int, Thresholds] = {}  # by rounded window size; `of` adds them

    def of(self, records: int) -> Thresholds:
        """Return the thresholds for windows of this size, rounded down in steps of a tenth."""
        size = rounded(records)
        if size not in self._known:
            self._known[size] = self._calibrate(size)
        return self._known[size]

    def _calibrate(self, size: int) -> Thresholds:
        if self._histograms.records < MIN_BLOCKS * self.block:
            return self._by_own_windows(size)
        distances = self._resampled(size)
        scale = self._scale(distances, size)
        highest = (distances / scale[:, None, None]).max(axis=0)  # (windows in a row, resamples)
        # Of three windows in a row, two must have a warning: take the smaller of a window's score
        # and the larger one of the other two.
        first, second, third = highest
        twice = [
            np.minimum(one, np.maximum(*others))
            for one, *others in (
                (first, second, third),
                (second, third, first),
                (third, first, second),
            )
        ]
        # Each of the two rules gets half of the rate.
        alarm = _tail(highest.ravel(), self._rate / 2)
        warning = _tail(np.concatenate(twice), self._rate / 2)
        return Thresholds(scale, max(_LEAST, warning), max(_LEAST, warning, alarm))

    def _resampled(self, size: int) -> Floats:
        """Return distances (columns, windows in a row, resamples) of drawn windows from drawn
        references. Blocks overlap (moving blocks, Künsch 1989). The references are drawn too,
        because the reference itself is affected by chance."""
        known, rng = self._histograms, np.random.default_rng(_SEED)
        total = known.records
        # If rows are independent, a block of several rows does no harm and saves time.
        block = min(total, max(self.block, ceil(total / _MAX_STARTS)))
        starts = _starts(total - block)
        blocks = known.counts(starts, starts + block)
        references = _drawn(rng, blocks, max(1, round(total / block)))
        found = []
        if size >= block:
            for _ in range(IN_A_ROW):
                windows = _drawn(rng, blocks, max(1, round(size / block)))
                found.append(known.distances(windows, references))
            # Only whole blocks are drawn, so adjust the distances to the exact size of the window.
            found = [each * np.sqrt(round(size / block) * block / size) for each in found]
        else:
            # Windows shorter than a block are correlated: draw consecutive windows together.
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

        It makes the scores of all columns comparable, whether they are numbers, flags or have many
        categories, so that no single column determines the thresholds. Three standard deviations
        above the mean is that distance both for Kolmogorov-Smirnov and for the absolute value of a
        normal variable. The minimum is the effect of one block that only the window has: for a
        column that hardly ever changes, such as the snow in an hour, resamples underestimate
        chance.
        """
        flat = distances.reshape(len(distances), -1)
        least = min(self.block, size) * (1.0 / size + 1.0 / self._histograms.records)
        scale: Floats = np.maximum(flat.mean(axis=1) + 3.0 * flat.std(axis=1), least)
        return scale


def rounded(records: int, step: float = 1.1) -> int:
    """Round down. Smaller windows vary more, so the thresholds are not too low."""
    return int(step ** int(log(max(records, 1), step) + 1e-9))


def _starts(last: int) -> NDArray[np.int64]:
    found: NDArray[np.int64] = np.unique(
        np.linspace(0, last, min(last + 1, _MAX_STARTS)).astype(np.int64)
    )
    return found


def _drawn(
    rng: np.random.Generator, blocks: NDArray[np.float32], count: int
) -> NDArray[np.float32]:
    """Return (bins, resamples), the sums of `count` blocks (bins, m), drawn with replacement."""
    # Count how often each block is in each resample.
    known = blocks.shape[1]
    rows = np.arange(0, RESAMPLES * known, known)[:, None]
    places = rows + rng.integers(known, size=(RESAMPLES, count))
    weights = np.bincount(places.ravel(), minlength=RESAMPLES * known)
    weights = weights.reshape(RESAMPLES, known).astype(np.float32)
    # Integers below 2^24 are exact in float32, in whatever order they are added.
    drawn: NDArray[np.float32] = blocks @ weights.T
    return drawn


def _tail(values: Floats, share: float) -> float:
    """Return the value that this share exceeds, by an exponential tail for small shares."""
    if share >= _TAIL:
        return float(np.quantile(values, 1.0 - share))
    start = float(np.quantile(values, 1.0 - _TAIL))
    excess = float((values[values > start] - start).mean()) if (values > start).any() else 0.0
    return start + excess * log(_TAIL / share)
