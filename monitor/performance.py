"""Performance panes and windows: outcomes gathered by the position at which the label was known.

In: outcomes, partition by partition. Out: `PerformancePane` events for the detectors and
`PerformanceWindow` events with the realised metric. Outcomes are published exactly once by the
join, so none is looked for twice; only a record's first label counts.
"""

import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence

from driftline.broker.port import Committed, Message
from driftline.codec.envelope import decode, outcomes_decoder
from driftline.codec.records import format_time, parse_time
from driftline.errors import DataError
from driftline.events import (
    Outcome,
    PerformanceGroup,
    PerformancePane,
    PerformanceWindow,
    Watermark,
    event_id,
)
from driftline.stream import Stream
from monitor.metrics import Tally, new_tally, rise
from monitor.progress import PANES, Progress, Track
from monitor.references import References
from monitor.sample import hash_of

log = logging.getLogger(__name__)

Entry = tuple[int, str, int, int, float, int]
"""Label position, id, partition, offset, error, the record's own position: in this order."""


class PerformanceWindows:
    """Turns outcomes into panes and windows."""

    def __init__(self, stream: Stream, references: References) -> None:
        self._stream = stream
        self._references = references
        self._progress: Progress[_Part] = Progress(stream, self._new_part)
        self._by_row = stream.axis == "row"

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
        """Take in outcomes, each partition in its order."""
        for message in messages:
            track = self._progress.track(message.partition)
            track.next_offset = message.offset + 1
            try:
                event = decode(outcomes_decoder, message)
            except DataError as error:
                log.warning("not an outcome, left out: %s", error.message)
                continue
            if isinstance(event, Watermark):
                track.advance(event.position)
            else:
                self._count(track, message, event)

    def close(self) -> list[PerformancePane | PerformanceWindow]:
        """The panes and windows that have become complete, by their end, panes first."""
        if (moved := self._progress.close()) is None:
            return []
        before, reached = moved
        events: list[PerformancePane | PerformanceWindow] = []
        for window in self._progress.open_windows():
            events.extend(self._close_panes(window, before, reached))
            if (window + 1) * self._progress.grid.size <= reached:
                events.append(self._close_window(window))
                self._progress.forget(window)
        return events

    # ---- gathering ------------------------------------------------------------------------------

    def _new_part(self) -> "_Part":
        # As many errors a window as its data windows keep records.
        return _Part(self._stream, max(1, self._stream.windows.max_sample // PANES))

    def _count(self, track: "Track[_Part]", message: Message, event: Outcome) -> None:
        time_us = None if event.time is None else parse_time(event.time)
        own = event.row if self._by_row else time_us
        position = (
            event.label_row
            if self._by_row
            else (None if event.label_time is None else parse_time(event.label_time))
        )
        if position is None:
            position = own
        if position is None:
            log.warning("outcome of %r has no position, left out", event.record_id)
            return
        slot = self._progress.admit(track, message.offset, position)
        if slot is None:
            return
        part = slot.part
        if event.revision:
            part.revised += 1
            return
        model = part.model(event.model)
        error = model.tally.add(event.label, event.prediction)
        entry = (
            position,
            event.record_id,
            message.partition,
            message.offset,
            error,
            position if own is None else own,
        )
        model.pane(self._progress.grid.pane_of(position)).add(entry, event.row, time_us)

    # ---- closing --------------------------------------------------------------------------------

    def _close_panes(
        self, window: int, before: int | None, reached: int
    ) -> Iterable[PerformancePane]:
        slots = [slot for _, slot in self._progress.slots(window)]
        panes: defaultdict[tuple[int, int], defaultdict[str, list[_Pane]]]
        panes = defaultdict(lambda: defaultdict(list))
        for slot in slots:
            for name, model in slot.part.models.items():
                for (start, end), pane in model.panes.items():
                    if end <= reached and (before is None or end > before):
                        panes[end, start][name].append(pane)
        for (end, start), models in sorted(panes.items()):
            closed = [self._pane(start, end, name, parts) for name, parts in models.items()]
            yield from sorted(closed, key=lambda pane: (pane.last_position, pane.model))

    def _pane(self, start: int, end: int, model: str, parts: Sequence["_Pane"]) -> PerformancePane:
        limit = max(1, self._stream.windows.max_sample // PANES)
        entries = _smallest([entry for part in parts for entry in part.entries], limit)
        entries.sort()
        grid = self._progress.grid
        window = grid.window_of(start)
        return PerformancePane(
            id=event_id("pane", self._stream.name, start, model),
            index=window * PANES + (start - window * grid.size) // grid.pane,
            start=start,
            end=end,
            model=model,
            records=sum(part.records for part in parts),
            errors=tuple(entry[4] for entry in entries),
            reference_error=self._reference_error(model),
            first_position=min(part.first for part in parts),
            last_position=max(part.last for part in parts),
            row=_largest(part.row for part in parts),
            time=_time(part.time_us for part in parts),
        )

    def _reference_error(self, model: str) -> float | None:
        reference = self._references.of(model)
        if reference is None or not len(reference.errors):
            return None
        return float(reference.errors.mean())

    def _close_window(self, window: int) -> PerformanceWindow:
        grid, stream = self._progress.grid, self._stream
        slots = [slot for _, slot in self._progress.slots(window)]
        whole = new_tally(stream.task)
        models: dict[str, tuple[int, Tally]] = {}  # last position of a record, sums
        for slot in slots:
            for name, part in slot.part.models.items():
                last, tally = models.get(name) or (part.last, new_tally(stream.task))
                tally.merge(part.tally)
                whole.merge(part.tally)
                models[name] = (max(last, part.last), tally)
        ordered = sorted(models.items(), key=lambda item: (item[1][0], item[0]))
        panes = [
            pane
            for slot in slots
            for part in slot.part.models.values()
            for pane in part.panes.values()
        ]
        return PerformanceWindow(
            id=event_id("window", stream.name, "performance", window),
            index=window,
            start=window * grid.size,
            end=(window + 1) * grid.size,
            records=whole.records,
            late=sum(slot.late for slot in slots),
            revised=sum(slot.part.revised for slot in slots),
            row=_largest(pane.row for pane in panes),
            time=_time(pane.time_us for pane in panes),
            metric=stream.judged_by,
            value=whole.metric(stream.judged_by) if whole.records else None,
            groups=tuple(self._group(name, tally) for name, (_, tally) in ordered),
        )

    def _group(self, model: str, tally: Tally) -> PerformanceGroup:
        stream = self._stream
        found = None
        reference = self._references.of(model)
        if reference is not None and tally.records >= stream.windows.min_records:
            found = rise(
                tally,
                reference.errors,
                level=stream.drift.false_alarm_rate,
                min_loss=stream.drift.min_metric_loss,
            )
        return PerformanceGroup(
            model=model,
            records=tally.records,
            metric=tally.metric(stream.judged_by),
            error=tally.error(),
            reference_error=None if found is None else found.reference_error,
            p_value=None if found is None else found.p_value,
            worse=found is not None and found.worse,
        )


class _Pane:
    """One partition's outcomes of one model in one pane; at most twice `limit` entries."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.entries: list[Entry] = []
        self.records = 0
        self.first = self.last = 0
        self.row: int | None = None
        self.time_us: int | None = None

    def add(self, entry: Entry, row: int | None, time_us: int | None) -> None:
        own = entry[5]
        self.row = _largest((self.row, row))
        self.time_us = _largest((self.time_us, time_us))
        self.first = own if not self.records else min(self.first, own)
        self.last = own if not self.records else max(self.last, own)
        self.records += 1
        self.entries.append(entry)
        if len(self.entries) > 2 * self._limit:
            self.entries = _smallest(self.entries, self._limit)


class _Model:
    """One partition's outcomes of one model in one window."""

    def __init__(self, stream: Stream, limit: int) -> None:
        self._limit = limit
        self.tally = new_tally(stream.task)
        self.panes: dict[tuple[int, int], _Pane] = {}

    @property
    def last(self) -> int:
        """Largest position of a record."""
        return max(pane.last for pane in self.panes.values())

    def pane(self, bounds: tuple[int, int]) -> _Pane:
        if bounds not in self.panes:
            self.panes[bounds] = _Pane(self._limit)
        return self.panes[bounds]


class _Part:
    """One partition's outcomes in one window."""

    def __init__(self, stream: Stream, limit: int) -> None:
        self._stream = stream
        self._limit = limit
        self.models: dict[str, _Model] = {}
        self.revised = 0

    def model(self, name: str) -> _Model:
        if name not in self.models:
            self.models[name] = _Model(self._stream, self._limit)
        return self.models[name]


def _smallest(entries: list[Entry], limit: int) -> list[Entry]:
    """Those with the smallest hash of their id; of one id, by their place in the log."""
    if len(entries) <= limit:
        return entries
    return sorted(entries, key=lambda entry: (hash_of(entry[1]), entry[2], entry[3]))[:limit]


def _largest(values: Iterable[int | None]) -> int | None:
    return max((value for value in values if value is not None), default=None)


def _time(values: Iterable[int | None]) -> str | None:
    largest = _largest(values)
    return None if largest is None else format_time(largest)
