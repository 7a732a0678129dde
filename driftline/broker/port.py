"""Define the broker interface: four protocols, and the values that they exchange.

The adapters `memory`, `kafka_python` and `librdkafka` implement it and pass one contract suite
(`tests/driftline/broker/test_contract.py`). All consumers read only committed records. All
producers choose the partition of a key with murmur2, as Java clients do.

A long-lived process must not call a client in an `except` block, except for `close` and `abandon`.
If such a call fails, confluent-kafka (2.16) never frees the exception that is being handled, nor
what the frames of its traceback hold, such as other clients and their threads: its `KafkaError` has
the `__context__` of an exception, but does not clear it.
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
    """A checkpoint of a group: the next offset to read, and metadata as free text."""

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
    """Records in the order in which they were read, also accessible as columns. An adapter can
    provide the columns without making a `Message` for each record."""

    def __init__(self, messages: Sequence[Message]) -> None:
        self._messages = messages

    @classmethod
    def of(cls, messages: Sequence[Message]) -> "Messages":
        """Return the same records, with columns."""
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
        """Return each run of consecutive records of one partition, as the partition and a slice."""
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
        """Return the column of topics, one per record. The other columns have the same order."""
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
    """A record to publish. Without `partition`, the murmur2 hash of the key selects one."""

    topic: str
    value: bytes | None
    key: bytes | None = None
    partition: int | None = None
    headers: Headers = ()


class OutgoingBatch(msgspec.Struct, frozen=True, gc=False):
    """Records for one partition, without headers. `keys[i]` and `values[i]` are one record."""

    topic: str
    partition: int
    keys: Sequence[bytes | None]
    values: Sequence[bytes]


class NewTopic(msgspec.Struct, frozen=True):
    """A topic to create. `config` contains Kafka's own names and values."""

    name: str
    partitions: int
    replication_factor: int = 1
    config: Mapping[str, str] = {}


class TopicInfo(msgspec.Struct, frozen=True):
    """A topic as the broker describes it. `config` contains its settings, defaults included."""

    name: str
    partitions: int
    config: Mapping[str, str]


class OffsetRange(NamedTuple):
    """The readable range of a partition, `[start, end)`. `end` is the last stable offset."""

    start: int
    end: int


Rebalanced = Callable[[Sequence[TopicPartition]], None]


class Consumer(Protocol):
    """Read topics, either as a member of a group (`subscribe`) or alone (`assign`)."""

    def subscribe(
        self, topics: Sequence[str], *, assigned: Rebalanced, revoked: Rebalanced
    ) -> None:
        """Join the group (classic protocol, range assignor). Raises BrokerError for unknown topics.

        `poll` calls `assigned` with all partitions of this member before it returns their records.
        The list may be empty. The callback may call `committed` and `seek`. Without a `seek`, a
        partition starts at its committed offset, or at the earliest one. `poll` and `close` call
        `revoked` with the partitions that are taken away. It may still commit, but this raises
        BrokerError if the group has evicted this member. Both run in the calling thread.
        """

    def assign(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Read these partitions from these offsets, without joining a group."""

    def poll(self, *, max_records: int, timeout_s: float) -> Sequence[Message]:
        """Return the next records, at most `max_records`. Wait up to `timeout_s` if there are none.

        Raises BrokerUnavailable, BrokerError, and UnsupportedCodec if the client cannot decompress
        the records. A group member raises OffsetOutOfRange, until `seek`, if a position is outside
        of its log: retention has deleted the record, or the topic was created again. A consumer
        without a group resumes at the earliest record instead.
        """

    def assignment(self) -> frozenset[TopicPartition]:
        """Return the partitions that are assigned to this consumer."""

    def position(self, partition: TopicPartition) -> int:
        """Return the offset from which `poll` reads next. It is after all records that `poll` has
        returned, and after the transaction markers that the client has read."""

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Make `poll` read next from `offset`."""

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        """Return no records of these partitions until `resume`."""

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        """Undo `pause`."""

    def committed(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, Committed]:
        """Fetch the group's checkpoints. A partition without one is left out."""

    def commit(self, offsets: Mapping[TopicPartition, Committed]) -> None:
        """Commit for the group and wait for the answer. Raises BrokerError, also when fenced."""

    def group_metadata(self) -> object:
        """Return an opaque value for `Producer.send_offsets`."""

    def ends(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """Fetch the last stable offsets of these partitions, where they end for a reader. They are
        above all records that were published before this call."""

    def close(self) -> None:
        """Leave the group and free all resources. Safe to call twice."""

    def abandon(self) -> None:
        """Free all resources after a failure. Safe to call twice, and after `close`.

        Call no callback, commit nothing, and do not wait for the broker or pending calls. A static
        member stays in its group until a successor with its id joins or its session times out.
        """


class Producer(Protocol):
    """Publish records, in transactions if it was made with a `transactional_id`."""

    def send(self, record: Outgoing) -> None:
        """Queue a record. Blocks while the client's queue is full.

        Raises MessageTooLarge (above its topic's max.message.bytes), DeliveryFailed (unknown
        partition), BrokerError (unknown topic), TransactionAborted (fenced).
        """

    def send_batch(self, batch: OutgoingBatch) -> None:
        """Queue records in their order. Blocks and raises like `send`. If it raises, the records
        before the rejected one are queued."""

    def flush(self) -> None:
        """Wait until every record sent so far is acknowledged. Raises DeliveryFailed."""

    def begin(self) -> None:
        """Begin a transaction. The first call fences older producers with the same id.

        Raises BrokerUnavailable, and TransactionAborted if a newer producer has fenced this one.
        Then only a new producer can begin a transaction, which fences the other one.
        """

    def send_offsets(
        self, offsets: Mapping[TopicPartition, Committed], group_metadata: object
    ) -> None:
        """Add these offsets to the transaction. Raises TransactionAborted when fenced."""

    def commit(self) -> None:
        """Commit the records and offsets of the transaction. Raises TransactionAborted."""

    def abort(self) -> None:
        """Abort the transaction, if one is open. Readers never see any of its records."""

    def close(self) -> None:
        """Abort an open transaction and free all resources. Safe to call twice."""

    def abandon(self) -> None:
        """Free all resources after a failure, without waiting for the broker. Queued records are
        dropped. The next producer with the same id, or a timeout, aborts an open transaction. Safe
        to call twice, and after `close`."""


class Admin(Protocol):
    """Describe topics and groups, create and delete topics."""

    def describe(self, topics: Iterable[str] | None = None) -> dict[str, TopicInfo]:
        """Describe these topics, or all except Kafka's own. Unknown topics are left out."""

    def topic_ids(self, topics: Iterable[str]) -> dict[str, str]:
        """Return the ids of these topics. Unknown topics are left out. A topic gets a new id when
        it is deleted and created again."""

    def create(self, topics: Iterable[NewTopic]) -> None:
        """Create topics and wait until they are usable. Raises BrokerError if one exists."""

    def delete(self, topics: Iterable[str]) -> None:
        """Delete topics and wait until they are gone. Unknown topics are ignored."""

    def offsets(self, topic: str) -> dict[TopicPartition, OffsetRange]:
        """Return the readable range of each partition. Raises BrokerError for an unknown topic."""

    def group_offsets(self, group: str) -> dict[TopicPartition, Committed]:
        """Return all checkpoints of a group."""

    def group_members(self, group: str) -> int:
        """Return the number of members of a group, 0 for an unknown group."""

    def close(self) -> None:
        """Free all resources. Safe to call twice."""


class Broker(Protocol):
    """Make clients for one cluster, all with the same properties."""

    def consumer(
        self,
        group: str | None = None,
        *,
        client_id: str = "driftline",
        instance_id: str | None = None,
    ) -> Consumer:
        """Make a consumer. With `instance_id` it is a static member of its group.

        A static member takes over the partitions of a killed process with the same id at once,
        without a rebalance. If both are alive, `poll` or `commit` of the older one raises
        BrokerError within seconds. The memory broker, whose members cannot be killed, ignores it.
        """

    def producer(
        self,
        transactional_id: str | None = None,
        *,
        transaction_timeout_s: float = 10.0,
        client_id: str = "driftline",
        gapless: bool = False,
    ) -> Producer:
        """Make a producer. `gapless` is for producers without transactions.

        If a record was not written, no later one of its partition is written. After a failure every
        call raises BrokerError or DeliveryFailed, and the producer must be abandoned.
        """

    def admin(self) -> Admin: ...

    @property
    def max_message_bytes(self) -> int:
        """Return the largest size of a record (key, value, headers) with Kafka's default limit.

        Topics can have other limits, which `send` checks.
        """
