"""How two columns go together: what no column shows by itself, such as a correlation that turns.

In: two columns as codes of their bins. Out: a table of 3 × 3 shares, and how far two such tables
are apart, apart from what each column's own change explains.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Final

import numpy as np
from numpy.typing import NDArray

# Of more pairs (21 columns or more) those that are most dependent in the reference are watched.
MAX_PAIRS: Final = 200
CELLS: Final = 9

Codes = NDArray[np.int64]  # -1: missing
Floats = NDArray[np.float64]


class Pair:
    """Two columns, `places` among the others, each cut into three parts of the reference."""

    bins = CELLS

    def __init__(self, places: tuple[int, int], thirds: tuple[Codes, Codes]) -> None:
        self.places = places
        self._thirds = thirds

    def codes(self, columns: Sequence[Codes]) -> Codes:
        """(n,) cells, from the codes of all columns."""
        first, second = (
            third[columns[place]] for place, third in zip(self.places, self._thirds, strict=True)
        )
        return np.where((first < 0) | (second < 0), -1, 3 * first + second)

    def distance(self, one: Floats, other: Floats) -> Floats:
        """Of shares (9, …): the share of rows that lie elsewhere (total variation), beyond what
        follows from the columns' own shares."""
        found: Floats = np.abs(dependence(one) - dependence(other)).sum(axis=0) / 2
        return found


def pairs(columns: Sequence[Codes]) -> list[Pair]:
    """The pairs to watch, given the reference's codes (n,) by column."""
    thirds = [_thirds(codes) for codes in columns]
    found = [Pair((a, b), (thirds[a], thirds[b])) for a, b in combinations(range(len(columns)), 2)]
    if len(found) <= MAX_PAIRS:
        return found
    strength = np.array(list(_strengths(found, columns)))
    chosen = np.sort(np.argsort(-strength, kind="stable")[:MAX_PAIRS])
    return [found[place] for place in chosen]


def dependence(shares: Floats) -> Floats:
    """Of shares (9, …): how much more lies in each cell than if the columns were independent."""
    table = shares.reshape(3, 3, *shares.shape[1:])
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0, keepdims=True)
    found: Floats = (table - expected).reshape(shares.shape)
    return found


def _strengths(found: Sequence[Pair], columns: Sequence[Codes]) -> Iterator[float]:
    for pair in found:
        codes = pair.codes(columns)
        counts = np.bincount(codes[codes >= 0], minlength=CELLS)
        yield float(np.abs(dependence(counts / max(1, counts.sum()))).sum())


def _thirds(codes: Codes) -> Codes:
    """By code, 0 to 2: which third of the reference's rows it lies in; at the end -1, of -1."""
    known = codes[codes >= 0]
    counts = np.bincount(known, minlength=int(codes.max(initial=0)) + 1)
    middles = np.cumsum(counts) - counts / 2
    thirds = np.minimum(3 * middles / max(1, len(known)), 2).astype(np.int64)
    return np.append(thirds, -1)
