"""The broker as the rest of Driftline sees it: four small protocols and the values they exchange.

Adapters (`memory`, `kafka_python`, `librdkafka`) implement them and pass one contract suite
(`tests/broker/test_contract.py`). All consumers read committed records only; every adapter spreads
keys over partitions with murmur2, as Java clients do.
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
    """A group's committed position: the next offset to read, and free text kept beside it."""

    offset: int
    metadata: str = ""


class Message(msgspec.Struct, frozen=True, gc=False):
    """A record read from a topic. `timestamp_ms` is the publish time, never the event time."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    timestamp_ms: int = 0

    @property
    def place(self) -> str:
        """Where it stands, for people: `topic[partition]@offset`."""
        return f"{self.topic}[{self.partition}]@{self.offset}"


class Messages(Sequence[Message]):
    """Records in the order in which they were read, and their columns, for whoever takes in many
    at once: an adapter that has them otherwise gives them without a `Message` for each."""

    def __init__(self, messages: Sequence[Message]) -> None:
        self._messages = messages

    @classmethod
    def of(cls, messages: Sequence[Message]) -> "Messages":
        """The same records, with columns."""
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
        """The records at these places."""
        return Messages([self[place] for place in places])

    @cached_property
    def runs(self) -> Sequence[tuple[TopicPartition, slice]]:
        """The partition of each run of records that stand together, as they mostly do, and its
        places."""
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
        """Their topics, in order; the other columns likewise."""
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
    """A record to publish. Without `partition`, murmur2 of the key chooses one."""

    topic: str
    value: bytes | None
    key: bytes | None = None
    partition: int | None = None
    headers: Headers = ()


class OutgoingBatch(msgspec.Struct, frozen=True, gc=False):
    """Many records for one partition, without headers: `keys[i]` goes with `values[i]`."""

    topic: str
    partition: int
    keys: Sequence[bytes | None]
    values: Sequence[bytes]


class NewTopic(msgspec.Struct, frozen=True):
    """A topic to create; `config` holds Kafka's own names and values."""

    name: str
    partitions: int
    replication_factor: int = 1
    config: Mapping[str, str] = {}


class TopicInfo(msgspec.Struct, frozen=True):
    """A topic as the broker describes it; `config` holds all of Kafka's settings for it."""

    name: str
    partitions: int
    config: Mapping[str, str]


class OffsetRange(NamedTuple):
    """The readable range of a partition: `[start, end)`, `end` being the last stable offset."""

    start: int
    end: int


Rebalanced = Callable[[Sequence[TopicPartition]], None]


class Consumer(Protocol):
    """Reads topics, either as a member of a group (`subscribe`) or alone (`assign`)."""

    def subscribe(
        self, topics: Sequence[str], *, assigned: Rebalanced, revoked: Rebalanced
    ) -> None:
        """Join the group (classic protocol, range assignor). Raises BrokerError (no such topic).

        `assigned` is called from inside `poll` with the partitions gained (none, if there are more
        members than partitions), before any of their records is returned; the callback may call
        `committed` and `seek`. A partition without a `seek` starts at its committed offset, or at
        the earliest one. `revoked` is called from inside `poll` or `close` with the partitions
        lost, while commits are still possible (not after the group has evicted this member: then
        they raise BrokerError). Both run in the thread that called `poll` or `close`.
        """

    def assign(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Read these partitions from these offsets, without a group."""

    def poll(self, *, max_records: int, timeout_s: float) -> Sequence[Message]:
        """What is there, at most `max_records`; blocks up to `timeout_s` while nothing is.

        Raises BrokerUnavailable, BrokerError. A member of a group raises OffsetOutOfRange, at each
        call until it is sought elsewhere, when a partition has no record at its position: retention
        has deleted it, or the topic was created again. Alone, it goes on from the earliest record.
        """

    def assignment(self) -> frozenset[TopicPartition]:
        """The partitions that this consumer reads now."""

    def position(self, partition: TopicPartition) -> int:
        """The offset from which `poll` goes on: behind all records that it has returned, and behind
        the markers of transactions among and after them, once `poll` has come upon those."""

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Continue from `offset`."""

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        """Return no records of these partitions until `resume`."""

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        """Undo `pause`."""

    def committed(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, Committed]:
        """The group's committed positions; a partition without one is left out."""

    def commit(self, offsets: Mapping[TopicPartition, Committed]) -> None:
        """Commit for the group and wait for the answer. Raises BrokerError (also when fenced)."""

    def group_metadata(self) -> object:
        """What `Producer.send_offsets` needs from this consumer; opaque."""

    def ends(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """Where these partitions end for a reader (the last stable offset), asked of the broker
        now: what was published before this call stands before its end."""

    def close(self) -> None:
        """Leave the group and free everything. Safe to call twice."""

    def abandon(self) -> None:
        """Free everything after a failure: call no callback, commit nothing, and wait neither for
        the broker nor for calls under way. A member with an instance id stays in its group until a
        successor of this id joins or its session times out. Safe to call twice, and after `close`.
        """


class Producer(Protocol):
    """Publishes records, in a transaction when it was made with a `transactional_id`."""

    def send(self, record: Outgoing) -> None:
        """Queue a record; blocks while the client's queue is full.

        Raises MessageTooLarge (over its topic's max.message.bytes), DeliveryFailed (no such
        partition), BrokerError (no such topic), TransactionAborted (fenced).
        """

    def send_batch(self, batch: OutgoingBatch) -> None:
        """Queue many records, in their order. Blocks and raises as `send` does; the records before
        the one that is refused are sent."""

    def flush(self) -> None:
        """Wait until every record sent so far is acknowledged. Raises DeliveryFailed."""

    def begin(self) -> None:
        """Begin a transaction. The first call fences older producers of the same id.

        Raises TransactionAborted when a newer producer has fenced this one: only a new producer
        helps then, and only if no other worker runs under this id. BrokerUnavailable.
        """

    def send_offsets(
        self, offsets: Mapping[TopicPartition, Committed], group_metadata: object
    ) -> None:
        """Make these commits part of the transaction. Raises TransactionAborted when fenced."""

    def commit(self) -> None:
        """Commit the transaction, records and offsets together. Raises TransactionAborted."""

    def abort(self) -> None:
        """Abort the transaction; nothing of it becomes visible. Without one, does nothing."""

    def close(self) -> None:
        """Free everything; an open transaction is aborted. Safe to call twice."""

    def abandon(self) -> None:
        """Free everything after a failure; drop what was not sent, and do not wait for the broker.
        An open transaction is aborted by the next producer of the same id, or when it times out.
        Safe to call twice, and after `close`."""


class Admin(Protocol):
    """Looks at topics and groups, creates and deletes topics."""

    def describe(self, topics: Iterable[str] | None = None) -> dict[str, TopicInfo]:
        """These topics (all but Kafka's own, without an argument); an unknown one is left out."""

    def topic_ids(self, topics: Iterable[str]) -> dict[str, str]:
        """The ids of these topics; an unknown one is left out. A topic that is deleted and created
        again has another id."""

    def create(self, topics: Iterable[NewTopic]) -> None:
        """Create topics and wait until they can be used. Raises BrokerError if one exists."""

    def delete(self, topics: Iterable[str]) -> None:
        """Delete topics and wait until they are gone; one that does not exist is no error."""

    def offsets(self, topic: str) -> dict[TopicPartition, OffsetRange]:
        """The readable range of each partition. Raises BrokerError if there is no such topic."""

    def group_offsets(self, group: str) -> dict[TopicPartition, Committed]:
        """All that a group has committed."""

    def group_members(self, group: str) -> int:
        """How many consumers are members of a group now; 0 if there is no such group."""

    def close(self) -> None:
        """Free everything. Safe to call twice."""


class Broker(Protocol):
    """Makes clients for one cluster, all with the same properties."""

    def consumer(
        self,
        group: str | None = None,
        *,
        client_id: str = "driftline",
        instance_id: str | None = None,
    ) -> Consumer:
        """A consumer. `instance_id` makes it a static member of its group: one that takes over
        from a killed process of the same id has its partitions at once, and the group goes on
        meanwhile. Two that live are told apart: `poll` or `commit` of the older one raise
        BrokerError, within seconds. The memory broker, whose members do not die, ignores it.
        """

    def producer(
        self,
        transactional_id: str | None = None,
        *,
        transaction_timeout_s: float = 10.0,
        client_id: str = "driftline",
        gapless: bool = False,
    ) -> Producer:
        """A producer. With `gapless`, which is for one without transactions, no record of a
        partition is written after one that was not: after a failure every call raises BrokerError
        or DeliveryFailed, and the producer can only be abandoned."""

    def admin(self) -> Admin: ...

    @property
    def max_message_bytes(self) -> int:
        """The largest record (key, value, headers) that a topic with Kafka's defaults takes.

        A topic with its own max.message.bytes takes more or less; `send` checks that.
        """
