"""Manage one worker's Kafka clients, from joining the group until they fail or are closed.

Input: a handler and a broker. Output: batches to handle, records sent, offsets committed. A session
commits only offsets of handled records. After a failure, the loop rewinds or abandons the session.
"""

import logging
from collections.abc import Callable, Mapping, Sequence

from driftline.broker.port import (
    Broker,
    Committed,
    Consumer,
    Message,
    Messages,
    OutgoingBatch,
    Producer,
    TopicPartition,
)
from driftline.errors import OffsetOutOfRange, TopicRecreated, TransactionAborted
from driftline.runtime.broadcasts import BroadcastReader
from driftline.runtime.dead_letters import send_dead_letter
from driftline.runtime.handler import GroupProgress, Handler, LogChange, Output
from driftline.runtime.input_logs import InputLogs, loss_message, without_topic_id
from driftline.runtime.stalls import StallDetector
from driftline.wire.commit_metadata import handled
from driftline.wire.envelope import is_dead_letter

log = logging.getLogger(__name__)

# Until an abandoned transaction times out, it hides all workers' later records from readers.
TRANSACTION_TIMEOUT_S = 10.0
# Topic ids are compared after this many calls to `report_progress`, about every 10 s. This check
# detects a recreated topic even if the new log contains the old position.
_CHECKS_BETWEEN_IDS = 10


class Session:
    """A worker's membership in a consumer group, with a producer and a broadcast consumer.

    `on_reread` is called when this or another worker will read uncommitted records again.
    Raises BrokerError if the broker is unreachable or rejects a request.
    """

    def __init__(
        self,
        handler: Handler,
        broker: Broker,
        *,
        group: str,
        client_id: str,
        exactly_once: bool,
        max_records: int,
        logs: InputLogs,
        broadcasts: BroadcastReader,
        stalls: StallDetector,
        on_reread: Callable[[], None],
    ) -> None:
        self._handler = handler
        self._broker = broker
        self._client_id = client_id
        self._exactly_once = exactly_once
        self._max_records = max_records
        self._logs = logs
        self._broadcasts = broadcasts
        self._stalls = stalls
        # Log changes that an assignment or `_recover_position` detected. `poll` passes them to the
        # handler and clears the list.
        self._changes: list[LogChange] = []
        self._checks = 0  # calls to `report_progress` since topic ids were last compared
        self._on_reread = on_reread
        self._in_transaction = False  # set by `_begin`; reset by a commit or a new producer
        self.is_dirty = False  # records were handled or sent since the last commit or rewind
        self.has_handled = False  # records were handled since the last commit or rewind
        self.was_assigned = False  # set by an assignment or rewind; reset by `report_progress`
        # Set by an assignment, even an empty one, and by a rewind with partitions; reset by a
        # revocation.
        self.is_assigned = False
        self.paused: frozenset[TopicPartition] = frozenset()  # updated before each poll
        # The next offset to handle in each assigned partition. Set by an assignment, advanced only
        # after results have been sent, and removed by a revocation.
        self._positions: dict[TopicPartition, int] = {}
        # Set by an assignment, removed by a revocation, never advanced. Results of records before
        # this offset are committed, so those records are read only to rebuild the handler's state.
        self._unread: dict[TopicPartition, int] = {}
        self._all_partitions: tuple[TopicPartition, ...] | None = None  # fetched on first use
        self._producer = self._new_producer()
        stalls.restart()
        try:
            self._consumer = self._join(group)
        except BaseException:
            self._producer.abandon()
            raise

    def _join(self, group: str) -> Consumer:
        # With an instance id, a worker restarted in the same slot regains its partitions at once.
        consumer = self._broker.consumer(
            group, client_id=self._client_id, instance_id=self._client_id
        )
        try:
            consumer.subscribe(
                self._handler.inputs, assigned=self._on_assigned, revoked=self._on_revoked
            )
        except BaseException:
            consumer.abandon()
            raise
        return consumer

    # ---- input ----------------------------------------------------------------------------------

    def poll(self, timeout_s: float) -> Messages:
        """Return the next records of partitions that are not paused.

        If a topic was recreated, commit and raise TopicRecreated. The caller must then abandon the
        session.
        """
        if self._checks >= _CHECKS_BETWEEN_IDS:
            self._checks = 0
            self._check_topics()
        self._pause_or_resume()
        found: Sequence[Message] = ()
        for _ in range(2):
            try:
                found = self._consumer.poll(max_records=self._max_records, timeout_s=timeout_s)
                break
            except OffsetOutOfRange as error:
                outside = TopicPartition(error.topic, error.partition)
            self._recover_position(outside)
        self._report_changes()
        return self._undo_poll(Messages.of(found))

    def handled(self, messages: Messages) -> None:
        """Advance positions past these records. Call this after their results have been sent."""
        for partition, at in messages.runs:
            next_offset = messages[at.stop - 1].offset + 1
            self._positions[partition] = max(next_offset, self._positions.get(partition, 0))
        self.is_dirty = self.has_handled = True

    def was_handled_before(self, message: Message) -> bool:
        """Return whether a record is being read only to rebuild the handler's state."""
        partition = TopicPartition(message.topic, message.partition)
        return message.offset < self._unread.get(partition, 0)

    @property
    def positions(self) -> Mapping[TopicPartition, int]:
        """Return the next offset to handle in each assigned partition."""
        return self._positions

    def report_progress(self) -> bool:
        """Pass the group's progress to the handler. Return whether this proves that Kafka works.

        If this worker has no partitions, no request is sent, so only a new assignment, even an
        empty one, is proof. If records are unread or uncommitted, handling them may still fail, so
        only the next commit is proof. Raises Stuck if the clients have stalled.
        """
        was_assigned, self.was_assigned = self.was_assigned, False
        self._checks += 1
        partitions = sorted(self._consumer.assignment())
        positions = {partition: self._consumer.position(partition) for partition in partitions}
        ends = self._consumer.ends(partitions)
        is_behind = self._stalls.check(positions, ends, self.paused, is_assigned=self.is_assigned)
        self._handler.on_group_progress(GroupProgress(positions, ends, self._committed_of_all))
        return (was_assigned or bool(partitions)) and not (is_behind or self.is_dirty)

    def _committed_of_all(self) -> Mapping[TopicPartition, Committed]:
        if self._all_partitions is None:
            self._all_partitions = self._logs.partitions(self._handler.inputs)
        found = self._consumer.committed(self._all_partitions)
        return {partition: without_topic_id(at)[1] for partition, at in found.items()}

    def read_broadcasts(self) -> bool:
        """Pass new broadcast records to the handler. Return what `BroadcastReader.read` returns."""
        found = self._broadcasts.read(self.send)
        self.is_dirty = self.is_dirty or found
        return found

    # ---- partitions -----------------------------------------------------------------------------

    def rewind(self) -> None:
        """Drop uncommitted results and resume at the committed offsets. Raises BrokerError."""
        self._replace_producer()
        self._broadcasts.abandon()  # to read again from the positions of the last commit
        self.is_dirty = self.has_handled = False
        partitions = self._consumer.assignment()
        self._drop(sorted(partitions | self._positions.keys()))
        self.is_assigned = self.is_assigned or bool(partitions)
        self._resume(sorted(partitions))

    def _on_assigned(self, partitions: Sequence[TopicPartition]) -> None:
        self.is_assigned = True
        self._resume(partitions)

    def _resume(self, partitions: Sequence[TopicPartition]) -> None:
        """Assign these partitions to the handler at their committed offsets."""
        committed = self._consumer.committed(partitions)
        found = self._logs.compare(partitions, committed)
        starts = dict(self._handler.on_assigned({p: at.committed for p, at in found.items()}) or {})
        for partition, at in found.items():
            # The log may start after the committed offset. This counts as a `LogChange`
            # only if unhandled records were deleted.
            start = max(starts.get(partition, at.committed.offset), at.start)
            self._consumer.seek(partition, start)
            self._positions[partition] = start
            self._unread[partition] = max(start, handled(at.committed))
        self._changes += [at.change for at in found.values() if at.change is not None]
        # Recommit offsets that Kafka has lost, even if no more records arrive.
        self.is_dirty |= any(at.is_lost for at in found.values())
        self.was_assigned = True

    def _recover_position(self, partition: TopicPartition) -> None:
        """Move a position that is outside its log to the nearest offset in the log, and report lost
        records. Raises TopicRecreated or BrokerError."""
        position = self._consumer.position(partition)
        self._check_topics()
        (found,) = self._logs.compare([partition], None).values()
        unread = max(position, self._unread.get(partition, 0))
        if unread < found.start:
            assert found.change is not None
            self._changes.append(LogChange(partition, found.change.topic_id, found.start, unread))
        start = max(position, found.start)
        if position > found.end:
            log.error(
                "%s[%d] ends at offset %d, but was already read up to %d: Kafka has lost records",
                *partition,
                found.end,
                position,
            )
            start = found.end
        self._consumer.seek(partition, start)
        self._positions[partition] = start

    def _check_topics(self) -> None:
        """If one of this worker's topics was recreated, commit and raise TopicRecreated. The
        session must then end, because its clients may still be reading the deleted topic."""
        if self._logs.have_changed():
            self.commit()
            raise TopicRecreated("a topic was recreated; reopening it with new clients")

    def _report_changes(self) -> None:
        changes, self._changes = self._changes, []
        for change in changes:
            if change.partition not in self._positions:
                continue
            if change.unread is not None:
                log.error("%s", loss_message(change))
            self.send(self._handler.on_log_change(change))
            self.is_dirty = True

    def _on_revoked(self, partitions: Sequence[TopicPartition]) -> None:
        self.is_assigned = False
        try:
            if self._positions.keys() & partitions:
                self._commit_or_abort()
        finally:
            self._drop(partitions)
            self.paused -= frozenset(partitions)

    def _commit_or_abort(self) -> None:
        try:
            self.commit()
            return
        except TransactionAborted as error:
            # The partitions' next owner will handle their uncommitted records again.
            log.warning("transaction aborted during a partition revocation: %s", error.message)
        self._replace_producer()

    def _drop(self, partitions: Sequence[TopicPartition]) -> None:
        for partition in partitions:
            self._positions.pop(partition, None)
            self._unread.pop(partition, None)
        self._changes = [at for at in self._changes if at.partition in self._positions]
        self._on_reread()
        self._handler.on_revoked(partitions)

    def _pause_or_resume(self) -> None:
        paused = self._handler.paused_partitions(self._consumer.assignment())
        if paused == self.paused:
            return
        if resumed := self.paused - paused:
            self._consumer.resume(resumed)
        if newly_paused := paused - self.paused:
            self._consumer.pause(newly_paused)
        self.paused = paused

    def _undo_poll(self, messages: Messages) -> Messages:
        """Undo the poll for new partitions that must be paused, and return all other records."""
        paused = self._handler.paused_partitions(self._consumer.assignment()) - self.paused
        if not paused:
            return messages
        first: dict[TopicPartition, int] = {}
        kept: list[Message] = []
        for partition, at in messages.runs:
            if partition in paused:
                first.setdefault(partition, messages[at.start].offset)
            else:
                kept.extend(messages[at])
        for partition, offset in first.items():
            self._consumer.seek(partition, offset)
        return Messages(kept)

    # ---- output ---------------------------------------------------------------------------------

    def send(self, records: Output) -> None:
        """Send records. With exactly-once, the first send after a commit begins a transaction."""
        if not records:
            return
        self._begin()
        for record in records:
            if isinstance(record, OutgoingBatch):
                self._producer.send_batch(record)
            elif is_dead_letter(record):
                send_dead_letter(self._producer, record)
            else:
                self._producer.send(record)
        self.is_dirty = True

    def commit(self) -> Mapping[TopicPartition, Committed]:
        """Commit if records were handled or sent since the last commit, and return the offsets.

        1. For each partition, get the handler's offset to commit or, by default, the next offset
           to handle.
        2. With exactly-once, add these offsets to the transaction and commit it. With
           at-least-once, wait until all sent records are acknowledged, then commit the offsets.
        3. Store the committed offsets and the broadcast topics' positions in memory.
        4. Call the handler's `on_committed`.
        """
        if not self.is_dirty:
            return {}
        own = self._handler.offsets_to_commit()
        offsets = self._logs.committed(
            {
                partition: own.get(partition, Committed(offset))
                for partition, offset in self._positions.items()
            }
        )
        if self._exactly_once:
            self._begin()
            if offsets:
                self._producer.send_offsets(offsets, self._consumer.group_metadata())
            self._logs.begin_commit()
            self._producer.commit()
            self._in_transaction = False
        else:
            self._producer.flush()
            if offsets:
                self._consumer.commit(offsets)
        self.is_dirty = self.has_handled = False
        self._logs.remember(offsets)
        self._broadcasts.remember()
        self._handler.on_committed()
        return offsets

    def _new_producer(self) -> Producer:
        producer = self._broker.producer(
            self._client_id if self._exactly_once else None,
            transaction_timeout_s=TRANSACTION_TIMEOUT_S,
            client_id=self._client_id,
            # Readers drop results whose source records' offsets do not increase. If a send failed
            # but a later send succeeded, readers would drop the retried record.
            gapless=not self._exactly_once,
        )
        if self._exactly_once:
            # Fence any predecessor now. If the predecessor's open transaction includes offsets,
            # Kafka returns no committed offsets until that transaction ends or times out.
            try:
                producer.begin()
                producer.abort()
            except BaseException:
                producer.abandon()
                raise
        return producer

    def _replace_producer(self) -> None:
        """Replace the producer and drop all records that were sent but not committed."""
        self._in_transaction = False
        self._producer.abandon()
        self._producer = self._new_producer()

    def _begin(self) -> None:
        if self._exactly_once and not self._in_transaction:
            self._producer.begin()
            self._in_transaction = True

    # ---- end ------------------------------------------------------------------------------------

    def close(self) -> None:
        """Commit, leave the group and close the clients. Raises BrokerError."""
        self.commit()
        for client in (self._broadcasts, self._consumer, self._producer):
            client.close()

    def abandon(self) -> None:
        """Free the clients after a failure, without committing or waiting for the broker."""
        for client in (self._broadcasts, self._consumer, self._producer):
            client.abandon()
        self._drop(sorted(self._positions))
