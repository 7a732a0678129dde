"""Sample a window's records from NumPy arrays: select the k records with the smallest id hashes.

Input: records as arrays. Output: their bottom-k sample. The samples of partial aggregates can be
merged, in any order, into the whole window's sample. An id's hash is its CRC-32 after an additional
bit-mixing step. Ties between equal hashes are broken by position, partition and offset.
"""

from collections.abc import Sequence
from typing import Any
from zlib import crc32

import msgspec
import numpy as np
from numpy.typing import NDArray

from driftline.wire.columns import Columns
from monitor.class_scores import ClassScores


def hashes_of(record_ids: Sequence[str]) -> NDArray[np.uint32]:
    """Return the ids' hashes (n,), which are the same on every machine and in every Python version.
    CRC-32 is the fastest hash function available (0.15 µs per id), but it is linear, so the hashes
    of consecutive ids form regular patterns. Murmur3's finalizer removes these patterns. It maps
    different values to different hashes, so it adds no collisions."""
    mixed = np.fromiter(map(crc32, map(str.encode, record_ids)), np.uint32, len(record_ids))
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        mixed ^= mixed >> np.uint32(shift)
        mixed *= np.uint32(factor)
    mixed ^= mixed >> np.uint32(16)
    return mixed


class Sample(msgspec.Struct, frozen=True):
    """A complete window's sample, ordered by position. `repeated` is the number of sampled records
    whose id also belongs to an earlier record in the sample. `positions` (n,) are needed if a
    column has a season."""

    columns: Columns
    predictions: NDArray[Any]  # dtype object (class names) or float64
    scores: ClassScores | None = None
    repeated: int = 0
    positions: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.columns)


class Rows(msgspec.Struct, frozen=True):
    """Records as aligned arrays of length n. `values` contains one array for each sampled column.
    `scores` contains the model's class scores, or is None if class scores are not sampled."""

    hashes: NDArray[np.uint32]
    positions: NDArray[np.int64]
    partitions: NDArray[np.int64]
    offsets: NDArray[np.int64]
    values: tuple[NDArray[Any], ...]
    scores: ClassScores | None = None

    def __len__(self) -> int:
        return len(self.hashes)

    def take(self, at: NDArray[np.intp] | NDArray[np.bool_] | slice) -> "Rows":
        """Return the records that `at` selects."""
        return Rows(
            self.hashes[at],
            self.positions[at],
            self.partitions[at],
            self.offsets[at],
            tuple(values[at] for values in self.values),
            None if self.scores is None else self.scores.take(at),
        )

    def ordered(self) -> "Rows":
        """Return the records sorted by position, then by hash, so that the order does not depend on
        the partitions."""
        return self.take(np.lexsort((self.offsets, self.partitions, self.hashes, self.positions)))

    @classmethod
    def concat(cls, rows: Sequence["Rows"]) -> "Rows":
        """Concatenate `rows`, which must not be empty."""
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


class SampleThreshold:
    """A sample's threshold: the `limit`-th smallest hash seen so far in a window. A record with a
    larger hash cannot be in the sample.

    `value` is lowered whenever more than 1.25 × `limit` hashes are buffered. With a larger buffer,
    `value` would decrease later and admit more records; a smaller buffer would have to be sorted
    more often.

    >>> threshold = SampleThreshold(4)
    >>> threshold.add(np.array([5, 9, 2, 7, 4, 3], dtype=np.uint32))
    >>> threshold.value
    5
    """

    def __init__(self, limit: int) -> None:
        self.value = 2**32 - 1  # the threshold; never increases, even after `drop_hashes`
        self._limit = limit
        self._chunks: list[NDArray[np.uint32]] = []  # hashes from `add`, cleared by `drop_hashes`
        self._buffered = 0

    def add(self, hashes: NDArray[np.uint32]) -> None:
        """Add more records' hashes. Each record may be added only once."""
        self._chunks.append(hashes)
        self._buffered += len(hashes)
        if self._buffered > self._limit + self._limit // 4:
            last = self._limit - 1
            smallest = np.partition(np.concatenate(self._chunks), last)[: self._limit]
            self.value = min(self.value, int(smallest[last]))
            self._chunks, self._buffered = [smallest], self._limit

    def drop_hashes(self) -> None:
        """Drop the buffered hashes, so that their records can be added again. `value` does not
        change."""
        self._chunks, self._buffered = [], 0


class BottomKSample:
    """A bottom-k sample of `limit` records. It buffers at most 2 × `limit` records plus one batch.

    Samples that will be merged into one window's sample can share a threshold. Together, such
    samples admit only as many records as a single sample would.

    >>> sample = BottomKSample(2)
    >>> empty = np.zeros(4, dtype=np.int64)
    >>> sample.add(Rows(hashes_of(["a", "b", "c", "d"]), empty, empty, empty, (np.arange(4),)))
    >>> sample.rows().values
    (array([2, 3]),)
    """

    def __init__(self, limit: int, threshold: SampleThreshold | None = None) -> None:
        self._limit = limit
        self._threshold = SampleThreshold(limit) if threshold is None else threshold
        self._chunks: list[Rows] = []
        self._buffered = 0

    def __len__(self) -> int:
        return min(self._buffered, self._limit)

    def admits(self, hashes: NDArray[np.uint32]) -> NDArray[np.bool_]:
        """Return a mask (n,), True for each hash whose record may still belong to the sample."""
        return hashes <= np.uint32(self._threshold.value)

    def add(self, rows: Rows) -> None:
        """Add the records that may belong to the sample, and ignore all other records."""
        rows = self._useful(rows)
        if not len(rows):
            return
        self._threshold.add(rows.hashes)
        self._chunks.append(rows)
        self._buffered += len(rows)
        if self._buffered > 2 * self._limit:
            self.rows()

    def rows(self) -> Rows:
        """Return the sampled records. At least one record must have been added."""
        rows = self._useful(Rows.concat(self._chunks))
        if len(rows) > self._limit:
            order = np.lexsort((rows.offsets, rows.partitions, rows.positions, rows.hashes))
            rows = rows.take(np.sort(order[: self._limit]))
        self._chunks = [rows]
        self._buffered = len(rows)
        return rows

    def _useful(self, rows: Rows) -> Rows:
        admitted = self.admits(rows.hashes)
        return rows if admitted.all() else rows.take(admitted)
