"""Connect to Kafka with kafka-python, which is pure Python and always installed, but slow.

Input: broker addresses, and client properties keyed by dotted Kafka name. Output: clients that
implement the interfaces in `port`. The clients never commit automatically, read uncommitted records
or create topics implicitly.
"""

import base64
import logging
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import kafka
from kafka import errors as kafka_errors
from kafka.admin import ConfigResource, OffsetSpec
from kafka.coordinator.assignors.range import RangePartitionAssignor
from kafka.net.compat import KafkaNetClient

from driftline.broker import probe
from driftline.broker.bounded import let_go
from driftline.broker.kafka_python_consumer import KafkaPythonConsumer
from driftline.broker.kafka_python_producer import KafkaPythonProducer
from driftline.broker.kafka_python_values import (
    ANSWER_TIMEOUT_MS,
    committed_of,
    translated,
    unsupported_codec,
)
from driftline.broker.limits import (
    CLIENT_MAX_BYTES,
    MAX_MESSAGE_BYTES,
    TopicLimits,
    not_allowed,
    unknown_topic,
    wait_until,
)
from driftline.broker.port import (
    Committed,
    NewTopic,
    OffsetRange,
    TopicInfo,
    TopicPartition,
)
from driftline.config.client_properties import for_kafka_python, without_secrets
from driftline.errors import (
    BrokerError,
    SettingsError,
)

_log = logging.getLogger(__name__)

# Long enough for a slow broker start, and short enough for a user who is waiting for an error.
CONNECT_TIMEOUT_S = 10.0
_COORDINATOR_PATIENCE_S = 10.0
_ASK_AGAIN_S = 0.1
_NO_COORDINATOR_YET = (
    kafka_errors.CoordinatorNotAvailableError,
    kafka_errors.CoordinatorLoadInProgressError,
    kafka_errors.NotCoordinatorError,
)

_FORBIDDEN = (
    kafka_errors.TopicAuthorizationFailedError.errno,
    kafka_errors.ClusterAuthorizationFailedError.errno,
)

_CONSUMER: Mapping[str, object] = {
    "enable_auto_commit": False,  # only the loop commits
    "auto_offset_reset": "earliest",  # the default, latest, skips existing records
    "isolation_level": "read_committed",
    "allow_auto_create_topics": False,
    "partition_assignment_strategy": [RangePartitionAssignor],
    "fetch_max_wait_ms": 100,  # seeks and resumes wait for any pending fetch; default 500 ms
    "session_timeout_ms": 10_000,  # time until a killed worker loses its partitions; default 45 s
    "heartbeat_interval_ms": 1000,  # interval at which members check for a rebalance; default 3 s
    "metrics_enabled": False,  # collecting metrics takes a tenth of each poll's time
}
# A send takes about 40 µs of CPU time, 27 µs of it in the client. Larger batches or a longer linger
# time do not reduce the CPU time. The median time of a one-record transaction is 8 to 12 ms.
_PRODUCER: Mapping[str, object] = {
    "acks": "all",
    "enable_idempotence": True,
    "max_in_flight_requests_per_connection": 1,  # more may lose records, see `librdkafka.py`
    "allow_auto_create_topics": False,
    "linger_ms": 5,  # `flush` sends immediately, without this delay
    "max_request_size": CLIENT_MAX_BYTES,
    "delivery_timeout_ms": 60_000,
    "metrics_enabled": False,
}


class KafkaPythonBroker:
    """Create kafka-python clients, which connect when they are created.

    If the broker becomes unreachable later, the clients wait for it, but their records and
    transactions time out.
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
        self._given = dict(properties or {})
        self._properties = for_kafka_python(
            self._given,
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
        self,
        group: str | None = None,
        *,
        client_id: str = "driftline",
        instance_id: str | None = None,
    ) -> "KafkaPythonConsumer":
        own = {"group_id": group, "client_id": client_id, "group_instance_id": instance_id}
        defaults = dict(_CONSUMER)
        if group is not None:
            defaults["auto_offset_reset"] = "none"  # raise an error instead of skipping records
        client = self._make(kafka.KafkaConsumer, defaults, own)
        return KafkaPythonConsumer(client, self._limits, static=instance_id is not None)

    def producer(
        self,
        transactional_id: str | None = None,
        *,
        transaction_timeout_s: float = 10.0,
        client_id: str = "driftline",
        gapless: bool = False,
    ) -> "KafkaPythonProducer":
        own: dict[str, object] = {"client_id": client_id}
        if transactional_id is not None:
            own["transactional_id"] = transactional_id
            own["transaction_timeout_ms"] = int(transaction_timeout_s * 1000)
        client = self._make(kafka.KafkaProducer, _PRODUCER, own)
        return KafkaPythonProducer(client, transactional_id, self._limits, gapless=gapless)

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
            # The default is 30 s. Clients should reconnect within seconds of a broker restart.
            "reconnect_backoff_max_ms": 1000,
            # The default is 100 ms. A client's first send, read or `begin` waits this long once or
            # twice.
            "retry_backoff_ms": 20,
            **defaults,
            **{name: value for name, value in self._properties.items() if name in known},
            **own,
            "bootstrap_servers": [server.strip() for server in self._servers.split(",")],
        }
        reason = ""
        for timeout_s in probe.attempts(self._connect_timeout_s):
            made: list[KafkaNetClient] = []
            try:
                return make(
                    **config,
                    kafka_client=partial(_network_client, made),
                    bootstrap_timeout_ms=int(timeout_s * 1000),
                )
            except (kafka_errors.KafkaConfigurationError, ValueError, OSError) as error:
                _close(made)
                why = without_secrets(str(error), self._given)
                raise SettingsError(f"kafka-python rejects the client properties: {why}") from None
            except RuntimeError as error:
                _close(made)
                if "codec" not in str(error):
                    raise
                raise unsupported_codec("write", error) from None
            except kafka_errors.KafkaError as error:
                _close(made)
                # Keep only the text, because the error's traceback keeps the client alive.
                reason = str(error) or type(error).__name__
            probe.raise_refusal(self._servers, self._given)
        raise probe.unreachable(self._servers, without_secrets(reason, self._given))


def _network_client(made: list[KafkaNetClient], **options: Any) -> KafkaNetClient:
    """Create a client's network layer, which owns a thread and sockets, and append it to `made`. If
    the client's constructor cannot reach a broker, it fails without closing this layer."""
    made.append(KafkaNetClient(**options))
    return made[-1]


def _close(made: list[KafkaNetClient]) -> None:
    for client in made:
        let_go(client.close)


class KafkaPythonAdmin:
    """Administer topics and groups with a kafka.KafkaAdminClient."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._closed = False

    def describe(self, topics: Iterable[str] | None = None) -> dict[str, TopicInfo]:
        names = None if topics is None else list(topics)
        counts: dict[str, int] = {}
        configs: Mapping[str, Any] = {}

        def described() -> bool:
            nonlocal counts, configs
            counts = self._partitions(names)
            resources = [ConfigResource("TOPIC", name) for name in counts]
            try:
                answer = self._client.describe_configs(resources, config_filter="all")
            except kafka_errors.UnknownTopicOrPartitionError:
                return False  # a topic was deleted after it was listed
            configs = answer.get("topic", {})
            return True

        with translated("describe topics"):
            wait_until(described, "topics are changing too quickly to be described")
        return {
            name: TopicInfo(
                name, count, {key: entry["value"] or "" for key, entry in configs[name].items()}
            )
            for name, count in sorted(counts.items())
        }

    def topic_ids(self, topics: Iterable[str]) -> dict[str, str]:
        names = list(topics)
        if not names:
            return {}
        with translated("describe topics"):
            return {
                found["name"]: _as_kafka_writes_it(found["topic_id"])
                for found in self._client.describe_topics(names)
                if found["error_code"] == 0
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
        with translated("create topics"):
            answer = self._client.create_topics(wanted, raise_errors=False)
            for topic in answer["topics"]:
                if topic["error_code"] != 0:
                    reason = kafka_errors.for_code(topic["error_code"]).__name__
                    if topic["error_code"] in _FORBIDDEN:
                        raise not_allowed(f"create topic {topic['name']!r}", reason)
                    raise BrokerError(
                        f"topic {topic['name']!r} cannot be created: "
                        f"{topic.get('error_message') or reason}"
                    )
            self._client.wait_for_topics(list(wanted), timeout_ms=ANSWER_TIMEOUT_MS)

    def delete(self, topics: Iterable[str]) -> None:
        names = list(topics)
        if not names:
            return
        unknown = kafka_errors.UnknownTopicOrPartitionError.errno
        with translated("delete topics"):
            answer = self._client.delete_topics(names, raise_errors=False)
            for topic in answer["topics"]:
                if topic["error_code"] not in (0, unknown):
                    reason = kafka_errors.for_code(topic["error_code"]).__name__
                    raise BrokerError(f"topic {topic['name']!r} cannot be deleted: {reason}")
        wait_until(lambda: not self._partitions(names), f"topics {names} still exist")

    def offsets(self, topic: str) -> dict[TopicPartition, OffsetRange]:
        count = self._partitions([topic]).get(topic)
        if count is None:
            raise unknown_topic(topic)
        partitions = [kafka.TopicPartition(topic, number) for number in range(count)]
        with translated("list offsets"):
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
        with translated("list group offsets"):
            known = _patiently(lambda: self._client.list_group_offsets(group)[group])
        return {
            TopicPartition(*partition): committed_of(position)
            for partition, position in known.items()
            if position.offset >= 0
        }

    def group_members(self, group: str) -> int:
        try:
            with translated("describe the group"):
                found = _patiently(lambda: self._client.describe_groups([group])[group])
                return len(found["members"])
        except BrokerError as error:
            if isinstance(error.__cause__, kafka_errors.GroupIdNotFoundError):
                return 0
            raise

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._client.close()

    def _partitions(self, topics: list[str] | None) -> dict[str, int]:
        """Return the partition counts of these topics, or of all topics if `topics` is None.

        Omit unknown and internal topics.
        """
        if topics == []:
            return {}
        with translated("list topics"):
            answer = self._client.describe_topics(topics)
        for found in answer:
            if found["error_code"] in _FORBIDDEN:
                raise not_allowed(f"describe topic {found['name']!r}", "TopicAuthorizationFailed")
        return {
            found["name"]: len(found["partitions"])
            for found in answer
            if found["error_code"] == 0 and not found["is_internal"]
        }


def _as_kafka_writes_it(topic_id: str) -> str:
    """Convert a topic id from a UUID to URL-safe base64, the format that Kafka's tools print.

    >>> _as_kafka_writes_it("78b72e33-83d4-47aa-9576-719e67db3151")
    'eLcuM4PUR6qVdnGeZ9sxUQ'
    """
    return base64.urlsafe_b64encode(uuid.UUID(topic_id).bytes).decode().rstrip("=")


def _patiently(ask: Callable[[], Any]) -> Any:
    """Repeat a request until the group has a coordinator, because the client itself does not wait.

    In a new cluster, groups have no coordinator for several seconds. If a coordinator fails,
    another broker must take over. Raises the client's error after 10 s.
    """
    deadline_s = time.monotonic() + _COORDINATOR_PATIENCE_S
    while True:
        try:
            return ask()
        except _NO_COORDINATOR_YET:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(_ASK_AGAIN_S)
