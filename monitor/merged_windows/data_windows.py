"""Merge slides' partial aggregates into data windows, and test complete windows for drift.

Input: `DataAggregates` from `parts`. Output: `DataWindow` events for `windows`. The samples of the
newest windows with findings stay in memory, because reports may need these samples.
"""

from collections import OrderedDict
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from driftline.config.stream import Stream
from driftline.wire.columns import Columns
from driftline.wire.events import event_id
from driftline.wire.partial_aggregates import DataAggregates, SlideAggregate
from driftline.wire.values import format_time, parse_time
from driftline.wire.window_events import DataGroup, DataWindow
from monitor.bottom_k_sample import BottomKSample, Rows, Sample
from monitor.optional import optional
from monitor.panes import Grid, later
from monitor.parts_codec import unpack_records
from monitor.reference.judge import Judge
from monitor.reference.references import Profiles
from monitor.watched_columns import watched

# Number of samples to keep in memory, in addition to one per overlapping window. A report needs its
# window's sample, but is requested only after the window event has been read from `windows`.
KEPT_SAMPLES: Final = 4


class DataWindows:
    """Merges partial aggregates into data windows."""

    def __init__(self, stream: Stream, profiles: Profiles) -> None:
        self._stream = stream
        self._grid = Grid.of(stream)
        self._profiles = profiles
        self._judge = Judge(stream)
        self._columns = watched(stream)
        # Slides of incomplete windows, by index. `add` adds slides, and `close` removes them.
        self._slides: dict[int, _Slide] = {}
        # Model and sample by window id. `_test` adds an entry if a window has findings, and evicts
        # the oldest entry if there are too many.
        self.samples: OrderedDict[str, tuple[str, Sample]] = OrderedDict()

    def needed(self) -> int | None:
        """Return the oldest offset in `parts` that an incomplete window needs, or None."""
        return min((slide.first_offset for slide in self._slides.values()), default=None)

    def add(self, offset: int, aggregates: DataAggregates, *, closed: int | None) -> None:
        """Add the aggregates from the record at `offset`. Windows before `closed` have already been
        published."""
        for aggregate in aggregates.slices:
            if closed is not None and aggregate.index < closed:
                continue
            slide = self._slides.get(aggregate.index)
            if slide is None:
                slide = self._slides[aggregate.index] = _Slide(offset)
            self._merge(slide, aggregates.partition, aggregate)

    def close(self, closed: int | None, complete: int) -> tuple[int, DataWindow | None]:
        """Return the index of the first window that remains unpublished, and the window to publish
        now, or None. Windows before `closed` have already been published. All slides with an index
        below `complete` are complete."""
        end = complete - self._grid.overlap + 1
        # After a restart, windows from `end` on may already have been published.
        if closed is not None and end <= closed:
            return closed, None
        index = self._grid.window_after(closed, self._slides)
        if index is None or index >= end:
            return end, None
        window = self._window(index)
        self._slides.pop(index, None)  # all later windows start after this slide
        return index + 1, window

    def _merge(self, slide: "_Slide", partition: int, aggregate: SlideAggregate) -> None:
        slide.late += aggregate.late
        slide.dead_letters += aggregate.dead_letters
        slide.lost += aggregate.lost
        slide.row = later(slide.row, aggregate.row)
        slide.time_us = later(
            slide.time_us, None if aggregate.time is None else parse_time(aggregate.time)
        )
        for group in aggregate.groups:
            own = slide.groups.setdefault(group.model, _Group(self._stream.windows.max_sample))
            sample = group.sample
            own.add(
                group.records,
                group.last,
                None if sample is None else unpack_records(sample, partition, self._columns),
            )

    # ---- complete windows -----------------------------------------------------------------------

    def _window(self, index: int) -> DataWindow:
        start, end = self._grid.window(index)
        identity = event_id("window", self._stream.name, "data", start, end)
        places = range(index, index + self._grid.overlap)
        # Merge the slides without changing them, because overlapping windows share them.
        slides = [self._slides[place] for place in places if place in self._slides]
        row = time_us = None
        groups: dict[str, _Group] = {}
        for slide in slides:
            row, time_us = later(row, slide.row), later(time_us, slide.time_us)
            for model, own in slide.groups.items():
                if len(slides) == 1:
                    groups[model] = own
                    continue
                group = groups.setdefault(model, _Group(self._stream.windows.max_sample))
                group.add(own.records, own.last, own.sample.rows() if len(own.sample) else None)
        records = sum(group.records for group in groups.values())
        dead_letters = sum(slide.dead_letters for slide in slides)
        lost = sum(slide.lost for slide in slides)
        ordered = sorted(groups.items(), key=lambda item: (item[1].last or 0, item[0]))
        return DataWindow(
            id=identity,
            index=index,
            start=start,
            end=end,
            records=records,
            late=sum(slide.late for slide in slides),
            row=row,
            time=None if time_us is None else format_time(time_us),
            groups=tuple(self._test(identity, model, group) for model, group in ordered),
            dead_letters=dead_letters,
            lost=lost,
            quality=self._judge.window(records, dead_letters, lost),
        )

    def _test(self, identity: str, model: str, group: "_Group") -> DataGroup:
        profile = self._profiles.of(model)
        few = group.records < self._stream.windows.min_records or not len(group.sample)
        if profile is None or few:
            return self._judge.untested(model, group.records)
        sample = self._sample(group)
        result = optional(
            lambda: self._judge.test(model, group.records, sample, profile),
            self._judge.untested(model, group.records),
            f"window {identity} is published without tests for model {model}",
        )
        if (estimator := self._profiles.estimator(model)) is not None:
            estimate = optional(
                lambda: estimator.estimate(sample, group.records),
                None,
                f"window {identity} is published without an estimate for model {model}",
            )
            result = msgspec.structs.replace(result, estimate=estimate)
        everything = (*result.columns, *filter(None, [result.prediction]))
        found = any(column.drifted or column.quality for column in everything)
        if found or result.relations or result.repeated:
            self.samples[identity] = (model, sample)
            if len(self.samples) > KEPT_SAMPLES + self._grid.overlap:
                self.samples.popitem(last=False)
        return result

    def _sample(self, group: "_Group") -> Sample:
        rows = group.sample.rows().ordered()
        numbers: dict[str, NDArray[Any]] = {}
        categories: dict[str, NDArray[Any]] = {}
        for (name, kind, _), values in zip(self._columns, rows.values, strict=False):
            (numbers if kind == "number" else categories)[name] = values
        # Equal ids have equal hashes. In a window of 10,000 records, the probability that at least
        # two different ids have equal hashes is about 1.2%.
        repeated = len(rows) - len(np.unique(rows.hashes))
        columns = Columns(numbers, categories, len(rows))
        return Sample(columns, rows.values[-1], rows.scores, repeated, rows.positions)


class _Group:
    """One model's merged records in one slide or window."""

    def __init__(self, limit: int) -> None:
        self.records = 0
        self.last: int | None = None  # largest record position
        self.sample = BottomKSample(limit)

    def add(self, records: int, last: int | None, sample: Rows | None) -> None:
        self.records += records
        self.last = later(self.last, last)
        if sample is not None:
            self.sample.add(sample)


class _Slide:
    """One slide's merged partial aggregates, read from `parts` starting at `first_offset`."""

    def __init__(self, first_offset: int) -> None:
        self.first_offset = first_offset
        self.late = 0
        self.dead_letters = 0
        self.lost = 0
        self.row: int | None = None
        self.time_us: int | None = None
        self.groups: dict[str, _Group] = {}
