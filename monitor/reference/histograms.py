"""Bin columns into histogram arrays, so that thousands of samples can be compared quickly.

Input: a reference's columns, which define the bins, and windows' columns. Output: counts by bin,
and the distances between two sets of counts.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from monitor.reference.dependence_drift import pairs
from monitor.reference.seasons import AtEqualPhases, Season, find_season

# A numeric column's bin contains about 1/64 of the reference, so binning changes a
# Kolmogorov-Smirnov distance by at most about 1/64. Windows and resamples use the same bins, so
# they remain comparable.
MAX_BINS: Final = 65
# Maximum number of bins for a categorical column. Rare categories share the last bin with new
# categories.
MAX_LEVELS: Final = 64
# The Kolmogorov-Smirnov distance between two normal distributions whose means differ by one
# standard deviation.
_CATEGORY_SHIFT: Final = 0.38

Codes = NDArray[np.int64]  # -1 stands for a missing value
Floats = NDArray[np.float64]


class _Numbers:
    """Bins between the reference's quantiles, or one bin per value if there are few distinct
    values."""

    def __init__(self, values: NDArray[Any]) -> None:
        present = np.unique(values[~np.isnan(values)])
        if len(present) > MAX_BINS // 2:
            shares = np.linspace(0.0, 1.0, MAX_BINS - 1)
            edges = np.quantile(values[~np.isnan(values)], shares)
            below = edges[:1]
        else:
            edges = below = present
        # A bin includes its upper edge. Values that the reference does not contain get extra bins.
        self._edges = np.unique(np.concatenate((np.nextafter(below, -np.inf), edges)))
        self.bins = len(self._edges) + 1

    def codes(self, values: NDArray[Any]) -> Codes:
        codes = np.searchsorted(self._edges, values, side="left").astype(np.int64)
        codes[np.isnan(values)] = -1
        return codes

    def distance(self, one: Floats, other: Floats) -> Floats:
        """Return the Kolmogorov-Smirnov distance between shares (bins, …), which is the largest
        difference between their cumulative sums."""
        return kolmogorov_smirnov(one, other)


class _Categories:
    """One bin for each frequent category, and one bin for all other categories."""

    def __init__(self, values: NDArray[Any]) -> None:
        levels, counts = np.unique(values[values != None].astype(str), return_counts=True)  # noqa: E711
        frequent = levels[np.argsort(-counts, kind="stable")[: MAX_LEVELS - 1]]
        self._codes: dict[str | None, int] = {level: n for n, level in enumerate(frequent.tolist())}
        self.bins = len(self._codes) + 1
        self._codes[None] = -1

    def codes(self, values: NDArray[Any]) -> Codes:
        known, other = self._codes, self.bins - 1
        return np.fromiter((known.get(value, other) for value in values), np.int64, len(values))

    def distance(self, one: Floats, other: Floats) -> Floats:
        """Return the Jensen-Shannon distance between shares (bins, …), with the natural
        logarithm."""
        middle = (one + other) / 2
        with np.errstate(divide="ignore", invalid="ignore"):
            parts = [np.where(side > 0, side * np.log(side / middle), 0.0) for side in (one, other)]
        found: Floats = np.sqrt(np.maximum((parts[0] + parts[1]).sum(axis=0) / 2, 0.0))
        return found


class Seasonal(AtEqualPhases):
    """The bins of a column with a season. Ranks are numbers, also the ranks of categories."""

    def distance(self, one: Floats, other: Floats) -> Floats:
        """Return the Kolmogorov-Smirnov distance between shares (bins, …)."""
        return kolmogorov_smirnov(one, other)


class Statistic(Protocol):
    """Bins of a column or a column pair, and a distance between shares of these bins."""

    bins: int

    def distance(self, one: Floats, other: Floats) -> Floats:
        """Return the distance between shares (bins, …)."""


class Statistics:
    """Columns and column pairs with the bin codes (n,) of the reference's rows. In arrays of counts
    and distances, the first axis holds the statistics' values one after another, so that summing
    many samples over few bins is fast."""

    def __init__(self, statistics: Sequence[Statistic], codes: Sequence[Codes]) -> None:
        self.records = len(codes[0])
        self._statistics = statistics
        self._codes = codes
        ends = np.cumsum([0, *(statistic.bins for statistic in statistics)])
        self._slices = [slice(a, b) for a, b in pairwise(ends.tolist())]
        self._bins = int(ends[-1])
        self.total = self._count(codes)

    def __len__(self) -> int:
        return len(self._statistics)

    def select(self, places: Sequence[int]) -> "Statistics":
        """Return the statistics with these indices."""
        return Statistics(
            [self._statistics[place] for place in places], [self._codes[place] for place in places]
        )

    def counts(self, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return counts (bins, m) of the reference's rows from `starts` (m,) to `ends` (m,),
        exclusive."""
        # Count the rows between neighbouring boundaries once. A range's counts are then the
        # difference between two cumulative counts.
        places = np.unique(np.concatenate((starts, ends)))
        parts = np.searchsorted(places, np.arange(self.records), side="right")
        low, high = np.searchsorted(places, starts), np.searchsorted(places, ends)
        found = np.empty((self._bins, len(starts)), dtype=np.float32)
        for at, codes in zip(self._slices, self._codes, strict=True):
            bins, present = at.stop - at.start, codes >= 0
            flat = np.bincount(
                parts[present] * bins + codes[present], minlength=(len(places) + 1) * bins
            )
            # `sums[k]` counts all rows before `places[k]`.
            sums = np.cumsum(flat.reshape(-1, bins), axis=0)
            found[at] = (sums[high] - sums[low]).T
        return found

    def distances(self, one: NDArray[np.float32], other: NDArray[np.float32]) -> Floats:
        """Return distances (statistics, …) between two sets of counts (bins, …). A distance is 0 if
        all its counts in either set are 0."""
        found = np.empty((len(self), *np.broadcast_shapes(one.shape, other.shape)[1:]))
        for place, (statistic, at) in enumerate(zip(self._statistics, self._slices, strict=True)):
            first, second = _shares(one[at]), _shares(other[at])
            both = first.any(axis=0) & second.any(axis=0)
            found[place] = np.where(both, statistic.distance(first, second), 0.0)
        return found

    def _count(self, codes: Sequence[Codes]) -> NDArray[np.float32]:
        found = np.zeros(self._bins, dtype=np.float32)
        for at, own in zip(self._slices, codes, strict=True):
            found[at] = np.bincount(own[own >= 0], minlength=at.stop - at.start)
        return found


class Histograms(Statistics):
    """The bins of a reference's columns, followed by those of its column `pairs`."""

    def __init__(
        self,
        columns: Sequence[NDArray[Any]],
        *,
        paired: int = 0,
        positions: NDArray[np.int64] | None = None,
        units: Sequence[int] = (1,),
    ) -> None:
        """`columns` are arrays (n,), rows in time order: float64 (numbers) or object (categories).
        The first `paired` columns are also compared in pairs. With `positions` (n,), seasons are
        removed; `units` are as in `find_season`. Otherwise, records have no phase."""
        self._columns = [
            _Numbers(values) if values.dtype.kind == "f" else _Categories(values)
            for values in columns
        ]
        plain = [
            column.codes(values) for column, values in zip(self._columns, columns, strict=True)
        ]
        self._seasonal: dict[int, Seasonal] = {}
        if positions is not None:
            for place, codes in enumerate(plain):
                season = find_season(ranks(codes), positions, units)
                if season is not None:
                    phases, bins = season.phase(positions), self._columns[place].bins
                    self._seasonal[place] = Seasonal(season, codes, phases, bins)
        self.own = self._at_equal_phases(plain, positions)
        self.pairs = pairs(self.own[:paired])
        statistics = [
            self._seasonal.get(place, column) for place, column in enumerate(self._columns)
        ]
        super().__init__(
            [*statistics, *self.pairs], [*self.own, *(pair.codes(self.own) for pair in self.pairs)]
        )
        self.shifts = self._shifts(columns, positions)

    @property
    def seasons(self) -> Mapping[int, Season]:
        """The seasons by column index."""
        return {place: seasonal.season for place, seasonal in self._seasonal.items()}

    def codes(
        self, columns: Sequence[NDArray[Any]], positions: NDArray[np.int64] | None = None
    ) -> list[Codes]:
        """Return the bin codes (n,) of a window's columns, with -1 for missing values. `positions`
        (n,) are needed if a column has a season."""
        plain = [
            column.codes(values) for column, values in zip(self._columns, columns, strict=True)
        ]
        return self._at_equal_phases(plain, positions)

    def count(
        self, columns: Sequence[NDArray[Any]], positions: NDArray[np.int64] | None = None
    ) -> NDArray[np.float32]:
        """Return a window's number of rows in each bin, shape (bins,)."""
        codes = self.codes(columns, positions)
        return self._count([*codes, *(pair.codes(codes) for pair in self.pairs)])

    def _at_equal_phases(
        self, plain: Sequence[Codes], positions: NDArray[np.int64] | None
    ) -> list[Codes]:
        found = list(plain)
        for place, seasonal in self._seasonal.items():
            if positions is None:
                raise ValueError("records without positions cannot be compared at equal phases")
            found[place] = seasonal.codes(plain[place], positions)
        return found

    def _shifts(
        self, columns: Sequence[NDArray[Any]], positions: NDArray[np.int64] | None
    ) -> Floats:
        """Return the distances (columns,) by which a shift of one standard deviation moves each
        column, or infinity for constant columns. For a category, it is a change of 38% of the
        records to another category, as many as such a shift moves over the median of a normal
        distribution's values."""
        found = np.full(len(columns), np.inf)
        for place, values in enumerate(columns):
            own = self.select([place])
            if values.dtype.kind != "f":
                other = np.zeros_like(own.total)
                other[-1] = own.total.sum()
                shifted = (1.0 - _CATEGORY_SHIFT) * own.total + _CATEGORY_SHIFT * other
                found[place] = own.distances(shifted, own.total)[0]
            elif (deviation := float(np.nanstd(values)) if own.total.any() else 0.0) > 0.0:
                codes = self._columns[place].codes(values + deviation)
                if place in self._seasonal and positions is not None:
                    codes = self._seasonal[place].codes(codes, positions)
                found[place] = own.distances(own._count([codes]), own.total)[0]
        return found


def ranks(codes: Codes) -> Floats:
    """Return bin codes (n,) as numbers. Categories are in order of decreasing frequency. Missing
    values are replaced by the mean."""
    values = codes.astype(np.float64)
    present = codes >= 0
    values[~present] = values[present].mean() if present.any() else 0.0
    return values


def kolmogorov_smirnov(one: Floats, other: Floats) -> Floats:
    """Return the largest difference between the cumulative sums of shares (bins, …)."""
    found: Floats = np.abs(np.cumsum(one - other, axis=0)).max(axis=0)
    return found


def _shares(counts: NDArray[np.float32]) -> Floats:
    total = counts.sum(axis=0, dtype=np.float64)
    shares: Floats = counts / np.maximum(total, 1.0)
    return shares
