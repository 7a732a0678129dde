"""A finished data set played as a stream: feature records and labels in one order, the same always.

In: a stream and a source. Out: the warm-up, for the first model, and then `Play` items in the order
in which they are to be sent. It sends nothing and waits for nothing.

A label is due at a position: that of its record plus the delay. It is sent before any later record
whose position is as large or larger, and says in `@at`, on the axis of the stream's windows, when
it was known. Where the delay is of the other axis (half an hour, and windows of records), that is
the position of the first record that has reached it.

With `label_delay = "data"` a row is a record when its target is empty or its id is new; a later row
of the same id brings the label, at that row's own time. `@row` then numbers the feature records
alone, so that windows count records; without it `@row` is the number of the data row, from 0.

With `label_delay = "@at"` the rows are as they were recorded: each says in `@at` when its label was
known (an empty one: at once), and in `@row`, if it is there, its number.
"""

import heapq
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, Literal

import msgspec
import numpy as np

from driftline.codec.values import parse_time
from driftline.errors import DataError
from driftline.partition_clock import MAX_AHEAD_US, PartitionClock
from driftline.stream import AT, ROW, LabelDelay, Span, Stream
from producers.rows import Change, Changing, Row, Source
from producers.shaping import Shaped, Shaper


class Play(msgspec.Struct, frozen=True, gc=False):
    """One message to send. `row`: the data row (from 0) reached when it is sent. `position`: on
    the stream's axis; None for a record whose event time cannot be read."""

    kind: Literal["record", "label"]
    row: int
    key: bytes
    value: bytes
    record_id: str | None
    position: int | None


class WarmUp(msgspec.Struct, frozen=True):
    """The first share of the data, for the first model: records with their labels, one each."""

    records: tuple[bytes, ...]
    labels: tuple[str | float, ...]
    rows: int  # data rows that were taken
    unlabelled: int  # records among them without a label: they cannot train


class PlayCounts(msgspec.Struct):
    """What was played so far."""

    records: int = 0
    labels: int = 0
    labels_withheld: int = 0  # by `label_missing`
    unlabelled: int = 0  # records whose row has no target, or no id for a label to name
    labels_of_skipped: int = 0  # labels that came for records of the warm-up


class Playback:
    """Plays one source once: `warm_up` or `skip` at most once, then `play`.

    `limit` bounds the data rows; `seed` draws delays and missing labels.
    """

    def __init__(
        self,
        stream: Stream,
        source: Source,
        *,
        seed: int = 0,
        limit: int | None = None,
    ) -> None:
        self.counts = PlayCounts()
        self._stream = stream
        self._source = source
        self._shaper = Shaper(stream, textual=source.textual)
        self._random = np.random.default_rng(seed)
        self._limit = limit
        self._rows: Iterator[tuple[int, Row]] = enumerate(islice(source.rows(), limit))
        self._number = 0
        self._delay = _checked(stream)
        self._max_ahead_us = stream.max_ahead if stream.axis == "time" else MAX_AHEAD_US
        self._recorded = stream.simulate.label_delay == AT
        self._before: set[str] = set()  # ids of the warm-up; only where the data bring the labels

    @property
    def total(self) -> int | None:
        """How many data rows there are, warm-up included; None where that cannot be known."""
        count = self._source.count()
        return count if count is None or self._limit is None else min(count, self._limit)

    @property
    def changes(self) -> tuple[Change, ...]:
        """Known changes in the data."""
        return self._source.changes if isinstance(self._source, Changing) else ()

    @property
    def next_row(self) -> int:
        """The number that the next feature record gets."""
        return self._number

    def number_from(self, row: int) -> None:
        """Number the next record `row` at least, as where a topic has numbers already."""
        self._number = max(self._number, row)

    def warm_up(self, share: float) -> WarmUp:
        """Take the first `share` (0 to 1) of the rows for training.

        Where the data bring the labels, pairs that are complete within the share train; labels
        that come later for its records are left out of `play` and counted. Raises DataError.
        """
        records: list[bytes] = []
        labels: list[str | float] = []
        open_records: dict[str, bytes] = {}
        unlabelled = taken = 0
        for _, row in islice(self._rows, self._first(share)):
            taken += 1
            if isinstance(row, bytes):
                self._number += 1
                unlabelled += 1
                continue
            self._number = self._number_of(row)
            shaped = self._shaper.shape(row, self._number)
            label = self._shaper.label_value(shaped)
            if self._brings_label(shaped, self._before):
                record = open_records.pop(shaped.record_id or "", None)
                if record is not None and label is not None:
                    records.append(record)
                    labels.append(label)
                continue
            self._number += 1
            if label is not None:
                records.append(shaped.value)
                labels.append(label)
            elif self._delay is None and shaped.record_id is not None:
                open_records[shaped.record_id] = shaped.value
            else:
                unlabelled += 1
        return WarmUp(tuple(records), tuple(labels), taken, unlabelled + len(open_records))

    def skip(self, rows: int) -> None:
        """Leave out the first `rows` data rows; they are numbered, but not played."""
        for _, row in islice(self._rows, rows):
            if isinstance(row, bytes) or not self._brings_label(
                self._shaper.shape(row, self._number), self._before
            ):
                self._number += 1

    def play(self) -> Iterator[Play]:
        """Records and labels in the order of sending."""
        if self._delay is None:
            return self._play_own_labels()
        return self._play_with_delay(self._delay)

    def _first(self, share: float) -> int:
        if not 0 < share < 1:
            raise DataError(f"the warm-up must be a share between 0 and 1, got {share}")
        if (total := self.total) is None:
            raise DataError(
                f"{self._source.name}: cannot take a share of it: its length is not known",
                hint="write it to a file first",
            )
        return int(total * share)

    def _brings_label(self, shaped: Shaped, seen: set[str]) -> bool:
        """Whether a row is the label of an earlier one; remembers the ids of records in `seen`."""
        if self._delay is not None or shaped.record_id is None:
            return False
        known = shaped.record_id in seen
        seen.add(shaped.record_id)
        return known and shaped.target is not None

    # ---- the data's own labels ------------------------------------------------------------------

    def _play_own_labels(self) -> Iterator[Play]:
        seen: set[str] = set()
        reached_us = 0
        clock = PartitionClock(self._max_ahead_us)
        for index, row in self._rows:
            if isinstance(row, bytes):
                yield self._unreadable(index, row)
                continue
            shaped = self._shaper.shape(row, self._number)
            if shaped.time_us is not None and clock.believes(shaped.time_us):
                reached_us = max(reached_us, shaped.time_us)
            if shaped.record_id in self._before and shaped.target is not None:
                self.counts.labels_of_skipped += 1
                continue
            if self._brings_label(shaped, seen):
                # On the axis of rows the label is known before the next record.
                at = shaped.time_us or reached_us if self._stream.axis == "time" else self._number
                if self._withheld():
                    self.counts.labels_withheld += 1
                else:
                    yield self._label(shaped, index, at)
                continue
            yield self._record(shaped, index)
            if shaped.target is None or shaped.record_id is None:
                self.counts.unlabelled += shaped.record_id is None
            elif self._withheld():
                self.counts.labels_withheld += 1
            else:
                yield self._label(shaped, index, self._position(shaped, self._number - 1))

    # ---- a delay --------------------------------------------------------------------------------

    def _play_with_delay(self, delay: Span | LabelDelay) -> Iterator[Play]:
        """Labels wait in a heap by the position at which they are due, on the delay's own axis."""
        draw, by_time = self._draw(delay), _is_duration(delay)
        same_axis = by_time == (self._stream.axis == "time")
        waiting: list[tuple[int, int, Shaped]] = []
        reached = -(2**63)  # the largest position of a record so far, on the delay's axis
        reached_us = 0
        clock = PartitionClock(self._max_ahead_us)  # one wrong time makes no other label due
        index = -1
        for index, row in self._rows:
            if isinstance(row, bytes):
                yield self._unreadable(index, row)
                continue
            number = self._number = self._number_of(row)
            shaped = self._shaper.shape(row, number)
            time_us = shaped.time_us
            if time_us is not None and not clock.believes(time_us):
                time_us = None
            here = time_us if by_time else number
            if by_time and here is None:
                here = max(reached, 0)  # no plausible time: the record is taken for the newest
            reached = max(reached, here or 0)
            reached_us = max(reached_us, time_us or 0)
            at = number if self._stream.axis == "row" else reached_us
            while waiting and waiting[0][0] <= reached:
                due, _, earlier = heapq.heappop(waiting)
                yield self._label(earlier, index, due if same_axis else at)
            yield self._record(shaped, index)
            wait, withheld = draw(), self._withheld()
            if shaped.target is None or shaped.record_id is None:
                self.counts.unlabelled += 1
            elif withheld:
                self.counts.labels_withheld += 1
            else:
                known = self._known_at(row)
                due = (here or 0) + wait if known is None else known
                heapq.heappush(waiting, (due, number, shaped))
                while waiting and waiting[0][0] <= reached:  # no delay, or a record out of order
                    due, _, earlier = heapq.heappop(waiting)
                    yield self._label(earlier, index, due if same_axis else at)
        # The data are through; what is still due comes in its order.
        end = self._number if self._stream.axis == "row" else reached_us
        while waiting:
            due, _, earlier = heapq.heappop(waiting)
            yield self._label(earlier, index, due if same_axis else end)

    def _draw(self, delay: Span | LabelDelay) -> "_Draw":
        return _Draw(delay, self._random)

    def _withheld(self) -> bool:
        return bool(self._random.random() < self._stream.simulate.label_missing)

    # ---- what was recorded ----------------------------------------------------------------------

    def _number_of(self, row: Mapping[str, Any]) -> int:
        """The number of the next record: its own, if it was recorded with one."""
        if not self._recorded or row.get(ROW) is None:
            return self._number
        try:
            return int(row[ROW])
        except (TypeError, ValueError, OverflowError) as error:
            raise DataError(f"{self._source.name}: {ROW!r} is no number: {row[ROW]!r}") from error

    def _known_at(self, row: Mapping[str, Any]) -> int | None:
        """The position at which the row's label was known, if it says so."""
        at = row.get(AT) if self._recorded else None
        if at is None:
            return None
        try:
            return int(at) if self._stream.axis == "row" else parse_time(str(at))
        except (TypeError, ValueError) as error:
            raise DataError(f"{self._source.name}: {AT!r} of a row: {error}") from error

    # ---- items ----------------------------------------------------------------------------------

    def _position(self, shaped: Shaped, number: int) -> int | None:
        return number if self._stream.axis == "row" else shaped.time_us

    def _record(self, shaped: Shaped, index: int) -> Play:
        position = self._position(shaped, self._number)
        self._number += 1
        self.counts.records += 1
        return Play("record", index, shaped.key, shaped.value, shaped.record_id, position)

    def _unreadable(self, index: int, row: bytes) -> Play:
        number = self._number
        self._number += 1
        self.counts.records += 1
        self.counts.unlabelled += 1
        position = number if self._stream.axis == "row" else None
        return Play("record", index, str(number).encode(), row, None, position)

    def _label(self, shaped: Shaped, index: int, at: int | None) -> Play:
        record_id = shaped.record_id or ""
        self.counts.labels += 1
        value = self._shaper.label(shaped, record_id, at)
        return Play("label", index, shaped.key, value, record_id, at)


class _Draw:
    """Draws the delay of one label after the other, in microseconds or records."""

    def __init__(self, delay: Span | LabelDelay, random: np.random.Generator) -> None:
        self._delay = delay
        self._random = random

    def __call__(self) -> int:
        delay = self._delay
        if isinstance(delay, Span):
            return _amount(delay)
        if delay.distribution == "exponential":
            return round(self._random.exponential(_amount(delay.mean)))
        return round(self._random.uniform(_amount(delay.low), _amount(delay.high)))


def _checked(stream: Stream) -> Span | LabelDelay | None:
    """The delay of labels, if this stream can be played with it. Raises DataError."""
    if stream.simulate.label_delay == AT:
        return Span(us=0) if stream.axis == "time" else Span(records=0)
    delay = stream.simulate.delay
    where = f"stream {stream.name}, simulate.label_delay"
    if isinstance(delay, LabelDelay):
        spans = [delay.mean] if delay.distribution == "exponential" else [delay.low, delay.high]
        needed = "`mean`" if delay.distribution == "exponential" else "`low` and `high`"
        if None in spans:
            raise DataError(f"{where}: a {delay.distribution} distribution needs {needed}")
        if len({span.us is None for span in spans if span is not None}) > 1:
            raise DataError(f"{where}: expected two durations or two numbers of records")
    if delay is not None and _is_duration(delay) and not stream.has_time:
        raise DataError(
            f"{where}: {stream.simulate.label_delay!r} is a duration, but the stream has no event "
            "time",
            hint="give a number of records",
        )
    return delay


def _is_duration(delay: Span | LabelDelay) -> bool:
    if isinstance(delay, Span):
        return delay.us is not None
    span = delay.mean or delay.high
    return span is not None and span.us is not None


def _amount(span: Span | None) -> int:
    if span is None:
        return 0
    return span.us if span.us is not None else span.records or 0
