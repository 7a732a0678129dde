"""Measure dependence drift between two columns (arrays), such as a correlation that changes sign.

Input: two columns as bin codes. Output: a 3 × 3 table of shares, and the distance between two such
tables beyond what each column's own change explains.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Final

import numpy as np
from numpy.typing import NDArray

# Maximum number of column pairs to watch. With 21 or more columns, there are more pairs, and only
# those with the strongest dependence are watched.
MAX_PAIRS: Final = 200
CELLS: Final = 9

Codes = NDArray[np.int64]  # -1 stands for a missing value
Floats = NDArray[np.float64]


class ColumnPair:
    """A pair of columns, whose indices are `places`. Each column's bins are merged into three
    groups, each with about a third of the reference's rows."""

    bins = CELLS

    def __init__(self, places: tuple[int, int], thirds: tuple[Codes, Codes]) -> None:
        self.places = places
        self._thirds = thirds

    def codes(self, columns: Sequence[Codes]) -> Codes:
        """Return each row's cell (n,), or -1 if either value is missing. `columns` contains all
        columns' bin codes."""
        first, second = (
            third[columns[place]] for place, third in zip(self.places, self._thirds, strict=True)
        )
        return np.where((first < 0) | (second < 0), -1, 3 * first + second)

    def distance(self, one: Floats, other: Floats) -> Floats:
        """Return the share of rows that moved to other cells (total variation), beyond what each
        column's own change explains. `one` and `other` are shares (9, …)."""
        found: Floats = np.abs(dependence(one) - dependence(other)).sum(axis=0) / 2
        return found


def pairs(columns: Sequence[Codes]) -> list[ColumnPair]:
    """Return the pairs to watch, given each column's bin codes (n,) in the reference."""
    thirds = [_thirds(codes) for codes in columns]
    found = [
        ColumnPair((a, b), (thirds[a], thirds[b])) for a, b in combinations(range(len(columns)), 2)
    ]
    if len(found) <= MAX_PAIRS:
        return found
    strength = np.array(list(_strengths(found, columns)))
    chosen = np.sort(np.argsort(-strength, kind="stable")[:MAX_PAIRS])
    return [found[place] for place in chosen]


def dependence(shares: Floats) -> Floats:
    """Return shares (9, …) minus the shares expected if the two columns were independent."""
    table = shares.reshape(3, 3, *shares.shape[1:])
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0, keepdims=True)
    found: Floats = (table - expected).reshape(shares.shape)
    return found


def _strengths(found: Sequence[ColumnPair], columns: Sequence[Codes]) -> Iterator[float]:
    for pair in found:
        codes = pair.codes(columns)
        counts = np.bincount(codes[codes >= 0], minlength=CELLS)
        yield float(np.abs(dependence(counts / max(1, counts.sum()))).sum())


def _thirds(codes: Codes) -> Codes:
    """Return an array that maps each bin code to one of three groups (0 to 2), each with about a
    third of the reference's rows. The last element, which belongs to code -1, is -1."""
    known = codes[codes >= 0]
    counts = np.bincount(known, minlength=int(codes.max(initial=0)) + 1)
    middles = np.cumsum(counts) - counts / 2
    thirds = np.minimum(3 * middles / max(1, len(known)), 2).astype(np.int64)
    return np.append(thirds, -1)
