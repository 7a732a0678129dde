"""A session: the clients of one worker from joining its group until they fail or are closed.

In: a handler and a broker. Out: batches to handle, records sent, offsets committed. It commits only
what was handled. After any failure it can only be abandoned, so nothing is committed then.
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
from driftline.handler import GroupView, Handler, LogChange, Output
from driftline.input_logs import InputLogs, without_topic_id
from driftline.scan import handled

log = logging.getLogger(__name__)

# An abandoned transaction hides other workers' records from readers until it times out.
TRANSACTION_TIMEOUT_S = 10.0
# A look comes once a second. A topic that is created again while it is read is noticed so late, if
# the position is within its new log; what was published before is read again.
_LOOKS_BETWEEN_IDS = 10
# A client is replaced if it returned no records in this many looks although there are some.
_PATIENT_LOOKS = 100


class Session:
    """One membership in the group of a service, with the producer and the broadcast consumer.

    `followed` holds, per partition of the broadcast topics, the next offset to read; it is advanced
    when what the handler returned for the records before it is committed. `on_reread` is called
    when records that were polled and not committed will be read again, here or by another worker.
    Raises BrokerError when the broker cannot be reached or refuses.
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
        followed: dict[TopicPartition, int],
        logs: InputLogs,
        on_reread: Callable[[], None],
    ) -> None:
        self._handler = handler
        self._broker = broker
        self._client_id = client_id
        self._exactly_once = exactly_once
        self._max_records = max_records
        self._followed_from = followed
        self._logs = logs
        self._changes: list[LogChange] = []  # that the handler has not been told of
        self._looks = 0
        self._behind: dict[TopicPartition, int] = {}  # positions before the ends, at the last look
        self._looks_without_progress = 0
        self._on_reread = on_reread
        self._in_transaction = False
        self.is_dirty = False  # something was handled or sent since the last commit
        self.was_assigned = False  # partitions were assigned since the handler last saw the group
        self.paused: frozenset[TopicPartition] = frozenset()
        # Next offset to handle. A partition is here while it is assigned, and only records whose
        # results were sent move it.
        self._positions: dict[TopicPartition, int] = {}
        self._unread: dict[TopicPartition, int] = {}  # offset before which results are committed
        self._all_partitions: tuple[TopicPartition, ...] | None = None  # of the inputs
        self._followed: Consumer | None = None
        self._producer = self._new_producer()
        try:
            self._consumer = self._join(group)
        except BaseException:
            self._producer.abandon()
            raise

    def _join(self, group: str) -> Consumer:
        # A worker that is killed and started again in its slot has its partitions at once.
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
        """Return the next records of the partitions that the handler does not hold back.

        Raises TopicRecreated when all that was handled is committed and the session has to end.
        """
        if self._looks >= _LOOKS_BETWEEN_IDS:
            self._looks = 0
            self._check_topics()
        self._pause_or_resume()
        found: Sequence[Message] = ()
        for _ in range(2):
            try:
                found = self._consumer.poll(max_records=self._max_records, timeout_s=timeout_s)
                break
            except OffsetOutOfRange as error:
                self._go_on(TopicPartition(error.topic, error.partition))
        self._report_changes()
        return self._put_back(Messages.of(found))

    def handled(self, messages: Messages) -> None:
        """Move the positions behind these records: their results were sent."""
        for partition, at in messages.runs:
            next_offset = messages[at.stop - 1].offset + 1
            self._positions[partition] = max(next_offset, self._positions.get(partition, 0))
        self.is_dirty = True

    def was_handled_before(self, message: Message) -> bool:
        """Return whether an earlier session committed the results of a record that is read again
        to rebuild the handler's state."""
        partition = TopicPartition(message.topic, message.partition)
        return message.offset < self._unread.get(partition, 0)

    @property
    def positions(self) -> Mapping[TopicPartition, int]:
        """Next offset to handle of each assigned partition."""
        return self._positions

    def look(self) -> bool:
        """Show the handler its group's progress. Returns whether that shows that Kafka answers:
        without partitions nothing is asked, unless there are none for this worker."""
        was_assigned, self.was_assigned = self.was_assigned, False
        self._looks += 1
        partitions = sorted(self._consumer.assignment())
        positions = {partition: self._consumer.position(partition) for partition in partitions}
        ends = self._consumer.ends(partitions)
        self._note_progress(positions, ends)
        self._handler.look(GroupView(positions, ends, self._committed_of_all))
        return was_assigned or bool(partitions)

    def _note_progress(
        self, positions: Mapping[TopicPartition, int], ends: Mapping[TopicPartition, int]
    ) -> None:
        behind = {
            partition: position
            for partition, position in positions.items()
            if partition not in self.paused and position < ends.get(partition, 0)
        }
        self._looks_without_progress = (
            self._looks_without_progress + 1 if behind and behind == self._behind else 0
        )
        self._behind = behind

    @property
    def stuck_at(self) -> Mapping[TopicPartition, int]:
        """Positions that have not moved for long although records are there, if none has."""
        return self._behind if self._looks_without_progress >= _PATIENT_LOOKS else {}

    def _committed_of_all(self) -> Mapping[TopicPartition, Committed]:
        if self._all_partitions is None:
            admin = self._broker.admin()
            try:
                described = admin.describe(self._handler.inputs)
            finally:
                admin.close()
            self._all_partitions = tuple(
                TopicPartition(topic, number)
                for topic, info in described.items()
                for number in range(info.partitions)
            )
        found = self._consumer.committed(self._all_partitions)
        return {partition: without_topic_id(at)[1] for partition, at in found.items()}

    # ---- broadcast topics -----------------------------------------------------------------------

    def follow(self) -> bool:
        """Read what is new in the broadcast topics: at first to their end. Returns whether any."""
        if not self._handler.follows:
            return False
        if self._followed is None:
            self._follow_to_end()
            return True
        messages = self._followed.poll(max_records=self._max_records, timeout_s=0)
        if messages:
            self.send(self._handler.follow(messages))
            self.is_dirty = True
        return bool(messages)

    def _follow_to_end(self) -> None:
        admin = self._broker.admin()
        try:
            ranges = {
                partition: offsets
                for topic in self._handler.follows
                for partition, offsets in admin.offsets(topic).items()
            }
        finally:
            admin.close()
        consumer = self._broker.consumer(client_id=f"{self._client_id}-follow")
        self._followed = consumer
        starts = {}
        for partition, offsets in ranges.items():
            known = self._followed_from.get(partition, offsets.start)
            starts[partition] = known if offsets.start <= known <= offsets.end else offsets.start
        consumer.assign(starts)
        while any(consumer.position(p) < offsets.end for p, offsets in ranges.items()):
            found = consumer.poll(max_records=self._max_records, timeout_s=0.05)
            self.send(self._handler.follow(found))
        self.is_dirty = True

    # ---- partitions -----------------------------------------------------------------------------

    def rewind(self) -> None:
        """Forget what was not committed: abort, and resume at the committed offsets.

        Raises BrokerError.
        """
        self._replace_producer()
        self.is_dirty = False
        partitions = sorted(self._consumer.assignment())
        self._drop(partitions)
        self._resume(partitions)

    def _on_assigned(self, partitions: Sequence[TopicPartition]) -> None:
        self._resume(partitions)

    def _resume(self, partitions: Sequence[TopicPartition]) -> None:
        """Let the handler take these partitions up where the group has committed them."""
        found = self._logs.compare(partitions, self._consumer.committed(partitions))
        starts = dict(self._handler.assigned({p: at.committed for p, at in found.items()}) or {})
        for partition, at in found.items():
            # Records to rebuild state from may be gone; those that were not read are reported.
            start = max(starts.get(partition, at.committed.offset), at.start)
            self._consumer.seek(partition, start)
            self._positions[partition] = start
            self._unread[partition] = max(start, handled(at.committed))
        self._changes += [at.change for at in found.values() if at.change is not None]
        self.was_assigned = True

    def _go_on(self, partition: TopicPartition) -> None:
        """Go on with a partition whose log has no record at the position."""
        position = self._consumer.position(partition)
        self._check_topics()
        (found,) = self._logs.compare([partition], {}).values()
        unread = max(position, self._unread.get(partition, 0))
        if unread < found.start:
            assert found.change is not None
            self._changes.append(LogChange(partition, found.change.topic_id, found.start, unread))
        start = max(position, found.start)
        if position > found.end:
            log.error(
                "%s[%d] ends at offset %d, before offset %d that was read: Kafka has lost records",
                *partition,
                found.end,
                position,
            )
            start = found.end
        self._consumer.seek(partition, start)
        self._positions[partition] = start

    def _check_topics(self) -> None:
        """End the session if a topic was created again: clients may hold on to the former one."""
        if self._logs.have_changed():
            self.commit()
            raise TopicRecreated("an input topic was created again; reading it with new clients")

    def _report_changes(self) -> None:
        changes, self._changes = self._changes, []
        for change in changes:
            if change.partition not in self._positions:
                continue
            if change.unread is not None:
                log.error("%s", _told(change))
            self.send(self._handler.log_changed(change))
            self.is_dirty = True

    def _on_revoked(self, partitions: Sequence[TopicPartition]) -> None:
        if any(partition in self._positions for partition in partitions):
            try:
                self.commit()
            except TransactionAborted as error:
                # What was not committed is redone by the partitions' next owner.
                log.warning("transaction lost while handing over partitions: %s", error.message)
                self._replace_producer()
        self._drop(partitions)
        self.paused -= frozenset(partitions)

    def _drop(self, partitions: Sequence[TopicPartition]) -> None:
        for partition in partitions:
            self._positions.pop(partition, None)
            self._unread.pop(partition, None)
        self._changes = [at for at in self._changes if at.partition in self._positions]
        self._on_reread()
        self._handler.revoked(partitions)

    def _pause_or_resume(self) -> None:
        held = self._handler.held_back(self._consumer.assignment())
        if held == self.paused:
            return
        if released := self.paused - held:
            self._consumer.resume(released)
        if fresh := held - self.paused:
            self._consumer.pause(fresh)
        self.paused = held

    def _put_back(self, messages: Messages) -> Messages:
        """Undo a poll for partitions that were assigned in it and are held back. Returns the rest.

        They are paused at the next step; those that were held back before it are paused already.
        """
        held = self._handler.held_back(self._consumer.assignment()) - self.paused
        if not held:
            return messages
        first: dict[TopicPartition, int] = {}
        kept: list[Message] = []
        for partition, at in messages.runs:
            if partition in held:
                first.setdefault(partition, messages[at.start].offset)
            else:
                kept.extend(messages[at])
        for partition, offset in first.items():
            self._consumer.seek(partition, offset)
        return Messages(kept)

    # ---- output ---------------------------------------------------------------------------------

    def send(self, records: Output) -> None:
        """Send records; with exactly-once, the first one begins a transaction."""
        if not records:
            return
        self._begin()
        for record in records:
            if isinstance(record, OutgoingBatch):
                self._producer.send_batch(record)
            else:
                self._producer.send(record)
        self.is_dirty = True

    def commit(self) -> Mapping[TopicPartition, Committed]:
        """Commit what was sent together with the offsets of what was handled. Returns the offsets.

        With at-least-once: wait until all records are acknowledged, then commit the offsets.
        """
        if not self.is_dirty:
            return {}
        holds = self._handler.holds()
        offsets = self._logs.committed(
            {
                partition: holds.get(partition, Committed(offset))
                for partition, offset in self._positions.items()
            }
        )
        if self._exactly_once:
            self._begin()
            if offsets:
                self._producer.send_offsets(offsets, self._consumer.group_metadata())
            self._producer.commit()
            self._in_transaction = False
        else:
            self._producer.flush()
            if offsets:
                self._consumer.commit(offsets)
        self.is_dirty = False
        self._logs.remember(offsets)
        if self._followed is not None:
            for partition in self._followed.assignment():
                self._followed_from[partition] = self._followed.position(partition)
        return offsets

    def _new_producer(self) -> Producer:
        producer = self._broker.producer(
            self._client_id if self._exactly_once else None,
            transaction_timeout_s=TRANSACTION_TIMEOUT_S,
            client_id=self._client_id,
            # Readers drop a source that is not above all before it: a gap would hide what is sent
            # again.
            gapless=not self._exactly_once,
        )
        if self._exactly_once:
            # Fence a predecessor now: while its transaction is open, the offsets that it was about
            # to commit make whoever asks for the committed ones wait for its timeout.
            try:
                producer.begin()
                producer.abort()
            except BaseException:
                producer.abandon()
                raise
        return producer

    def _replace_producer(self) -> None:
        """Drop what was sent and not committed."""
        self._in_transaction = False
        self._producer.abandon()
        self._producer = self._new_producer()

    def _begin(self) -> None:
        if self._exactly_once and not self._in_transaction:
            self._producer.begin()
            self._in_transaction = True

    # ---- end ------------------------------------------------------------------------------------

    def close(self) -> None:
        """Commit, leave the group, and free the clients. Raises BrokerError."""
        self.commit()
        for client in (self._followed, self._consumer, self._producer):
            if client is not None:
                client.close()

    def abandon(self) -> None:
        """Free the clients after a failure. Commits nothing, and does not wait for the broker."""
        for client in (self._followed, self._consumer, self._producer):
            if client is not None:
                client.abandon()
        self._drop(sorted(self._positions))


def _told(change: LogChange) -> str:
    """What happened, for the log."""
    topic, partition = change.partition
    if change.is_new_topic:
        return (
            f"{topic} was created again: records of {topic}[{partition}] from offset "
            f"{change.unread} on were not read; going on at offset {change.start} of the new topic"
        )
    assert change.unread is not None
    return (
        f"{change.start - change.unread} offsets of {topic}[{partition}] were deleted before they "
        f"were read, from {change.unread} on; going on at {change.start}. Raise the topic's "
        "retention above the longest downtime"
    )
