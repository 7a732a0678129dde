"""Track which slides and panes all partitions have closed, and which records of `parts` are needed.

In: the `passed` of each record of `parts`. Out: the cells (slides or panes) that are complete, and
the offset to commit with its metadata. The order of partitions has no effect.
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
# Kafka's default `offset.metadata.max.bytes` is 4096.
_MAX_METADATA_BYTES: Final = 4000


class Reached(msgspec.Struct, frozen=True, omit_defaults=True):
    """Progress for one kind of partial aggregate. `closed` is the first cell that was not
    published. `passed` contains by partition the first cell that it had not closed before the
    committed offset, counted from `low`, and None if it had closed none."""

    closed: Position | None = None
    low: Position = 0
    passed: tuple[Step | None, ...] = ()

    @classmethod
    def of(cls, closed: int | None, passed: Sequence[int | None]) -> "Reached":
        """Build with the smallest cell as `low`, which keeps the numbers short."""
        low = min((cell for cell in passed if cell is not None), default=None)
        if low is None:
            return cls(closed)
        return cls(closed, low, tuple(None if c is None else c - low for c in passed))

    def cells(self, partitions: int) -> list[int | None]:
        """Return the first cell that each partition had not closed."""
        known = [None if cell is None else cell + self.low for cell in self.passed]
        return [*known, *[None] * (partitions - len(known))][:partitions]


class MergedSoFar(msgspec.Struct, frozen=True, omit_defaults=True):
    """Metadata of the committed offset of `parts`."""

    # Records before this offset were read. Those from the committed offset on are read again.
    published: Offset = 0
    data: Reached = Reached()
    performance: Reached = Reached()
    grid: str = ""  # name of the grid that numbers the cells


class Merging:
    """The progress of all partitions, by kind of partial aggregate."""

    def __init__(self, partitions: int, committed: Committed, grid: str) -> None:
        at = metadata_of(committed, MergedSoFar) or MergedSoFar()
        if at.grid != grid:
            if at.grid:
                log.info("the windows of the stream file were changed: they are counted anew")
            at = MergedSoFar(at.published)
        self._grid = grid
        self._next_offset = committed.offset
        self._published = at.published  # from the checkpoint, never changed
        # By kind. `_passed`: first cell that each partition has not closed, restored, then set by
        # `advance`. `_closed`: first cell that was not published, restored, then set by `close`.
        self._passed: dict[Kind, list[int | None]] = {}
        self._closed: dict[Kind, int | None] = {}
        of_kind: dict[Kind, Reached] = {"data": at.data, "performance": at.performance}
        for kind, reached in of_kind.items():
            self._passed[kind] = reached.cells(partitions)
            self._closed[kind] = reached.closed
        # `_before` is `_passed` as of the offset `_held`, which was committed last. `_since` has
        # the changes after it, which `advance` adds and `checkpoint` moves to `_before`.
        self._before = {kind: list(passed) for kind, passed in self._passed.items()}
        self._since: deque[tuple[int, Kind, int, int]] = deque()
        self._held = committed.offset

    def closed(self, kind: Kind) -> int | None:
        """Return the first cell of this kind that was not published."""
        return self._closed[kind]

    def read(self, offset: int) -> None:
        """Note that the record at this offset was read."""
        self._next_offset = max(offset + 1, self._next_offset)

    def advance(self, offset: int, kind: Kind, partition: int, passed: int) -> None:
        """Note that a partition has closed all cells before `passed`."""
        self._since.append((offset, kind, partition, passed))
        self._passed[kind][partition] = passed

    def complete(self, kind: Kind) -> int | None:
        """Return the first cell that not all partitions closed, None if one has closed none."""
        known = [cell for cell in self._passed[kind] if cell is not None]
        return None if len(known) < len(self._passed[kind]) else min(known)

    def close(self, kind: Kind, closed: int) -> None:
        """Note that all cells before `closed` were published."""
        self._closed[kind] = closed

    def checkpoint(self, needed: int | None) -> Committed:
        """Return the offset to commit. `needed` is the oldest that an open cell needs, or None."""
        offset = self._next_offset if needed is None else needed
        # Replay the changes up to that offset, which the metadata must describe.
        before = {kind: list(passed) for kind, passed in self._before.items()}
        skipped = 0
        for at, kind, partition, passed in self._since:
            if at >= offset:
                break
            before[kind][partition] = passed
            skipped += 1
        metadata = self._metadata(offset, before)
        if len(metadata) > _MAX_METADATA_BYTES:
            # Hundreds of partitions are far apart. Commit the previous offset again, which is older
            # and so covers all that is needed.
            return Committed(self._held, self._metadata(self._held, self._before))
        for _ in range(skipped):
            self._since.popleft()
        self._held, self._before = offset, before
        return Committed(offset, metadata)

    def _metadata(self, offset: int, before: Mapping[Kind, Sequence[int | None]]) -> str:
        published = max(self._next_offset, self._published)
        merged = MergedSoFar(
            published=published if published > offset else 0,
            data=Reached.of(self._closed["data"], before["data"]),
            performance=Reached.of(self._closed["performance"], before["performance"]),
            grid=self._grid,
        )
        return msgspec.json.encode(merged).decode()
