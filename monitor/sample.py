"""The bounded sample of a window's records: those with the smallest hashes of their id.

Samples of parts merge to the sample of the whole, in whatever order the parts come. A hash is
CRC-32 of the id, mixed; where two are equal, position, partition and offset decide.
"""

from collections.abc import Sequence
from typing import Any
from zlib import crc32

import msgspec
import numpy as np
from numpy.typing import NDArray

from driftline.codec.columns import Columns
from monitor.class_scores import ClassScores


def hashes_of(record_ids: Sequence[str]) -> NDArray[np.uint32]:
    """(n,) hashes, the same on every machine and in every version of Python.

    CRC-32 is the quickest at hand (0.15 µs an id), but linear: ids in a row fall into patterns.
    Murmur3's finalizer breaks them up, and keeps different values different.
    """
    mixed = np.fromiter(map(crc32, map(str.encode, record_ids)), np.uint32, len(record_ids))
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        mixed ^= mixed >> np.uint32(shift)
        mixed *= np.uint32(factor)
    mixed ^= mixed >> np.uint32(16)
    return mixed


class Sample(msgspec.Struct, frozen=True):
    """The sample of a complete window, in the order of position; `repeated` of its records have the
    id of another one."""

    columns: Columns
    predictions: NDArray[Any]  # object (class names) or float64
    scores: ClassScores | None = None
    repeated: int = 0

    def __len__(self) -> int:
        return len(self.columns)


class Rows(msgspec.Struct, frozen=True):
    """Some records: aligned arrays of length n. `values` are whatever is kept of each, `scores`
    what a model said of the classes, if that is kept."""

    hashes: NDArray[np.uint32]
    positions: NDArray[np.int64]
    partitions: NDArray[np.int64]
    offsets: NDArray[np.int64]
    values: tuple[NDArray[Any], ...]
    scores: ClassScores | None = None

    def __len__(self) -> int:
        return len(self.hashes)

    def take(self, at: NDArray[np.intp] | NDArray[np.bool_] | slice) -> "Rows":
        """The records at these places."""
        return Rows(
            self.hashes[at],
            self.positions[at],
            self.partitions[at],
            self.offsets[at],
            tuple(values[at] for values in self.values),
            None if self.scores is None else self.scores.take(at),
        )

    def ordered(self) -> "Rows":
        """By position, then hash, so that partitions play no part in the order."""
        return self.take(np.lexsort((self.offsets, self.partitions, self.hashes, self.positions)))

    @classmethod
    def concat(cls, rows: Sequence["Rows"]) -> "Rows":
        """All of them; at least one."""
        if len(rows) == 1:
            return rows[0]
        return cls(
            np.concatenate([part.hashes for part in rows]),
            np.concatenate([part.positions for part in rows]),
            np.concatenate([part.partitions for part in rows]),
            np.concatenate([part.offsets for part in rows]),
            tuple(map(np.concatenate, zip(*(part.values for part in rows), strict=True))),
            None
            if any(part.scores is None for part in rows)
            else ClassScores.concat([part.scores for part in rows if part.scores is not None]),
        )


class Bound:
    """The `limit`-th smallest hash of the records of a window, as far as they were seen: whatever
    has a larger one cannot be in the sample.

    It holds a quarter more hashes than the limit, and a batch: tightened later it would let more
    records through, earlier it would sort more often.

    >>> bound = Bound(4)
    >>> bound.add(np.array([5, 9, 2, 7, 4, 3], dtype=np.uint32))
    >>> bound.value
    5
    """

    def __init__(self, limit: int) -> None:
        self.value = 2**32 - 1
        self._limit = limit
        self._chunks: list[NDArray[np.uint32]] = []
        self._held = 0

    def add(self, hashes: NDArray[np.uint32]) -> None:
        """Take in the hashes of some more records, each record once."""
        self._chunks.append(hashes)
        self._held += len(hashes)
        if self._held > self._limit + self._limit // 4:
            last = self._limit - 1
            smallest = np.partition(np.concatenate(self._chunks), last)[: self._limit]
            self.value = min(self.value, int(smallest[last]))
            self._chunks, self._held = [smallest], self._limit

    def forget(self) -> None:
        """Some of the records may be added again: start anew, from the value reached."""
        self._chunks, self._held = [], 0


class Smallest:
    """Keeps the `limit` records with the smallest hashes; holds at most twice as many and a batch.

    Samples of one window that are to be merged may share a bound; together they then hold what one
    of them would.

    >>> kept = Smallest(2)
    >>> empty = np.zeros(4, dtype=np.int64)
    >>> kept.add(Rows(hashes_of(["a", "b", "c", "d"]), empty, empty, empty, (np.arange(4),)))
    >>> kept.rows().values
    (array([2, 3]),)
    """

    def __init__(self, limit: int, bound: Bound | None = None) -> None:
        self._limit = limit
        self._bound = Bound(limit) if bound is None else bound
        self._chunks: list[Rows] = []
        self._held = 0

    def __len__(self) -> int:
        return min(self._held, self._limit)

    def admits(self, hashes: NDArray[np.uint32]) -> NDArray[np.bool_]:
        """Which records (n,) may still be among the smallest."""
        return hashes <= np.uint32(self._bound.value)

    def add(self, rows: Rows) -> None:
        """Take in some more records."""
        rows = self._useful(rows)
        if not len(rows):
            return
        self._bound.add(rows.hashes)
        self._chunks.append(rows)
        self._held += len(rows)
        if self._held > 2 * self._limit:
            self.rows()

    def rows(self) -> Rows:
        """What is kept; at least one record must have been added."""
        rows = self._useful(Rows.concat(self._chunks))
        if len(rows) > self._limit:
            order = np.lexsort((rows.offsets, rows.partitions, rows.positions, rows.hashes))
            rows = rows.take(np.sort(order[: self._limit]))
        self._chunks = [rows]
        self._held = len(rows)
        return rows

    def _useful(self, rows: Rows) -> Rows:
        admitted = self.admits(rows.hashes)
        return rows if admitted.all() else rows.take(admitted)
