"""Bin columns into histogram arrays, so that thousands of samples can be compared quickly.

Input: a reference's columns, which define the bins, and windows' columns. Output: counts by bin,
and the distances between two sets of counts.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from monitor.reference.dependence_drift import pairs

# A numeric column's bin contains about 1/64 of the reference, so binning changes a
# Kolmogorov-Smirnov distance by at most about 1/64. Windows and resamples use the same bins, so
# they remain comparable.
MAX_BINS: Final = 65
# Maximum number of bins for a categorical column. Rare categories share the last bin with new
# categories.
MAX_LEVELS: Final = 64

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
        found: Floats = np.abs(np.cumsum(one - other, axis=0)).max(axis=0)
        return found


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


class Histograms:
    """The bins of a reference's columns and column `pairs`, and the bin codes of the reference's
    rows. In arrays of counts and distances, the first axis holds the columns' values followed by
    the pairs' values, so that summing many samples over few bins is fast."""

    def __init__(self, columns: Sequence[NDArray[Any]], *, paired: int = 0) -> None:
        """`columns` are arrays (n,), rows in time order: float64 (numbers) or object (categories).
        The first `paired` columns are also compared in pairs."""
        self.records = len(columns[0])
        self._columns = [
            _Numbers(values) if values.dtype.kind == "f" else _Categories(values)
            for values in columns
        ]
        codes = self.codes(columns)
        self.pairs = pairs(codes[:paired])
        self._statistics = (*self._columns, *self.pairs)
        ends = np.cumsum([0, *(statistic.bins for statistic in self._statistics)])
        self._slices = [slice(a, b) for a, b in pairwise(ends.tolist())]
        self._bins = int(ends[-1])
        self._codes = self._all_codes(columns)
        self.total = self.count(columns)

    def ranks(self) -> list[Floats]:
        """Return the reference's columns as bin indices, rows in time order. Categories are sorted
        by decreasing frequency. Missing values are replaced by the mean index."""
        found = []
        for codes in self.codes():
            values = codes.astype(np.float64)
            present = codes >= 0
            values[~present] = values[present].mean() if present.any() else 0.0
            found.append(values)
        return found

    def codes(self, columns: Sequence[NDArray[Any]] | None = None) -> list[Codes]:
        """Return each column's bin codes (n,), with -1 for missing values. Without `columns`,
        return the reference's codes."""
        if columns is None:
            return self._codes[: len(self._columns)]
        return [column.codes(values) for column, values in zip(self._columns, columns, strict=True)]

    def count(self, columns: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        """Return the number of rows in each bin, shape (bins,)."""
        found = np.zeros(self._bins, dtype=np.float32)
        for at, codes in zip(self._slices, self._all_codes(columns), strict=True):
            found[at] = np.bincount(codes[codes >= 0], minlength=at.stop - at.start)
        return found

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
        """Return distances (columns and pairs, …) between two sets of counts (bins, …). A column's
        or pair's distance is 0 if all its counts in either set are 0."""
        found = np.empty((len(self._statistics), *np.broadcast_shapes(one.shape, other.shape)[1:]))
        for place, (statistic, at) in enumerate(zip(self._statistics, self._slices, strict=True)):
            first, second = _shares(one[at]), _shares(other[at])
            both = first.any(axis=0) & second.any(axis=0)
            found[place] = np.where(both, statistic.distance(first, second), 0.0)
        return found

    def _all_codes(self, columns: Sequence[NDArray[Any]]) -> list[Codes]:
        codes = self.codes(columns)
        return [*codes, *(pair.codes(codes) for pair in self.pairs)]


def _shares(counts: NDArray[np.float32]) -> Floats:
    total = counts.sum(axis=0, dtype=np.float64)
    shares: Floats = counts / np.maximum(total, 1.0)
    return shares
