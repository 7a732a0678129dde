"""Turn a data set into a stream's messages: feature records and labels, in a fixed order.

Input: a stream and a data source. Output: the warm-up rows for the first model, then `Play` items
in the order in which to send them. This module sends nothing and never waits.

`[simulate] label_delay` determines when each label is sent:

- A delay: the label is due at its record's position plus the delay. It is sent before any later
  record with the same or a larger position. Its `@at` is the position at which it became known, on
  the axis of the stream's windows. If the delay is not on that axis (for example, a delay of half
  an hour when windows are spans of records), `@at` is the position of the record at which the label
  became due.
- `"data"`: a row is a record if its target is empty or its id is new. A later row with the same id
  contains the label, which becomes known at that row's time. `@row` counts only feature
  records, not rows that contain labels. (With a delay, `@row` is the number of the data row,
  counted from 0.)
- `"@at"`: each row's `@at` is the position at which its label became known. An empty `@at` means
  that the label was known immediately. `@row`, if present, is the record's number. If an `@at`
  or `@row` is unusable, it is sent unchanged, so that its record or label becomes a dead letter.
  An implausibly large `@row` does not make waiting labels due.
"""

import heapq
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from itertools import islice
from typing import Any, Literal

import msgspec
import numpy as np

from driftline.config.simulate_section import LabelDelay
from driftline.config.spans import Span
from driftline.config.stream import Stream
from driftline.config.stream_sections import AT, ROW
from driftline.errors import DataError
from driftline.runtime.partition_clock import MAX_AHEAD_ROWS, MAX_AHEAD_US, PartitionClock
from driftline.wire.events import MAX_ROW
from driftline.wire.values import MAX_TIME_US
from producers.label_delays import delay_of, drawn, is_duration
from producers.recorded import recorded_row, recorded_time
from producers.rows import Change, Changing, Row, RowSource
from producers.shaping import Shaped, Shaper, Unusable


class Play(msgspec.Struct, frozen=True, gc=False):
    """One message to send.

    row: the last data row (counted from 0) that is read before the message is sent.
    position: the position on the stream's axis; None if the record's event time, or the label's
    `@at`, is unusable.
    """

    kind: Literal["record", "label"]
    row: int
    key: bytes
    value: bytes
    record_id: str | None
    position: int | None


class WarmUp(msgspec.Struct, frozen=True):
    """The first rows of the data, which train the first model. Each record has one label."""

    records: tuple[bytes, ...]
    labels: tuple[str | float, ...]
    rows: int  # number of data rows in the warm-up
    unlabelled: int  # records without a label, which cannot be used for training


class PlayCounts(msgspec.Struct):
    """Counts of the messages returned so far, and of records and labels that were not sent."""

    records: int = 0
    labels: int = 0
    labels_withheld: int = 0  # labels that were not sent because of `label_missing`
    unlabelled: int = 0  # records without a label to send: their row has no target or no id
    labels_of_skipped: int = 0  # labels of warm-up and skipped records, which were not sent


class Playback:
    """Play back one source once. Call `warm_up` or `skip` at most once, and then `play`.

    limit: the maximum number of data rows to read.
    seed: the seed for random label delays and missing labels.
    """

    def __init__(
        self,
        stream: Stream,
        source: RowSource,
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
        # `_absent`: the required columns not found in any row yet, with their keys in the stream
        # file. `_columns`: all columns found so far; not updated once `_absent` is empty.
        self._absent = {stream.target: "target", stream.record.id: "[record] id"}
        self._absent.pop(ROW, None)
        self._columns: set[str] = set()
        rows = self._noted(islice(source.rows(), limit))
        self._rows: Iterator[tuple[int, Row]] = enumerate(rows)
        self._number = 0
        self._delay = delay_of(stream)
        self._max_ahead_us = stream.max_ahead if stream.axis == "time" else MAX_AHEAD_US
        self._recorded = stream.simulate.label_delay == AT
        # This clock ignores implausible numbers. Otherwise, one wrong number would make all labels
        # due.
        self._row_clock = PartitionClock(
            stream.max_ahead if stream.axis == "row" else MAX_AHEAD_ROWS
        )
        self._before: set[str] = (
            set()
        )  # ids of warm-up and skipped rows, if `label_delay` is "data"

    @property
    def total(self) -> int | None:
        """The number of data rows, including the warm-up; None if it is unknown."""
        count = self._source.count()
        return count if count is None or self._limit is None else min(count, self._limit)

    @property
    def changes(self) -> tuple[Change, ...]:
        """The known changes in the data."""
        return self._source.changes if isinstance(self._source, Changing) else ()

    @property
    def next_row(self) -> int:
        """The number of the next feature record."""
        return self._number

    def number_from(self, row: int) -> None:
        """Give the next record a number of at least `row`, to continue a topic's numbers."""
        self._number = max(self._number, row)

    def warm_up(self, share: float) -> WarmUp:
        """Return the first rows for training: a fraction `share` (between 0 and 1) of all rows.

        With `label_delay = "data"`, only records whose label is also among the first rows are used
        for training. `play` counts the later labels of warm-up records, but does not send them.
        Raises DataError, for example if no row contains the target column.
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
            shaped = self._shaper.shape(row, self._number_of(row))
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
        if not labels:
            self.require_columns()
        return WarmUp(tuple(records), tuple(labels), taken, unlabelled + len(open_records))

    def skip(self, rows: int) -> None:
        """Skip the first `rows` data rows. They are numbered, but `play` does not return them."""
        for _, row in islice(self._rows, rows):
            if isinstance(row, bytes) or not self._brings_label(
                self._shaper.shape(row, self._number), self._before
            ):
                self._number += 1

    def play(self) -> Iterator[Play]:
        """Return the records and labels in the order in which to send them."""
        if self._delay is None:
            return self._play_own_labels()
        return self._play_with_delay(self._delay)

    def require_columns(self) -> None:
        """Raise DataError if the target or id column is missing from all rows read so far."""
        for name, key in self._absent.items():
            if self._columns:
                near = get_close_matches(name, self._columns, n=1)
                raise DataError(
                    f"{self._source.name}: column {name!r} (`{key}` in the stream file) is in no "
                    "row",
                    hint=f"did you mean {near[0]!r}?" if near else f"the columns are {self._named}",
                )

    @property
    def _named(self) -> str:
        first = ", ".join(map(repr, sorted(self._columns)[:10]))
        return f"{first}, …" if len(self._columns) > 10 else first

    def _noted(self, rows: Iterable[Row]) -> Iterator[Row]:
        for row in rows:
            if self._absent and not isinstance(row, bytes):
                self._columns.update(row)
                for name in self._absent.keys() & row.keys():
                    del self._absent[name]
            yield row

    def _first(self, share: float) -> int:
        if not 0 < share < 1:
            raise DataError(f"the warm-up must be a share between 0 and 1, got {share}")
        if (total := self.total) is None:
            raise DataError(
                f"{self._source.name}: the number of rows is unknown, so the warm-up (--warmup), a "
                "fraction of the rows, cannot be determined",
                hint="write the data to a file first",
            )
        return int(total * share)

    def _brings_label(self, shaped: Shaped, seen: set[str]) -> bool:
        """Return whether a row has an earlier record's label, and add the row's id to `seen`."""
        if self._delay is not None or shaped.record_id is None:
            return False
        known = shaped.record_id in seen
        seen.add(shaped.record_id)
        return known and shaped.target is not None

    # ---- labels from later rows of the data (`label_delay = "data"`) ----------------------------

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
                # On the row axis, the label becomes known just before the next record.
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

    # ---- labels after a delay -------------------------------------------------------------------

    def _play_with_delay(self, delay: Span | LabelDelay) -> Iterator[Play]:
        """Play records and delayed labels.

        Labels wait in a heap, ordered by their due positions on the delay's axis.
        """
        by_time = is_duration(delay)
        same_axis = by_time == (self._stream.axis == "time")
        last = MAX_ROW if self._stream.axis == "row" else MAX_TIME_US
        waiting: list[tuple[int, int, Shaped, Unusable | None]] = []
        reached = -(2**63)  # the max position of the records so far, on the delay's axis
        reached_us = 0
        # This clock ignores implausible times. Otherwise, one wrong time would make all labels due.
        clock = PartitionClock(self._max_ahead_us)
        index = -1
        for index, row in self._rows:
            if isinstance(row, bytes):
                yield self._unreadable(index, row)
                continue
            shaped = self._shaper.shape(row, self._number_of(row))
            number = self._number
            time_us = shaped.time_us
            if time_us is not None and not clock.believes(time_us):
                time_us = None
            here = time_us if by_time else number
            if by_time and here is None:
                here = max(reached, 0)  # no plausible time: use the max position so far
            reached = max(reached, here or 0)
            reached_us = max(reached_us, time_us or 0)
            at = number if self._stream.axis == "row" else reached_us
            while waiting and waiting[0][0] <= reached:
                due, _, earlier, wrong = heapq.heappop(waiting)
                yield self._label(earlier, index, wrong or (due if same_axis else at))
            yield self._record(shaped, index)
            wait, withheld = drawn(delay, self._random), self._withheld()
            if shaped.target is None or shaped.record_id is None:
                self.counts.unlabelled += 1
            elif withheld:
                self.counts.labels_withheld += 1
            else:
                known = self._known_at(row)
                wrong = known if isinstance(known, Unusable) else None
                due = known if isinstance(known, int) else (here or 0) + wait
                heapq.heappush(waiting, (min(due, last), index, shaped, wrong))
                # Labels without a delay, and labels of late records, are due now.
                while waiting and waiting[0][0] <= reached:
                    due, _, earlier, wrong = heapq.heappop(waiting)
                    yield self._label(earlier, index, wrong or (due if same_axis else at))
        # All rows have been played. Send the remaining labels in the order of their due positions.
        end = self._number if self._stream.axis == "row" else reached_us
        while waiting:
            due, _, earlier, wrong = heapq.heappop(waiting)
            yield self._label(earlier, index, wrong or (due if same_axis else end))

    def _withheld(self) -> bool:
        return bool(self._random.random() < self._stream.simulate.label_missing)

    # ---- recorded numbers and times (`label_delay = "@at"`) -------------------------------------

    def _number_of(self, row: Mapping[str, Any]) -> int | Unusable:
        """Return the number to send with a row: its recorded `@row`, or else `_number`.

        If the recorded number is usable and plausible, `_number` is set to it.
        """
        if not self._recorded:
            return self._number
        found = recorded_row(row.get(ROW), textual=self._source.textual)
        if found is None:
            return self._number
        if isinstance(found, int) and self._row_clock.believes(found):
            self._number = found
        return found

    def _known_at(self, row: Mapping[str, Any]) -> int | Unusable | None:
        """Return the recorded position at which the row's label became known, or None."""
        if not self._recorded:
            return None
        if self._stream.axis == "row":
            return recorded_row(row.get(AT), textual=self._source.textual)
        return recorded_time(row.get(AT))

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

    def _label(self, shaped: Shaped, index: int, at: int | Unusable | None) -> Play:
        record_id = shaped.record_id or ""
        self.counts.labels += 1
        value = self._shaper.label(shaped, record_id, at)
        position = None if isinstance(at, Unusable) else at
        return Play("label", index, shaped.key, value, record_id, position)
