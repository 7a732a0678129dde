"""The adapter for kafka-python: pure Python and always installed; it owes correctness, not speed.

In: addresses, and client properties under Kafka's dotted names. Out: the clients of the port.
Never: auto commit, uncommitted reads, topics made by use.
"""

import contextlib
import logging
import queue
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import kafka
from kafka import errors as kafka_errors
from kafka.admin import ConfigResource, OffsetSpec
from kafka.consumer.subscription_state import AsyncConsumerRebalanceListener
from kafka.coordinator.assignors.range import RangePartitionAssignor
from kafka.future import Future
from kafka.structs import OffsetAndMetadata

from driftline.broker.limits import (
    CLIENT_MAX_BYTES,
    MAX_MESSAGE_BYTES,
    TopicLimits,
    unknown_topic,
    wait_until,
)
from driftline.broker.partitioner import partition_for
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
from driftline.broker.properties import for_kafka_python
from driftline.errors import (
    BrokerError,
    BrokerUnavailable,
    DeliveryFailed,
    SettingsError,
    TransactionAborted,
)

_log = logging.getLogger(__name__)

# Long enough for a slow start of one broker, short enough to tell a person who waits.
CONNECT_TIMEOUT_S = 10.0
# Answers of a broker that is there take milliseconds; this covers an election.
_ANSWER_TIMEOUT_MS = 30_000
# The client's own queue has no bound; wait for the oldest record when so many are unconfirmed.
_MAX_UNCONFIRMED = 20_000

_CONSUMER: Mapping[str, object] = {
    "enable_auto_commit": False,  # the loop commits what was handled, nothing else does
    "auto_offset_reset": "earliest",  # default latest: would skip what came before the start
    "isolation_level": "read_committed",
    "allow_auto_create_topics": False,
    "partition_assignment_strategy": [RangePartitionAssignor],
    "fetch_max_wait_ms": 100,  # a seek or resume waits for the empty fetch under way; default 500
    "session_timeout_ms": 10_000,  # partitions of a killed worker move on; default 45 s
    "metrics_enabled": False,  # a tenth of the time of a poll
}
_PRODUCER: Mapping[str, object] = {
    "acks": "all",
    "enable_idempotence": True,
    "allow_auto_create_topics": False,
    "linger_ms": 5,  # as librdkafka; flush does not wait for it
    "batch_size": 131_072,  # default 16 KB: a request for every 100 records or so
    "max_request_size": CLIENT_MAX_BYTES,
    "delivery_timeout_ms": 60_000,
    "metrics_enabled": False,
}


class KafkaPythonBroker:
    """Makes kafka-python clients. Nothing is opened before the first client is made.

    A broker that goes away later is waited for; a transaction's commit has no time limit of its
    own in this client, but its records have one, after which the commit fails.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        properties: Mapping[str, str] | None = None,
        *,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
    ) -> None:
        self._servers = bootstrap_servers
        self._connect_timeout_s = connect_timeout_s
        self._properties = for_kafka_python(
            properties or {},
            [
                kafka.KafkaAdminClient.DEFAULT_CONFIG,
                kafka.KafkaProducer.DEFAULT_CONFIG,
                kafka.KafkaConsumer.DEFAULT_CONFIG,
            ],
        )
        self._limits = TopicLimits(self._describe)

    @property
    def max_message_bytes(self) -> int:
        return MAX_MESSAGE_BYTES

    def consumer(
        self, group: str | None = None, *, client_id: str = "driftline"
    ) -> "KafkaPythonConsumer":
        client = self._make(
            kafka.KafkaConsumer, _CONSUMER, {"group_id": group, "client_id": client_id}
        )
        return KafkaPythonConsumer(client, self._limits)

    def producer(
        self,
        transactional_id: str | None = None,
        *,
        transaction_timeout_s: float = 10.0,
        client_id: str = "driftline",
    ) -> "KafkaPythonProducer":
        own: dict[str, object] = {"client_id": client_id}
        if transactional_id is not None:
            own["transactional_id"] = transactional_id
            own["transaction_timeout_ms"] = int(transaction_timeout_s * 1000)
        client = self._make(kafka.KafkaProducer, _PRODUCER, own)
        return KafkaPythonProducer(client, transactional_id, self._limits)

    def admin(self) -> "KafkaPythonAdmin":
        return KafkaPythonAdmin(self._make(kafka.KafkaAdminClient, {}, {}))

    def _describe(self, topic: str) -> TopicInfo | None:
        admin = self.admin()
        try:
            return admin.describe([topic]).get(topic)
        finally:
            admin.close()

    def _make(self, make: Any, defaults: Mapping[str, object], own: Mapping[str, object]) -> Any:
        known = make.DEFAULT_CONFIG
        config = {
            "bootstrap_timeout_ms": int(self._connect_timeout_s * 1000),
            # Default 30 s: a broker that comes back is found again within seconds.
            "reconnect_backoff_max_ms": 1000,
            **defaults,
            **{name: value for name, value in self._properties.items() if name in known},
            **own,
            "bootstrap_servers": [server.strip() for server in self._servers.split(",")],
        }
        try:
            return make(**config)
        except (kafka_errors.KafkaConfigurationError, ValueError, OSError) as error:
            raise SettingsError(f"kafka-python refuses its client properties: {error}") from error
        except kafka_errors.KafkaError as error:
            raise BrokerUnavailable(
                f"no Kafka answers at {self._servers} within {self._connect_timeout_s:.0f} s: "
                f"{error or type(error).__name__}",
                hint="check the address and that a broker runs there (driftline broker up)",
            ) from error


class KafkaPythonConsumer:
    """Reads through a kafka.KafkaConsumer."""

    def __init__(self, client: Any, limits: TopicLimits) -> None:
        self._client = client
        self._limits = limits
        self._callbacks: _Callbacks | None = None
        self._closed = False

    def subscribe(
        self, topics: Sequence[str], *, assigned: Rebalanced, revoked: Rebalanced
    ) -> None:
        for topic in topics:
            self._limits.partitions(topic)
        self._callbacks = _Callbacks(self._client, assigned, revoked)
        with _translated("subscribe"):
            self._client.subscribe(topics=list(topics), listener=self._callbacks)

    def assign(self, offsets: Mapping[TopicPartition, int]) -> None:
        for partition in offsets:
            if partition.partition >= self._limits.partitions(partition.topic):
                raise BrokerError(f"topic {partition.topic!r} has no {partition.partition}")
        with _translated("assign"):
            self._client.assign([_tp(partition) for partition in offsets])
            for partition, offset in offsets.items():
                self._client.seek(_tp(partition), offset)

    def poll(self, *, max_records: int, timeout_s: float) -> list[Message]:
        poll = self._client.poll if self._callbacks is None else self._callbacks.poll
        with _translated("poll"):
            batches = poll(timeout_ms=timeout_s * 1000, max_records=max_records)
        return [
            Message(
                record.topic,
                record.partition,
                record.offset,
                record.key,
                record.value,
                tuple((name, value or b"") for name, value in record.headers),
                record.timestamp,
            )
            for records in batches.values()
            for record in records
        ]

    def assignment(self) -> frozenset[TopicPartition]:
        return frozenset(TopicPartition(*partition) for partition in self._client.assignment())

    def position(self, partition: TopicPartition) -> int:
        with _translated("position"):
            offset = self._client.position(_tp(partition), timeout_ms=_ANSWER_TIMEOUT_MS)
        if offset is None:
            raise BrokerUnavailable(f"the broker does not tell where {partition} starts")
        return int(offset)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        with _translated("seek"):
            self._client.seek(_tp(partition), offset)

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        with _translated("pause"):
            self._client.pause(*map(_tp, partitions))

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        with _translated("resume"):
            self._client.resume(*map(_tp, partitions))

    def committed(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, Committed]:
        result = {}
        with _translated("read committed offsets"):
            for partition in partitions:
                known = self._client.committed(
                    _tp(partition), metadata=True, timeout_ms=_ANSWER_TIMEOUT_MS
                )
                if known is not None and known.offset >= 0:
                    result[partition] = _committed(known)
        return result

    def commit(self, offsets: Mapping[TopicPartition, Committed]) -> None:
        with _translated("commit offsets"):
            self._client.commit(_positions(offsets), timeout_ms=_ANSWER_TIMEOUT_MS)

    def group_metadata(self) -> object:
        return self._client.group_metadata()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            if self._callbacks is not None:
                self._callbacks.close(sorted(self.assignment()))
        finally:
            with _translated("close"):
                self._client.close(autocommit=False, timeout_ms=_ANSWER_TIMEOUT_MS)


class _Callbacks(AsyncConsumerRebalanceListener):  # type: ignore[misc]
    """Runs rebalance callbacks in the thread that polls.

    The client calls its listener from its I/O thread, where `committed` and `commit` cannot be
    called, while the caller's thread is blocked in poll. So poll runs in a worker thread, and the
    caller's thread waits here for callbacks to run and for the result.
    """

    def __init__(self, client: Any, assigned: Rebalanced, revoked: Rebalanced) -> None:
        self._client = client
        self._user_assigned = assigned
        self._user_revoked = revoked
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="driftline-poll")
        self._events: queue.SimpleQueue[Callable[[], Any]] = queue.SimpleQueue()
        self._result: list[Any] = []
        self._polling = False
        self._closing = False

    async def on_partitions_assigned(self, assigned: Iterable[Any]) -> None:
        await self._hand_over(self._user_assigned, assigned)

    async def on_partitions_revoked(self, revoked: Iterable[Any]) -> None:
        if revoked:
            await self._hand_over(self._user_revoked, revoked)

    async def on_partitions_lost(self, lost: Iterable[Any]) -> None:
        await self.on_partitions_revoked(lost)

    async def _hand_over(self, callback: Rebalanced, partitions: Iterable[Any]) -> None:
        if self._closing:
            return
        done = Future()
        names = sorted(TopicPartition(*partition) for partition in partitions)
        self._events.put(partial(self._run, callback, names, done))
        await done

    def _run(self, callback: Rebalanced, partitions: list[TopicPartition], done: Any) -> None:
        try:
            callback(partitions)
        finally:
            # Futures of this client may only be completed on its I/O thread; there is no public
            # way to get there (3.0.12).
            self._client._net.call_soon_threadsafe(lambda: done.success(None))

    def poll(self, *, timeout_ms: float, max_records: int) -> Mapping[Any, Any]:
        # After an interrupt (Ctrl-C) the earlier poll may still be under way, and its records
        # must not be lost: take its result first.
        if not self._polling:
            self._polling = True
            self._worker.submit(self._poll, timeout_ms, max_records)
        failure: Exception | None = None
        while self._polling:
            event = self._events.get()
            try:
                event()
            except Exception as error:  # noqa: BLE001 - raised again below
                failure = failure or error
        if failure is not None:
            raise failure
        records: Mapping[Any, Any] = self._result.pop()
        return records

    def _poll(self, timeout_ms: float, max_records: int) -> None:
        try:
            answer = partial(
                self._finish,
                self._client.poll(timeout_ms=timeout_ms, max_records=max_records),
                None,
            )
        except Exception as error:  # noqa: BLE001 - raised again in the caller's thread
            answer = partial(self._finish, {}, error)
        self._events.put(answer)

    def _finish(self, records: Mapping[Any, Any], error: Exception | None) -> None:
        self._polling = False
        self._result = [records]
        if error is not None:
            raise error

    def close(self, assignment: list[TopicPartition]) -> None:
        """End a poll under way, then give up the partitions."""
        try:
            if self._polling:
                self.poll(timeout_ms=0, max_records=1)
            if assignment:
                self._user_revoked(assignment)
        finally:
            self._closing = True
            self._worker.shutdown()


class KafkaPythonProducer:
    """Writes through a kafka.KafkaProducer."""

    def __init__(self, client: Any, transactional_id: str | None, limits: TopicLimits) -> None:
        self._client = client
        self._id = transactional_id
        self._limits = limits
        self._unconfirmed: deque[tuple[str, Any]] = deque()  # topic, future
        self._failed: list[str] = []
        self._ready = False
        self._in_transaction = False
        self._dead = False
        self._closed = False

    def send(self, record: Outgoing) -> None:
        self._limits.check(record)
        partition = record.partition
        if partition is None and record.key is not None:
            partition = partition_for(record.key, self._limits.partitions(record.topic))
        with self._translated("send"):
            future = self._client.send(
                record.topic,
                value=record.value,
                key=record.key,
                partition=partition,
                headers=list(record.headers),
            )
        self._unconfirmed.append((record.topic, future))
        if len(self._unconfirmed) > _MAX_UNCONFIRMED:
            self._confirm(_MAX_UNCONFIRMED // 2)

    def flush(self) -> None:
        with self._translated("flush"):
            self._client.flush()
        self._confirm(0)
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
        with self._translated("begin a transaction"):
            if not self._ready:
                self._client.init_transactions()
                self._ready = True
            self._client.begin_transaction()
        self._in_transaction = True

    def send_offsets(
        self, offsets: Mapping[TopicPartition, Committed], group_metadata: object
    ) -> None:
        for partition in offsets:
            self._limits.partitions(partition.topic)  # the client waits for ever for one unknown
        with self._translated("send offsets"):
            self._client.send_offsets_to_transaction(_positions(offsets), group_metadata)

    def commit(self) -> None:
        try:
            self.flush()
        except DeliveryFailed as error:
            raise TransactionAborted(error.message, hint=error.hint) from error
        with self._translated("commit"):
            self._client.commit_transaction()
        self._in_transaction = False

    def abort(self) -> None:
        if not self._in_transaction:
            return
        self._in_transaction = False
        self._unconfirmed.clear()
        self._failed.clear()
        try:
            self._client.abort_transaction()
        except kafka_errors.KafkaError as error:
            # The coordinator aborts it: at once when fenced, else at the transaction's timeout.
            self._dead = True
            _log.warning("the transaction of %s was left to time out: %r", self._id, error)

    def close(self) -> None:
        if self._closed:
            return
        self.abort()
        self._closed = True
        try:
            self._client.close(timeout=_ANSWER_TIMEOUT_MS / 1000)
        except kafka_errors.KafkaError as error:
            _log.warning("the producer was closed with records unsent: %r", error)

    def _confirm(self, keep: int) -> None:
        """Wait for the oldest records until only `keep` are unconfirmed."""
        while len(self._unconfirmed) > keep:
            topic, future = self._unconfirmed.popleft()
            try:
                future.get(timeout=_ANSWER_TIMEOUT_MS / 1000)
            except kafka_errors.KafkaError as error:
                self._failed.append(f"{topic}: {error!r}")

    @contextlib.contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        """In a transaction every failure ends it; otherwise as for any client."""
        if self._id is None:
            with _translated(doing):
                yield
            return
        try:
            if self._dead:
                raise kafka_errors.ProducerFencedError("an earlier abort failed")
            yield
        except (kafka_errors.KafkaTimeoutError, kafka_errors.KafkaConnectionError) as error:
            raise BrokerUnavailable(f"cannot {doing} for {self._id!r}: {error!r}") from error
        except (kafka_errors.KafkaError, ValueError) as error:
            raise TransactionAborted(
                f"cannot {doing} for {self._id!r}: {error!r}",
                hint="abort and rebuild from the committed offsets; if begin fails as well, another"
                " producer took over the id",
            ) from error


class KafkaPythonAdmin:
    """Administers through a kafka.KafkaAdminClient."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._closed = False

    def describe(self, topics: Iterable[str] | None = None) -> dict[str, TopicInfo]:
        names = None if topics is None else list(topics)
        if names == []:
            return {}
        with _translated("describe topics"):
            counts = {
                found["name"]: len(found["partitions"])
                for found in self._client.describe_topics(names)
                if found["error_code"] == 0 and not found["is_internal"]
            }
            resources = [ConfigResource("TOPIC", name) for name in counts]
            configs = (
                self._client.describe_configs(resources, config_filter="all").get("topic", {})
                if resources
                else {}
            )
        return {
            name: TopicInfo(
                name,
                count,
                {key: entry["value"] or "" for key, entry in configs.get(name, {}).items()},
            )
            for name, count in sorted(counts.items())
        }

    def create(self, topics: Iterable[NewTopic]) -> None:
        wanted = {
            topic.name: {
                "num_partitions": topic.partitions,
                "replication_factor": topic.replication_factor,
                "configs": dict(topic.config),
            }
            for topic in topics
        }
        if not wanted:
            return
        with _translated("create topics"):
            answer = self._client.create_topics(wanted, raise_errors=False)
            for topic in answer["topics"]:
                if topic["error_code"] != 0:
                    reason = kafka_errors.for_code(topic["error_code"]).__name__
                    raise BrokerError(
                        f"topic {topic['name']!r} cannot be created: "
                        f"{topic.get('error_message') or reason}"
                    )
            self._client.wait_for_topics(list(wanted), timeout_ms=_ANSWER_TIMEOUT_MS)

    def delete(self, topics: Iterable[str]) -> None:
        names = list(topics)
        if not names:
            return
        unknown = kafka_errors.UnknownTopicOrPartitionError.errno
        with _translated("delete topics"):
            answer = self._client.delete_topics(names, raise_errors=False)
            for topic in answer["topics"]:
                if topic["error_code"] not in (0, unknown):
                    reason = kafka_errors.for_code(topic["error_code"]).__name__
                    raise BrokerError(f"topic {topic['name']!r} cannot be deleted: {reason}")
        wait_until(lambda: not self.describe(names), f"topics {names} are still there")

    def offsets(self, topic: str) -> dict[TopicPartition, OffsetRange]:
        info = self.describe([topic]).get(topic)
        if info is None:
            raise unknown_topic(topic)
        partitions = [kafka.TopicPartition(topic, number) for number in range(info.partitions)]
        with _translated("list offsets"):
            starts, ends = (
                self._client.list_partition_offsets(
                    dict.fromkeys(partitions, spec), isolation_level="read_committed"
                )
                for spec in (OffsetSpec.EARLIEST, OffsetSpec.LATEST)
            )
        return {
            TopicPartition(*partition): OffsetRange(
                starts[partition].offset, ends[partition].offset
            )
            for partition in partitions
        }

    def group_offsets(self, group: str) -> dict[TopicPartition, Committed]:
        with _translated("list group offsets"):
            known = self._client.list_group_offsets(group)[group]
        return {
            TopicPartition(*partition): _committed(position)
            for partition, position in known.items()
            if position.offset >= 0
        }

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._client.close()


def _tp(partition: TopicPartition) -> Any:
    return kafka.TopicPartition(*partition)


def _committed(position: Any) -> Committed:
    # confluent-kafka commits the metadata with the zero byte that ends a string in C.
    return Committed(position.offset, (position.metadata or "").rstrip("\0"))


def _positions(offsets: Mapping[TopicPartition, Committed]) -> dict[Any, Any]:
    return {
        _tp(partition): OffsetAndMetadata(position.offset, position.metadata, -1)
        for partition, position in offsets.items()
    }


@contextlib.contextmanager
def _translated(doing: str) -> Iterator[None]:
    """Turn the client's errors into Driftline's."""
    try:
        yield
    except (kafka_errors.KafkaTimeoutError, kafka_errors.KafkaConnectionError) as error:
        raise BrokerUnavailable(
            f"cannot {doing}: Kafka does not answer ({error!r})",
            hint="check that the broker runs and can be reached",
        ) from error
    except (kafka_errors.KafkaError, ValueError) as error:
        raise BrokerError(f"cannot {doing}: {error!r}") from error
