"""Outcomes of each partition, gathered by pane and model: sums, and a sample of errors.

In: outcomes, partition by partition. Out: `PerformanceParts` for the topic `parts`, as soon as a
partition has passed a pane. Outcomes are published exactly once by the join, so none is looked for
twice; only a record's first label counts.
"""

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from driftline.broker.port import Committed, Message, Outgoing
from driftline.codec.records import format_time, parse_time
from driftline.events import ModelPart, PanePart, PerformanceParts, Value
from driftline.stream import Stream
from driftline.topics import Topics
from monitor.metrics import new_tally
from monitor.parts import MAX_PAIRS, pack_errors, records
from monitor.progress import BEFORE_ALL, PANES, Arrivals, Ints, Slot, Track, distinct
from monitor.sample import Rows, Smallest, hashes_of
from monitor.scored import ints, largest, with_marks

log = logging.getLogger(__name__)


class _Outcome(msgspec.Struct, frozen=True, gc=False, tag_field="type", tag="outcome"):
    """What is needed of an outcome; the record and its scores are passed over."""

    record_id: str
    time: str | None
    row: int | None
    prediction: Value
    model: str
    label: Value
    label_time: str | None
    label_row: int | None
    revision: int


class _Watermark(msgspec.Struct, frozen=True, gc=False, tag_field="type", tag="watermark"):
    position: int


_decoder = msgspec.json.Decoder(_Outcome | _Watermark)


def errors_kept(stream: Stream) -> int:
    """As many errors a window as its data windows keep records."""
    return max(1, stream.windows.max_sample // PANES)


class PerformanceGathering:
    """Turns the outcomes of the partitions that this worker reads into parts."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._topic = Topics(stream).parts
        self._by_row = stream.axis == "row"
        self._limit = errors_kept(stream)
        self._tracks: dict[int, Track[_Part]] = {}

    def resume(self, partition: int, committed: Committed) -> None:
        """Start reading a partition at a committed position."""
        self._tracks[partition] = Track(self._stream, committed, _Part, panes=1)

    def drop(self, partition: int) -> None:
        """Forget a partition."""
        self._tracks.pop(partition, None)

    def holds(self) -> dict[int, Committed]:
        """Per partition, what to commit."""
        return {partition: track.hold() for partition, track in self._tracks.items()}

    def read(self, partition: int, messages: Sequence[Message]) -> list[Outgoing]:
        """Take in outcomes of one partition, in its order; returns what it has passed."""
        track = self._tracks[partition]
        track.next_offset = messages[-1].offset + 1
        self._gather(track, partition, messages)
        if (closed := track.close()) is None:
            return []
        passed, slots = closed
        pieces = [piece for pane, slot in slots for piece in self._pieces(pane, slot)]
        end = PerformanceParts(partition=partition, passed=passed, panes=())
        return records(self._topic, end, pieces)

    # ---- gathering ------------------------------------------------------------------------------

    def _gather(self, track: "Track[_Part]", partition: int, messages: Sequence[Message]) -> None:
        read = _Read(messages, by_row=self._by_row)
        if not len(read.arrivals.offsets):
            return
        cells, counting = track.admit(read.arrivals)
        if read.arrivals.marks is not None:  # from here on, records alone
            cells, counting = cells[~read.arrivals.marks], counting[~read.arrivals.marks]
        revised = counting & (np.array([o.revision for o in read.outcomes]) > 0)
        if revised.any():
            for pane in distinct(cells[revised]):
                track.slots[pane].part.revised += int(np.count_nonzero(revised & (cells == pane)))
            counting = counting & ~revised
        if not counting.any():
            return
        hashes = hashes_of([outcome.record_id for outcome in read.outcomes])
        for pane in distinct(cells[counting]):
            own = np.flatnonzero(counting & (cells == pane))
            part = track.slots[pane].part
            by_model: dict[str, list[int]] = {}
            for place in own.tolist():
                by_model.setdefault(read.outcomes[place].model, []).append(place)
            for model, places in by_model.items():
                if (of_model := part.models.get(model)) is None:
                    of_model = part.models[model] = _Model(self._stream, self._limit)
                of_model.add(read, hashes, partition, np.array(places))

    # ---- publishing -----------------------------------------------------------------------------

    def _pieces(self, pane: int, slot: "Slot[_Part]") -> Iterator[PanePart]:
        """A pane's part, in pieces that add up: each with one piece of one model's sums."""
        part = slot.part
        models = [piece for name, model in part.models.items() for piece in model.pieces(name)]
        yield PanePart(index=pane, late=slot.late, revised=part.revised, models=tuple(models[:1]))
        for model in models[1:]:
            yield PanePart(index=pane, models=(model,))


class _Read:
    """The outcomes of a batch of one partition; what cannot be read is left out and said."""

    def __init__(self, messages: Sequence[Message], *, by_row: bool) -> None:
        self.outcomes: list[_Outcome] = []
        offsets: list[int] = []
        marks: list[tuple[int, int]] = []
        for message in messages:
            try:
                event = _decoder.decode(message.value or b"")
            except msgspec.DecodeError as error:
                where = f"{message.topic}[{message.partition}]@{message.offset}"
                log.warning("not an outcome, left out: %s: %s", where, error)
                continue
            if isinstance(event, _Watermark):
                marks.append((message.offset, event.position))
            elif (event.row is None) if by_row else (event.time is None):
                log.warning("outcome of %r has no position, left out", event.record_id)
            else:
                self.outcomes.append(event)
                offsets.append(message.offset)
        self.offsets = ints(offsets)
        self.rows = ints([BEFORE_ALL if o.row is None else o.row for o in self.outcomes])
        self.times_us = ints(
            [BEFORE_ALL if o.time is None else parse_time(o.time) for o in self.outcomes]
        )
        self.own = self.rows if by_row else self.times_us
        if by_row:
            known = [o.row if o.label_row is None else o.label_row for o in self.outcomes]
        else:
            known = [
                own if o.label_time is None else parse_time(o.label_time)
                for o, own in zip(self.outcomes, self.own.tolist(), strict=True)
            ]
        self.positions = np.array(known, dtype=np.int64)
        arrivals = Arrivals(self.offsets, self.positions)
        self.arrivals = with_marks(arrivals, marks) if marks else arrivals


class _Model:
    """One partition's outcomes of one model in one pane."""

    def __init__(self, stream: Stream, limit: int) -> None:
        self._tally = new_tally(stream.task)
        self._sample = Smallest(limit)
        self._first: int | None = None
        self._last: int | None = None
        self._row: int | None = None
        self._time_us: int | None = None

    def add(
        self, read: _Read, hashes: NDArray[np.uint32], partition: int, at: NDArray[Any]
    ) -> None:
        """Count in the outcomes at these places."""
        outcomes = [read.outcomes[place] for place in at]
        errors = self._tally.add([o.label for o in outcomes], [o.prediction for o in outcomes])
        own: Ints = read.own[at]
        first = int(own.min())
        self._first = first if self._first is None else min(self._first, first)
        self._last = largest(own, self._last)
        self._row = largest(read.rows[at], self._row)
        self._time_us = largest(read.times_us[at], self._time_us)
        self._sample.add(
            Rows(
                hashes[at],
                read.positions[at],
                np.full(len(at), partition),
                read.offsets[at],
                (own, errors),
            )
        )

    def pieces(self, name: str) -> Iterator[ModelPart]:
        """For the wire, in pieces that add up."""
        pairs, sums = self._tally.packed()
        samples = pack_errors(self._sample.rows())
        yield ModelPart(
            model=name,
            records=self._tally.records,
            first=self._first,
            last=self._last,
            pairs=pairs[:MAX_PAIRS],
            sums=sums,
            sample=next(samples),
            row=self._row,
            time=None if self._time_us is None else format_time(self._time_us),
        )
        for start in range(MAX_PAIRS, len(pairs), MAX_PAIRS):
            yield ModelPart(model=name, pairs=pairs[start : start + MAX_PAIRS])
        for sample in samples:
            yield ModelPart(model=name, sample=sample)


class _Part:
    """What one partition has in one pane."""

    def __init__(self) -> None:
        self.revised = 0
        self.models: dict[str, _Model] = {}
