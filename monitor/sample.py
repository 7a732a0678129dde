"""The bounded sample of a window's records on which its tests are run.

Of more than `limit` records, those with the smallest hash of their id are kept, so that samples of
parts merge to the sample of the whole, in whatever order the parts were read.
"""

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from driftline.codec.columns import Columns


def hash_of(record_id: str) -> int:
    """64 bits, the same on every machine and in every version of Python."""
    return int.from_bytes(blake2b(record_id.encode(), digest_size=8).digest(), "big")


class Chunk(msgspec.Struct, frozen=True):
    """Some records of one partition, aligned arrays of length n."""

    partition: int
    offsets: NDArray[np.int64]
    positions: NDArray[np.int64]
    ids: list[str]
    columns: Columns
    predictions: NDArray[Any]  # object (class names) or float64

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, at: NDArray[np.intp]) -> "Chunk":
        """The records at these places."""
        return Chunk(
            self.partition,
            self.offsets[at],
            self.positions[at],
            [self.ids[place] for place in at],
            self.columns.take(at),
            self.predictions[at],
        )


class Sample(msgspec.Struct, frozen=True):
    """The sample of a closed window, in the order of position, partition and offset."""

    columns: Columns
    predictions: NDArray[Any]

    def __len__(self) -> int:
        return len(self.columns)


class SampleBuilder:
    """Gathers chunks of one partition; holds at most twice `limit` records."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._chunks: list[Chunk] = []
        self._held = 0

    def add(self, chunk: Chunk) -> None:
        """Take in some more records."""
        self._chunks.append(chunk)
        self._held += len(chunk)
        if self._held > 2 * self._limit:
            self._chunks = _smallest(self._chunks, self._limit)
            self._held = sum(map(len, self._chunks))

    @property
    def chunks(self) -> Sequence[Chunk]:
        """What is held."""
        return self._chunks


def merge(builders: Sequence[SampleBuilder], limit: int) -> Sample:
    """One sample of what all partitions gathered; at least one record."""
    chunks = [chunk for builder in builders for chunk in builder.chunks]
    if sum(map(len, chunks)) > limit:
        chunks = _smallest(chunks, limit)
    partitions = np.concatenate([np.full(len(chunk), chunk.partition) for chunk in chunks])
    offsets = np.concatenate([chunk.offsets for chunk in chunks])
    positions = np.concatenate([chunk.positions for chunk in chunks])
    order = np.lexsort((offsets, partitions, positions))
    return Sample(
        Columns.concat([chunk.columns for chunk in chunks]).take(order),
        np.concatenate([chunk.predictions for chunk in chunks])[order],
    )


def _smallest(chunks: Sequence[Chunk], limit: int) -> list[Chunk]:
    """The `limit` records with the smallest hash, chunk by chunk."""
    keys = [
        np.fromiter(map(hash_of, chunk.ids), dtype=np.uint64, count=len(chunk)) for chunk in chunks
    ]
    partitions = np.concatenate([np.full(len(chunk), chunk.partition) for chunk in chunks])
    offsets = np.concatenate([chunk.offsets for chunk in chunks])
    # Records of one id have one hash: their place in the log decides.
    order = np.lexsort((offsets, partitions, np.concatenate(keys)))[:limit]
    keep = np.zeros(len(offsets), dtype=bool)
    keep[order] = True
    result, start = [], 0
    for chunk in chunks:
        chosen = np.flatnonzero(keep[start : start + len(chunk)])
        start += len(chunk)
        if len(chosen):
            result.append(chunk.take(chosen))
    return result
