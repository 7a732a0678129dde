"""Data windows: what all partitions put into a window, merged, and tested when it is complete.

In: `DataParts`. Out: `DataWindow` events, and the sample of a window in which something was found
(for its report).
"""

from collections import OrderedDict
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from driftline.codec.columns import Columns
from driftline.codec.records import format_time, parse_time
from driftline.events import DataGroup, DataParts, DataWindow, GroupPart, WindowPart, event_id
from driftline.stream import Stream
from monitor.judge import Judge
from monitor.parts import unpack_records
from monitor.progress import Grid
from monitor.references import Profiles
from monitor.sample import Sample, Smallest
from monitor.watched import watched

# Samples of windows with findings wait here for their report to be asked for, which happens once
# the window has come back from the log.
KEPT_SAMPLES: Final = 4


class DataWindows:
    """Merges parts into data windows."""

    def __init__(self, stream: Stream, profiles: Profiles) -> None:
        self._stream = stream
        self._grid = Grid.of(stream)
        self._profiles = profiles
        self._judge = Judge(stream)
        self._columns = watched(stream)
        self._names = tuple(column.name for column in self._columns)
        self._open: dict[int, _Window] = {}
        self.samples: OrderedDict[str, tuple[str, Sample]] = OrderedDict()  # window → model, sample

    def needed(self) -> int | None:
        """Offset of the oldest record of a window that is not complete."""
        return min((window.first_offset for window in self._open.values()), default=None)

    def add(self, offset: int, parts: DataParts, *, closed: int | None) -> None:
        """Take in the record at this offset; windows before `closed` were published."""
        for part in parts.windows:
            if closed is not None and part.index < closed:
                continue
            window = self._open.get(part.index)
            if window is None:
                window = self._open[part.index] = _Window(offset)
            self._merge(window, parts.partition, part)

    def close(self, complete: int) -> DataWindow | None:
        """The first window, if it is before `complete`, the first that is not complete."""
        index = min(self._open, default=complete)
        return self._window(index, self._open.pop(index)) if index < complete else None

    def _merge(self, window: "_Window", partition: int, part: WindowPart) -> None:
        window.late += part.late
        window.row = later(window.row, part.row)
        window.time_us = later(window.time_us, None if part.time is None else parse_time(part.time))
        for piece in part.groups:
            group = window.groups.get(piece.model)
            if group is None:
                group = _Group(self._stream.windows.max_sample)
                window.groups[piece.model] = group
            group.add(piece)
            if piece.sample is not None:
                group.sample.add(unpack_records(piece.sample, partition, self._names))

    # ---- complete windows -----------------------------------------------------------------------

    def _window(self, index: int, window: "_Window") -> DataWindow:
        identity = event_id("window", self._stream.name, "data", index)
        ordered = sorted(window.groups.items(), key=lambda item: (item[1].last, item[0]))
        return DataWindow(
            id=identity,
            index=index,
            start=index * self._grid.size,
            end=(index + 1) * self._grid.size,
            records=sum(group.records for group in window.groups.values()),
            late=window.late,
            row=window.row,
            time=None if window.time_us is None else format_time(window.time_us),
            groups=tuple(self._test(identity, model, group) for model, group in ordered),
        )

    def _test(self, identity: str, model: str, group: "_Group") -> DataGroup:
        profile = self._profiles.of(model)
        few = group.records < self._stream.windows.min_records or not len(group.sample)
        if profile is None or few:
            return self._judge.untested(model, group.records)
        sample = self._sample(group)
        result = self._judge.test(model, group.records, sample, profile)
        if (estimator := self._profiles.estimator(model)) is not None:
            estimate = estimator.estimate(sample, group.records)
            result = msgspec.structs.replace(result, estimate=estimate)
        everything = (*result.columns, *filter(None, [result.prediction]))
        found = any(column.drifted or column.quality for column in everything)
        if found or result.relations or result.repeated:
            self.samples[identity] = (model, sample)
            if len(self.samples) > KEPT_SAMPLES:
                self.samples.popitem(last=False)
        return result

    def _sample(self, group: "_Group") -> Sample:
        rows = group.sample.rows().ordered()
        numbers: dict[str, NDArray[Any]] = {}
        categories: dict[str, NDArray[Any]] = {}
        for (name, kind, _), values in zip(self._columns, rows.values, strict=False):
            (numbers if kind == "number" else categories)[name] = values
        # The same id has the same hash; that two ids have one happens once in 80 windows of 10,000.
        repeated = len(rows) - len(np.unique(rows.hashes))
        columns = Columns(numbers, categories, len(rows))
        return Sample(columns, rows.values[-1], rows.scores, repeated)


class _Group:
    """What is known of one model's records in one window."""

    def __init__(self, limit: int) -> None:
        self.records = 0
        self.last = 0  # largest position
        self.sample = Smallest(limit)

    def add(self, piece: GroupPart) -> None:
        if piece.last is not None:
            self.last = piece.last if not self.records else max(self.last, piece.last)
        self.records += piece.records


class _Window:
    """What is known of one window, from the record at `first_offset` on."""

    def __init__(self, first_offset: int) -> None:
        self.first_offset = first_offset
        self.late = 0
        self.row: int | None = None
        self.time_us: int | None = None
        self.groups: dict[str, _Group] = {}


def later(known: int | None, new: int | None) -> int | None:
    """The larger of two, either of which may be unknown."""
    return max((value for value in (known, new) if value is not None), default=None)
