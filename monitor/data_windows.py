"""Data windows: scored records gathered by window and model, tested when the window closes.

In: predictions, partition by partition. Out: `DataWindow` events, and the sample of a window in
which something was found (for its report). Memory is columns times sample, not traffic.
"""

import logging
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from driftline.broker.port import Committed, Message
from driftline.codec.columns import Batch, Columns
from driftline.codec.envelope import decode, predictions_decoder
from driftline.codec.records import RecordCodec, format_time
from driftline.errors import DataError
from driftline.events import DataGroup, DataWindow, Prediction, Watermark, event_id
from driftline.stream import Stream
from monitor.judge import Judge, Profile, watched
from monitor.progress import Progress, Track
from monitor.quality import Counts
from monitor.references import References
from monitor.sample import Chunk, Sample, SampleBuilder, merge

log = logging.getLogger(__name__)

# Samples of windows with findings wait here for their report to be asked for, which happens once
# the window has come back from the log.
KEPT_SAMPLES = 4
KEPT_PROFILES = 4  # as many as there are references


class DataWindows:
    """Turns predictions into data windows."""

    def __init__(self, stream: Stream, references: References) -> None:
        self._stream = stream
        self._references = references
        self._codec = RecordCodec(stream)
        self._judge = Judge(stream)
        self._names = [column.name for column in watched(stream)]
        self._profiles: OrderedDict[str, Profile | None] = OrderedDict()
        self._progress: Progress[_Part] = Progress(stream, self._new_part)
        self.samples: OrderedDict[str, tuple[str, Sample]] = OrderedDict()  # window → model, sample

    def resume(self, partition: int, committed: Committed) -> None:
        """Start reading a partition at a committed position."""
        self._progress.resume(partition, committed)

    def drop(self, partition: int) -> None:
        """Forget a partition."""
        self._progress.drop(partition)

    def holds(self) -> dict[int, Committed]:
        """Per partition, what to commit."""
        return self._progress.holds()

    def read(self, messages: Sequence[Message]) -> None:
        """Take in predictions, each partition in its order."""
        by_partition: defaultdict[int, list[Message]] = defaultdict(list)
        for message in messages:
            by_partition[message.partition].append(message)
        for partition, own in by_partition.items():
            self._read_partition(self._progress.track(partition), own)

    def close(self) -> list[DataWindow]:
        """The windows that have become complete, in order."""
        if (moved := self._progress.close()) is None:
            return []
        events = []
        for window in self._progress.open_windows():
            if (window + 1) * self._progress.grid.size > moved[1]:
                break
            events.append(self._close_window(window))
            self._progress.forget(window)
        return events

    # ---- gathering ------------------------------------------------------------------------------

    def _new_part(self) -> "_Part":
        return _Part(self._stream)

    def _read_partition(self, track: "Track[_Part]", messages: Sequence[Message]) -> None:
        events: list[tuple[Message, Prediction | Watermark]] = []
        for message in messages:
            track.next_offset = message.offset + 1
            try:
                events.append((message, decode(predictions_decoder, message)))
            except DataError as error:
                log.warning("not a prediction, left out: %s", error.message)
        scored = [event for _, event in events if isinstance(event, Prediction)]
        batch = self._codec.decode([bytes(event.record) for event in scored])
        for rejected in batch.rejected:
            log.warning(
                "scored record %r cannot be read by this stream file, left out: %s",
                scored[rejected.index].record_id,
                rejected.reason,
            )
        self._gather(track, events, batch)

    def _gather(
        self,
        track: "Track[_Part]",
        events: Iterable[tuple[Message, Prediction | Watermark]],
        batch: Batch,
    ) -> None:
        positions = batch.rows if self._stream.axis == "row" else batch.times_us
        place_of = {index: place for place, index in enumerate(batch.kept)}
        chosen: defaultdict[tuple[int, str], list[tuple[int, Message, Prediction]]]
        chosen = defaultdict(list)
        scored = 0
        for message, event in events:
            if isinstance(event, Watermark):
                track.advance(event.position)
                continue
            place = place_of.get(scored)
            scored += 1
            if event.source.offset <= track.source:
                continue  # published twice, after a restart of inference
            position = positions[place] if place is not None else None
            if place is not None and position is not None:
                slot = self._progress.admit(track, message.offset, position)
                if slot is not None:
                    window = self._progress.grid.window_of(position)
                    chosen[window, event.model].append((place, message, event))
            track.source = event.source.offset
        for (window, model), entries in chosen.items():
            part = track.slots[window].part
            part.add(model, self._profile(model), self._names, batch, positions, entries)

    def _profile(self, model: str) -> Profile | None:
        if model not in self._profiles:
            reference = self._references.of(model)
            self._profiles[model] = None if reference is None else Profile(self._stream, reference)
            if len(self._profiles) > KEPT_PROFILES:
                self._profiles.popitem(last=False)
        self._profiles.move_to_end(model)
        return self._profiles[model]

    # ---- closing --------------------------------------------------------------------------------

    def _close_window(self, window: int) -> DataWindow:
        grid = self._progress.grid
        slots = [slot for _, slot in self._progress.slots(window)]
        by_model: defaultdict[str, list[_Group]] = defaultdict(list)
        for slot in slots:
            for model, group in slot.part.groups.items():
                by_model[model].append(group)
        parts = [slot.part for slot in slots]
        identity = event_id("window", self._stream.name, "data", window)
        ordered = sorted(
            by_model.items(), key=lambda item: (max(group.last for group in item[1]), item[0])
        )
        return DataWindow(
            id=identity,
            index=window,
            start=window * grid.size,
            end=(window + 1) * grid.size,
            records=sum(group.records for groups in by_model.values() for group in groups),
            late=sum(slot.late for slot in slots),
            row=max((part.row for part in parts if part.row is not None), default=None),
            time=_largest_time(part.time_us for part in parts),
            groups=tuple(self._close_group(identity, model, groups) for model, groups in ordered),
        )

    def _close_group(self, identity: str, model: str, groups: Sequence["_Group"]) -> DataGroup:
        records = sum(group.records for group in groups)
        profile = self._profile(model)
        if profile is None or records < self._stream.windows.min_records:
            return self._judge.untested(model, records)
        sample = merge([group.sample for group in groups], self._stream.windows.max_sample)
        counts: dict[str, Counts] = {}
        for group in groups:
            for name, (missing, unseen, outside) in group.counts.items():
                a, b, c = counts.get(name, (0, 0, 0))
                counts[name] = (a + missing, b + unseen, c + outside)
        result = self._judge.test(model, records, counts, sample, profile)
        everything = (*result.columns, *filter(None, [result.prediction]))
        if any(column.drifted or column.quality for column in everything):
            self.samples[identity] = (model, sample)
            if len(self.samples) > KEPT_SAMPLES:
                self.samples.popitem(last=False)
        return result


class _Group:
    """What one partition has of one model's records in one window."""

    def __init__(self, limit: int) -> None:
        self.records = 0
        self.last = 0  # largest position
        self.counts: dict[str, Counts] = {}
        self.sample = SampleBuilder(limit)


class _Part:
    """What one partition has in one window."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self.groups: dict[str, _Group] = {}
        self.row: int | None = None
        self.time_us: int | None = None

    def add(
        self,
        model: str,
        profile: Profile | None,
        names: Sequence[str],
        batch: Batch,
        positions: Sequence[int | None],
        entries: Sequence[tuple[int, Message, Prediction]],
    ) -> None:
        """Count records in; `entries` name their places in the batch."""
        places = [place for place, _, _ in entries]
        own = [position for place in places if (position := positions[place]) is not None]
        group = self.groups.get(model)
        if group is None:
            group = self.groups[model] = _Group(self._stream.windows.max_sample)
            group.last = own[0]
        group.records += len(entries)
        group.last = max(group.last, *own)
        self.row = _larger(self.row, (batch.rows[place] for place in places))
        self.time_us = _larger(self.time_us, (batch.times_us[place] for place in places))
        columns = _only(batch.columns, names).take(places)
        if profile is not None:
            for name, (missing, unseen, outside) in profile.count(self._stream, columns).items():
                a, b, c = group.counts.get(name, (0, 0, 0))
                group.counts[name] = (a + missing, b + unseen, c + outside)
        group.sample.add(
            Chunk(
                partition=entries[0][1].partition,
                offsets=np.array([message.offset for _, message, _ in entries], dtype=np.int64),
                positions=np.array(own, dtype=np.int64),
                ids=[event.record_id for _, _, event in entries],
                columns=columns,
                predictions=self._predictions([event for _, _, event in entries]),
            )
        )

    def _predictions(self, events: Sequence[Prediction]) -> NDArray[Any]:
        if self._stream.task == "regression":
            return np.array([event.prediction for event in events], dtype=np.float64)
        values = np.empty(len(events), dtype=object)
        values[:] = [event.prediction for event in events]
        return values


def _only(columns: Columns, names: Sequence[str]) -> Columns:
    return Columns(
        {name: columns.numbers[name] for name in names if name in columns.numbers},
        {name: columns.categories[name] for name in names if name in columns.categories},
        len(columns),
    )


def _larger(known: int | None, values: Iterable[int | None]) -> int | None:
    return max((v for v in (known, *values) if v is not None), default=None)


def _largest_time(values: Iterable[int | None]) -> str | None:
    largest = max((value for value in values if value is not None), default=None)
    return None if largest is None else format_time(largest)
