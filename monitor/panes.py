"""Track the watermark of each partition, and assign its records to slides and panes.

In: the positions of a partition's records, in the order of its log. Out: the cell (pane or slide)
in which each record counts, the cells that are closed, and the offset to commit. All results depend
only on the contents of that partition, never on batches or on other partitions.

A `Slot` is an open cell with its partial aggregate. A `Track` is the state of one partition.
"""

from collections.abc import Callable, Iterable
from typing import Annotated, Any, Final, Generic, Literal, NamedTuple, TypeVar

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from driftline.broker.port import Committed
from driftline.config.stream import Axis, Stream
from driftline.wire.commit_metadata import Offset, Position, metadata_of
from driftline.wire.events import Log

PANES: Final = 20  # in a window
# Smaller than every position, but far enough from the limit of 64 bits for the grid's arithmetic.
BEFORE_ALL: Final = -(2**62)

Part = TypeVar("Part")
Ints = NDArray[np.int64]


class Grid(msgspec.Struct, frozen=True):
    """The bounds of windows, slides and panes. Positions may be negative.

    A window starts with each slide and is `overlap` slides long (Traub et al., "Efficient window
    aggregation with general stream slicing", EDBT 2019). The numbers of slides and panes continue
    across windows. If the size of a slide is no multiple of `panes`, its last pane is longer.

    >>> grid = Grid(size=110, pane=5)
    >>> grid.pane_of(-1), grid.pane_of(0), grid.pane_of(109)
    (-1, 0, 19)
    >>> grid.bounds(0), grid.bounds(19)
    ((0, 5), (95, 110))
    >>> Grid(size=55, pane=5, overlap=2).window(3)
    (165, 275)
    """

    size: int  # of a slide
    pane: int
    overlap: int = 1
    by_row: bool = False

    @classmethod
    def of(cls, stream: Stream) -> "Grid":
        """Return the grid of a stream's windows."""
        size = stream.window_size // stream.overlap
        return cls(size, stream.pane_size, stream.overlap, by_row=stream.axis == "row")

    @property
    def panes(self) -> int:
        """Return the number of panes in a slide."""
        return PANES // self.overlap

    @property
    def name(self) -> str:
        """Return a name that changes whenever slides or panes are numbered in another way."""
        return f"{self.size}/{self.panes}"

    def pane_of(self, position: int) -> int:
        """Return the index of the pane that contains a position."""
        piece, within = divmod(position, self.size)
        return piece * self.panes + min(within // self.pane, self.panes - 1)

    def panes_of(self, positions: Ints) -> Ints:
        """Return `pane_of` for each position."""
        pieces, within = np.divmod(positions, self.size)
        panes: Ints = pieces * self.panes + np.minimum(within // self.pane, self.panes - 1)
        return panes

    def bounds(self, pane: int) -> tuple[int, int]:
        """Return the start and the exclusive end of a pane."""
        piece, place = divmod(pane, self.panes)
        start = piece * self.size + place * self.pane
        return start, (piece + 1) * self.size if place == self.panes - 1 else start + self.pane

    def window(self, index: int) -> tuple[int, int]:
        """Return the start and the exclusive end of the window that starts with a slide."""
        return index * self.size, (index + self.overlap) * self.size

    def window_after(self, closed: int | None, slices: Iterable[int]) -> int | None:
        """Return the first window from `closed` on that contains one of these slides, None if there
        is none. No slide may be before `closed`. On the row axis no window starts before row 0."""
        first = min(slices, default=None)
        if first is None:
            return None
        index = first - self.overlap + 1
        if self.by_row:
            index = max(0, index)
        return index if closed is None else max(index, closed)


class Resume(msgspec.Struct, frozen=True, omit_defaults=True):
    """Metadata of a committed offset: the partition's state before the record at that offset."""

    watermark: Position | None = None
    source: Annotated[int, Meta(ge=-1, le=2**63 - 1)] = -1  # largest source offset seen
    # The partial aggregates of all cells before this one were published.
    closed: Position | None = None
    # Records before this offset were read. Those from the committed offset on are read again.
    published: Offset = 0
    grid: str = ""  # name of the grid that numbers the cells
    log: str = ""  # id of the topic that `source` is an offset of, empty if unknown
    axis: Axis | None = None  # of the positions; None: unknown, from before it was stored


class Arrivals(NamedTuple):
    """The events of a partition, in the order of its log: arrays of length n."""

    offsets: Ints
    positions: Ints  # for a watermark record, its watermark
    marks: NDArray[np.bool_] | None = None  # True for watermark records; None: there are none
    # Offsets of the feature records, -1 for watermark records without one. None: no repeats.
    sources: Ints | None = None
    letters: NDArray[np.bool_] | None = None  # True for dead letters; None: there are no marks
    # Positions of dead letters, at the places of their watermark records, and BEFORE_ALL if
    # unreadable. Other places contain arbitrary values. None: there are no marks.
    refused: Ints | None = None
    # Number of records that a gap deleted, 0 elsewhere; None: there are no gaps.
    lost: Ints | None = None
    # True for records that are implausibly far ahead of their time; None: there are none.
    ahead: NDArray[np.bool_] | None = None
    logs: tuple[tuple[int, Log], ...] = ()  # places of the watermark records that start a new log

    def cut(self, at: slice) -> "Arrivals":
        """Return a part of the events, without `logs`."""

        def part(own: NDArray[Any] | None) -> Any:
            return None if own is None else own[at]

        return Arrivals(*map(part, self[:-1]))


class Slot(Generic[Part]):
    """The partial aggregate of one partition in an open cell."""

    def __init__(self, part: Part, offset: int, watermark: int | None, source: int) -> None:
        self.part = part
        self.late = 0
        self.dead_letters = 0
        self.lost = 0
        # Largest known position of a dead letter in this cell, None if there is none.
        self.refused: int | None = None
        # Offset of the first record that counts in this cell, and the partition's watermark and
        # source offset before that record. A restart resumes from here.
        self.first = (offset, watermark, source)


class Track(Generic[Part]):
    """The state of one partition: its watermark, and its open cells.

    The watermark is the largest position minus the lateness (on the row axis, the next row minus
    the lateness), or the position of a watermark record if that is larger. A record is late if the
    watermark had passed the end of its pane. It is counted as late in the cell that contains the
    watermark. A record that inference marked as implausibly far ahead is counted in the same way,
    and does not move the watermark. A cell is closed when the watermark has passed its end.
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
        self._axis = stream.axis
        self._grid = Grid.of(stream)
        self._panes = self._grid.panes if cell == "slice" else 1
        self.watermark = at.watermark  # None until a position is known; only `_admit` advances it
        self.source = at.source  # largest source offset read; reset for the log of another topic
        # Id of the topic of `source`: set by `admit` when a watermark record names a new log.
        self._log = at.log
        self._log_offset = -1  # offset of the watermark record that named `_log`, -1 if restored
        self.closed = at.closed  # first open cell, advanced only by `close`; None: none was closed
        if at.grid != self._grid.name:
            # The windows in the stream file were changed: start with the first complete cell.
            self.closed = None if at.watermark is None else self._cell_of(at.watermark) + 1
        self.next_offset = max(committed.offset, 0)  # advanced by the owner for each record
        # Open cells by index: added by `_count` with their first record, removed by `close`.
        self.slots: dict[int, Slot[Part]] = {}
        # Gaps that came before any position was known. `_place_early` moves them to the first cell.
        self._early: Slot[Part] | None = None
        self._published = at.published  # from the checkpoint, never changed
        self._watermark_offset = stream.watermark_offset
        self._new_part = new_part

    def admit(self, arrivals: Arrivals) -> tuple[Ints, NDArray[np.bool_]]:
        """Return the cell of each record (n,), and whether the record counts there (n,).

        These do not count:

        - Watermark records, and records that were read before.
        - Late records. Their slot's `late` counts them.
        - Records of cells whose partial aggregates were published.

        Dead letters are counted in their slot's `dead_letters`. Their cell is that of their
        position, or the one that contains the watermark if their position is unknown or behind it.
        Gaps have no position and count in the cell that contains the watermark. Gaps before the
        first known position are added to the first cell.
        """
        if not arrivals.logs:
            return self._admit(arrivals, is_new_log=False)
        # Source offsets restart with each log, so process the events of each log separately.
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
        """Process events of one log. `is_new_log`: the first event starts a log that was
        unknown."""
        offsets, positions, marks, sources, letters, refused, lost, ahead, _ = arrivals
        # 1. Select new records, not watermark records or source offsets that were read before.
        fresh = np.ones(len(offsets), dtype=bool) if marks is None else ~marks
        reached = positions + self._watermark_offset
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
        # 2. Get the watermark before (`[:-1]`) and after (`[1:]`) each event. Repeated records and
        # those marked `ahead` do not move it.
        start = BEFORE_ALL if self.watermark is None else self.watermark
        watermarks = np.maximum.accumulate(np.append(start, reached))
        # 3. Assign the cells. A record behind the watermark's pane is late, and counts in the cell
        # of the watermark. A record marked `ahead` is treated as late.
        panes, passed = self._grid.panes_of(positions), self._grid.panes_of(watermarks[:-1])
        if ahead is not None:
            fresh &= ~ahead | (watermarks[:-1] > BEFORE_ALL)  # else no cell is known
            panes = np.where(ahead, BEFORE_ALL, panes)
        late = fresh & (panes < passed)
        cells: Ints = np.maximum(panes, passed) // self._panes
        # 4. Assign dead letters and gaps, which arrive as watermark records.
        unscored = early = None
        if letters is not None and refused is not None and lost is not None:
            named = letters | (lost > 0)
            if sources is not None:
                is_new[:1] |= is_new_log
                named &= is_new
            own = np.maximum(refused, watermarks[:-1])
            at = np.where(letters & (refused > BEFORE_ALL), own, watermarks[1:])
            # Without any known position there is no cell: only gaps are buffered, in `_early`.
            unscored = named & (watermarks[1:] > BEFORE_ALL)
            early = named & ~unscored & (lost > 0)
            cells[unscored] = self._grid.panes_of(at[unscored]) // self._panes
        # 5. Skip cells whose partial aggregates were published, then update the open cells.
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
        """Create the missing slots of these cells, and count the late records."""
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
        """Move gaps that came before any position was known to the cell with the oldest record."""
        if self._early is not None and self.slots:
            slot = min(self.slots.values(), key=lambda slot: slot.first[0])
            slot.lost += self._early.lost
            slot.first = self._early.first
            self._early = None

    def _cell_of(self, position: int) -> int:
        return self._grid.pane_of(position) // self._panes

    def close(self) -> tuple[int, list[tuple[int, Slot[Part]]]] | None:
        """Close the cells before the watermark. Return the first open cell, and the slots of the
        closed ones in order. None if no cell was closed since the last call."""
        if self.watermark is None:
            return None
        passed = self._cell_of(self.watermark)
        if self.closed is not None and passed <= self.closed:
            return None
        self.closed = passed
        return passed, [(c, self.slots.pop(c)) for c in sorted(self.slots) if c < passed]

    def checkpoint(self) -> Committed:
        """Return the oldest offset that an open cell needs, with the state before it."""
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
            # If the log's name is read again, the records before it are from another log.
            self._log if offset > self._log_offset else "",
            self._axis,
        )
        return Committed(offset, msgspec.json.encode(resume).decode())


def later(known: int | None, new: int | None) -> int | None:
    """Return the larger of two numbers, either of which may be unknown."""
    return max((value for value in (known, new) if value is not None), default=None)


def distinct(values: Ints) -> list[int]:
    """Return the distinct values in ascending order. Fast if there is only one."""
    if not len(values):
        return []
    low, high = int(values.min()), int(values.max())
    if low == high:
        return [low]
    found: list[int] = np.unique(values).tolist()
    return found
