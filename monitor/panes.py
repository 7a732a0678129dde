"""Track a partition's watermark and assign its records to slides and panes, using NumPy arrays.

Input: the positions of a partition's records, in log order. Output: each record's bucket, the
closed buckets, and the offset to commit. The results depend only on the partition's records, not
on other partitions or on how records are batched.

A bucket is the unit of aggregation: a slide for predictions, or a pane for outcomes.
"""

from collections.abc import Callable, Iterable
from typing import Annotated, Any, Final, Generic, Literal, NamedTuple, TypeVar

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from driftline.broker.port import Committed
from driftline.config.stream import Stream
from driftline.config.stream_sections import Axis
from driftline.wire.commit_metadata import Offset, Position, metadata_of
from driftline.wire.events import Log

PANES: Final = 20  # number of panes in a window
# Smaller than every position, but large enough that the grid's 64-bit arithmetic cannot overflow.
BEFORE_ALL: Final = -(2**62)

Partial = TypeVar("Partial")
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


class Grid(msgspec.Struct, frozen=True):
    """The bounds of windows, slides and panes. Positions may be negative.

    A new window starts at each slide and spans `overlap` slides (Traub et al., "Efficient window
    aggregation with general stream slicing", EDBT 2019). Slides and panes are numbered
    consecutively. If `panes` does not divide a slide's size, each slide's last pane is longer.

    >>> grid = Grid(size=110, pane=5)
    >>> grid.pane_of(-1), grid.pane_of(0), grid.pane_of(109)
    (-1, 0, 19)
    >>> grid.bounds(0), grid.bounds(19)
    ((0, 5), (95, 110))
    >>> Grid(size=55, pane=5, overlap=2).window(3)
    (165, 275)
    """

    size: int  # length of a slide, in rows or microseconds
    pane: int
    overlap: int = 1
    by_row: bool = False

    @classmethod
    def of(cls, stream: Stream) -> "Grid":
        """Return the grid for a stream's windows."""
        size = stream.window_size // stream.overlap
        return cls(size, stream.pane_size, stream.overlap, by_row=stream.axis == "row")

    @property
    def panes(self) -> int:
        """Return the number of panes in a slide."""
        return PANES // self.overlap

    @property
    def name(self) -> str:
        """Return a name that identifies how slides and panes are numbered."""
        return f"{self.size}/{self.panes}"

    def pane_of(self, position: int) -> int:
        """Return the index of the pane that contains a position."""
        slide, within = divmod(position, self.size)
        return slide * self.panes + min(within // self.pane, self.panes - 1)

    def panes_of(self, positions: Ints) -> Ints:
        """Return the pane index of each position (n,)."""
        slides, within = np.divmod(positions, self.size)
        panes: Ints = slides * self.panes + np.minimum(within // self.pane, self.panes - 1)
        return panes

    def bounds(self, pane: int) -> tuple[int, int]:
        """Return the start and the exclusive end of a pane."""
        slide, place = divmod(pane, self.panes)
        start = slide * self.size + place * self.pane
        return start, (slide + 1) * self.size if place == self.panes - 1 else start + self.pane

    def window(self, index: int) -> tuple[int, int]:
        """Return the start and the exclusive end of the window that starts at slide `index`."""
        return index * self.size, (index + self.overlap) * self.size

    def window_after(self, closed: int | None, slides: Iterable[int]) -> int | None:
        """Return the first window at or after `closed` that contains one of `slides`, or None. None
        of `slides` may precede `closed`. On the row axis, no window starts before row 0."""
        first = min(slides, default=None)
        if first is None:
            return None
        index = first - self.overlap + 1
        if self.by_row:
            index = max(0, index)
        return index if closed is None else max(index, closed)


class PartitionCheckpoint(msgspec.Struct, frozen=True, omit_defaults=True):
    """Metadata stored with a committed offset: the partition's state just before that offset."""

    watermark: Position | None = None
    source: Annotated[int, Meta(ge=-1, le=2**63 - 1)] = -1  # largest feature-record offset so far
    # First open bucket. The partial aggregates of all earlier buckets have been published.
    closed: Position | None = None
    # All records before this offset were read before the commit. A restart rereads some of them.
    published: Offset = 0
    grid: str = ""  # `Grid.name` of the grid that defines the bucket numbers
    log: str = ""  # id of the topic that `source` refers to, empty if unknown
    axis: Axis | None = None  # axis of the positions; None in commits from earlier versions


class Arrivals(NamedTuple):
    """A partition's events in log order, as arrays of length n."""

    offsets: Ints
    positions: Ints  # position of each record, or watermark of each watermark record
    marks: Bools | None = None  # True for watermark records; None if there are none
    # Offsets of the feature records, or -1 for watermark records that refer to no feature record.
    # None disables the detection of repeated records.
    sources: Ints | None = None
    dead_letters: Bools | None = None  # True for dead letters; None without watermark records
    # Position of each dead letter, at the index of its watermark record, or BEFORE_ALL if the
    # position is unknown. All other elements are arbitrary. None without watermark records.
    dead_letter_positions: Ints | None = None
    # Number of records lost in the gaps that each event reports. None without watermark records.
    lost: Ints | None = None
    # True for records that inference marked as implausibly far ahead; None if no record is marked.
    ahead: Bools | None = None
    logs: tuple[tuple[int, Log], ...] = ()  # pairs (index of a new log's first event, new log)

    def cut(self, at: slice) -> "Arrivals":
        """Return the events in the slice `at`, without `logs`."""

        def part(own: NDArray[Any] | None) -> Any:
            return None if own is None else own[at]

        return Arrivals(*map(part, self[:-1]))


class Bucket(Generic[Partial]):
    """A partition's slide or pane that may still receive records, with its partial aggregate."""

    def __init__(self, partial: Partial, offset: int, watermark: int | None, source: int) -> None:
        self.partial = partial
        self.late = 0
        self.dead_letters = 0
        self.lost = 0
        # Largest known position of a dead letter, or None if no position is known.
        self.max_dead_letter_position: int | None = None
        # Offset of the first record in this bucket, and the partition's watermark and `source` just
        # before that record. A restarted worker resumes reading at this offset.
        self.first = (offset, watermark, source)


class PartitionWindowState(Generic[Partial]):
    """One partition's watermark and open buckets. The buckets are either all slides or all panes.

    The watermark is the largest position minus the lateness (plus 1 on the row axis), or the
    position of a watermark record if that is larger. A record is late if the watermark has passed
    the end of the record's pane. A late record is counted in the bucket that contains the
    watermark. A record that inference marked as implausibly far ahead is also counted as late, and
    does not advance the watermark. A bucket is closed when the watermark has passed its end.
    """

    def __init__(
        self,
        stream: Stream,
        committed: Committed,
        new_partial: Callable[[], Partial],
        *,
        unit: Literal["slide", "pane"],
    ) -> None:
        at = metadata_of(committed, PartitionCheckpoint) or PartitionCheckpoint()
        self._axis = stream.axis
        self._grid = Grid.of(stream)
        self._panes_in_bucket = self._grid.panes if unit == "slide" else 1
        self.watermark = at.watermark  # None until a position is known; advanced by `_admit`
        self.source = at.source  # largest feature-record offset so far; reset when a new log starts
        # Id of the topic that `source` refers to. `admit` sets it when a new log starts.
        self._log = at.log
        self._log_offset = -1  # offset of the watermark record that named `_log`; -1 if unknown
        self.closed = at.closed  # first open bucket, set by `close`; None until a bucket is closed
        if at.grid != self._grid.name:
            # The stream's window settings have changed. Skip the watermark's incomplete bucket.
            self.closed = None if at.watermark is None else self._bucket_of(at.watermark) + 1
        self.next_offset = max(committed.offset, 0)  # next offset to read; set by the aggregator
        # Open buckets by index. `_count` adds a bucket at its first event, and `close` removes it.
        self.open_buckets: dict[int, Bucket[Partial]] = {}
        # Gaps read before any position was known. `_place_early` moves them to the first bucket.
        self._early: Bucket[Partial] | None = None
        self._published = at.published  # from the checkpoint; never changes
        self._watermark_offset = stream.watermark_offset
        self._new_partial = new_partial

    def admit(self, arrivals: Arrivals) -> tuple[Ints, Bools]:
        """Return each record's bucket (n,), and a mask (n,) of the records to aggregate.

        The mask excludes:

        - Watermark records and repeated records.
        - Late records, which are counted only in `Bucket.late`.
        - Records in buckets whose partial aggregates were already published.

        A dead letter is counted in the bucket that contains its position or, if the position is
        unknown or behind the watermark, in the bucket that contains the watermark. Gaps have no
        position, so they are also counted in the bucket that contains the watermark. Gaps that are
        read before any position is known are added to the first bucket.
        """
        if not arrivals.logs:
            return self._admit(arrivals, is_new_log=False)
        # Feature-record offsets restart in each new log, so process each log's events separately.
        parts, start, is_new_log = [], 0, False
        for place, log in arrivals.logs:
            parts.append(self._admit(arrivals.cut(slice(start, place)), is_new_log=is_new_log))
            start, is_new_log = place, log.topic_id != self._log
            if is_new_log:
                self._log, self._log_offset = log.topic_id, int(arrivals.offsets[place])
                self.source = log.offset - 1
        parts.append(self._admit(arrivals.cut(slice(start, None)), is_new_log=is_new_log))
        buckets, counting = zip(*parts, strict=True)
        return np.concatenate(buckets), np.concatenate(counting)

    def _admit(self, arrivals: Arrivals, *, is_new_log: bool) -> tuple[Ints, Bools]:
        """Admit one log's events. `is_new_log` is True if the first event starts a new log."""
        offsets, positions, marks, sources, _, dead_letter_positions, lost, ahead, _ = arrivals
        # 1. Select new records: exclude watermark records and records with repeated source offsets.
        fresh = np.ones(len(offsets), dtype=bool) if marks is None else ~marks
        own_watermarks = positions + self._watermark_offset
        if marks is not None:
            own_watermarks[marks] = positions[marks]
        if sources is None:
            is_new, newest = None, np.full(len(offsets) + 1, self.source)
        else:
            newest = np.maximum.accumulate(np.append(self.source, sources))
            is_new = sources > newest[:-1]
            repeated = fresh & ~is_new
            fresh &= ~repeated
            own_watermarks[repeated] = BEFORE_ALL
            is_new[:1] |= is_new_log
        if ahead is not None:
            own_watermarks[ahead] = BEFORE_ALL
        # 2. Compute the watermark before (`[:-1]`) and after (`[1:]`) each event. Repeated records
        # and records marked `ahead` do not advance the watermark.
        start = BEFORE_ALL if self.watermark is None else self.watermark
        watermarks = np.maximum.accumulate(np.append(start, own_watermarks))
        # 3. Assign buckets. A record whose pane precedes the watermark's pane is late, and is
        # counted in the bucket that contains the watermark. Records marked `ahead` are also late.
        panes = self._grid.panes_of(positions)
        watermark_panes = self._grid.panes_of(watermarks[:-1])
        if ahead is not None:
            # Until a position is known, a record marked `ahead` has no bucket.
            fresh &= ~ahead | (watermarks[:-1] > BEFORE_ALL)
            panes = np.where(ahead, BEFORE_ALL, panes)
        late = fresh & (panes < watermark_panes)
        buckets: Ints = np.maximum(panes, watermark_panes) // self._panes_in_bucket
        # 4. Assign buckets to the dead letters and gaps that watermark records report.
        unscored = self._assign_unscored(arrivals, is_new, watermarks, newest, buckets)
        # 5. Skip events in buckets that were already published. Count all other events.
        if self.closed is not None:
            is_open = buckets >= self.closed
            fresh &= is_open
            late &= is_open
            unscored = None if unscored is None else unscored & is_open
        self._count(buckets, fresh, late, offsets, watermarks, newest, unscored)
        if unscored is not None and lost is not None:
            self._count_unscored(buckets, unscored, dead_letter_positions, lost)
        self._place_early()
        self.source = int(newest[-1])
        if watermarks[-1] > BEFORE_ALL:
            self.watermark = int(watermarks[-1])
        return buckets, fresh & ~late

    def _assign_unscored(
        self, events: Arrivals, is_new: Bools | None, watermarks: Ints, newest: Ints, buckets: Ints
    ) -> Bools | None:
        """Write the buckets of new dead letters and gaps into `buckets`. Return a mask (n,) of the
        events that were assigned a bucket. Buffer gaps that have no bucket yet."""
        dead_letters, lost = events.dead_letters, events.lost
        positions = events.dead_letter_positions
        if dead_letters is None or positions is None or lost is None:
            return None
        named = dead_letters | (lost > 0)
        if is_new is not None:
            named &= is_new
        own = np.maximum(positions, watermarks[:-1])
        at = np.where(dead_letters & (positions > BEFORE_ALL), own, watermarks[1:])
        # Until a position is known, assign no buckets, buffer gaps, and ignore dead letters.
        unscored: Bools = named & (watermarks[1:] > BEFORE_ALL)
        buckets[unscored] = self._grid.panes_of(at[unscored]) // self._panes_in_bucket
        early = named & ~unscored & (lost > 0)
        if early.any():
            if self._early is None:
                first = int(early.argmax())
                before = int(newest[first])
                self._early = Bucket(self._new_partial(), int(events.offsets[first]), None, before)
            self._early.lost += int(lost[early].sum())
        return unscored

    def _count(
        self,
        buckets: Ints,
        fresh: Bools,
        late: Bools,
        offsets: Ints,
        watermarks: Ints,
        newest: Ints,
        unscored: Bools | None,
    ) -> None:
        """Open each bucket at its first counted event, and count each bucket's late records."""
        counted = fresh if unscored is None else fresh | unscored
        for index in distinct(buckets[counted]):
            own = counted & (buckets == index)
            if index not in self.open_buckets:
                at = int(own.argmax())
                before = int(watermarks[at])
                self.open_buckets[index] = Bucket(
                    self._new_partial(),
                    int(offsets[at]),
                    None if before <= BEFORE_ALL else before,
                    int(newest[at]),
                )
            self.open_buckets[index].late += int(np.count_nonzero(late & own))

    def _count_unscored(
        self, buckets: Ints, unscored: Bools, positions: Ints | None, lost: Ints
    ) -> None:
        """Count dead letters, whose positions are in `positions` (n,), and records lost in gaps."""
        for index in distinct(buckets[unscored]):
            own = unscored & (buckets == index)
            bucket = self.open_buckets[index]
            bucket.dead_letters += int(np.count_nonzero(own & (lost == 0)))
            bucket.lost += int(lost[own].sum())
            if positions is not None and (largest := int(positions[own].max())) > BEFORE_ALL:
                bucket.max_dead_letter_position = later(bucket.max_dead_letter_position, largest)

    def _place_early(self) -> None:
        """Move the gaps buffered in `_early` into the bucket that was opened first."""
        if self._early is not None and self.open_buckets:
            bucket = min(self.open_buckets.values(), key=lambda bucket: bucket.first[0])
            bucket.lost += self._early.lost
            bucket.first = self._early.first
            self._early = None

    def _bucket_of(self, position: int) -> int:
        return self._grid.pane_of(position) // self._panes_in_bucket

    def close(self) -> tuple[int, list[tuple[int, Bucket[Partial]]]] | None:
        """Close the buckets before the watermark. Return the first open bucket, and the newly
        closed buckets in order, each with its index. Return None if no bucket was closed."""
        if self.watermark is None:
            return None
        closed = self._bucket_of(self.watermark)
        if self.closed is not None and closed <= self.closed:
            return None
        self.closed = closed
        indices = [index for index in sorted(self.open_buckets) if index < closed]
        return closed, [(index, self.open_buckets.pop(index)) for index in indices]

    def checkpoint(self) -> Committed:
        """Return the oldest offset that an open bucket needs, with the state just before it."""
        early = () if self._early is None else (self._early,)
        offset, watermark, source = min(
            (bucket.first for bucket in (*self.open_buckets.values(), *early)),
            key=lambda first: first[0],
            default=(self.next_offset, self.watermark, self.source),
        )
        published = max(self.next_offset, self._published)
        resume = PartitionCheckpoint(
            watermark,
            source,
            self.closed,
            published if published > offset else 0,
            self._grid.name,
            # If the record that started this log will be reread, `source` refers to an older log.
            self._log if offset > self._log_offset else "",
            self._axis,
        )
        return Committed(offset, msgspec.json.encode(resume).decode())


def later(known: int | None, new: int | None) -> int | None:
    """Return the larger of two numbers, ignoring None. Return None if both are None."""
    return max((value for value in (known, new) if value is not None), default=None)


def distinct(values: Ints) -> list[int]:
    """Return the distinct values in ascending order. This is fast if all values are equal."""
    if not len(values):
        return []
    low, high = int(values.min()), int(values.max())
    if low == high:
        return [low]
    found: list[int] = np.unique(values).tolist()
    return found
