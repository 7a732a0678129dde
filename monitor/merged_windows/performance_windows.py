"""Merge panes' partial aggregates into performance windows, and test whether errors have increased.

Input: `PerformanceAggregates` from `parts`. Output: a `PerformancePane` event for the detectors
when a pane is complete, and a `PerformanceWindow` event with the realised metric when a window is
complete.
"""

from collections.abc import Sequence
from math import isfinite
from typing import Final

import numpy as np

from driftline.config.stream import Stream
from driftline.learning.ranking import placements
from driftline.wire.events import event_id
from driftline.wire.partial_aggregates import ModelAggregate, PaneAggregate, PerformanceAggregates
from driftline.wire.values import format_time, parse_time
from driftline.wire.window_events import PerformanceGroup, PerformancePane, PerformanceWindow
from monitor.bottom_k_sample import BottomKSample
from monitor.metric_sums import Tally, compare_error
from monitor.optional import optional
from monitor.panes import Grid, later
from monitor.partition_windows.aggregate_outcomes import errors_kept
from monitor.parts_codec import unpack_errors
from monitor.reference.judge import Judge
from monitor.reference.references import References
from monitor.tallies import new_tally

# Share of `[drift] false_alarm_rate` for the test of a window's mean error. Together with the error
# detectors, it is a quarter of the rate: there are four kinds of drift events.
WINDOWS_SHARE: Final = 0.05


class PerformanceWindows:
    """Merges partial aggregates into performance panes and windows."""

    def __init__(self, stream: Stream, references: References) -> None:
        self._stream = stream
        self._grid = Grid.of(stream)
        self._references = references
        self._judge = Judge(stream)
        self._limit = errors_kept(stream)
        # Slides of incomplete windows, by index. `add` adds slides, and `close` removes them.
        self._slides: dict[int, _Slide] = {}

    def needed(self) -> int | None:
        """Return the oldest offset in `parts` that an incomplete window needs, or None."""
        return min((slide.first_offset for slide in self._slides.values()), default=None)

    def add(self, offset: int, aggregates: PerformanceAggregates, *, closed: int | None) -> None:
        """Add the aggregates from the record at `offset`. Panes before `closed` have already been
        published."""
        for aggregate in aggregates.panes:
            index = aggregate.index // self._grid.panes
            if closed is not None and index < self._first_open(closed):
                continue
            slide = self._slides.get(index)
            if slide is None:
                slide = self._slides[index] = _Slide(offset)
            slide.late += aggregate.late
            slide.revised += aggregate.revised
            slide.lost += aggregate.lost
            slide.dead_letters += aggregate.dead_letters
            self._merge(slide, aggregates.partition, aggregate)

    def close(
        self, closed: int | None, complete: int
    ) -> tuple[int, list[PerformancePane | PerformanceWindow]]:
        """Return the index of the first pane that remains unpublished, and the first open window's
        events: its newly complete panes, then the window itself if it is complete. Panes before
        `closed` have already been published. All panes with an index below `complete` are complete.
        """
        first = None if closed is None else self._first_open(closed)
        index = self._grid.window_after(first, self._slides)
        if index is None:
            return complete, []
        window_end = (index + self._grid.overlap) * self._grid.panes
        end = min(window_end, complete)
        panes = {pane: models for s in self._of(index) for pane, models in s.panes.items()}
        events: list[PerformancePane | PerformanceWindow] = [
            event
            for pane in sorted(panes)
            if pane < end and (closed is None or pane >= closed)
            for event in self._pane_events(pane, panes[pane])
        ]
        if end == window_end:
            events.append(self._window_event(index, self._of(index)))
            self._slides.pop(index, None)  # all later windows start after this slide
        return end, events

    def _first_open(self, closed: int) -> int:
        """Return the first incomplete window, assuming that only panes before `closed` are
        complete."""
        return closed // self._grid.panes - self._grid.overlap + 1

    def _of(self, index: int) -> "list[_Slide]":
        places = range(index, index + self._grid.overlap)
        return [self._slides[place] for place in places if place in self._slides]

    def _merge(self, slide: "_Slide", partition: int, aggregate: PaneAggregate) -> None:
        models = slide.panes.setdefault(aggregate.index, {})
        for own in aggregate.models:
            if own.loss != self._stream.judged_by.loss:
                continue  # written before the metric in the stream file changed
            if (model := models.get(own.model)) is None:
                model = models[own.model] = _Model(self._stream, self._limit)
            model.add(own, partition)

    # ---- complete panes and windows -------------------------------------------------------------

    def _pane_events(self, pane: int, models: "dict[str, _Model]") -> list[PerformancePane]:
        start, end = self._grid.bounds(pane)
        ordered = sorted(
            # Driftline writes no aggregate without records, but other programs might.
            ((name, model) for name, model in models.items() if model.tally.records),
            key=lambda item: (item[1].last, item[0]),
        )
        return [
            PerformancePane(
                id=event_id("pane", self._stream.name, start, end, name),
                index=pane,
                start=start,
                end=end,
                model=name,
                records=model.tally.records,
                errors=model.errors(),
                loss=self._stream.judged_by.loss,
                reference_error=self._reference_error(name),
                first_position=model.first,
                last_position=model.last,
                row=model.row,
                time=None if model.time_us is None else format_time(model.time_us),
                error_inflation=self._error_inflation(name),
                trained_on=self._trained_on(name),
                error_scale=self._references.error_scale(name),
            )
            for name, model in ordered
        ]

    def _reference_error(self, model: str) -> float | None:
        held = self._references.held_errors(model)
        return None if held is None else _finite(held.mean)

    def _error_inflation(self, model: str) -> float:
        """Return the variance inflation of the mean of a pane's errors. It also accounts for errors
        that are not independent although their records are, see `HeldErrors.dependence`."""
        held = self._references.held_errors(model)
        inflation = self._references.error_inflation(model)
        return inflation if held is None else inflation * held.dependence

    def _trained_on(self, model: str) -> int | None:
        reference = self._references.of(model)
        return None if reference is None else reference.rows

    def _window_event(self, index: int, slides: "Sequence[_Slide]") -> PerformanceWindow:
        stream = self._stream
        whole = new_tally(stream.judged_by)
        row = time_us = None
        # Largest record position and tally, by model.
        models: dict[str, tuple[int, Tally]] = {}
        for pane in (models for slide in slides for models in slide.panes.values()):
            for name, own in pane.items():
                if not own.tally.records:
                    continue
                last, tally = models.get(name) or (own.last, new_tally(stream.judged_by))
                tally.merge(own.tally)
                whole.merge(own.tally)
                models[name] = (max(last, own.last), tally)
                row, time_us = later(row, own.row), later(time_us, own.time_us)
        ordered = sorted(models.items(), key=lambda item: (item[1][0], item[0]))
        start, end = self._grid.window(index)
        revised = sum(slide.revised for slide in slides)
        dead_letters = sum(slide.dead_letters for slide in slides)
        lost = sum(slide.lost for slide in slides)
        return PerformanceWindow(
            id=event_id("window", stream.name, "performance", start, end),
            index=index,
            start=start,
            end=end,
            records=whole.records,
            late=sum(slide.late for slide in slides),
            revised=revised,
            lost=lost,
            dead_letters=dead_letters,
            quality=self._judge.window(whole.records + revised, dead_letters, lost),
            row=row,
            time=None if time_us is None else format_time(time_us),
            metric=stream.judged_by.name,
            value=_metric(whole),
            standard_error=_standard_error(whole),
            groups=tuple(self._group(name, tally) for name, (_, tally) in ordered),
        )

    def _outcomes_per_block(self, records: int) -> float | None:
        """Return the number of outcomes per stated block, given the number in a window."""
        block = self._stream.block
        return None if block is None else block * records / self._stream.window_size

    def _group(self, model: str, tally: Tally) -> PerformanceGroup:
        stream = self._stream
        found = None
        held = self._references.held_errors(model)
        if held is not None and tally.records >= stream.windows.min_records:
            found = optional(
                lambda: compare_error(
                    tally,
                    held,
                    variance_inflation=inflation_within_block(
                        self._references.error_inflation(model),
                        tally.records,
                        len(held.values),
                        self._outcomes_per_block(tally.records),
                    ),
                    level=WINDOWS_SHARE * stream.drift.false_alarm_rate,
                    min_loss=stream.drift.min_metric_loss,
                ),
                None,
                f"a performance window is published without a test of model {model}",
            )
        return PerformanceGroup(
            model=model,
            records=tally.records,
            metric=_metric(tally),
            error=_finite(tally.error()),
            reference_error=None if found is None else found.reference_error,
            p_value=None if found is None else found.p_value,
            worse=found is not None and found.is_degraded,
            standard_error=_standard_error(tally),
            error_scale=self._references.error_scale(model),
        )


def inflation_within_block(
    inflation: float, records: int, held_out: int, of_block: float | None
) -> float:
    """Return the variance inflation with which a window of `records` outcomes is compared with
    `held_out` held-out errors. `of_block` is the number of outcomes in the block that the stream
    file states. If the window or the held-out errors cover less than a block, they count as a
    single independent record, because they may cover only a part of a season.

    >>> inflation_within_block(1.5, 2_000, 3_000, 1_440.0)
    1.5
    >>> inflation_within_block(1.5, 250, 3_000, 1_440.0)
    3000.0
    """
    if of_block is not None and min(records, held_out) < of_block:
        return float(max(records, held_out))
    return inflation


class _Model:
    """One model's merged outcomes in one pane."""

    def __init__(self, stream: Stream, limit: int) -> None:
        self._is_ranking = stream.judged_by.is_ranking
        self.tally = new_tally(stream.judged_by)
        self.first = self.last = 0
        self.row: int | None = None
        self.time_us: int | None = None
        self._sample = BottomKSample(limit)

    def add(self, chunk: ModelAggregate, partition: int) -> None:
        """Add a chunk of a partition's partial aggregate."""
        if chunk.first is not None and chunk.last is not None:
            is_new = not self.tally.records
            self.first = chunk.first if is_new else min(self.first, chunk.first)
            self.last = chunk.last if is_new else max(self.last, chunk.last)
        self.tally.merge_aggregate(chunk)
        self.row = later(self.row, chunk.row)
        self.time_us = later(self.time_us, None if chunk.time is None else parse_time(chunk.time))
        if chunk.sample is not None:
            self._sample.add(unpack_errors(chunk.sample, partition))

    def errors(self) -> tuple[float, ...]:
        """Return the sampled errors, ordered by label position, then by record position. For a
        ranking metric, these are the placements of the positive class within the sample."""
        if not len(self._sample):
            return ()
        rows = self._sample.rows()
        own, errors, *codes = rows.values
        order = np.lexsort((rows.offsets, rows.partitions, rows.hashes, own, rows.positions))
        if self._is_ranking:
            placed: list[float] = placements(codes[0][order], errors[order] > 0).tolist()
            return tuple(placed)
        found: list[float] = errors[order].tolist()
        return tuple(found)


def _metric(tally: Tally) -> float | None:
    return _finite(tally.metric()) if tally.records else None


def _standard_error(tally: Tally) -> float | None:
    """Return the metric's standard error, or None if the metric is undefined."""
    return None if _metric(tally) is None else _finite(tally.standard_error())


def _finite(value: float) -> float | None:
    return value if isfinite(value) else None


class _Slide:
    """One slide's merged partial aggregates, read from `parts` starting at `first_offset`."""

    def __init__(self, first_offset: int) -> None:
        self.first_offset = first_offset
        self.late = 0
        self.revised = 0
        self.lost = 0
        self.dead_letters = 0
        self.panes: dict[int, dict[str, _Model]] = {}
