"""Write records to the in-memory broker, which acknowledges each record immediately.

Input: records, and offsets to commit in a transaction. Output: entries in partition logs.
"""

from collections.abc import Mapping, Sequence

from driftline.broker.limits import check_partition, check_size, unpacked
from driftline.broker.memory_log import Group, PartitionLog, TopicLogs
from driftline.broker.memory_state import MemoryState
from driftline.broker.partitioner import partition_for
from driftline.broker.port import Committed, Message, Outgoing, OutgoingBatch, TopicPartition
from driftline.broker.transactions import check_can_begin
from driftline.errors import BrokerError, TransactionAborted


class MemoryProducer:
    """Implement `port.Producer` on a MemoryBroker's state."""

    def __init__(
        self, state: MemoryState, transactional_id: str | None, transaction_timeout_s: float
    ) -> None:
        self._state = state
        self._id = transactional_id
        self._timeout_s = transaction_timeout_s
        self._in_transaction = False  # set by `begin`, reset by `_end`
        self._deadline_s = 0.0  # when the open transaction times out; set by `begin`
        self._fenced = False  # set by a newer producer or a timeout; never reset
        self._written: list[PartitionLog] = []  # logs that the open transaction wrote to
        # Offsets to commit with the open transaction. Cleared by `_end`, like `_written`.
        self._offsets: list[tuple[Group, Mapping[TopicPartition, Committed]]] = []
        self._keyless = 0  # number of keyless records sent; they go to the partitions in turn

    def send(self, record: Outgoing) -> None:
        state = self._state
        name, partition = record.topic, record.partition
        with state.changed:
            topic = state.topics.get(name) or state.topic(name)
            check_size(record, topic.max_bytes)
            if partition is None:
                if record.key is None:
                    partition = self._keyless % len(topic.logs)
                    self._keyless += 1
                else:
                    partition = partition_for(record.key, len(topic.logs))
            else:
                check_partition(record, len(topic.logs))
            self._append((record,), topic, partition)

    def send_batch(self, batch: OutgoingBatch) -> None:
        state = self._state
        with state.changed:
            topic = state.topics.get(batch.topic) or state.topic(batch.topic)
            taken: list[Outgoing] = []
            try:
                for record in unpacked(batch):
                    check_size(record, topic.max_bytes)
                    taken.append(record)
            finally:  # even if a record is rejected, append the records before it
                if taken:
                    check_partition(taken[0], len(topic.logs))
                    self._append(taken, topic, batch.partition)

    def _append(self, records: Sequence[Outgoing], topic: TopicLogs, partition: int) -> None:
        """Append records to a partition. The caller must have checked them."""
        state, log = self._state, topic.logs[partition]
        entries, first = log.entries, len(log.entries)
        if self._id is not None:
            self._check_open()
            if self._id not in log.open:
                log.open[self._id] = []
                self._written.append(log)
            log.open[self._id].extend(range(first, first + len(records)))
        now_ms = int(state.clock.time() * 1000)
        entries.extend(
            Message(
                record.topic, partition, offset, record.key, record.value, record.headers, now_ms
            )
            for offset, record in enumerate(records, first)
        )
        if state.waiting:  # an unneeded `notify_all` would take a fifth of a send's time
            state.changed.notify_all()

    def flush(self) -> None:
        """Do nothing, because `send` acknowledges records immediately."""

    def begin(self) -> None:
        with self._state.changed:
            check_can_begin(self._id, is_open=self._in_transaction)
            assert self._id is not None  # `check_can_begin` has checked this
            self._check_fenced()
            owner = self._state.owners.get(self._id)
            if owner is not self:
                if owner is not None:
                    owner.fence()
                self._state.owners[self._id] = self
            self._in_transaction = True
            self._deadline_s = self._state.clock.monotonic() + self._timeout_s

    def send_offsets(
        self, offsets: Mapping[TopicPartition, Committed], group_metadata: object
    ) -> None:
        with self._state.changed:
            self._check_open()
            assert isinstance(group_metadata, tuple)
            name, member_id, generation = group_metadata
            group = self._state.group(name)
            for partition in offsets:
                self._state.log(partition)
            try:
                group.check_member(member_id, generation)
            except BrokerError as error:
                raise TransactionAborted(error.message, hint=error.hint) from error
            self._offsets.append((group, dict(offsets)))

    def commit(self) -> None:
        with self._state.changed:
            self._check_open()
            for group, offsets in self._offsets:
                group.committed.update(offsets)
            self._end(keep=True)

    def abort(self) -> None:
        with self._state.changed:
            if self._in_transaction:
                self._end(keep=False)

    def close(self) -> None:
        self.abort()

    def abandon(self) -> None:
        self.abort()

    def expire(self) -> None:
        """Fence this producer if its open transaction has timed out."""
        if self._in_transaction and self._state.clock.monotonic() > self._deadline_s:
            self.fence()

    def fence(self) -> None:
        """Abort any open transaction and reject all later transactions."""
        if self._in_transaction:
            self._end(keep=False)
        self._fenced = True

    def _check_fenced(self) -> None:
        if self._fenced:
            raise TransactionAborted(
                f"the transactional id {self._id!r} was taken over, or its transaction timed out",
                hint="create a new producer, and rebuild the state from the committed offsets",
            )

    def _check_open(self) -> None:
        self._check_fenced()
        if not self._in_transaction:
            raise BrokerError(f"{self._id!r} has no open transaction", hint="call begin first")
        self.expire()
        self._check_fenced()

    def _end(self, *, keep: bool) -> None:
        """End the transaction. As in Kafka, its marker occupies an offset in each partition that
        the transaction wrote to."""
        assert self._id is not None
        for log in self._written:
            offsets = log.open.pop(self._id)
            if not keep:
                for offset in offsets:
                    log.entries[offset] = None
            log.entries.append(None)
        self._written.clear()
        self._offsets.clear()
        self._in_transaction = False
        self._state.changed.notify_all()
