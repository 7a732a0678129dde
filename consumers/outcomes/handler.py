"""Outcomes handler: join the predictions and labels topics, buffered in memory and RocksDB.

| label | result |
|---|---|
| read after its prediction | an outcome with revision 0 |
| read before its prediction | buffered; an outcome as soon as the prediction is read |
| repeated without a change | counted as repeated; nothing is published |
| changed | an outcome with the next revision, even if the prediction is read last |
| with an id shared by several predictions | matched with the first one for which it is in time |
| known more than one join window after its record | a dead letter, in either reading order |
| without a prediction within the join window | a dead letter |
| with an outcome that is too large | a dead letter |
| missing for a whole join window | the prediction is counted as unlabelled |

The join window (`[labels] horizon`) is measured in positions: records' positions and labels' `@at`.
It is never measured by a clock, so a backlog in one topic does not make labels late. Each partition
is joined separately, so a label must have the same key as its record.
"""

import logging
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from consumers.outcomes.low_watermark import JoinCheckpoint, ReaderPosition
from consumers.outcomes.output_records import Publication
from consumers.outcomes.read_input import InputReader
from consumers.outcomes.state_store import CacheFailed, Caches
from consumers.outcomes.window_join import PartitionJoin
from driftline.audit.partition_placement import Placement, Side
from driftline.broker.port import Committed, Message, Messages, TopicPartition
from driftline.clock import Clock
from driftline.config.stream import Stream
from driftline.runtime.bad_record_isolation import blaming
from driftline.runtime.handler import GroupProgress, Handler, LogChange, Output
from driftline.runtime.input_logs import lost_unread
from driftline.wire.commit_metadata import Kind, usable
from driftline.wire.topics import Topics

log = logging.getLogger(__name__)

_CHECKPOINT: Final = Kind(
    JoinCheckpoint,
    "outcomes are published again from this offset on, and labels that are not joined yet become "
    "dead letters if their predictions are before this offset",
)

# The number of records per topic that a worker with a disk cache keeps in memory, across all its
# partitions. A prediction with four columns takes 0.8 kB, a label 0.4 kB.
MEMORY_RECORDS = 300_000
# After its cache has failed, a worker pauses when it has this many records in memory (about 2 GB).
UNCACHED_RECORDS = 3_000_000


class OutcomesHandler(Handler):
    """Joins predictions with labels.

    `state` is the folder for the cache of records that do not fit in memory. Without a cache, or
    after the cache has failed, all records within the join window stay in memory. After a cache
    failure, all partitions are paused while `uncached_records` or more records are in memory.
    `counts` holds the number of results since this worker started, by kind: outcomes, revised,
    repeated, duplicates, unlabelled, late, orphans (labels without a prediction), oversized,
    invalid.
    """

    def __init__(
        self,
        stream: Stream,
        clock: Clock,
        *,
        state: Path | None = None,
        memory_records: int = MEMORY_RECORDS,
        uncached_records: int = UNCACHED_RECORDS,
    ) -> None:
        self._stream = stream
        self._clock = clock
        self._caches = Caches(state)
        self._memory_records = memory_records
        self._uncached_records = uncached_records
        self._is_full = False  # last result of `_is_memory_full`; a change to True is logged
        self._topics = Topics(stream)
        self._reader = InputReader(stream)
        self._joins: dict[int, PartitionJoin] = {}  # the join of each assigned partition
        # New records, by partition, to join once the partition's join is rebuilt. `_read` adds
        # records; `_read_deferred` and `on_revoked` remove them.
        self._deferred: dict[int, list[tuple[str, Messages]]] = {}
        # Set by `on_assigned`, reset when the state of all partitions is rebuilt.
        self._rebuilding_since_s: float | None = None
        self.counts: Counter[str] = Counter()  # updated by `Publication`
        self._placement = Placement(stream.kafka.partitions)
        self._warned = False  # whether `problem` was logged

    @property
    def problem(self) -> str | None:
        """Return a description of the problem if labels are not in their predictions' partitions.

        Return None if there is no problem or too few keys have been seen.
        """
        return self._placement.problem

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self._topics.predictions, self._topics.labels)

    def paused_partitions(self, assigned: frozenset[TopicPartition]) -> frozenset[TopicPartition]:
        if self._is_memory_full():
            return assigned
        paused = set()
        for partition, join in self._joins.items():
            predictions, labels = (TopicPartition(topic, partition) for topic in self.inputs)
            to_pause = join.backpressure.topic_to_pause()
            if to_pause is not None and predictions in assigned and labels in assigned:
                paused.add(labels if to_pause is join.progress.labels else predictions)
        return frozenset(paused)

    def on_assigned(
        self, resume: Mapping[TopicPartition, Committed]
    ) -> Mapping[TopicPartition, int] | None:
        kinds = dict.fromkeys(self.inputs, _CHECKPOINT)
        resume = usable(resume, self._topics.group("outcomes"), kinds, self._stream.axis)
        starts: dict[TopicPartition, int] = {}
        for partition in sorted({at.partition for at in resume}):
            predictions, labels = (TopicPartition(topic, partition) for topic in self.inputs)
            join = self._new_join(
                partition, resume.get(predictions, Committed(0)), resume.get(labels, Committed(0))
            )
            starts[predictions] = join.progress.predictions.next_offset
            starts[labels] = join.progress.labels.next_offset
        for join in self._joins.values():
            join.limit_memory(self._memory_records // len(self._joins))
        if again := sum(join.to_reread for join in self._joins.values()):
            self._rebuilding_since_s = self._clock.monotonic()
            log.info(
                "rereading %d records in %d partitions to rebuild the join's state",
                again,
                sum(join.progress.is_rebuilding for join in self._joins.values()),
            )
        return {partition: start for partition, start in starts.items() if partition in resume}

    def on_revoked(self, partitions: Sequence[TopicPartition]) -> None:
        for partition in partitions:
            self._deferred.pop(partition.partition, None)
            if (join := self._joins.pop(partition.partition, None)) is not None:
                join.close()

    def handle(self, messages: Sequence[Message]) -> Output:
        publications: dict[int, Publication] = {}
        found = Messages.of(messages)
        for (topic, partition), at in found.runs:
            join = self._join(partition)
            publication = publications.get(partition)
            if publication is None:
                publication = publications[partition] = self._publication(partition, join)
            self._read_deferred(partition, join, publication)
            own = found[at]
            self._read(join, topic, partition, own, publication)
            self._read_deferred(partition, join, publication)
            side: Side = "labels" if topic == self._topics.labels else "records"
            self._placement.see(side, partition, own.keys)
        if not self._warned and self.problem is not None:
            self._warned = True
            log.warning("labels are not in the partitions of their predictions: %s", self.problem)
        return [record for p in publications.values() for record in p.records()]

    def on_log_change(self, change: LogChange) -> Output:
        if change.is_new_topic and change.unread is None:
            change = self._remembered(change)
        return lost_unread(change, self._topics.outcomes)

    def _remembered(self, change: LogChange) -> LogChange:
        """Return `change` with the first unread offset, if the other topic's commit contains one.

        If a topic was recreated while no worker was running, the topic's own commits are lost.
        """
        progress = self._join(change.partition.partition).progress
        is_label = change.partition.topic == self._topics.labels
        unread = (progress.predictions if is_label else progress.labels).at.beside
        if unread == 0:
            return change
        log.error(
            "%s[%d] was recreated: the old topic's records from offset %d on were never read",
            *change.partition,
            unread,
        )
        return msgspec.structs.replace(change, unread=unread)

    def reject(self, message: Message, reason: str) -> Output:
        join = self._join(message.partition)
        is_label = message.topic == self._topics.labels
        side = join.progress.labels if is_label else join.progress.predictions
        publication = self._publication(message.partition, join)
        if is_label:
            self._reader.reject_label(join, message, reason, publication)
        else:
            publication.invalid_prediction(message, reason)
        side.next_offset = max(message.offset + 1, side.next_offset)
        return list(publication.records())

    def on_tick(self) -> Output:
        output: list[Publication] = []
        for partition, join in self._joins.items():
            publication = self._publication(partition, join)
            join.pass_time(publication)
            output.append(publication)
            self._read_deferred(partition, join, publication)
        self._log_when_rebuilt()
        return [record for publication in output for record in publication.records()]

    def on_group_progress(self, progress: GroupProgress) -> None:
        for partition, join in self._joins.items():
            readers = [
                ReaderPosition(progress.positions[at], progress.ends[at])
                for topic in self.inputs
                if (at := TopicPartition(topic, partition)) in progress.ends
            ]
            if len(readers) == len(self.inputs):
                join.on_group_progress(*readers)

    def offsets_to_commit(self) -> Mapping[TopicPartition, Committed]:
        offsets = {}
        for partition, join in self._joins.items():
            predictions, labels = join.offsets_to_commit()
            offsets[TopicPartition(self._topics.predictions, partition)] = predictions
            offsets[TopicPartition(self._topics.labels, partition)] = labels
        return offsets

    def on_committed(self) -> None:
        for join in self._joins.values():
            join.on_committed()

    def close(self) -> None:
        for join in self._joins.values():
            join.close()
        self._joins.clear()

    # ---- partitions -----------------------------------------------------------------------------

    def _join(self, partition: int) -> PartitionJoin:
        if partition not in self._joins:
            return self._new_join(partition, Committed(0), Committed(0))
        return self._joins[partition]

    def _new_join(self, partition: int, predictions: Committed, labels: Committed) -> PartitionJoin:
        if (former := self._joins.pop(partition, None)) is not None:
            former.close()
        try:
            join = self._cached_join(partition, predictions, labels)
        except CacheFailed:  # the failure was logged, and no cache will be opened until a restart
            join = self._cached_join(partition, predictions, labels)
        self._joins[partition] = join
        return join

    def _cached_join(
        self, partition: int, predictions: Committed, labels: Committed
    ) -> PartitionJoin:
        return PartitionJoin(
            self._stream,
            predictions,
            labels,
            cache=self._caches.open(partition),
            topics=(self._topics.predictions, self._topics.labels),
        )

    def _is_memory_full(self) -> bool:
        """Return whether memory is full of records that the failed cache would have stored."""
        if not self._caches.have_failed:
            return False
        buffered = sum(join.in_memory for join in self._joins.values())
        is_full = buffered >= self._uncached_records
        if is_full and not self._is_full:
            log.error(
                "the join has paused: it buffers %d records in memory because its cache has "
                "failed. Free disk space and restart outcomes; no records are lost",
                buffered,
            )
        self._is_full = is_full
        return is_full

    def _publication(self, partition: int, join: PartitionJoin) -> Publication:
        return Publication(
            self._stream, self._topics, partition, self.counts, lambda: join.watermark
        )

    def _log_when_rebuilt(self) -> None:
        since_s = self._rebuilding_since_s
        if since_s is not None and not any(j.progress.is_rebuilding for j in self._joins.values()):
            self._rebuilding_since_s = None
            log.info("rebuilt the join's state in %.1f s", self._clock.monotonic() - since_s)

    # ---- records --------------------------------------------------------------------------------

    def _read(
        self,
        join: PartitionJoin,
        topic: str,
        partition: int,
        messages: Messages,
        publication: Publication,
    ) -> None:
        """Read records of one topic and partition into the join.

        While the join rebuilds its state after a restart, new records are deferred, because the
        other topic's matching records may not have been reread yet.
        """
        is_label = topic == self._topics.labels
        side = join.progress.labels if is_label else join.progress.predictions
        next_offset = messages[-1].offset + 1
        if join.progress.is_rebuilding and next_offset > side.published:
            first = bisect_left(messages.offsets, side.published)
            self._deferred.setdefault(partition, []).append((topic, messages[first:]))
            messages = messages[:first]
            next_offset = side.published  # retention may have deleted the records before it
        read = self._reader.read_labels if is_label else self._reader.read_predictions
        read(join, messages, publication)
        side.next_offset = next_offset

    def _read_deferred(self, partition: int, join: PartitionJoin, publication: Publication) -> None:
        if self._deferred and not join.progress.is_rebuilding:
            for topic, messages in self._deferred.pop(partition, ()):
                with blaming(messages):
                    self._read(join, topic, partition, messages, publication)
