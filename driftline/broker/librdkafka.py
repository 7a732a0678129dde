"""The adapter for librdkafka (confluent-kafka): the fast one, behind the extra `librdkafka`.

In: addresses, and client properties under librdkafka's dotted names. Out: the clients of the port.
Never: auto commit, uncommitted reads, topics made by use.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from driftline.broker.limits import (
    CLIENT_MAX_BYTES,
    MAX_MESSAGE_BYTES,
    TopicLimits,
    unknown_topic,
    wait_until,
)
from driftline.broker.port import (
    Committed,
    Message,
    NewTopic,
    OffsetRange,
    Outgoing,
    Rebalanced,
    TopicInfo,
    TopicPartition,
)
from driftline.broker.properties import refuse_owned, unknown_property
from driftline.errors import (
    BrokerError,
    BrokerUnavailable,
    DeliveryFailed,
    MissingExtra,
    SettingsError,
    TransactionAborted,
)

try:
    import confluent_kafka as ck
    from confluent_kafka import admin as ck_admin
except ImportError as error:
    raise MissingExtra("confluent-kafka", "librdkafka") from error

_log = logging.getLogger(__name__)

# Long enough for a slow start of one broker, short enough to tell a person who waits.
CONNECT_TIMEOUT_S = 10.0
# Answers of a broker that is there take milliseconds; this covers an election.
_ANSWER_TIMEOUT_S = 30.0
_LARGEST_BATCH = 1_000_000  # what `consume` takes at most

_CONSUMER: Mapping[str, object] = {
    "enable.auto.commit": False,  # the loop commits what was handled, nothing else does
    "enable.auto.offset.store": False,
    "auto.offset.reset": "earliest",
    "isolation.level": "read_committed",
    "partition.assignment.strategy": "range",
    "group.protocol": "classic",
    "fetch.queue.backoff.ms": 5,  # default 1000: catching up stops at a fourth of the speed
    "fetch.wait.max.ms": 100,  # a seek or resume waits for the empty fetch under way; default 500
    "session.timeout.ms": 10_000,  # partitions of a killed worker move on; default 45 s
}
_PRODUCER: Mapping[str, object] = {
    "acks": "all",
    "enable.idempotence": True,
    # As Java clients and the other adapters; librdkafka's own default is CRC32. `_random` concerns
    # only records without a key, which `murmur2` would all send to one partition.
    "partitioner": "murmur2_random",
    "linger.ms": 5,  # librdkafka's default; flush does not wait for it
    "message.max.bytes": CLIENT_MAX_BYTES,  # topics have their own limit
    "delivery.report.only.error": True,  # a callback for each success would double the cost
}


class LibrdkafkaBroker:
    """Makes confluent-kafka clients for one cluster.

    A broker that goes away later is waited for; records that it does not acknowledge in time fail.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        properties: Mapping[str, str] | None = None,
        *,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
    ) -> None:
        refuse_owned(properties or {})
        self._servers = bootstrap_servers
        self._properties = dict(properties or {})
        self._connect_timeout_s = connect_timeout_s
        self._limits = TopicLimits(self._describe)
        # Connects to nothing until it is used; made now so that a wrong property is told now.
        self._admin_client = self._make(ck_admin.AdminClient, {}, {})[0]

    @property
    def max_message_bytes(self) -> int:
        return MAX_MESSAGE_BYTES

    def consumer(
        self, group: str | None = None, *, client_id: str = "driftline"
    ) -> "LibrdkafkaConsumer":
        # librdkafka wants a group even for a consumer that never joins one.
        own = {"group.id": group or f"{client_id}-alone", "client.id": client_id}
        client = self._connected(*self._make(ck.Consumer, _CONSUMER, own))
        return LibrdkafkaConsumer(client, group, self._limits)

    def producer(
        self,
        transactional_id: str | None = None,
        *,
        transaction_timeout_s: float = 10.0,
        client_id: str = "driftline",
    ) -> "LibrdkafkaProducer":
        own: dict[str, object] = {"client.id": client_id}
        if transactional_id is None:
            own["delivery.timeout.ms"] = 60_000  # default 5 min: too long to hold a batch unsure
        else:
            own["transactional.id"] = transactional_id
            own["transaction.timeout.ms"] = int(transaction_timeout_s * 1000)
        client = self._connected(*self._make(ck.Producer, _PRODUCER, own))
        return LibrdkafkaProducer(client, transactional_id, self._limits)

    def admin(self) -> "LibrdkafkaAdmin":
        return LibrdkafkaAdmin(self._connected(*self._make(ck_admin.AdminClient, {}, {})))

    def _describe(self, topic: str) -> TopicInfo | None:
        return LibrdkafkaAdmin(self._admin_client).describe([topic]).get(topic)

    def _make(
        self, make: Any, defaults: Mapping[str, object], own: Mapping[str, object]
    ) -> tuple[Any, list[str]]:
        """A client, and the list in which its errors are put down."""
        errors: list[str] = []
        config = {
            # Default 10 s: a broker that comes back is found again within seconds.
            "reconnect.backoff.max.ms": 1000,
            **defaults,
            **self._properties,
            **own,
            "bootstrap.servers": self._servers,
            "error_cb": lambda error: errors.append(error.str()),
        }
        try:
            return make(config, logger=_log), errors
        except ck.KafkaException as error:
            text = error.args[0].str()
            for name in self._properties:
                if f'"{name}"' in text:
                    raise unknown_property(name, "librdkafka", f": {text}") from error
            raise SettingsError(f"librdkafka refuses its client properties: {text}") from error

    def _connected(self, client: Any, errors: list[str]) -> Any:
        """The client, once the cluster has answered it."""
        try:
            client.list_topics(timeout=self._connect_timeout_s)
        except ck.KafkaException as error:
            client.poll(0)  # collects what went wrong
            why = errors[0] if errors else error.args[0].str()
            raise BrokerUnavailable(
                f"no Kafka answers at {self._servers} within {self._connect_timeout_s:.0f} s: "
                + why,
                hint="check the address and that a broker runs there (driftline broker up)",
            ) from error
        return client


class LibrdkafkaConsumer:
    """Reads through a confluent_kafka.Consumer."""

    def __init__(self, client: Any, group: str | None, limits: TopicLimits) -> None:
        self._client = client
        self._group = group
        self._limits = limits
        # What is assigned, and from which offset; None: the committed one, or else the earliest.
        self._starts: dict[TopicPartition, int | None] = {}
        self._paused: set[TopicPartition] = set()
        self._assigning = False
        self._rebalances = 0
        self._revoked: Rebalanced | None = None
        self._closed = False

    def subscribe(
        self, topics: Sequence[str], *, assigned: Rebalanced, revoked: Rebalanced
    ) -> None:
        for topic in topics:
            self._limits.partitions(topic)
        self._revoked = revoked

        def on_assign(client: Any, partitions: list[Any]) -> None:
            self._rebalances += 1
            gained = sorted(TopicPartition(p.topic, p.partition) for p in partitions)
            self._starts = dict.fromkeys(gained)
            self._assigning = True
            try:
                assigned(gained)  # its seeks change the starts
            finally:
                self._assigning = False
            self._restart()

        def on_revoke(client: Any, partitions: list[Any]) -> None:
            self._rebalances += 1
            lost = sorted(TopicPartition(p.topic, p.partition) for p in partitions)
            try:
                if lost:
                    revoked(lost)
            finally:
                self._starts = {}
                self._paused.clear()

        with _translated("subscribe"):
            self._client.subscribe(list(topics), on_assign=on_assign, on_revoke=on_revoke)

    def assign(self, offsets: Mapping[TopicPartition, int]) -> None:
        for partition in offsets:
            if partition.partition >= self._limits.partitions(partition.topic):
                raise BrokerError(f"topic {partition.topic!r} has no {partition.partition}")
        self._starts = dict(offsets)
        self._paused.clear()
        self._restart()

    def poll(self, *, max_records: int, timeout_s: float) -> list[Message]:
        count = min(max_records, _LARGEST_BATCH)
        before = self._rebalances
        with _translated("poll"):
            # `consume` with a timeout waits for all of `count`; so wait for one, then take what
            # is there.
            records = self._client.consume(count, 0)
            if not records and timeout_s > 0:
                first = self._client.poll(timeout_s)
                if first is not None:
                    records = [first, *self._client.consume(count - 1, 0)]
        if self._rebalances != before and records:
            # They may be of before the rebalance: drop them, and read again what is assigned now.
            if self._starts:
                self._restart()
            return []
        return [_message(record) for record in records if not _is_notice(record)]

    def assignment(self) -> frozenset[TopicPartition]:
        return frozenset(self._starts)

    def position(self, partition: TopicPartition) -> int:
        start = self._starts[self._own(partition)]
        with _translated("position"):
            if not self._assigning:
                offset: int = self._client.position([_tp(partition)])[0].offset
                if offset >= 0:
                    return offset
            if start is not None:
                return start
            known = self.committed([partition])
            if known:
                return known[partition].offset
            first: int = self._client.get_watermark_offsets(_tp(partition), _ANSWER_TIMEOUT_S)[0]
            return first

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self._starts[self._own(partition)] = offset
        if self._assigning:
            return
        try:
            self._client.seek(_tp(partition, offset))
        except ck.KafkaException:
            # Refused while the partition is still starting up; then all start again where they are.
            for other in self._starts:
                if other != partition:
                    self._starts[other] = self.position(other)
            self._restart()

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        wanted = [self._own(partition) for partition in partitions]
        self._paused.update(wanted)
        if not self._assigning:
            with _translated("pause"):
                self._client.pause([_tp(partition) for partition in wanted])

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        wanted = [self._own(partition) for partition in partitions]
        self._paused.difference_update(wanted)
        if not self._assigning:
            with _translated("resume"):
                self._client.resume([_tp(partition) for partition in wanted])

    def committed(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, Committed]:
        self._need_group()
        wanted = [_tp(partition) for partition in partitions]
        if not wanted:
            return {}
        with _translated("read committed offsets"):
            return _committed(self._client.committed(wanted, timeout=_ANSWER_TIMEOUT_S))

    def commit(self, offsets: Mapping[TopicPartition, Committed]) -> None:
        self._need_group()
        if not offsets:
            return
        with _translated("commit offsets"):
            answer = self._client.commit(offsets=_positions(offsets), asynchronous=False)
            for position in answer:
                if position.error is not None:
                    raise ck.KafkaException(position.error)

    def group_metadata(self) -> object:
        self._need_group()
        return self._client.consumer_group_metadata()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            with _translated("close"):
                self._client.close()
            self._starts = {}

    def _need_group(self) -> None:
        if self._group is None:
            raise BrokerError("this consumer has no group", hint="make it with a group name")

    def _own(self, partition: TopicPartition) -> TopicPartition:
        if partition not in self._starts:
            raise BrokerError(f"{partition.topic}-{partition.partition} is not assigned here")
        return partition

    def _restart(self) -> None:
        """Let the client read each partition from its start, dropping what it had fetched."""
        with _translated("assign"):
            self._client.assign(
                [_tp(partition, start) for partition, start in self._starts.items()]
            )
            if self._paused:
                self._client.pause([_tp(partition) for partition in self._paused])


class LibrdkafkaProducer:
    """Writes through a confluent_kafka.Producer."""

    def __init__(self, client: Any, transactional_id: str | None, limits: TopicLimits) -> None:
        self._client = client
        self._id = transactional_id
        self._limits = limits
        self._failed: list[str] = []
        self._ready = False
        self._in_transaction = False
        self._fatal: Exception | None = None  # after it this producer can do nothing more
        self._closed = False

    def send(self, record: Outgoing) -> None:
        self._limits.check(record)
        partition = -1 if record.partition is None else record.partition
        headers = list(record.headers) if record.headers else None
        while True:
            try:
                self._client.produce(
                    record.topic,
                    value=record.value,
                    key=record.key,
                    partition=partition,
                    headers=headers,
                    on_delivery=self._delivered,
                )
            except BufferError:
                self._client.poll(0.1)  # the queue is full: wait until some are acknowledged
            except ck.KafkaException as error:
                raise self._error("send", error) from error
            else:
                return

    def flush(self) -> None:
        while self._client.flush(1.0) > 0:
            pass  # each record is acknowledged or fails within its delivery timeout
        if self._failed:
            count, first = len(self._failed), self._failed[0]
            self._failed.clear()
            raise DeliveryFailed(
                f"{count} records were not acknowledged; the first: {first}",
                hint="nothing after the last committed offset is safe; read it again",
            )

    def begin(self) -> None:
        if self._id is None:
            raise BrokerError("this producer has no transactional id")
        if self._in_transaction:
            raise BrokerError(f"a transaction of {self._id!r} is open already")
        if not self._ready:
            self._call("begin a transaction", self._client.init_transactions, _ANSWER_TIMEOUT_S)
            self._ready = True
        self._call("begin a transaction", self._client.begin_transaction)
        self._in_transaction = True

    def send_offsets(
        self, offsets: Mapping[TopicPartition, Committed], group_metadata: object
    ) -> None:
        for partition in offsets:
            self._limits.partitions(partition.topic)
        self._call(
            "send offsets",
            self._client.send_offsets_to_transaction,
            _positions(offsets),
            group_metadata,
            _ANSWER_TIMEOUT_S,
        )

    def commit(self) -> None:
        self._call("commit", self._client.commit_transaction, _ANSWER_TIMEOUT_S)
        self._in_transaction = False

    def abort(self) -> None:
        if not self._in_transaction:
            return
        self._in_transaction = False
        self._failed.clear()
        if self._fatal is not None:
            return  # fenced: the coordinator has aborted it
        try:
            self._call("abort", self._client.abort_transaction, _ANSWER_TIMEOUT_S)
        except BrokerError as error:
            # The coordinator aborts it: at once when fenced, else at the transaction's timeout.
            _log.warning("the transaction of %s was left to time out: %s", self._id, error)

    def close(self) -> None:
        if self._closed:
            return
        self.abort()
        self._closed = True
        if left := self._client.flush(_ANSWER_TIMEOUT_S):
            _log.warning("the producer was closed with %d records unsent", left)
        self._client.close()

    def _delivered(self, error: Any, record: Any) -> None:
        if error is not None:
            self._failed.append(f"{record.topic()}: {error.str()}")

    def _call(self, doing: str, call: Callable[..., object], *arguments: object) -> None:
        """Call, again while the client says that it may succeed."""
        deadline = time.monotonic() + 2 * _ANSWER_TIMEOUT_S
        if self._fatal is not None:
            # Asked again, the client would tell of a conflicting call instead.
            raise self._error(doing, self._fatal)
        while True:
            try:
                call(*arguments)
            except ck.KafkaException as error:
                if not error.args[0].retriable() or time.monotonic() > deadline:
                    raise self._error(doing, error) from error
                self._client.poll(0.1)
            else:
                return

    def _error(self, doing: str, error: Any) -> BrokerError:
        reason = error.args[0]
        if reason.fatal():
            self._fatal = error
        if self._id is None:
            return BrokerError(f"cannot {doing}: {reason.str()}")
        if reason.retriable() and not self._in_transaction:
            return BrokerUnavailable(f"cannot {doing} for {self._id!r}: {reason.str()}")
        return TransactionAborted(
            f"cannot {doing} for {self._id!r}: {reason.str()}",
            hint="abort and rebuild from the committed offsets; if begin fails as well, another"
            " producer took over the id",
        )


class LibrdkafkaAdmin:
    """Administers through a confluent_kafka.admin.AdminClient."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def describe(self, topics: Iterable[str] | None = None) -> dict[str, TopicInfo]:
        wanted = None if topics is None else set(topics)
        with _translated("describe topics"):
            found = self._client.list_topics(timeout=_ANSWER_TIMEOUT_S).topics
            counts = {
                name: len(topic.partitions)
                for name, topic in sorted(found.items())
                if topic.error is None
                and not name.startswith("__")
                and (wanted is None or name in wanted)
            }
            if not counts:
                return {}
            answers = self._client.describe_configs(
                [ck_admin.ConfigResource(ck_admin.ResourceType.TOPIC, name) for name in counts]
            )
            configs = {
                resource.name: {key: entry.value or "" for key, entry in answer.result().items()}
                for resource, answer in answers.items()
            }
        return {name: TopicInfo(name, count, configs[name]) for name, count in counts.items()}

    def create(self, topics: Iterable[NewTopic]) -> None:
        wanted = {topic.name: topic for topic in topics}
        if not wanted:
            return
        answers = self._client.create_topics(
            [
                ck_admin.NewTopic(
                    topic.name,
                    num_partitions=topic.partitions,
                    replication_factor=topic.replication_factor,
                    config=dict(topic.config),
                )
                for topic in wanted.values()
            ]
        )
        for name, answer in answers.items():
            with _translated(f"create topic {name!r}"):
                answer.result()
        wait_until(lambda: self._have_leaders(wanted), f"topics {sorted(wanted)} have no leaders")

    def delete(self, topics: Iterable[str]) -> None:
        names = list(topics)
        if not names:
            return
        for name, answer in self._client.delete_topics(names).items():
            with _translated(f"delete topic {name!r}"):
                try:
                    answer.result()
                except ck.KafkaException as error:
                    if error.args[0].code() != ck.KafkaError.UNKNOWN_TOPIC_OR_PART:
                        raise
        wait_until(lambda: not self.describe(names), f"topics {names} are still there")

    def offsets(self, topic: str) -> dict[TopicPartition, OffsetRange]:
        with _translated("list offsets"):
            found = self._client.list_topics(timeout=_ANSWER_TIMEOUT_S).topics.get(topic)
            if found is None or found.error is not None:
                raise unknown_topic(topic)
            starts, ends = (
                self._client.list_offsets(
                    {ck.TopicPartition(topic, number): spec for number in sorted(found.partitions)},
                    isolation_level=ck.IsolationLevel.READ_COMMITTED,
                )
                for spec in (ck_admin.OffsetSpec.earliest(), ck_admin.OffsetSpec.latest())
            )
            return {
                TopicPartition(topic, at.partition): OffsetRange(
                    starts[at].result().offset, ends[at].result().offset
                )
                for at in starts
            }

    def group_offsets(self, group: str) -> dict[TopicPartition, Committed]:
        with _translated("list group offsets"):
            request = [ck.ConsumerGroupTopicPartitions(group)]
            answer = self._client.list_consumer_group_offsets(request)[group]
            return _committed(answer.result().topic_partitions)

    def close(self) -> None:
        """Nothing to free: the client ends with this object."""

    def _have_leaders(self, topics: Mapping[str, NewTopic]) -> bool:
        found = self._client.list_topics(timeout=_ANSWER_TIMEOUT_S).topics
        return all(
            name in found
            and len(found[name].partitions) == topic.partitions
            and all(partition.leader >= 0 for partition in found[name].partitions.values())
            for name, topic in topics.items()
        )


def _tp(partition: TopicPartition, offset: int | None = None) -> Any:
    return ck.TopicPartition(*partition, ck.OFFSET_INVALID if offset is None else offset)


def _positions(offsets: Mapping[TopicPartition, Committed]) -> list[Any]:
    return [
        ck.TopicPartition(*partition, position.offset, metadata=position.metadata)
        for partition, position in offsets.items()
    ]


def _committed(positions: Iterable[Any]) -> dict[TopicPartition, Committed]:
    result = {}
    for position in positions:
        if position.error is not None:
            raise ck.KafkaException(position.error)
        if position.offset >= 0:
            partition = TopicPartition(position.topic, position.partition)
            result[partition] = Committed(position.offset, position.metadata or "")
    return result


def _message(record: Any) -> Message:
    headers = record.headers()
    return Message(
        record.topic(),
        record.partition(),
        record.offset(),
        record.key(),
        record.value(),
        tuple((name, value or b"") for name, value in headers) if headers else (),
        record.timestamp()[1],
    )


# What the client overcomes by itself is logged; these it does not.
_LASTING = frozenset(
    {
        ck.KafkaError.UNKNOWN_TOPIC_OR_PART,
        ck.KafkaError.TOPIC_AUTHORIZATION_FAILED,
        ck.KafkaError.GROUP_AUTHORIZATION_FAILED,
    }
)


def _is_notice(record: Any) -> bool:
    """Whether this is no record but news of an error that will pass. Raises BrokerError if not."""
    error = record.error()
    if error is None:
        return False
    if error.fatal() or error.code() in _LASTING:
        raise BrokerError(f"cannot read: {error.str()}")
    _log.warning("%s", error.str())
    return True


_UNREACHABLE = frozenset(
    {
        ck.KafkaError._TRANSPORT,
        ck.KafkaError._TIMED_OUT,
        ck.KafkaError._ALL_BROKERS_DOWN,
        ck.KafkaError._WAIT_COORD,
    }
)


@contextlib.contextmanager
def _translated(doing: str) -> Iterator[None]:
    """Turn the client's errors into Driftline's."""
    try:
        yield
    except ck.KafkaException as error:
        reason = error.args[0]
        if reason.code() in _UNREACHABLE:
            raise BrokerUnavailable(
                f"cannot {doing}: Kafka does not answer ({reason.str()})",
                hint="check that the broker runs and can be reached",
            ) from error
        raise BrokerError(f"cannot {doing}: {reason.str()}") from error
