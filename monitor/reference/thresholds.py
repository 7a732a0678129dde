"""Calibrate drift thresholds for windows, by resampling the arrays of a model's reference.

Input: the reference's columns as bin codes, rows in time order. Output: for each window size, the
distance that each column reaches by chance, and the scores that cause a warning or an alarm. The
windows' own data is not used.
"""

from collections.abc import Iterable
from math import log, sqrt
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from monitor.reference.dependence import Blocks, Dependence, blocks_of, dependence_of
from monitor.reference.histograms import Histograms, Statistics, ranks

# For each of `RESAMPLES` reference samples, `IN_A_ROW` consecutive windows are drawn, because a
# decision depends on three consecutive windows.
RESAMPLES: Final = 2_000
IN_A_ROW: Final = 3
# Minimum number of a column's blocks in a reference. With fewer blocks, resamples are too similar
# to show how much windows vary by chance.
MIN_BLOCKS: Final = 20
# For tail probabilities below this value, `_tail` assumes an exponential tail. The distances' real
# tail is shorter, so the thresholds are too high rather than too low.
_TAIL: Final = 0.05
# A column's scale is the distance that chance exceeds in this share of windows. At this share,
# columns with long and short tails become comparable where it matters: an alarm at the default rate
# and for 20 columns means a distance that one column exceeds in one window of 8,000.
_SCALE_TAIL: Final = 0.001
# A column with too few blocks scores 1 at this factor times the largest distance of the reference's
# own windows.
_BEYOND_OWN: Final = 1.25
# Smallest threshold, used if all columns are constant: half of the score of one changed block.
_LEAST: Final = 0.5
_SEED: Final = 0

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


class Thresholds(msgspec.Struct, frozen=True):
    """Thresholds for windows of one size. A score is a distance divided by the column's `scale`,
    the distance that chance exceeds in about one window in a thousand.

    A column or pair is evidence of drift if it scores at least `alarm`. It is also evidence if it
    scores at least `warning` and did so in either of the two previous windows. A column with too
    few blocks in the reference is not `calibrated`: it never scores more than `warning`. A pair
    with such a column always scores 0. `alarm` is None if no column is calibrated. A column is
    `insensitive` if a shift of one standard deviation moves it less than a score of `warning`.
    """

    scale: Floats  # one value for each column and column pair
    warning: float
    alarm: float | None
    calibrated: Flags  # one value for each column and column pair
    insensitive: Flags  # one value for each column

    def scores(self, distances: Floats) -> Floats:
        """Return scores (columns, …) for distances (columns, …)."""
        found: Floats = (distances.T / self.scale).T
        found[~self.calibrated] = np.minimum(found[~self.calibrated], self.warning)
        return found


class ThresholdCalibration:
    """Calibrates one reference's thresholds for each window size.

    Each column is resampled with its own blocks. Columns with equal blocks are resampled together,
    so that windows keep the dependence between them. Columns with different blocks are resampled
    independently: the largest of independent scores exceeds a threshold at least as often as that
    of positively dependent scores, so the thresholds are too high rather than too low.
    """

    def __init__(self, histograms: Histograms, *, rate: float, block: int | None = None) -> None:
        """`rate` is the expected number of false alarms per window. `block` is the block length in
        records, or None to estimate one for each column."""
        self._histograms = histograms
        self._rate = rate
        self.dependence = [dependence_of(codes, ranks(codes), block) for codes in histograms.own]
        enough = [MIN_BLOCKS * each.block <= histograms.records for each in self.dependence]
        pairs = [pair.places for pair in histograms.pairs]
        # A pair is tested if both columns are calibrated, with the longer of their blocks.
        self._calibrated = np.array([*enough, *(enough[a] and enough[b] for a, b in pairs)])
        self._longer = [max(places, key=lambda n: self.dependence[n].block) for places in pairs]
        self._known: dict[int, Thresholds] = {}  # by rounded window size; filled by `of`

    @property
    def block(self) -> int:
        """The block length in records that suffices for all calibrated columns."""
        blocks = zip(self._calibrated.tolist(), self.dependence, strict=False)
        return max((each.block for calibrated, each in blocks if calibrated), default=1)

    @property
    def uncalibrated(self) -> list[int]:
        """The indices of the columns that cannot be calibrated."""
        return np.flatnonzero(~self._calibrated[: len(self.dependence)]).tolist()

    def of(self, records: int) -> Thresholds:
        """Return the thresholds for a window size, rounded down in steps of 10%."""
        size = rounded(records)
        if size not in self._known:
            self._known[size] = self._calibrate(size)
        return self._known[size]

    def _calibrate(self, size: int) -> Thresholds:
        calibrated = self._calibrated
        scale = np.full(len(self._histograms), np.inf)
        warning, alarm = 1.0, None
        if calibrated.any():
            distances = self._resampled(size)
            scale[calibrated] = [
                max(_tail(own.ravel(), _SCALE_TAIL), self._least(place, size))
                for place, own in zip(np.flatnonzero(calibrated).tolist(), distances, strict=True)
            ]
            warning, alarm = self._limits(distances / scale[calibrated][:, None, None])
        for place in self.uncalibrated:
            scale[place] = self._by_own_windows(place, size) / warning
        columns = len(self.dependence)
        least = warning * scale[:columns]
        return Thresholds(scale, warning, alarm, calibrated, self._histograms.shifts < least)

    def _limits(self, scores: Floats) -> tuple[float, float]:
        """Return the scores that cause a warning and an alarm, given scores (columns, windows in a
        row, resamples). Each of the two rules gets half of the rate."""
        # A column must score at least `warning` in two of three consecutive windows, so compute the
        # smaller of a window's score and the larger score of the other two windows.
        first, second, third = np.moveaxis(scores, 1, 0)
        twice = [
            np.minimum(one, np.maximum(*others)).max(axis=0)
            for one, *others in (
                (first, second, third),
                (second, third, first),
                (third, first, second),
            )
        ]
        alarm = _tail(scores.max(axis=0).ravel(), self._rate / 2)
        warning = max(_LEAST, _tail(np.concatenate(twice), self._rate / 2))
        return warning, max(warning, alarm)

    def _resampled(self, size: int) -> Floats:
        """Return distances (calibrated columns and pairs, windows in a row, resamples) between
        drawn windows and drawn references. References are drawn as well, because the reference is
        itself a random sample."""
        known, rng = self._histograms, np.random.default_rng(_SEED)
        found = np.empty((len(known), IN_A_ROW, RESAMPLES))
        for dependence, places in self._groups():
            blocks = blocks_of(dependence, known.records)
            found[places] = _distances(known.select(places), blocks, size, rng)
        for place in range(len(known)):
            found[place] *= self._correction(place, size)
        calibrated: Floats = found[self._calibrated]
        return calibrated

    def _correction(self, place: int, size: int) -> float:
        """Return the factor by which resampling underestimates a column's or pair's distances."""
        column = self._column(place)
        dependence = self.dependence[column]
        variance = 1.0 / dependence.variance
        if (season := self._histograms.seasons.get(column)) is not None:
            variance *= season.variance_factor(size, self._histograms.records, dependence.block)
        return sqrt(variance)

    def _groups(self) -> Iterable[tuple[Dependence, list[int]]]:
        """Return the calibrated columns and pairs that are resampled together."""
        groups: dict[tuple[int, int], tuple[Dependence, list[int]]] = {}
        for place in np.flatnonzero(self._calibrated).tolist():
            column = self._column(place)
            dependence = self.dependence[column]
            # Each column that comes in runs has its own blocks.
            key = (-1, dependence.group) if dependence.runs is None else (column, 0)
            groups.setdefault(key, (dependence, []))[1].append(place)
        return groups.values()

    def _column(self, place: int) -> int:
        """Return the index of the column whose blocks are used for a column or pair."""
        columns = len(self.dependence)
        return place if place < columns else self._longer[place - columns]

    def _by_own_windows(self, place: int, size: int) -> float:
        """Return a distance above the largest distance of the reference's own windows."""
        known = self._histograms.select([place])
        size = min(size, max(1, known.records // 4))
        starts = np.arange(0, known.records - size + 1, size)
        windows = known.counts(starts, starts + size)
        own = float(known.distances(windows, known.total[:, None] - windows).max())
        return max(_BEYOND_OWN * own, self._least(place, size))

    def _least(self, place: int, size: int) -> float:
        """Return the smallest scale: the effect of one block that occurs only in the window.
        Resamples underestimate the distances that occur by chance in a column that hardly ever
        changes, such as hourly snowfall."""
        block = self.dependence[self._column(place)].block
        return min(block, size) * (1.0 / size + 1.0 / self._histograms.records)


def _distances(known: Statistics, blocks: Blocks, size: int, rng: np.random.Generator) -> Floats:
    """Return distances (columns, windows in a row, resamples) between drawn windows of `size` rows
    and drawn references, both made of blocks."""
    counts = known.counts(*blocks)
    references = _drawn(rng, counts, max(1, round(known.records / blocks.length)))
    windows = _windows_in_a_row(known, blocks, counts, size, rng)
    return np.stack([known.distances(own, references) for own in windows], axis=1)


def _windows_in_a_row(
    known: Statistics,
    blocks: Blocks,
    counts: NDArray[np.float32],
    size: int,
    rng: np.random.Generator,
) -> list[NDArray[np.float32]]:
    """Return the counts (bins, resamples) of consecutive windows of exactly `size` rows.

    `counts` (bins, m) are those of the blocks. The first window begins at a random row of a block,
    and the last one ends within a block, as real windows do: a window that begins with a block
    would contain fewer parts of long runs. Short windows that share a block are correlated.
    """
    lengths = blocks.ends - blocks.starts
    order, ends = _in_a_row(lengths, IN_A_ROW * size, rng)
    offset = rng.integers(lengths[order[:, 0]])
    rows = np.arange(len(order))
    before = np.zeros_like(counts, shape=(len(counts), len(order)))
    found = []
    for place in range(IN_A_ROW + 1):
        # Count all rows of the blocks up to this boundary: whole blocks, then a part of one.
        boundary = place * size + offset
        whole = (ends <= boundary[:, None]).sum(axis=1)
        used = np.arange(order.shape[1]) < whole[:, None]
        weights = _occurrences(order, used, counts.shape[1])
        done = np.where(whole > 0, ends[rows, np.maximum(whole, 1) - 1], 0)
        first = blocks.starts[order[rows, whole]]
        upto = counts @ weights.T + known.counts(first, first + boundary - done)
        if place:
            found.append(upto - before)
        before = upto
    return found


def _in_a_row(
    lengths: NDArray[np.int64], rows: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw blocks (resamples, k) that contain more than `rows` rows after any row of the first
    block. Return their indices, and the number of rows up to the end of each. A random row is more
    likely to be in a long block, so the first block is drawn by its length."""
    first = rng.choice(len(lengths), size=(RESAMPLES, 1), p=lengths / lengths.sum())
    needed = rows + int(lengths.max())
    more = max(1, round(1.2 * needed / float(lengths.mean())))
    order = np.concatenate((first, rng.integers(len(lengths), size=(RESAMPLES, more))), axis=1)
    ends = np.cumsum(lengths[order], axis=1)
    while ends[:, -1].min() <= needed:
        order = np.concatenate((order, rng.integers(len(lengths), size=(RESAMPLES, more))), axis=1)
        ends = np.cumsum(lengths[order], axis=1)
    return order, ends


def rounded(records: int, step: float = 1.1) -> int:
    """Round a window size down to a power of `step`. Rounding down never makes thresholds too low,
    because smaller windows vary more."""
    return int(step ** int(log(max(records, 1), step) + 1e-9))


def _drawn(
    rng: np.random.Generator, blocks: NDArray[np.float32], count: int
) -> NDArray[np.float32]:
    """Return sums (bins, resamples) of `count` blocks, drawn with replacement from `blocks` (bins,
    m)."""
    known = blocks.shape[1]
    order = rng.integers(known, size=(RESAMPLES, count))
    weights = _occurrences(order, np.ones_like(order, dtype=bool), known)
    # Sums of integers below 2^24 are exact in float32, in any order of addition.
    drawn: NDArray[np.float32] = blocks @ weights.T
    return drawn


def _occurrences(order: NDArray[np.int64], used: Flags, blocks: int) -> NDArray[np.float32]:
    """Return how many times each block occurs among the used ones, (resamples, blocks)."""
    places = np.arange(0, len(order) * blocks, blocks)[:, None] + order
    weights = np.bincount(places[used], minlength=len(order) * blocks)
    return weights.reshape(len(order), blocks).astype(np.float32)


def _tail(values: Floats, share: float) -> float:
    """Return the value that the fraction `share` of `values` exceeds. For small fractions, assume
    an exponential tail."""
    if share >= _TAIL:
        return float(np.quantile(values, 1.0 - share))
    start = float(np.quantile(values, 1.0 - _TAIL))
    excess = float((values[values > start] - start).mean()) if (values > start).any() else 0.0
    return start + excess * log(_TAIL / share)
