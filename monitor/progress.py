"""How far each partition of a topic has come, and which windows are closed by that.

In: the position of each record, in its partition's order. Out: the window it counts in, the windows
that nothing can change any more, and the offsets to hold. Everything here is a function of the
partitions' contents: neither batches nor the order in which partitions are read play a part.
"""

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import msgspec

from driftline.broker.port import Committed
from driftline.stream import Stream

PANES = 20  # of a window

Part = TypeVar("Part")


class Grid(msgspec.Struct, frozen=True):
    """Where windows and panes begin and end; positions may be negative.

    A window of a size that is no multiple of 20 has a longer last pane.

    >>> grid = Grid(size=110, pane=5)
    >>> grid.window_of(-1), grid.pane_of(0), grid.pane_of(109)
    (-1, (0, 5), (95, 110))
    """

    size: int
    pane: int

    @classmethod
    def of(cls, stream: Stream) -> "Grid":
        """The grid of a stream's windows."""
        return cls(size=stream.window_size, pane=stream.pane_size)

    def window_of(self, position: int) -> int:
        """Index of the window that holds a position."""
        return position // self.size

    def pane_of(self, position: int) -> tuple[int, int]:
        """Start and end of the pane that holds a position; the end is not part of it."""
        begin = position // self.size * self.size
        place = min((position - begin) // self.pane, PANES - 1)
        start = begin + place * self.pane
        return start, begin + self.size if place == PANES - 1 else start + self.pane


class Resume(msgspec.Struct, frozen=True, omit_defaults=True):
    """Metadata beside a committed offset: what was known before the record that stands there."""

    watermark: int | None = None
    source: int = -1  # largest source offset seen
    closed: int | None = None  # windows and panes that end here or before were published


class Slot(Generic[Part]):
    """What one partition has put into one window."""

    def __init__(self, part: Part, offset: int, watermark: int | None, source: int) -> None:
        self.part = part
        self.late = 0
        self.first = (offset, watermark, source)  # the first record of it, the state before it


class Track(Generic[Part]):
    """One partition: its watermark, and its slots in the windows that are still open."""

    def __init__(self, committed: Committed, new_part: Callable[[], Part]) -> None:
        at = msgspec.json.decode(committed.metadata or "{}", type=Resume)
        self.watermark = at.watermark
        self.source = at.source
        self.next_offset = committed.offset
        self.slots: dict[int, Slot[Part]] = {}
        self._new_part = new_part

    def slot(self, window: int, offset: int) -> Slot[Part]:
        """The slot of a window, made by the record at `offset` if there is none."""
        if (found := self.slots.get(window)) is None:
            found = Slot(self._new_part(), offset, self.watermark, self.source)
            self.slots[window] = found
        return found

    def advance(self, watermark: int) -> None:
        """No record before `watermark` is to come; a watermark never goes back."""
        if self.watermark is None or watermark > self.watermark:
            self.watermark = watermark

    def hold(self, closed: int | None) -> Committed:
        """Oldest offset that an open window needs, with the state before it."""
        offset, watermark, source = min(
            (slot.first for slot in self.slots.values()),
            key=lambda first: first[0],
            default=(self.next_offset, self.watermark, self.source),
        )
        resume = Resume(watermark=watermark, source=source, closed=closed)
        return Committed(offset, msgspec.json.encode(resume).decode())


class Progress(Generic[Part]):
    """All partitions of one topic. `Part` is what a partition gathers for a window.

    A partition's watermark is its largest position less the lateness (the next position, on the
    row axis), or that of a watermark record. A record is late when its own partition had passed
    its pane; it counts as late in the window that the partition had reached. A window closes when
    all partitions have passed its end.
    """

    def __init__(self, stream: Stream, new_part: Callable[[], Part]) -> None:
        self.grid = Grid.of(stream)
        self.closed: int | None = None
        self._partitions = stream.kafka.partitions
        # Row 4,999 read says that 5,000 is next; an instant may come again.
        self._ahead = (1 if stream.axis == "row" else 0) - stream.lateness
        self._new_part = new_part
        self._tracks: dict[int, Track[Part]] = {}

    def resume(self, partition: int, committed: Committed) -> None:
        """Start reading a partition at a committed position."""
        at = msgspec.json.decode(committed.metadata or "{}", type=Resume)
        if at.closed is not None:
            self.closed = at.closed if self.closed is None else max(self.closed, at.closed)
        self._tracks[partition] = Track(committed, self._new_part)

    def drop(self, partition: int) -> None:
        """Forget a partition; when the last is gone, also what was closed."""
        self._tracks.pop(partition, None)
        if not self._tracks:
            self.closed = None

    def track(self, partition: int) -> Track[Part]:
        """The state of a partition."""
        if partition not in self._tracks:
            self.resume(partition, Committed(0))
        return self._tracks[partition]

    def admit(self, track: Track[Part], offset: int, position: int) -> Slot[Part] | None:
        """Where a record counts; None if it is late, or its window was published before.

        The partition's watermark follows. Call it for each record, in the partition's order.
        """
        watermark = track.watermark
        late = watermark is not None and self.grid.pane_of(position)[1] <= watermark
        window = self.grid.window_of(watermark if late and watermark is not None else position)
        slot = None
        if self.closed is None or (window + 1) * self.grid.size > self.closed:
            slot = track.slot(window, offset)
            slot.late += late
        track.advance(position + self._ahead)
        return None if late else slot

    def close(self) -> tuple[int | None, int] | None:
        """Move `closed` to the least watermark; returns it as it was and as it is, if it moved."""
        if len(self._tracks) < self._partitions:
            return None
        reached = None
        for track in self._tracks.values():
            if track.watermark is None:
                return None
            reached = track.watermark if reached is None else min(reached, track.watermark)
        if reached is None or (self.closed is not None and reached <= self.closed):
            return None
        before, self.closed = self.closed, reached
        return before, reached

    def open_windows(self) -> list[int]:
        """Indices of the windows that have a slot, in order."""
        return sorted({window for track in self._tracks.values() for window in track.slots})

    def slots(self, window: int) -> Iterator[tuple[int, Slot[Part]]]:
        """The slots of a window, by partition."""
        for partition in sorted(self._tracks):
            if (slot := self._tracks[partition].slots.get(window)) is not None:
                yield partition, slot

    def forget(self, window: int) -> None:
        """Drop the slots of a window that was published."""
        for track in self._tracks.values():
            track.slots.pop(window, None)

    def holds(self) -> dict[int, Committed]:
        """Per partition, what to commit."""
        return {partition: track.hold(self.closed) for partition, track in self._tracks.items()}
