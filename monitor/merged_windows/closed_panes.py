"""Track which slides and panes are closed in all partitions, and the offset to commit for `parts`.

Input: each partition's first open bucket (slide or pane), from the partial aggregates in `parts`.
Output: the first incomplete bucket, and the offset to commit, with the metadata to store with this
offset. The results do not depend on the order in which partitions are read.
"""

import logging
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final, Literal

import msgspec

from driftline.broker.port import Committed
from driftline.wire.commit_metadata import Offset, Position, Step, metadata_of

log = logging.getLogger(__name__)

Kind = Literal["data", "performance"]
# Stay below Kafka's default for `offset.metadata.max.bytes`, which is 4096.
_MAX_METADATA_BYTES: Final = 4000


class KindProgress(msgspec.Struct, frozen=True, omit_defaults=True):
    """Merge progress for one kind of partial aggregate. `closed` is the first unpublished bucket.
    `closed_up_to` (`passed` in JSON) contains one element per partition: the partition's first open
    bucket at the committed offset, minus `low`, or None if the partition had no closed bucket.
    """

    closed: Position | None = None
    low: Position = 0
    closed_up_to: tuple[Step | None, ...] = msgspec.field(name="passed", default=())

    @classmethod
    def of(cls, closed: int | None, closed_up_to: Sequence[int | None]) -> "KindProgress":
        """Build an instance with the smallest bucket as `low`, to keep the metadata short."""
        low = min((bucket for bucket in closed_up_to if bucket is not None), default=None)
        if low is None:
            return cls(closed)
        return cls(closed, low, tuple(None if c is None else c - low for c in closed_up_to))

    def buckets(self, partitions: int) -> list[int | None]:
        """Return the first open bucket for each partition, or None for a partition without
        closed buckets."""
        known = [None if bucket is None else bucket + self.low for bucket in self.closed_up_to]
        return [*known, *[None] * (partitions - len(known))][:partitions]


class MergeCheckpoint(msgspec.Struct, frozen=True, omit_defaults=True):
    """Metadata stored with the offset committed for `parts`."""

    # All records before this offset were read before the commit. A restart rereads some of them.
    published: Offset = 0
    data: KindProgress = KindProgress()
    performance: KindProgress = KindProgress()
    grid: str = ""  # `Grid.name` of the grid that defines the bucket numbers


class MergeProgress:
    """Merge progress of all partitions, by kind of partial aggregate."""

    def __init__(self, partitions: int, committed: Committed, grid: str) -> None:
        at = metadata_of(committed, MergeCheckpoint) or MergeCheckpoint()
        if at.grid != grid:
            if at.grid:
                log.info("[windows] in the stream file has changed: discarding incomplete windows")
            at = MergeCheckpoint(at.published)
        self._grid = grid
        self._next_offset = committed.offset
        self._published = at.published  # from the checkpoint; never changes
        # `_closed_up_to` and `_closed` are keyed by kind and restored from the checkpoint.
        # `_closed_up_to` holds each partition's first open bucket, and `advance` updates it.
        # `_closed` holds the first unpublished bucket, and `close` updates it.
        self._closed_up_to: dict[Kind, list[int | None]] = {}
        self._closed: dict[Kind, int | None] = {}
        of_kind: dict[Kind, KindProgress] = {"data": at.data, "performance": at.performance}
        for kind, progress in of_kind.items():
            self._closed_up_to[kind] = progress.buckets(partitions)
            self._closed[kind] = progress.closed
        # `_before` is a copy of `_closed_up_to` as of `_committed_offset`. `_since` holds all later
        # changes: `advance` adds a change, and `checkpoint` moves it to `_before`.
        self._before = {
            kind: list(closed_up_to) for kind, closed_up_to in self._closed_up_to.items()
        }
        self._since: deque[tuple[int, Kind, int, int]] = deque()
        self._committed_offset = committed.offset

    def closed(self, kind: Kind) -> int | None:
        """Return the first unpublished bucket of this kind."""
        return self._closed[kind]

    def read(self, offset: int) -> None:
        """Mark the record at `offset` as read."""
        self._next_offset = max(offset + 1, self._next_offset)

    def advance(self, offset: int, kind: Kind, partition: int, closed_up_to: int) -> None:
        """Mark all of a partition's buckets before `closed_up_to` as closed."""
        self._since.append((offset, kind, partition, closed_up_to))
        self._closed_up_to[kind][partition] = closed_up_to

    def complete(self, kind: Kind) -> int | None:
        """Return the first bucket that is still open in at least one partition, or None if at
        least one partition has no closed bucket yet."""
        known = [bucket for bucket in self._closed_up_to[kind] if bucket is not None]
        return None if len(known) < len(self._closed_up_to[kind]) else min(known)

    def close(self, kind: Kind, closed: int) -> None:
        """Mark all buckets before `closed` as published."""
        self._closed[kind] = closed

    def checkpoint(self, needed: int | None) -> Committed:
        """Return the offset to commit. `needed` is the oldest offset that an incomplete window
        needs, or None."""
        offset = self._next_offset if needed is None else needed
        # Apply only changes before `offset`, because the metadata must describe the state at
        # `offset`.
        before = {kind: list(closed_up_to) for kind, closed_up_to in self._before.items()}
        skipped = 0
        for at, kind, partition, closed_up_to in self._since:
            if at >= offset:
                break
            before[kind][partition] = closed_up_to
            skipped += 1
        metadata = self._metadata(offset, before)
        if len(metadata) > _MAX_METADATA_BYTES:
            # The metadata is too long if hundreds of partitions have very different first open
            # buckets. Commit the previous offset again: a restart then rereads older records as
            # well.
            return Committed(
                self._committed_offset, self._metadata(self._committed_offset, self._before)
            )
        for _ in range(skipped):
            self._since.popleft()
        self._committed_offset, self._before = offset, before
        return Committed(offset, metadata)

    def _metadata(self, offset: int, before: Mapping[Kind, Sequence[int | None]]) -> str:
        published = max(self._next_offset, self._published)
        merged = MergeCheckpoint(
            published=published if published > offset else 0,
            data=KindProgress.of(self._closed["data"], before["data"]),
            performance=KindProgress.of(self._closed["performance"], before["performance"]),
            grid=self._grid,
        )
        return msgspec.json.encode(merged).decode()
