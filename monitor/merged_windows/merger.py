"""Merge partial aggregates from the topic `parts` into events for the topic `windows`.

Input: records from `parts`. Output: window events, and the offset to commit for `parts`. Windows of
the same kind are published in order. A window is complete when all partitions' watermarks have
passed its end.
"""

import logging
from collections.abc import Mapping

from driftline.broker.port import Committed, Message
from driftline.config.stream import Stream
from driftline.errors import DataError
from driftline.logs import alike
from driftline.wire.envelope import decode, parts_decoder
from driftline.wire.partial_aggregates import DataAggregates
from driftline.wire.window_events import (
    DataWindow,
    PerformancePane,
    PerformanceWindow,
    WindowsEvent,
)
from monitor.bottom_k_sample import Sample
from monitor.merged_windows.closed_panes import Kind, MergeProgress
from monitor.merged_windows.data_windows import DataWindows
from monitor.merged_windows.performance_windows import PerformanceWindows
from monitor.panes import Grid
from monitor.reference.references import Profiles, References

log = logging.getLogger(__name__)


class Merger:
    """Merges one stream's partial aggregates into windows. After a restart, rereading `parts`
    rebuilds open windows."""

    def __init__(
        self, stream: Stream, references: References, profiles: Profiles, committed: Committed
    ) -> None:
        self._data = DataWindows(stream, profiles)
        self._performance = PerformanceWindows(stream, references)
        self._grid = Grid.of(stream).name
        self._progress = MergeProgress(stream.kafka.partitions, committed, self._grid)

    @property
    def samples(self) -> Mapping[str, tuple[str, Sample]]:
        """Return (model, sample) by window id for the newest windows with findings."""
        return self._data.samples

    def read(self, message: Message) -> None:
        """Add one record from `parts`."""
        progress = self._progress
        progress.read(message.offset)
        try:
            event = decode(parts_decoder, message)
        except DataError as error:
            log.warning(
                "skipping a record of `parts` that is not a partial aggregate: %s",
                error.message,
                extra=alike(error.message),
            )
            return
        if event.grid != self._grid:  # written before `[windows]` in the stream file changed
            return
        kind: Kind = "data" if isinstance(event, DataAggregates) else "performance"
        before = progress.closed(kind)
        if isinstance(event, DataAggregates):
            self._data.add(message.offset, event, closed=before)
        else:
            self._performance.add(message.offset, event, closed=before)
        if event.passed is not None:
            progress.advance(message.offset, kind, event.partition, event.passed)

    def skip(self, offset: int) -> None:
        """Skip the record at `offset`."""
        self._progress.read(offset)

    def complete(self) -> list[WindowsEvent]:
        """Return the next events to publish, if any: at most one data window, then the new panes
        of at most one performance window, and then this performance window if it is complete."""
        return [*self._complete_data(), *self._complete_performance()]

    def _complete_data(self) -> list[DataWindow]:
        progress, closed = self._progress, self._progress.closed("data")
        complete = progress.complete("data")
        if complete is None:
            return []
        closed, window = self._data.close(closed, complete)
        progress.close("data", closed)
        return [] if window is None else [window]

    def _complete_performance(self) -> list[PerformancePane | PerformanceWindow]:
        progress, closed = self._progress, self._progress.closed("performance")
        complete = progress.complete("performance")
        while complete is not None and (closed is None or closed < complete):
            closed, events = self._performance.close(closed, complete)
            progress.close("performance", closed)
            if events:
                return events
        return []

    def checkpoint(self) -> Committed:
        """Return the offset to commit for `parts`."""
        needed = [n for n in (self._data.needed(), self._performance.needed()) if n is not None]
        return self._progress.checkpoint(min(needed, default=None))
