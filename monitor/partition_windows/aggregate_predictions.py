"""Aggregate each Kafka partition's predictions by slide and model into counts and samples.

Input: Kafka messages from `predictions`, one partition at a time. Output: `DataAggregates` for the
topic `parts`, as soon as a slide is closed in a partition. Memory grows with the number of columns
and the sample size, not with traffic. If most records cannot be in a sample, only the others are
fully decoded.
"""

from collections.abc import Iterator, Sequence
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from driftline.broker.port import Committed, Message, Outgoing
from driftline.config.stream import Stream
from driftline.wire.partial_aggregates import DataAggregates, GroupAggregate, SlideAggregate
from driftline.wire.topics import Topics
from driftline.wire.values import format_time
from monitor.bottom_k_sample import BottomKSample, Rows, SampleThreshold, hashes_of
from monitor.panes import Bucket, Grid, Ints, PartitionWindowState, distinct, later
from monitor.partition_windows.read_events import Positions, by_model, largest
from monitor.partition_windows.read_predictions import Scored, ScoredReader
from monitor.parts_codec import pack_records, records
from monitor.watched_columns import watched


class PredictionAggregator:
    """Aggregates the predictions in this worker's partitions."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._topic = Topics(stream).parts
        self._grid = Grid.of(stream).name
        self._reader = ScoredReader(stream)
        # True if most records in the last batch could belong to a sample. `_aggregate` sets this
        # attribute, assuming that the next batch is similar.
        self._most_are_wanted = True
        self._columns = watched(stream)
        self._names = tuple(column.name for column in self._columns)
        # Window state by partition: set by `resume`, removed by `drop`.
        self._states: dict[int, PartitionWindowState[_PartialAggregate]] = {}
        # Sample thresholds by slide and model, shared by this worker's partitions. A threshold
        # exists as long as the slide is open in any of these partitions. Sharing is safe: a record
        # excluded because of another partition's records would not be in the merged sample either.
        # This remains true if the other partition is revoked, because the worker that takes it over
        # rereads its unpublished records.
        self._thresholds: WeakValueDictionary[tuple[int, str], SampleThreshold] = (
            WeakValueDictionary()
        )

    def resume(self, partition: int, committed: Committed) -> None:
        """Start reading a partition from its checkpoint."""
        self.drop(partition)
        self._states[partition] = PartitionWindowState(
            self._stream, committed, _PartialAggregate, unit="slide"
        )

    def drop(self, partition: int) -> None:
        """Remove a partition's state."""
        if self._states.pop(partition, None) is not None:
            for threshold in self._thresholds.values():
                threshold.drop_hashes()  # this worker may read the records again

    def skip(self, partition: int, offset: int) -> None:
        """Skip the record at `offset`."""
        state = self._states[partition]
        state.next_offset = max(offset + 1, state.next_offset)

    def offsets_to_commit(self) -> dict[int, Committed]:
        """Return the offsets to commit by partition."""
        return {partition: state.checkpoint() for partition, state in self._states.items()}

    def read(self, partition: int, messages: Sequence[Message]) -> list[Outgoing]:
        """Add one partition's predictions in log order. Return records that contain the partial
        aggregates of all slides that these predictions closed."""
        state = self._states[partition]
        state.next_offset = messages[-1].offset + 1
        scored = self._reader.read(messages, whole=self._most_are_wanted)
        if len(scored.arrivals.offsets):
            buckets, counting = state.admit(scored.arrivals)
            if scored.arrivals.marks is not None:  # drop the watermark records
                buckets = buckets[~scored.arrivals.marks]
                counting = counting[~scored.arrivals.marks]
            if counting.any():
                self._aggregate(state, partition, scored, buckets, counting)
        if (closed := state.close()) is None:
            return []
        closed_up_to, open_buckets = closed
        chunks = [chunk for index, bucket in open_buckets for chunk in self._chunks(index, bucket)]
        end = DataAggregates(partition=partition, grid=self._grid, passed=closed_up_to, slices=())
        return records(self._topic, end, chunks)

    def _aggregate(
        self,
        state: "PartitionWindowState[_PartialAggregate]",
        partition: int,
        scored: Scored,
        buckets: Ints,
        counting: NDArray[np.bool_],
    ) -> None:
        # Count every record, but extract columns only from records whose hash does not exceed the
        # threshold.
        hashes = hashes_of(scored.ids)
        wanted = np.zeros(len(scored), dtype=bool)
        groups: list[tuple[_Group, NDArray[np.bool_]]] = []
        for model, of_model in by_model(scored.models):
            of_model &= counting
            for index in distinct(buckets[of_model]):
                own = of_model & (buckets == index)
                group = self._group_of(state.open_buckets[index].partial, index, model)
                _count(state.open_buckets[index].partial, group, scored.positions, own)
                wanted |= own & group.sample.admits(hashes)
                groups.append((group, own))
        at, rows = self._rows(scored, hashes, partition, np.flatnonzero(wanted))
        self._most_are_wanted = 2 * int(np.count_nonzero(wanted)) > len(wanted)
        for group, own in groups:
            group.sample.add(rows.take(own[at]) if len(groups) > 1 else rows)

    def _group_of(self, partial: "_PartialAggregate", index: int, model: str) -> "_Group":
        group = partial.groups.get(model)
        if group is None:
            limit = self._stream.windows.max_sample
            threshold = self._thresholds.setdefault((index, model), SampleThreshold(limit))
            group = partial.groups[model] = _Group(BottomKSample(limit, threshold))
        return group

    def _rows(
        self, scored: Scored, hashes: NDArray[np.uint32], partition: int, at: NDArray[np.intp]
    ) -> tuple[NDArray[np.intp], Rows]:
        """Return the indices of the readable records among `at`, and these records' rows."""
        at, columns, predictions, scores = self._reader.details(scored, partition, at)
        values = [
            (columns.numbers if kind == "number" else columns.categories)[name]
            for name, kind, _ in self._columns
        ]
        return at, Rows(
            hashes[at],
            scored.positions.on_axis[at],
            np.full(len(at), partition),
            scored.offsets[at],
            (*values, predictions),
            scores,
        )

    # ---- publishing -----------------------------------------------------------------------------

    def _chunks(self, index: int, bucket: "Bucket[_PartialAggregate]") -> Iterator[SlideAggregate]:
        """Yield a slide's partial aggregate in chunks that can be merged again. Each chunk contains
        at most one `GroupAggregate`."""
        partial, row, time_us = bucket.partial, bucket.partial.row, bucket.partial.time_us
        groups = [
            chunk for name, group in partial.groups.items() for chunk in self._group(name, group)
        ]
        if self._stream.axis == "row":
            row = later(row, bucket.max_dead_letter_position)
        else:
            time_us = later(time_us, bucket.max_dead_letter_position)
        yield SlideAggregate(
            index=index,
            late=bucket.late,
            row=row,
            time=None if time_us is None else format_time(time_us),
            groups=tuple(groups[:1]),
            dead_letters=bucket.dead_letters,
            lost=bucket.lost,
        )
        for group in groups[1:]:
            yield SlideAggregate(index=index, groups=(group,))

    def _group(self, model: str, group: "_Group") -> Iterator[GroupAggregate]:
        rows = group.sample.rows() if len(group.sample) else ()
        samples = pack_records(rows, self._names) if rows else iter(())
        yield GroupAggregate(
            model=model, records=group.records, last=group.last, sample=next(samples, None)
        )
        for sample in samples:
            yield GroupAggregate(model=model, sample=sample)


class _Group:
    """One model's records in one slide of one partition."""

    def __init__(self, sample: BottomKSample) -> None:
        self.records = 0
        self.last: int | None = None  # largest record position
        self.sample = sample  # sample of the readable records


class _PartialAggregate:
    """One partition's partial aggregate for one slide."""

    def __init__(self) -> None:
        self.groups: dict[str, _Group] = {}
        self.row: int | None = None
        self.time_us: int | None = None


def _count(
    partial: _PartialAggregate, group: _Group, positions: Positions, own: NDArray[np.bool_]
) -> None:
    partial.row = largest(positions.rows[own], partial.row)
    partial.time_us = largest(positions.times_us[own], partial.time_us)
    group.records += int(np.count_nonzero(own))
    group.last = largest(positions.on_axis[own], group.last)
