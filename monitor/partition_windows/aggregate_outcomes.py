"""Aggregate each Kafka partition's outcomes by pane and model into sums and error samples.

Input: Kafka messages from `outcomes`, one partition at a time. Output: `PerformanceAggregates` for
the topic `parts`, as soon as a pane is closed in a partition. The join publishes each outcome
exactly once, so this module does not check for repeats. Only a record's first label is added to the
sums.
"""

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from driftline.broker.port import Committed, Message, Outgoing
from driftline.config.stream import Stream
from driftline.learning.metrics import scores_of
from driftline.learning.ranking import score_codes
from driftline.logs import alike
from driftline.wire.partial_aggregates import ModelAggregate, PaneAggregate, PerformanceAggregates
from driftline.wire.topics import Topics
from driftline.wire.values import format_time
from monitor.bottom_k_sample import BottomKSample, Rows, hashes_of
from monitor.panes import PANES, Bucket, Grid, Ints, PartitionWindowState, distinct
from monitor.partition_windows.read_events import by_model, largest
from monitor.partition_windows.read_outcomes import Labelled, read_outcomes
from monitor.parts_codec import pack_errors, records
from monitor.tallies import new_tally

log = logging.getLogger(__name__)


def errors_kept(stream: Stream) -> int:
    """Return the number of errors to sample per pane: the maximum size of a data window's sample,
    divided by the number of panes in a window, but at least 1."""
    return max(1, stream.windows.max_sample // PANES)


class OutcomeAggregator:
    """Aggregates the outcomes in this worker's partitions."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._topic = Topics(stream).parts
        self._grid = Grid.of(stream).name
        self._limit = errors_kept(stream)
        # Window state by partition: set by `resume`, removed by `drop`.
        self._states: dict[int, PartitionWindowState[_PartialAggregate]] = {}

    def resume(self, partition: int, committed: Committed) -> None:
        """Start reading a partition from its checkpoint."""
        self._states[partition] = PartitionWindowState(
            self._stream, committed, _PartialAggregate, unit="pane"
        )

    def drop(self, partition: int) -> None:
        """Remove a partition's state."""
        self._states.pop(partition, None)

    def skip(self, partition: int, offset: int) -> None:
        """Skip the record at `offset`."""
        state = self._states[partition]
        state.next_offset = max(offset + 1, state.next_offset)

    def offsets_to_commit(self) -> dict[int, Committed]:
        """Return the offsets to commit by partition."""
        return {partition: state.checkpoint() for partition, state in self._states.items()}

    def read(self, partition: int, messages: Sequence[Message]) -> list[Outgoing]:
        """Add one partition's outcomes in log order. Return records that contain the partial
        aggregates of all panes that these outcomes closed."""
        state = self._states[partition]
        state.next_offset = messages[-1].offset + 1
        read = read_outcomes(messages, self._stream)
        if len(read.arrivals.offsets):
            self._aggregate(state, partition, read)
        if (closed := state.close()) is None:
            return []
        closed_up_to, open_buckets = closed
        chunks = [chunk for pane, bucket in open_buckets for chunk in self._chunks(pane, bucket)]
        end = PerformanceAggregates(
            partition=partition, grid=self._grid, passed=closed_up_to, panes=()
        )
        return records(self._topic, end, chunks)

    # ---- aggregation ----------------------------------------------------------------------------

    def _aggregate(
        self, state: "PartitionWindowState[_PartialAggregate]", partition: int, read: Labelled
    ) -> None:
        buckets, counting = state.admit(read.arrivals)
        if read.arrivals.marks is not None:  # drop the watermark records
            buckets, counting = buckets[~read.arrivals.marks], counting[~read.arrivals.marks]
        revised = counting & read.revised
        for pane in distinct(buckets[revised]):
            state.open_buckets[pane].partial.revised += int(
                np.count_nonzero(revised & (buckets == pane))
            )
        counting &= ~revised
        if read.answers.scores is not None:
            counting &= self._has_score(read.answers.scores)
        if not counting.any():
            return
        hashes = hashes_of(read.ids)
        for model, of_model in by_model(read.models):
            of_model &= counting
            for pane in distinct(buckets[of_model]):
                models = state.open_buckets[pane].partial.models
                if (of_pane := models.get(model)) is None:
                    of_pane = models[model] = _Model(self._stream, self._limit)
                at = np.flatnonzero(of_model & (buckets == pane))
                of_pane.add(read, hashes, partition, at)

    def _has_score(self, scores: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return a mask (n,) of the outcomes with the probability that the metric needs."""
        known: NDArray[np.bool_] = np.isfinite(scores)
        if not known.all():
            name = self._stream.judged_by.name
            message = f"outcomes without the probability that metric {name} needs are not counted"
            log.warning(message, extra=alike(message))
        return known

    # ---- publishing -----------------------------------------------------------------------------

    def _chunks(self, pane: int, bucket: "Bucket[_PartialAggregate]") -> Iterator[PaneAggregate]:
        """Yield a pane's partial aggregate in chunks that can be merged again. Each chunk contains
        at most one `ModelAggregate`."""
        partial = bucket.partial
        models = [chunk for name, model in partial.models.items() for chunk in model.chunks(name)]
        yield PaneAggregate(
            index=pane,
            late=bucket.late,
            revised=partial.revised,
            models=tuple(models[:1]),
            lost=bucket.lost,
            dead_letters=bucket.dead_letters,
        )
        for model in models[1:]:
            yield PaneAggregate(index=pane, models=(model,))


class _Model:
    """One model's outcomes in one pane of one partition."""

    def __init__(self, stream: Stream, limit: int) -> None:
        self._measure = stream.judged_by
        self._tally = new_tally(self._measure)
        self._sample = BottomKSample(limit)
        self._first: int | None = None
        self._last: int | None = None
        self._row: int | None = None
        self._time_us: int | None = None

    def add(
        self, read: Labelled, hashes: NDArray[np.uint32], partition: int, at: NDArray[Any]
    ) -> None:
        """Add the outcomes at the indices `at`."""
        labels, answers = read.labels, read.answers
        if len(at) < len(read):
            labels, answers = [labels[place] for place in at.tolist()], answers.take(at)
        values: list[NDArray[Any]] = [self._tally.add(labels, answers)]
        if self._measure.is_ranking:
            values.append(score_codes(scores_of(self._measure, answers)))
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
                (own, *values),
            )
        )

    def chunks(self, name: str) -> Iterator[ModelAggregate]:
        """Yield the model's partial aggregate in chunks that can be merged again."""
        sums = self._tally.packed()
        samples = pack_errors(self._sample.rows())
        loss = self._measure.loss
        yield ModelAggregate(
            model=name,
            loss=loss,
            records=self._tally.records,
            first=self._first,
            last=self._last,
            **sums[0]._asdict(),
            sample=next(samples),
            row=self._row,
            time=None if self._time_us is None else format_time(self._time_us),
        )
        for chunk in sums[1:]:
            yield ModelAggregate(model=name, loss=loss, **chunk._asdict())
        for sample in samples:
            yield ModelAggregate(model=name, loss=loss, sample=sample)


class _PartialAggregate:
    """One partition's partial aggregate for one pane."""

    def __init__(self) -> None:
        self.revised = 0
        self.models: dict[str, _Model] = {}
