"""Find a column's season in a reference, and remove it by comparing values at equal phases.

Input: bin codes as arrays, and the records' positions. Output: the season's period with its
uncertainty, and new codes that depend on a value's rank among the reference's values at the same
phase. Without a change, these new codes have the same distribution at all phases.
"""

from collections.abc import Sequence
from math import ceil, floor, log, sqrt
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

# A season must occur at least this many times in the reference. With fewer periods, it cannot be
# distinguished from a slow change, and each phase has too few independent values.
MIN_PERIODS: Final = 5
# The significance limit of a spectral line. The spectrum's values are exponentially distributed
# around a smooth spectrum, so all n/2 values of a column stay below ln(n/2) + 10 with probability
# 1 - e^-10. The uncertainty of the smooth spectrum makes false seasons more frequent: 1 of 600
# series of 8,000 values had one (independent, AR(1) 0.95 to 0.999, random walks, runs; 100 each).
_BEYOND: Final = 10.0
# The smooth spectrum at a frequency is a straight line on logarithmic scales, fitted to its
# neighbours: all within half the frequency, but at least 10 on each side. The two nearest on each
# side belong to the same line, because a Hann window spreads a line over five values.
_LEAST_NEIGHBOURS: Final = 10
_SPREAD: Final = 2
# The mean of the logarithm of an exponentially distributed value is -0.5772 (Euler's constant).
_EULER: Final = 0.5772
# Number of lines to combine into a season. The daily and weekly lines of one column give a weekly
# season.
_LINES: Final = 8
_MULTIPLES: Final = range(2, 9)
# The standard error of a line's frequency, times n and the square root of its power relative to the
# smooth spectrum (Rife and Boorstyn 1974: 0.39; a Hann window doubles it).
_FREQUENCY_ERROR: Final = 0.8
# The frequency is searched on two grids of these widths, in periods per reference.
_STEPS: Final = (0.25, 0.02)
# Minimum number of reference values per phase. With more phases, ranks would be too coarse.
_PER_PHASE: Final = 20
_BINS: Final = 64
_SEED: Final = 0

Codes = NDArray[np.int64]  # -1 stands for a missing value
Floats = NDArray[np.float64]


class Season(msgspec.Struct, frozen=True):
    """A season. `period` and its standard error `error` are in positions, and `rows` is the period
    in records of the reference. Phases are numbered from 0 to `phases` - 1."""

    period: float
    error: float
    rows: float
    phases: int
    origin: int  # a position at the middle of phase 0

    def phase(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the phases (n,) of positions (n,)."""
        share = (positions - self.origin) / self.period + 0.5 / self.phases
        return np.minimum((share % 1.0 * self.phases).astype(np.int64), self.phases - 1)

    def variance_factor(self, size: int, records: int, block: int) -> float:
        """Return by how much resampling the reference's new codes underestimates the squared
        distances of windows of `size` records. `block` is the block length in records.

        Ranks are estimated from the reference's values at the same phases. A window shorter than
        the season is compared only with the part of the reference that has the window's phases.
        And the reference's own ranks vary less, because they determine the distribution at each
        phase.
        """
        covered = min(1.0, size / self.rows)
        independent = records / max(block, min(self.rows, self.phases * block))
        pooled = 1.0 / size + 1.0 / records
        by_phase = 1.0 / size + 1.0 / (records * covered)
        return by_phase / pooled / max(0.5, 1.0 - 1.0 / independent)


def find_season(
    values: Floats, positions: NDArray[np.int64], units: Sequence[int]
) -> Season | None:
    """Return the season of a series (n,) at increasing positions (n,), or None.

    A season is a line in the periodogram that exceeds the smooth spectrum around it significantly.
    The period is estimated from the positions, so records may be missing. Within two standard
    errors of the estimate, the period is rounded to a multiple of the largest possible unit in
    `units`, which decrease: a season of about 24.1 hours is a day.
    """
    count, span = len(values), int(positions[-1] - positions[0]) if len(positions) else 0
    if count < 4 * MIN_PERIODS or not span or not np.ptp(values):
        return None
    lines = _lines(values)
    if not lines:
        return None
    (index, power), *_ = lines
    multiple = _common_multiple([line for line, _ in lines], count)
    frequency = _frequency(values, positions, index * (count - 1) / count / span)
    period = multiple / frequency
    error = period**2 / multiple / span * max(_FREQUENCY_ERROR / sqrt(power), _STEPS[-1])
    period = _rounded(period, error, units)
    rows = period * (count - 1) / span
    phases = max(1, min(round(rows), count // _PER_PHASE))
    return Season(period, error, rows, phases, int(positions[0]))


class AtEqualPhases:
    """Replaces a column's bin codes with bins of equal width for the rank of each value among the
    reference's values at the same phase, as a share from 0 to 1.

    The rank of tied values is spread evenly over all ranks that they share, as in a randomised
    probability integral transform. The seed is fixed, so equal columns give equal codes. The ranks
    are those of conformal p-values: also for new values, each rank is equally likely if nothing has
    changed.
    """

    bins = _BINS

    def __init__(self, season: Season, codes: Codes, phases: NDArray[np.int64], bins: int) -> None:
        """`codes` and `phases` (n,) are those of the reference, and `bins` their number."""
        self.season = season
        present = codes >= 0
        flat = np.bincount(phases[present] * bins + codes[present], minlength=season.phases * bins)
        counts = flat.reshape(season.phases, bins).astype(np.float64)
        self._equal = counts + 1.0
        self._below = np.cumsum(counts, axis=1) - counts
        self._total = counts.sum(axis=1) + 1.0

    def codes(self, codes: Codes, positions: NDArray[np.int64]) -> Codes:
        """Return the new codes (n,) of a window's or the reference's `codes` (n,)."""
        phases = self.season.phase(positions)
        spread = np.random.default_rng(_SEED).random(len(codes))
        rank = (self._below[phases, codes] + spread * self._equal[phases, codes]) / self._total[
            phases
        ]
        new = np.minimum((rank * _BINS).astype(np.int64), _BINS - 1)
        return np.where(codes < 0, -1, new)


def _lines(values: Floats) -> list[tuple[float, float]]:
    """Return significant lines, the strongest first: the number of their periods in the series, and
    their power relative to the smooth spectrum."""
    count = len(values)
    power = np.abs(np.fft.rfft((values - values.mean()) * np.hanning(count)))[1:] ** 2
    power = np.maximum(power, power.max() * 1e-15)
    relative = power / _smooth(power)
    inner = slice(1, -1)
    peaks = (power[inner] >= power[:-2]) & (power[inner] > power[2:])
    significant = relative[inner] >= log(count / 2) + _BEYOND
    found = np.flatnonzero(peaks & significant) + 1
    found = found[found + 1 >= MIN_PERIODS]
    strongest = found[np.argsort(-power[found], kind="stable")][:_LINES]
    return [(_peak(power, place), float(relative[place])) for place in strongest.tolist()]


def _peak(power: Floats, place: int) -> float:
    """Return the frequency of a peak, interpolated between neighbouring values, in periods."""
    low, middle, high = np.log(power[place - 1 : place + 2])
    curve = low - 2.0 * middle + high
    return place + 1 + (0.5 * (low - high) / curve if curve else 0.0)


def _smooth(power: Floats) -> Floats:
    """Return the smooth spectrum (m,) of a periodogram (m,)."""
    places = np.arange(len(power))
    width = np.maximum(_LEAST_NEIGHBOURS, (places + 1) // 2)
    x, y = np.log(places + 1.0), np.log(power)
    weight, mean_x, mean_y, xx, xy = (
        _around(each, width) - _around(each, np.full_like(width, _SPREAD))
        for each in (np.ones_like(x), x, y, x * x, x * y)
    )
    weight = np.maximum(weight, 1.0)
    mean_x, mean_y = mean_x / weight, mean_y / weight
    spread = np.maximum(xx / weight - mean_x**2, 1e-12)
    slope = (xy / weight - mean_x * mean_y) / spread
    found: Floats = np.exp(mean_y + slope * (x - mean_x) + _EULER)
    return found


def _around(values: Floats, width: NDArray[np.int64]) -> Floats:
    """Return the sum (m,) of each value's neighbours, up to `width` (m,) on each side."""
    sums = np.concatenate(([0.0], np.cumsum(values)))
    places = np.arange(len(values))
    high = np.minimum(places + width + 1, len(values))
    found: Floats = sums[high] - sums[np.maximum(places - width, 0)]
    return found


def _common_multiple(lines: Sequence[float], count: int) -> int:
    """Return the multiple of the first line's period that is also a multiple of the other lines'
    periods, as far as possible. `lines` are frequencies in periods per `count` records."""
    first, *others = lines
    multiple = 1
    for line in others:
        for factor in (1, *_MULTIPLES):
            total = multiple * factor
            ratio = line * total / first
            # A frequency is accurate to about a quarter of the distance between two frequencies.
            tolerance = 0.25 * (total + ratio) / first
            if first / total < MIN_PERIODS or tolerance > 0.2:
                break
            if round(ratio) and abs(ratio - round(ratio)) <= tolerance:
                multiple = total
                break
    return multiple


def _frequency(values: Floats, positions: NDArray[np.int64], near: float) -> float:
    """Return the frequency of the strongest line near a frequency, in periods per position."""
    span = float(positions[-1] - positions[0])
    since = (positions - positions[0]) / span
    weighted = (values - values.mean()) * np.hanning(len(values))
    periods = near * span
    for step in _STEPS:
        tried = periods + step * np.arange(-8, 9)
        angles = np.exp(-2j * np.pi * since[None, :] * tried[:, None])
        periods = float(tried[np.argmax(np.abs(angles @ weighted))])
    return periods / span


def _rounded(period: float, error: float, units: Sequence[int]) -> float:
    """Return the multiple of the largest possible unit that differs from `period` by at most two
    standard errors. Of several multiples, the one with the most divisors is most likely: a season
    of 1,437 ± 5 records has 1,440 records."""
    for unit in units:
        low, high = ceil((period - 2 * error) / unit), floor((period + 2 * error) / unit)
        possible = range(max(1, low), min(high, max(1, low) + 1_000) + 1)
        if possible:
            best = max(possible, key=lambda n: (_divisors(n), -abs(n * unit - period)))
            return float(best * unit)
    return period


def _divisors(number: int) -> int:
    return sum(1 for each in range(1, number + 1) if number % each == 0)
