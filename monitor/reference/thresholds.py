"""Thresholds for a window's distances, calibrated on the reference that it is compared with.

In: the reference's columns as codes, in the order of time. Out: for a size of window, the distance
that each column has by chance, and the scores from which on a window is a warning or an alarm. It
never looks at a window.
"""

from math import ceil, log
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from monitor.reference.dependence import block_length
from monitor.reference.histograms import Histograms

# Drawn references, each with as many windows in a row as a decision looks at.
RESAMPLES: Final = 2_000
IN_A_ROW: Final = 3
# Fewer blocks than this, and what their resamples say is chance.
MIN_BLOCKS: Final = 20
# Places at which blocks begin: more make the resamples no better, and slower.
_MAX_STARTS: Final = 500
# The tail beyond this share is taken for exponential, which those of distances stay below.
_TAIL: Final = 0.05
# Without enough blocks: this many times the largest score that windows of the reference reached.
_BEYOND_OWN: Final = 1.25
# Where all columns are constant, their scores by chance are 0: half of what one block would do.
_LEAST: Final = 0.5
_SEED: Final = 0

Floats = NDArray[np.float64]


class Thresholds(msgspec.Struct, frozen=True):
    """For windows of one size. A score is a distance over its `scale`, which one window of about a
    hundred reaches by chance.

    A window with a column that scores `alarm` has drifted, and so has one in which some column
    scores `warning`, as in one of the two before it. `alarm` is None where the reference is too
    short for its blocks.
    """

    scale: Floats  # (columns and pairs of them,)
    warning: float
    alarm: float | None

    @property
    def calibrated(self) -> bool:
        """Whether the rate of false events is known."""
        return self.alarm is not None

    def scores(self, distances: Floats) -> Floats:
        """(columns, …) → (columns, …)."""
        return (distances.T / self.scale).T


class Calibration:
    """Thresholds by size of window, for one reference."""

    def __init__(self, histograms: Histograms, *, rate: float, block: int | None = None) -> None:
        """`rate`: false events a window. `block`: records that hang together; None: estimated."""
        self._histograms = histograms
        self._rate = rate
        self.block = block or block_length(histograms.ranks())
        self._known: dict[int, Thresholds] = {}

    def of(self, records: int) -> Thresholds:
        """For windows of so many records, in steps of a tenth."""
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
        first, second, third = highest
        twice = [
            np.minimum(one, np.maximum(*others))
            for one, *others in (
                (first, second, third),
                (second, third, first),
                (third, first, second),
            )
        ]
        # Either rule has half of the rate.
        alarm = _tail(highest.ravel(), self._rate / 2)
        warning = _tail(np.concatenate(twice), self._rate / 2)
        return Thresholds(scale, max(_LEAST, warning), max(_LEAST, warning, alarm))

    def _resampled(self, size: int) -> Floats:
        """(columns, windows in a row, resamples): distances of drawn windows from drawn references.

        Moving blocks (Künsch 1989). Both are drawn: what chance has put into the reference counts.
        """
        known, rng = self._histograms, np.random.default_rng(_SEED)
        total = known.records
        # Where rows are independent, a block of several does no harm and saves time.
        block = min(total, max(self.block, ceil(total / _MAX_STARTS)))
        starts = _starts(total - block)
        blocks = known.counts(starts, starts + block)
        references = _drawn(rng, blocks, max(1, round(total / block)))
        found = []
        if size >= block:
            for _ in range(IN_A_ROW):
                windows = _drawn(rng, blocks, max(1, round(size / block)))
                found.append(known.distances(windows, references))
            # Whole blocks are drawn: as if the window were a little longer or shorter.
            found = [each * np.sqrt(round(size / block) * block / size) for each in found]
        else:
            # Windows within a block go together.
            stretch = min(IN_A_ROW * size, total)
            starts = _starts(total - stretch)
            drawn = rng.integers(len(starts), size=RESAMPLES)
            for place in range(IN_A_ROW):
                first = starts + min(place * size, stretch - size)
                windows = known.counts(first, first + size)[:, drawn]
                found.append(known.distances(windows, references))
        return np.stack(found, axis=1)

    def _by_own_windows(self, size: int) -> Thresholds:
        """The largest score that the reference's own windows reach, and something beyond."""
        known = self._histograms
        size = min(size, max(1, known.records // 4))
        starts = np.arange(0, known.records - size + 1, size)
        windows = known.counts(starts, starts + size)
        distances = known.distances(windows, known.total[:, None] - windows)
        scale = self._scale(distances, size)
        own = float((distances / scale[:, None]).max())
        return Thresholds(scale, max(_LEAST, _BEYOND_OWN * own), None)

    def _scale(self, distances: Floats, size: int) -> Floats:
        """What a column's distance reaches by chance in one window of about a hundred, whether it
        is one of many categories, a flag or a number: scores of all are alike then, and none of the
        columns decides alone where the thresholds are. Three standard deviations above the mean is
        that for a distance of Kolmogorov and Smirnov as for the absolute value of a normal one. It
        is no less than what a single block would do that the window has and the reference has not:
        of a column that hardly ever changes, such as an hour of snow, resamples know no better."""
        flat = distances.reshape(len(distances), -1)
        least = min(self.block, size) * (1.0 / size + 1.0 / self._histograms.records)
        scale: Floats = np.maximum(flat.mean(axis=1) + 3.0 * flat.std(axis=1), least)
        return scale


def rounded(records: int, step: float = 1.1) -> int:
    """Down, so that thresholds are rather too high: a smaller window is further off by chance."""
    return int(step ** int(log(max(records, 1), step) + 1e-9))


def _starts(last: int) -> NDArray[np.int64]:
    found: NDArray[np.int64] = np.unique(
        np.linspace(0, last, min(last + 1, _MAX_STARTS)).astype(np.int64)
    )
    return found


def _drawn(
    rng: np.random.Generator, blocks: NDArray[np.float32], count: int
) -> NDArray[np.float32]:
    """(bins, resamples): the sums of so many of the blocks (bins, m), drawn with replacement."""
    # How often each block is in each resample: a count of places in a table.
    known = blocks.shape[1]
    rows = np.arange(0, RESAMPLES * known, known)[:, None]
    places = rows + rng.integers(known, size=(RESAMPLES, count))
    weights = np.bincount(places.ravel(), minlength=RESAMPLES * known)
    weights = weights.reshape(RESAMPLES, known).astype(np.float32)
    # Whole numbers below 2^24: exact in whatever order they are added.
    drawn: NDArray[np.float32] = blocks @ weights.T
    return drawn


def _tail(values: Floats, share: float) -> float:
    """The value that a share of such values exceeds, by an exponential tail if it is small."""
    if share >= _TAIL:
        return float(np.quantile(values, 1.0 - share))
    start = float(np.quantile(values, 1.0 - _TAIL))
    excess = float((values[values > start] - start).mean()) if (values > start).any() else 0.0
    return start + excess * log(_TAIL / share)
