"""The in-memory broker, for `driftline run` and fast tests.

Input: a clock for timestamps. Output: clients that behave like those of Apache Kafka, including
transactions, whose markers take an offset, fencing, and size limits. It has no network, threads,
compaction or retention, and evicts no member from a group.
"""

import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from driftline.broker import memory_log
from driftline.broker.limits import (
    MAX_MESSAGE_BYTES,
    check_partition,
    check_size,
    topic_bytes,
    unknown_topic,
    unpacked,
)
from driftline.broker.memory_log import TOPIC_DEFAULTS, Group, Member, PartitionLog, Topic
from driftline.broker.partitioner import partition_for
from driftline.broker.port import (
    Committed,
    Message,
    NewTopic,
    OffsetRange,
    Outgoing,
    OutgoingBatch,
    Rebalanced,
    TopicInfo,
    TopicPartition,
)
from driftline.broker.transactions import check_can_begin
from driftline.clock import Clock, SystemClock
from driftline.errors import BrokerError, OffsetOutOfRange, TransactionAborted

_LEGAL_NAME = re.compile(r"[A-Za-z0-9._-]{1,249}")


class MemoryBroker:
    """A broker in this process. Its clients may run in several threads.

    A poll waits for records only with the system clock. With any other clock it returns at once,
    because the time of such a clock does not advance during a call.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._waits = isinstance(self._clock, SystemClock)
        # Guards the state of the broker. Notified when a waiting poll may find something new.
        self._changed = threading.Condition(threading.RLock())
        self._topics: dict[str, Topic] = {}
        self._groups: dict[str, Group] = {}  # made at the first use
        self._owners: dict[str, MemoryProducer] = {}  # newest producer by transactional id
        self._clients = 0  # consumers made so far
        self._created = 0  # the number in the newest topic id
        self._waiting = 0  # threads that wait in a poll

    @property
    def max_message_bytes(self) -> int:
        return MAX_MESSAGE_BYTES

    def consumer(
        self,
        group: str | None = None,
        *,
        client_id: str = "driftline",
        instance_id: str | None = None,
    ) -> "MemoryConsumer":
        with self._changed:
            self._clients += 1
            return MemoryConsumer(self, group, f"{client_id}-{self._clients:09d}")

    def producer(
        self,
        transactional_id: str | None = None,
        *,
        transaction_timeout_s: float = 10.0,
        client_id: str = "driftline",
        gapless: bool = False,
    ) -> "MemoryProducer":
        return MemoryProducer(self, transactional_id, transaction_timeout_s)

    def admin(self) -> "MemoryAdmin":
        return MemoryAdmin(self)

    def save(self, folder: Path) -> None:
        """Write all topics and committed offsets. The same content gives the same bytes."""
        with self._changed:
            memory_log.save(folder, self._topics, self._groups)

    @classmethod
    def load(cls, folder: Path, clock: Clock | None = None) -> "MemoryBroker":
        """Make a broker from what `save` wrote. Raises BrokerError for missing or invalid files."""
        broker = cls(clock)
        broker._topics, broker._groups = memory_log.load(folder)
        broker._created = max(
            # Topics that earlier versions saved have no id.
            (int(topic.id.rpartition("-")[2] or 0) for topic in broker._topics.values()),
            default=0,
        )
        return broker

    def truncate(self, partition: TopicPartition, start: int) -> None:
        """Delete the records of a partition before this offset, as retention does."""
        with self._changed:
            log = self._log(partition)
            log.start = min(max(start, log.start), len(log.entries))
            log.entries[: log.start] = [None] * log.start
            self._changed.notify_all()

    def _topic(self, name: str) -> Topic:
        topic = self._topics.get(name)
        if topic is None:
            raise unknown_topic(name)
        return topic

    def _log(self, partition: TopicPartition) -> PartitionLog:
        logs = self._topic(partition.topic).logs
        if not 0 <= partition.partition < len(logs):
            raise BrokerError(f"topic {partition.topic!r} has no partition {partition.partition}")
        return logs[partition.partition]

    def _group(self, name: str) -> Group:
        return self._groups.setdefault(name, Group())

    def _counts(self) -> dict[str, int]:
        return {name: len(topic.logs) for name, topic in self._topics.items()}

    def _stable_end(self, log: PartitionLog) -> int:
        """Abort transactions that have timed out, then return the last stable offset."""
        for transactional_id in list(log.open):
            self._owners[transactional_id]._expire()
        return log.stable_end()


class MemoryConsumer:
    """Read from a MemoryBroker."""

    def __init__(self, broker: MemoryBroker, group: str | None, member_id: str) -> None:
        self._broker = broker
        self._group_name = group
        self._member = Member(member_id, ())
        self._positions: dict[TopicPartition, int] = {}  # next offsets; replaced by each assignment
        self._order: list[TopicPartition] = []  # the same partitions, rotated by each poll
        self._paused: set[TopicPartition] = set()  # emptied by each assignment
        # Callbacks, set by `subscribe`; None without a group, and after `close` or `abandon`.
        self._assigned: Rebalanced | None = None
        self._revoked: Rebalanced | None = None

    def subscribe(
        self, topics: Sequence[str], *, assigned: Rebalanced, revoked: Rebalanced
    ) -> None:
        with self._broker._changed:
            for topic in topics:
                self._broker._topic(topic)
            self._member.topics = tuple(topics)
            self._assigned, self._revoked = assigned, revoked
            self._group().join(self._member)
            self._broker._changed.notify_all()

    def assign(self, offsets: Mapping[TopicPartition, int]) -> None:
        with self._broker._changed:
            for partition in offsets:
                self._broker._log(partition)
            self._take_over(offsets)

    def poll(self, *, max_records: int, timeout_s: float) -> list[Message]:
        broker = self._broker
        deadline = broker._clock.monotonic() + timeout_s
        with broker._changed:
            while True:
                if self._assigned is not None:
                    self._rebalance(self._assigned)
                batch = self._read(max_records)
                left_s = deadline - broker._clock.monotonic()
                if batch or not broker._waits or left_s <= 0:
                    return batch
                broker._waiting += 1
                try:
                    broker._changed.wait(left_s)
                finally:
                    broker._waiting -= 1

    def assignment(self) -> frozenset[TopicPartition]:
        return frozenset(self._positions)

    def position(self, partition: TopicPartition) -> int:
        return self._positions[self._own(partition)]

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self._positions[self._own(partition)] = offset

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        self._paused.update(self._own(partition) for partition in partitions)

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        self._paused.difference_update(partitions)

    def committed(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, Committed]:
        with self._broker._changed:
            known = self._group().committed
            return {partition: known[partition] for partition in partitions if partition in known}

    def commit(self, offsets: Mapping[TopicPartition, Committed]) -> None:
        with self._broker._changed:
            _check_member(self._group(), *self._identity())
            for partition in offsets:
                self._broker._log(partition)
            self._group().committed.update(offsets)

    def group_metadata(self) -> object:
        self._group()
        return (self._group_name, *self._identity())

    def ends(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        broker = self._broker
        with broker._changed:
            return {p: broker._stable_end(broker._log(p)) for p in partitions}

    def close(self) -> None:
        with self._broker._changed:
            if self._revoked is not None:
                self._give_up()
                self._group().leave(self._member)
                self._assigned = self._revoked = None
                self._broker._changed.notify_all()
            self._take_over({})

    def abandon(self) -> None:
        with self._broker._changed:
            if self._revoked is not None:
                self._group().leave(self._member)
                self._assigned = self._revoked = None
                self._broker._changed.notify_all()
            self._take_over({})

    def _group(self) -> Group:
        if self._group_name is None:
            raise BrokerError("this consumer has no group", hint="create it with a group name")
        return self._broker._group(self._group_name)

    def _identity(self) -> tuple[str, int]:
        return (self._member.id if self._revoked else "", self._member.generation)

    def _own(self, partition: TopicPartition) -> TopicPartition:
        if partition not in self._positions:
            raise BrokerError(f"{partition.topic}-{partition.partition} is not assigned here")
        return partition

    def _rebalance(self, assigned: Rebalanced) -> None:
        group = self._group()
        if group.rebalancing:
            self._give_up()
            group.settle(self._broker._counts())
            self._broker._changed.notify_all()
        if group.rebalancing or self._member.generation == group.generation:
            return
        gained = group.assignment[self._member.id]
        self._member.generation = group.generation
        known = group.committed
        self._take_over(
            {p: known[p].offset if p in known else self._broker._log(p).start for p in gained}
        )
        assigned(gained)

    def _give_up(self) -> None:
        if self._member.generation == self._group().generation and self._positions:
            assert self._revoked is not None
            self._revoked(sorted(self._positions))
        self._member.generation = -1
        self._take_over({})

    def _take_over(self, offsets: Mapping[TopicPartition, int]) -> None:
        self._positions = dict(offsets)
        self._order = sorted(offsets)
        self._paused.clear()

    def _read(self, max_records: int) -> list[Message]:
        batch: list[Message] = []
        positions = self._positions
        for partition in self._order:
            if partition in self._paused:
                continue
            log = self._broker._log(partition)
            end = self._broker._stable_end(log) if log.open else len(log.entries)
            position = positions[partition]
            if not log.start <= position <= len(log.entries):
                if self._revoked is None:
                    position = log.start  # without a group, resume at the earliest record
                elif batch:
                    continue  # return the records found so far; the next call raises
                else:
                    raise OffsetOutOfRange(*partition)
            while position < end and len(batch) < max_records:
                chunk = log.entries[position : min(end, position + max_records - len(batch))]
                position += len(chunk)
                batch += [entry for entry in chunk if entry is not None]
            positions[partition] = position
        if self._order:
            self._order.append(self._order.pop(0))
        return batch


class MemoryProducer:
    """Write to a MemoryBroker. Each record is acknowledged when it is sent."""

    def __init__(
        self, broker: MemoryBroker, transactional_id: str | None, transaction_timeout_s: float
    ) -> None:
        self._broker = broker
        self._id = transactional_id
        self._timeout_s = transaction_timeout_s
        self._in_transaction = False  # set by `begin`, reset by `_end`
        self._deadline_s = 0.0  # when the open transaction times out; set by `begin`
        self._fenced = False  # set by a newer producer or a timeout; never reset
        self._written: list[PartitionLog] = []  # logs of the open transaction, until `_end`
        self._offsets: list[tuple[Group, Mapping[TopicPartition, Committed]]] = []  # until `_end`
        self._keyless = 0  # records without a key so far, which alternate between partitions

    def send(self, record: Outgoing) -> None:
        broker = self._broker
        name, partition = record.topic, record.partition
        with broker._changed:
            topic = broker._topics.get(name) or broker._topic(name)
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
        broker = self._broker
        with broker._changed:
            topic = broker._topics.get(batch.topic) or broker._topic(batch.topic)
            taken: list[Outgoing] = []
            try:
                for record in unpacked(batch):
                    check_size(record, topic.max_bytes)
                    taken.append(record)
            finally:  # send the records before the rejected one
                if taken:
                    check_partition(taken[0], len(topic.logs))
                    self._append(taken, topic, batch.partition)

    def _append(self, records: Sequence[Outgoing], topic: Topic, partition: int) -> None:
        """Append records, which were checked before, to a partition."""
        broker, log = self._broker, topic.logs[partition]
        entries, first = log.entries, len(log.entries)
        if self._id is not None:
            self._check_open()
            if self._id not in log.open:
                log.open[self._id] = []
                self._written.append(log)
            log.open[self._id].extend(range(first, first + len(records)))
        now_ms = int(broker._clock.time() * 1000)
        entries.extend(
            Message(
                record.topic, partition, offset, record.key, record.value, record.headers, now_ms
            )
            for offset, record in enumerate(records, first)
        )
        if broker._waiting:  # even without a waiting thread, this takes a fifth of a send
            broker._changed.notify_all()

    def flush(self) -> None:
        """Do nothing. Records are acknowledged already."""

    def begin(self) -> None:
        with self._broker._changed:
            check_can_begin(self._id, is_open=self._in_transaction)
            assert self._id is not None  # `check_can_begin` has checked this
            self._check_fenced()
            owner = self._broker._owners.get(self._id)
            if owner is not self:
                if owner is not None:
                    owner._fence()
                self._broker._owners[self._id] = self
            self._in_transaction = True
            self._deadline_s = self._broker._clock.monotonic() + self._timeout_s

    def send_offsets(
        self, offsets: Mapping[TopicPartition, Committed], group_metadata: object
    ) -> None:
        with self._broker._changed:
            self._check_open()
            assert isinstance(group_metadata, tuple)
            name, member_id, generation = group_metadata
            group = self._broker._group(name)
            for partition in offsets:
                self._broker._log(partition)
            try:
                _check_member(group, member_id, generation)
            except BrokerError as error:
                raise TransactionAborted(error.message, hint=error.hint) from error
            self._offsets.append((group, dict(offsets)))

    def commit(self) -> None:
        with self._broker._changed:
            self._check_open()
            for group, offsets in self._offsets:
                group.committed.update(offsets)
            self._end(keep=True)

    def abort(self) -> None:
        with self._broker._changed:
            if self._in_transaction:
                self._end(keep=False)

    def close(self) -> None:
        self.abort()

    def abandon(self) -> None:
        self.abort()

    def _check_fenced(self) -> None:
        if self._fenced:
            raise TransactionAborted(
                f"the transactional id {self._id!r} was taken over, or its transaction timed out",
                hint="rebuild from the committed offsets with a new producer",
            )

    def _check_open(self) -> None:
        self._check_fenced()
        if not self._in_transaction:
            raise BrokerError(f"no transaction of {self._id!r} is open", hint="call begin first")
        self._expire()
        self._check_fenced()

    def _expire(self) -> None:
        if self._in_transaction and self._broker._clock.monotonic() > self._deadline_s:
            self._fence()

    def _fence(self) -> None:
        if self._in_transaction:
            self._end(keep=False)
        self._fenced = True

    def _end(self, *, keep: bool) -> None:
        """End the transaction. As in Kafka, a marker takes an offset in each partition written."""
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
        self._broker._changed.notify_all()


class MemoryAdmin:
    """Administer the topics and groups of a MemoryBroker."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker

    def describe(self, topics: Iterable[str] | None = None) -> dict[str, TopicInfo]:
        with self._broker._changed:
            known = self._broker._topics
            return {
                name: TopicInfo(
                    name, len(known[name].logs), {**TOPIC_DEFAULTS, **known[name].config}
                )
                for name in (sorted(known) if topics is None else topics)
                if name in known
            }

    def topic_ids(self, topics: Iterable[str]) -> dict[str, str]:
        with self._broker._changed:
            known = self._broker._topics
            return {name: known[name].id for name in topics if name in known}

    def create(self, topics: Iterable[NewTopic]) -> None:
        with self._broker._changed:
            for topic in topics:
                if not _LEGAL_NAME.fullmatch(topic.name):
                    raise BrokerError(
                        f"{topic.name!r} is not a valid topic name",
                        hint="use up to 249 letters, digits, dots, dashes and underscores",
                    )
                if topic.partitions < 1:
                    raise BrokerError(f"topic {topic.name!r} needs at least one partition")
                if topic.name in self._broker._topics:
                    raise BrokerError(f"topic {topic.name!r} already exists")
                logs = tuple(PartitionLog() for _ in range(topic.partitions))
                config = dict(topic.config)
                self._broker._created += 1
                identity = f"memory-{self._broker._created}"
                self._broker._topics[topic.name] = Topic(
                    logs, config, topic_bytes(config), identity
                )

    def delete(self, topics: Iterable[str]) -> None:
        with self._broker._changed:
            for topic in topics:
                self._broker._topics.pop(topic, None)
                for group in self._broker._groups.values():  # Kafka does this, too
                    for partition in [p for p in group.committed if p.topic == topic]:
                        del group.committed[partition]

    def offsets(self, topic: str) -> dict[TopicPartition, OffsetRange]:
        with self._broker._changed:
            return {
                TopicPartition(topic, partition): OffsetRange(
                    log.start, self._broker._stable_end(log)
                )
                for partition, log in enumerate(self._broker._topic(topic).logs)
            }

    def group_offsets(self, group: str) -> dict[TopicPartition, Committed]:
        with self._broker._changed:
            found = self._broker._groups.get(group)
            return dict(found.committed) if found else {}

    def group_members(self, group: str) -> int:
        with self._broker._changed:
            found = self._broker._groups.get(group)
            return len(found.members) if found else 0

    def close(self) -> None:
        """Do nothing."""


def _check_member(group: Group, member_id: str, generation: int) -> None:
    """Raise BrokerError unless this is a current member, or the group has no members."""
    if member_id == "":
        if group.members:
            raise BrokerError("the group has members; a consumer outside it may not commit")
    elif member_id not in group.members or generation != group.generation:
        raise BrokerError(
            "the group has rebalanced since this consumer got its partitions",
            hint="poll again; what was not committed will be read again",
        )
