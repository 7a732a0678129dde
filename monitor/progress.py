"""How far each partition of a topic has come, and which cells of the grid that closes.

In: the positions of a partition's records, in its order. Out: the cell in which each counts, the
cells that nothing can change any more, and the offset to hold. Everything here is a function of
that one partition's contents: neither batches nor other partitions play a part.
"""

from collections.abc import Callable, Iterable
from typing import Annotated, Any, Final, Generic, Literal, NamedTuple, TypeVar

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from driftline.broker.port import Committed
from driftline.commit_metadata import Offset, Position, metadata_of
from driftline.events import Log
from driftline.stream import Stream

PANES: Final = 20  # of a window
# Before all positions; far enough from the end of 64 bits for the grid's arithmetic.
BEFORE_ALL: Final = -(2**62)

Part = TypeVar("Part")
Ints = NDArray[np.int64]


class Grid(msgspec.Struct, frozen=True):
    """Where windows, slices and panes begin and end; positions may be negative.

    A window begins with each slice and has `overlap` of them (Traub et al., "Efficient window
    aggregation with general stream slicing", EDBT 2019). Slices and panes are numbered through all
    windows. A slice of a size that is no multiple of its `panes` has a longer last one.

    >>> grid = Grid(size=110, pane=5)
    >>> grid.pane_of(-1), grid.pane_of(0), grid.pane_of(109)
    (-1, 0, 19)
    >>> grid.bounds(0), grid.bounds(19)
    ((0, 5), (95, 110))
    >>> Grid(size=55, pane=5, overlap=2).window(3)
    (165, 275)
    """

    size: int  # of a slice
    pane: int
    overlap: int = 1
    by_row: bool = False

    @classmethod
    def of(cls, stream: Stream) -> "Grid":
        """The grid of a stream's windows."""
        size = stream.window_size // stream.overlap
        return cls(size, stream.pane_size, stream.overlap, by_row=stream.axis == "row")

    @property
    def panes(self) -> int:
        """Of a slice."""
        return PANES // self.overlap

    @property
    def name(self) -> str:
        """What the numbers of slices and panes hang on."""
        return f"{self.size}/{self.panes}"

    def pane_of(self, position: int) -> int:
        """Index of the pane that holds a position."""
        piece, within = divmod(position, self.size)
        return piece * self.panes + min(within // self.pane, self.panes - 1)

    def panes_of(self, positions: Ints) -> Ints:
        """`pane_of` of each position."""
        pieces, within = np.divmod(positions, self.size)
        panes: Ints = pieces * self.panes + np.minimum(within // self.pane, self.panes - 1)
        return panes

    def bounds(self, pane: int) -> tuple[int, int]:
        """Start and end of a pane; the end is not part of it."""
        piece, place = divmod(pane, self.panes)
        start = piece * self.size + place * self.pane
        return start, (piece + 1) * self.size if place == self.panes - 1 else start + self.pane

    def window(self, index: int) -> tuple[int, int]:
        """Start and end of the window that begins with a slice."""
        return index * self.size, (index + self.overlap) * self.size

    def window_after(self, closed: int | None, slices: Iterable[int]) -> int | None:
        """The first window from `closed` on that has one of these slices, none of which is before
        it; None without any. Before row 0 there are no windows."""
        first = min(slices, default=None)
        if first is None:
            return None
        index = first - self.overlap + 1
        if self.by_row:
            index = max(0, index)
        return index if closed is None else max(index, closed)


class Resume(msgspec.Struct, frozen=True, omit_defaults=True):
    """Metadata beside a committed offset: what was known before the record that stands there."""

    watermark: Position | None = None
    source: Annotated[int, Meta(ge=-1, le=2**63 - 1)] = -1  # largest source offset seen
    closed: Position | None = None  # parts of all cells before this one were published
    published: Offset = 0  # records before this offset were read; those held are needed again
    grid: str = ""  # whose cells these are
    log: str = ""  # id of the topic that `source` is an offset of; empty: unknown


class Arrivals(NamedTuple):
    """What a partition brought, in its order: arrays of length n."""

    offsets: Ints
    positions: Ints  # of records; of a watermark record, the watermark
    marks: NDArray[np.bool_] | None = None  # which are watermark records; None: none
    # Offsets of the feature records, -1 for watermark records without one; None: no repeats.
    sources: Ints | None = None
    # Positions of the dead letters among the watermark records, BEFORE_ALL where they are
    # unreadable; what the other places hold is of no use. None: there are no dead letters.
    refused: Ints | None = None
    lost: Ints | None = None  # records that gaps have deleted, 0 elsewhere; None: there are no gaps
    ahead: NDArray[np.bool_] | None = None  # implausibly far ahead of their time; None: none
    logs: tuple[tuple[int, Log], ...] = ()  # places of watermark records at which a log begins

    def cut(self, at: slice) -> "Arrivals":
        """A part of it, without `logs`."""

        def part(own: NDArray[Any] | None) -> Any:
            return None if own is None else own[at]

        return Arrivals(*map(part, self[:-1]))


class Slot(Generic[Part]):
    """What one partition has put into one cell."""

    def __init__(self, part: Part, offset: int, watermark: int | None, source: int) -> None:
        self.part = part
        self.late = 0
        self.dead_letters = 0
        self.lost = 0
        self.refused: int | None = None  # largest position of a dead letter
        self.first = (offset, watermark, source)  # the first record of it, the state before it


class Track(Generic[Part]):
    """One partition: its watermark, and its slots in the cells that are still open.

    A partition's watermark is its largest position less the lateness (the next position, on the row
    axis), or that of a watermark record. A record is late when its partition had passed its pane;
    it counts as late in the cell that the partition had reached. So does one that inference found
    implausibly far ahead, which does not move the watermark. A cell is a slice, or a pane. It
    closes when its partition has passed its end.
    """

    def __init__(
        self,
        stream: Stream,
        committed: Committed,
        new_part: Callable[[], Part],
        *,
        cell: Literal["slice", "pane"],
    ) -> None:
        at = metadata_of(committed, Resume) or Resume()
        self._grid = Grid.of(stream)
        self._panes = self._grid.panes if cell == "slice" else 1
        self.watermark = at.watermark
        self.source = at.source
        self._log = at.log
        self._log_offset = -1  # of the watermark record that named it
        self.closed = at.closed
        if at.grid != self._grid.name:
            # The windows of the stream file were changed: with the first cell that is read whole.
            self.closed = None if at.watermark is None else self._cell_of(at.watermark) + 1
        self.next_offset = max(committed.offset, 0)
        self.slots: dict[int, Slot[Part]] = {}
        self._early: Slot[Part] | None = None  # gaps that were met before any position was known
        self._published = at.published
        # Row 4,999 read says that 5,000 is next; an instant may come again.
        self._ahead = (1 if stream.axis == "row" else 0) - stream.lateness
        self._new_part = new_part

    def admit(self, arrivals: Arrivals) -> tuple[Ints, NDArray[np.bool_]]:
        """The cell of each record (n,), and whether it counts there (n,).

        What does not count: watermark records, records seen before, late ones (they are counted in
        their slot's `late`), and those of cells whose parts were published. Dead letters are
        counted in their slot's `dead_letters`: in the cell of their position, or where that is
        unknown or was passed, in the one that the partition had reached. Gaps have no position;
        those that come before any position is known wait for the first.
        """
        if not arrivals.logs:
            return self._admit(arrivals, is_new_log=False)
        parts, start, is_new_log = [], 0, False
        for place, log in arrivals.logs:
            parts.append(self._admit(arrivals.cut(slice(start, place)), is_new_log=is_new_log))
            start, is_new_log = place, log.topic_id != self._log
            if is_new_log:
                self._log, self._log_offset = log.topic_id, int(arrivals.offsets[place])
                self.source = log.offset - 1
        parts.append(self._admit(arrivals.cut(slice(start, None)), is_new_log=is_new_log))
        cells, counting = zip(*parts, strict=True)
        return np.concatenate(cells), np.concatenate(counting)

    def _admit(self, arrivals: Arrivals, *, is_new_log: bool) -> tuple[Ints, NDArray[np.bool_]]:
        """`is_new_log`: the first of them names a log that was not known."""
        offsets, positions, marks, sources, refused, lost, ahead, _ = arrivals
        fresh = np.ones(len(offsets), dtype=bool) if marks is None else ~marks
        reached = positions + self._ahead
        if marks is not None:
            reached[marks] = positions[marks]
        if sources is not None:
            newest = np.maximum.accumulate(np.append(self.source, sources))
            is_new = sources > newest[:-1]
            repeated = fresh & ~is_new
            fresh &= ~repeated
            reached[repeated] = BEFORE_ALL
        else:
            is_new = fresh
            newest = np.full(len(offsets) + 1, self.source)
        if ahead is not None:
            reached[ahead] = BEFORE_ALL
        start = BEFORE_ALL if self.watermark is None else self.watermark
        watermarks = np.maximum.accumulate(np.append(start, reached))
        panes, passed = self._grid.panes_of(positions), self._grid.panes_of(watermarks[:-1])
        if ahead is not None:
            fresh &= ~ahead | (watermarks[:-1] > BEFORE_ALL)  # else there is no cell to count it in
            panes = np.where(ahead, BEFORE_ALL, panes)
        late = fresh & (panes < passed)
        cells: Ints = np.maximum(panes, passed) // self._panes
        unscored = early = None  # dead letters and gaps
        if lost is not None and marks is not None:
            named, at = marks & (lost > 0), watermarks[1:]
            if refused is not None and sources is not None:
                is_new[:1] |= is_new_log
                named = marks & is_new & ((sources >= 0) | (lost > 0))
                at = np.where(refused > BEFORE_ALL, np.maximum(refused, watermarks[:-1]), at)
            # A partition of which no position is known has not reached any cell.
            unscored = named & (watermarks[1:] > BEFORE_ALL)
            early = named & ~unscored & (lost > 0)
            cells[unscored] = self._grid.panes_of(at[unscored]) // self._panes
        if self.closed is not None:
            is_open = cells >= self.closed
            fresh &= is_open
            late &= is_open
            unscored = None if unscored is None else unscored & is_open
        self._count(cells, fresh, late, offsets, watermarks, newest, unscored)
        if unscored is not None and lost is not None:
            self._count_unscored(cells, unscored, refused, lost)
        if early is not None and lost is not None and early.any():
            if self._early is None:
                first = int(early.argmax())
                before = int(newest[first])
                self._early = Slot(self._new_part(), int(offsets[first]), None, before)
            self._early.lost += int(lost[early].sum())
        self._place_early()
        self.source = int(newest[-1])
        if watermarks[-1] > BEFORE_ALL:
            self.watermark = int(watermarks[-1])
        return cells, fresh & ~late

    def _count(
        self,
        cells: Ints,
        fresh: NDArray[np.bool_],
        late: NDArray[np.bool_],
        offsets: Ints,
        watermarks: Ints,
        newest: Ints,
        unscored: NDArray[np.bool_] | None,
    ) -> None:
        """Make the slots of these cells, and count what is late in them."""
        counted = fresh if unscored is None else fresh | unscored
        for cell in distinct(cells[counted]):
            own = counted & (cells == cell)
            if cell not in self.slots:
                at = int(own.argmax())
                before = int(watermarks[at])
                self.slots[cell] = Slot(
                    self._new_part(),
                    int(offsets[at]),
                    None if before <= BEFORE_ALL else before,
                    int(newest[at]),
                )
            self.slots[cell].late += int(np.count_nonzero(late & own))

    def _count_unscored(
        self, cells: Ints, unscored: NDArray[np.bool_], refused: Ints | None, lost: Ints
    ) -> None:
        for cell in distinct(cells[unscored]):
            own = unscored & (cells == cell)
            slot = self.slots[cell]
            slot.dead_letters += int(np.count_nonzero(own & (lost == 0)))
            slot.lost += int(lost[own].sum())
            largest = BEFORE_ALL if refused is None else int(refused[own].max())
            slot.refused = later(slot.refused, largest if largest > BEFORE_ALL else None)

    def _place_early(self) -> None:
        """Count the gaps that were met before any position was known in the first cell that is."""
        if self._early is not None and self.slots:
            slot = min(self.slots.values(), key=lambda slot: slot.first[0])
            slot.lost += self._early.lost
            slot.first = self._early.first
            self._early = None

    def _cell_of(self, position: int) -> int:
        return self._grid.pane_of(position) // self._panes

    def close(self) -> tuple[int, list[tuple[int, Slot[Part]]]] | None:
        """Close what the watermark has passed: the first cell that is open now, and the slots of
        those before it, in order. None if nothing has been passed since the last call."""
        if self.watermark is None:
            return None
        passed = self._cell_of(self.watermark)
        if self.closed is not None and passed <= self.closed:
            return None
        self.closed = passed
        return passed, [(c, self.slots.pop(c)) for c in sorted(self.slots) if c < passed]

    def hold(self) -> Committed:
        """Oldest offset that an open cell needs, with the state before it."""
        early = () if self._early is None else (self._early,)
        offset, watermark, source = min(
            (slot.first for slot in (*self.slots.values(), *early)),
            key=lambda first: first[0],
            default=(self.next_offset, self.watermark, self.source),
        )
        published = max(self.next_offset, self._published)
        resume = Resume(
            watermark,
            source,
            self.closed,
            published if published > offset else 0,
            self._grid.name,
            # Where the log's name is read again, what came before it was of another log.
            self._log if offset > self._log_offset else "",
        )
        return Committed(offset, msgspec.json.encode(resume).decode())


def later(known: int | None, new: int | None) -> int | None:
    """The larger of two, either of which may be unknown."""
    return max((value for value in (known, new) if value is not None), default=None)


def distinct(values: Ints) -> list[int]:
    """The values that occur, in order; quick where there is but one."""
    if not len(values):
        return []
    low, high = int(values.min()), int(values.max())
    if low == high:
        return [low]
    found: list[int] = np.unique(values).tolist()
    return found
