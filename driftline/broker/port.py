"""Define the Kafka broker interface: protocols for clients, and the values that they exchange.

The adapters `memory`, `kafka_python` and `librdkafka` implement this interface and pass the same
contract suite (`tests/driftline/broker/test_contract.py`). All consumers read only committed
records. All producers choose a key's partition with murmur2, as Java clients do.

A long-lived process must not call a client's methods in an `except` block; only `close` and
`abandon` are safe there. If any other method fails in an `except` block, confluent-kafka (2.16)
leaks the exception being handled: the new `KafkaError` stores that exception as its `__context__`
and never releases it. All objects referenced by the traceback's frames leak as well, including
other clients and their threads.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import groupby
from typing import NamedTuple, Protocol, overload

import msgspec

Headers = tuple[tuple[str, bytes], ...]


class TopicPartition(NamedTuple):
    """One partition of one topic."""

    topic: str
    partition: int


class Committed(NamedTuple):
    """A group's checkpoint for one partition: the next offset to read, and free-text metadata."""

    offset: int
    metadata: str = ""


class Message(msgspec.Struct, frozen=True, gc=False):
    """A record read from a topic. `timestamp_ms` is its publish time, not its event time."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    timestamp_ms: int = 0

    @property
    def place(self) -> str:
        """Return `topic[partition]@offset`, for log messages."""
        return f"{self.topic}[{self.partition}]@{self.offset}"


class Messages(Sequence[Message]):
    """Records in the order in which they were read. Their fields are also available as columns,
    which an adapter can provide without creating a `Message` for each record."""

    def __init__(self, messages: Sequence[Message]) -> None:
        self._messages = messages

    @classmethod
    def of(cls, messages: Sequence[Message]) -> "Messages":
        """Wrap a sequence of records so that it is also available as columns."""
        return messages if isinstance(messages, Messages) else Messages(messages)

    def __len__(self) -> int:
        return len(self._messages)

    def __iter__(self) -> Iterator[Message]:
        return iter(self._messages)

    @overload
    def __getitem__(self, at: int) -> Message: ...
    @overload
    def __getitem__(self, at: slice) -> "Messages": ...
    def __getitem__(self, at: int | slice) -> "Message | Messages":
        return Messages(self._messages[at]) if isinstance(at, slice) else self._messages[at]

    def take(self, places: Iterable[int]) -> "Messages":
        """Return the records at these indices."""
        return Messages([self[place] for place in places])

    @cached_property
    def runs(self) -> Sequence[tuple[TopicPartition, slice]]:
        """Return each run of consecutive records from one partition as its partition and slice."""
        topics, partitions = self.topics, self.partitions
        if not topics:
            return ()
        if topics.count(topics[0]) == partitions.count(partitions[0]) == len(topics):
            return ((TopicPartition(topics[0], partitions[0]), slice(0, len(topics))),)
        found, end = [], 0
        for at, run in groupby(zip(topics, partitions, strict=True)):
            start, end = end, end + sum(1 for _ in run)
            found.append((TopicPartition(*at), slice(start, end)))
        return found

    @property
    def topics(self) -> list[str]:
        """Return each record's topic. All columns have the same order as the records."""
        return [message.topic for message in self._messages]

    @property
    def partitions(self) -> list[int]:
        return [message.partition for message in self._messages]

    @property
    def offsets(self) -> list[int]:
        return [message.offset for message in self._messages]

    @property
    def keys(self) -> list[bytes | None]:
        return [message.key for message in self._messages]

    @property
    def values(self) -> list[bytes | None]:
        return [message.value for message in self._messages]

    @property
    def headers(self) -> list[Headers]:
        return [message.headers for message in self._messages]


class Outgoing(msgspec.Struct, frozen=True, gc=False):
    """A record to publish. If `partition` is None, the key's murmur2 hash selects the partition."""

    topic: str
    value: bytes | None
    key: bytes | None = None
    partition: int | None = None
    headers: Headers = ()


class OutgoingBatch(msgspec.Struct, frozen=True, gc=False):
    """Records for one partition, without headers. `keys[i]` and `values[i]` form one record."""

    topic: str
    partition: int
    keys: Sequence[bytes | None]
    values: Sequence[bytes]


class NewTopic(msgspec.Struct, frozen=True):
    """A topic to create. `config` uses Kafka's own setting names and values."""

    name: str
    partitions: int
    replication_factor: int = 1
    config: Mapping[str, str] = {}


class TopicInfo(msgspec.Struct, frozen=True):
    """The broker's description of a topic. `config` contains all settings, including defaults."""

    name: str
    partitions: int
    config: Mapping[str, str]


class OffsetRange(NamedTuple):
    """A partition's readable offsets, `[start, end)`. `end` is the last stable offset."""

    start: int
    end: int


Rebalanced = Callable[[Sequence[TopicPartition]], None]


class Consumer(Protocol):
    """Read topics, either as a group member (`subscribe`) or without a group (`assign`)."""

    def subscribe(
        self, topics: Sequence[str], *, assigned: Rebalanced, revoked: Rebalanced
    ) -> None:
        """Join the group (classic protocol, range assignor). Raises BrokerError for unknown topics.

        `poll` calls `assigned` with all of this member's partitions before it returns their
        records. The list may be empty. `assigned` may call `committed` and `seek`. Without a
        `seek`, a partition starts at its committed offset, or at its earliest offset if none is
        committed. Later, `poll` or `close` calls `revoked` with the same partitions. `revoked` may
        still commit, but `commit` raises BrokerError if the group has evicted this member. Both
        callbacks run in the calling thread.
        """

    def assign(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Read these partitions from these offsets, without joining a group."""

    def poll(self, *, max_records: int, timeout_s: float) -> Sequence[Message]:
        """Return at most `max_records` records. If none are available, wait up to `timeout_s`.

        Raises BrokerUnavailable or BrokerError. Raises UnsupportedCodec if the client cannot
        decompress the records. If a partition's position is outside its log, because retention
        deleted records or the topic was recreated, `poll` raises OffsetOutOfRange for a group
        member until `seek` is called. A consumer without a group resumes at the earliest record
        instead.
        """

    def assignment(self) -> frozenset[TopicPartition]:
        """Return the partitions assigned to this consumer."""

    def position(self, partition: TopicPartition) -> int:
        """Return the offset that `poll` will read next. It is higher than the offset of any record
        that `poll` has returned and of any transaction marker that the client has read."""

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Make the next `poll` read this partition from `offset`."""

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        """Make `poll` skip these partitions until `resume` is called for them."""

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        """Undo `pause`."""

    def committed(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, Committed]:
        """Fetch the group's checkpoints. Partitions without a checkpoint are omitted."""

    def commit(self, offsets: Mapping[TopicPartition, Committed]) -> None:
        """Commit offsets for the group and wait for the broker's response. Raises BrokerError,
        for example if this member is fenced."""

    def group_metadata(self) -> object:
        """Return an opaque value for `Producer.send_offsets`."""

    def ends(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """Fetch these partitions' last stable offsets, where the logs end for readers. Each end is
        higher than the offset of every record that was readable before this call."""

    def close(self) -> None:
        """Leave the group and free all resources. Safe to call twice."""

    def abandon(self) -> None:
        """Free all resources after a failure. Safe to call twice, and after `close`.

        Calls no callbacks, commits nothing, and does not wait for the broker or for pending calls.
        A static member remains in its group until a successor with the same instance id joins or
        the member's session times out.
        """


class Producer(Protocol):
    """Publish records, in transactions if the producer has a `transactional_id`."""

    def send(self, record: Outgoing) -> None:
        """Queue a record. Blocks while the client's queue is full.

        Raises MessageTooLarge (record exceeds its topic's max.message.bytes), DeliveryFailed
        (unknown partition), BrokerError (unknown topic) or TransactionAborted (producer fenced).
        """

    def send_batch(self, batch: OutgoingBatch) -> None:
        """Queue records in order. Blocks and raises like `send`. If a record is rejected, only the
        records before it are queued."""

    def flush(self) -> None:
        """Wait until every record sent so far is acknowledged. Raises DeliveryFailed."""

    def begin(self) -> None:
        """Begin a transaction. The first call fences older producers with the same
        `transactional_id`.

        Raises BrokerUnavailable, or TransactionAborted if a newer producer has fenced this one. A
        fenced producer must be replaced, and its replacement fences the newer producer in turn.
        """

    def send_offsets(
        self, offsets: Mapping[TopicPartition, Committed], group_metadata: object
    ) -> None:
        """Add offsets to the transaction. Raises TransactionAborted if this producer is fenced."""

    def commit(self) -> None:
        """Commit the transaction's records and offsets. Raises TransactionAborted."""

    def abort(self) -> None:
        """Abort the open transaction, if any. Readers never see its records."""

    def close(self) -> None:
        """Abort any open transaction and free all resources. Safe to call twice."""

    def abandon(self) -> None:
        """Free all resources after a failure, without waiting for the broker.

        Queued records are dropped. An open transaction is aborted by the next producer with the
        same `transactional_id`, or by a timeout. Safe to call twice, and after `close`.
        """


class Admin(Protocol):
    """Describe topics and groups; create and delete topics."""

    def describe(self, topics: Iterable[str] | None = None) -> dict[str, TopicInfo]:
        """Describe these topics, or by default all topics except Kafka's internal topics. Unknown
        topics are omitted."""

    def topic_ids(self, topics: Iterable[str]) -> dict[str, str]:
        """Return these topics' ids. Unknown topics are omitted. A topic that is deleted and
        recreated gets a new id."""

    def create(self, topics: Iterable[NewTopic]) -> None:
        """Create topics and wait until they are usable.

        Raises BrokerError if a topic already exists.
        """

    def delete(self, topics: Iterable[str]) -> None:
        """Delete topics and wait until they are gone. Unknown topics are ignored."""

    def offsets(self, topic: str) -> dict[TopicPartition, OffsetRange]:
        """Return each partition's readable offsets. Raises BrokerError for an unknown topic."""

    def group_offsets(self, group: str) -> dict[TopicPartition, Committed]:
        """Return all of a group's committed offsets, with their metadata."""

    def group_members(self, group: str) -> int:
        """Return the number of members in a group, or 0 if the group is unknown."""

    def close(self) -> None:
        """Free all resources. Safe to call twice."""


class Broker(Protocol):
    """Create clients for one cluster, all with the same properties."""

    def consumer(
        self,
        group: str | None = None,
        *,
        client_id: str = "driftline",
        instance_id: str | None = None,
    ) -> Consumer:
        """Create a consumer. With an `instance_id`, it is a static member of its group.

        A static member immediately takes over the partitions of a killed process with the same
        `instance_id`, without a rebalance. If the older process is still alive, its `poll` or
        `commit` raises BrokerError within seconds. The in-memory broker ignores `instance_id`,
        because its members cannot be killed.
        """

    def producer(
        self,
        transactional_id: str | None = None,
        *,
        transaction_timeout_s: float = 10.0,
        client_id: str = "driftline",
        gapless: bool = False,
    ) -> Producer:
        """Create a producer. Set `gapless` only for producers without transactions.

        If a record cannot be written, a gapless producer writes no later record to the same
        partition. After such a failure, every call raises BrokerError or DeliveryFailed, and the
        producer must be abandoned.
        """

    def admin(self) -> Admin: ...

    @property
    def max_message_bytes(self) -> int:
        """Return the largest record size (key, value, headers) that Kafka's default limit allows.

        A topic can have a different limit, which `send` checks.
        """
