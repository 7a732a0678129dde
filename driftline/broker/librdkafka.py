"""Connect through librdkafka (confluent-kafka), the fast client, from the extra `librdkafka`.

Input: addresses, and properties under librdkafka's dotted names. Output: the clients of the port.
It never commits automatically, reads uncommitted records, or creates topics by using them.
"""

import logging
from collections.abc import Mapping
from typing import Any

from driftline.broker import probe
from driftline.broker.bounded import end_elsewhere
from driftline.broker.librdkafka_admin import LibrdkafkaAdmin
from driftline.broker.librdkafka_consumer import LibrdkafkaConsumer
from driftline.broker.librdkafka_producer import LibrdkafkaProducer
from driftline.broker.librdkafka_values import ClientErrors, ck, ck_admin
from driftline.broker.limits import CLIENT_MAX_BYTES, MAX_MESSAGE_BYTES, TopicLimits
from driftline.broker.port import TopicInfo
from driftline.config.client_properties import check, unknown_property, without_secrets
from driftline.errors import SettingsError

# The library's own log messages, see driftline.logs.
_client_log = logging.getLogger("librdkafka")
# It warns at each start that this property is experimental. tests/driftline/broker/test_gapless.py
# tests it.
_client_log.addFilter(lambda record: "enable.gapless.guarantee is" not in record.getMessage())

# Long enough for a broker that starts slowly, short enough for a user who waits for an error.
CONNECT_TIMEOUT_S = 10.0

_CONSUMER: Mapping[str, object] = {
    "enable.auto.commit": False,  # only the loop commits
    "enable.auto.offset.store": False,
    "auto.offset.reset": "earliest",
    "isolation.level": "read_committed",
    "enable.partition.eof": True,  # without it, the position stays before the last marker
    "partition.assignment.strategy": "range",
    "group.protocol": "classic",
    "queued.max.messages.kbytes": 32_768,  # prefetched of all partitions together; default 64 MB
    "fetch.queue.backoff.ms": 5,  # with the default, 1000, a backlog is read four times slower
    "fetch.wait.max.ms": 100,  # a seek or resume waits for a pending empty fetch; default 500
    "session.timeout.ms": 10_000,  # the time until a killed worker's partitions move; default 45 s
    "heartbeat.interval.ms": 1000,  # the time until members notice a rebalance; default 3 s
}
# A send takes 3.7 µs, 0.4 of them to check the size. At the median, a record is read 0.6 ms after
# it was sent. A transaction of one record takes 5 ms, and one of a thousand records 15 to 22 ms.
_PRODUCER: Mapping[str, object] = {
    "acks": "all",
    "enable.idempotence": True,
    # Like Java clients and the other adapters; librdkafka's own default is CRC32. `_random` affects
    # only records without a key. `murmur2` would send all of these to one partition.
    "partitioner": "murmur2_random",
    # Default 5. In a slow stream, each prediction waits for it. A fast stream is not slower with 1,
    # as batches are queued at once (187,000 records/s, 183,000 with 5; medians of four rounds).
    "linger.ms": 1,
    # Default 100. A transaction waits for it if the previous one has not ended yet. With 10, the
    # 99th percentile of one-record transactions is 26 ms, not 146 (Kafka 4.1, two busy cores).
    "retry.backoff.ms": 10,
    # By default, idle connections are never closed. `send_offsets` may ignore its timeout and wait
    # until the state of some connection changes (confluentinc/librdkafka#5456). Closing an idle
    # connection ends this wait. Otherwise an abandoned producer would keep 2 to 7 MB of memory, 7
    # threads and 9 open files.
    "connections.max.idle.ms": 60_000,
    # If more data is unsent, `send` blocks. The default, 1 GB, would fill the memory while the
    # broker is unreachable. More than the CPU cache is slower: with 64 MB and 30 features,
    # inference took 14, 14 and 11 µs of CPU per record, with 16 MB 11, 13 and 10.
    "queue.buffering.max.kbytes": 16_384,
    "message.max.bytes": CLIENT_MAX_BYTES,  # topics have their own limits
    "delivery.report.only.error": True,  # a callback for each success would double the cost
}


class LibrdkafkaBroker:
    """Make confluent-kafka clients for one cluster.

    They wait for a broker that becomes unreachable later, but unacknowledged records time out.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        properties: Mapping[str, str] | None = None,
        *,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
    ) -> None:
        check(properties or {})
        self._servers = bootstrap_servers
        self._properties = dict(properties or {})
        self._connect_timeout_s = connect_timeout_s
        self._limits = TopicLimits(self._describe)
        # Made now to report wrong properties early. It connects at its first use.
        self._admin_client = self._make(ck_admin.AdminClient, {}, {})[0]

    @property
    def max_message_bytes(self) -> int:
        return MAX_MESSAGE_BYTES

    def consumer(
        self,
        group: str | None = None,
        *,
        client_id: str = "driftline",
        instance_id: str | None = None,
    ) -> LibrdkafkaConsumer:
        # librdkafka needs a group even for a consumer that never joins one.
        own: dict[str, object] = {
            "group.id": group or f"{client_id}-alone",
            "client.id": client_id,
        }
        if instance_id is not None:
            own["group.instance.id"] = instance_id
        if group is not None:
            own["auto.offset.reset"] = "error"  # raise an error instead of skipping records
        client, errors = self._make(ck.Consumer, _CONSUMER, own)
        self._connected(client, errors)
        return LibrdkafkaConsumer(client, group, self._limits, errors, instance_id)

    def producer(
        self,
        transactional_id: str | None = None,
        *,
        transaction_timeout_s: float = 10.0,
        client_id: str = "driftline",
        gapless: bool = False,
    ) -> LibrdkafkaProducer:
        own: dict[str, object] = {"client.id": client_id}
        if gapless:
            own["enable.gapless.guarantee"] = True
            own["delivery.timeout.ms"] = 0  # unlimited, because a timeout would leave a gap
        elif transactional_id is None:
            own["delivery.timeout.ms"] = 60_000  # the default, 5 min, delays a failure too long
        else:
            own["transactional.id"] = transactional_id
            own["transaction.timeout.ms"] = int(transaction_timeout_s * 1000)
        client = self._connected(*self._make(ck.Producer, _PRODUCER, own))
        return LibrdkafkaProducer(client, transactional_id, self._limits)

    def admin(self) -> LibrdkafkaAdmin:
        client = self._connected(*self._make(ck_admin.AdminClient, {}, {}))
        return LibrdkafkaAdmin(client, self._outsider)

    def _describe(self, topic: str) -> TopicInfo | None:
        return LibrdkafkaAdmin(self._admin_client, self._outsider).describe([topic]).get(topic)

    def _outsider(self, group: str) -> Any:
        """Make a consumer that reads the offsets of a group without joining it."""
        return self._make(ck.Consumer, _CONSUMER, {"group.id": group})[0]

    def _make(
        self, make: Any, defaults: Mapping[str, object], own: Mapping[str, object]
    ) -> tuple[Any, ClientErrors]:
        """Make a client, and the object that collects its errors."""
        errors = ClientErrors()
        config = {
            # Default 10 s. Clients should find a broker within seconds after its restart.
            "reconnect.backoff.max.ms": 1000,
            **defaults,
            **self._properties,
            **own,
            "bootstrap.servers": self._servers,
            "error_cb": errors,
        }
        try:
            return make(config, logger=_client_log), errors
        except ck.KafkaException as error:
            probe.check_files(self._properties)
            why = without_secrets(error.args[0].str(), self._properties)
            for name, value in self._properties.items():
                if _refused(name, value):
                    raise unknown_property(name, "librdkafka", f": {why}") from None
            raise SettingsError(f"librdkafka rejects the client properties: {why}") from None

    def _connected(self, client: Any, errors: ClientErrors) -> Any:
        """Return the client once the cluster has responded to it.

        Raises BrokerUnavailable or AccessDenied, after destroying the client in the background.
        """
        try:
            self._wait_for_answer(client, errors)
        except BaseException:
            end_elsewhere(client)
            raise
        return client

    def _wait_for_answer(self, client: Any, errors: ClientErrors) -> None:
        # Keep no exception in a variable. Its traceback would keep the client and its threads until
        # the next garbage collection.
        reason = ""
        for timeout_s in probe.attempts(self._connect_timeout_s):
            try:
                client.list_topics(timeout=timeout_s)
                return
            except ck.KafkaException as error:
                reason = error.args[0].str()
            client.poll(0)  # calls `errors` with the cause
            probe.raise_refusal(self._servers, self._properties)
        raise probe.unreachable(
            self._servers, without_secrets(errors.first or reason, self._properties)
        )


def _refused(name: str, value: str) -> bool:
    """Return whether librdkafka rejects this property on its own."""
    try:
        ck_admin.AdminClient({name: value}, logger=_client_log)
    except ck.KafkaException as error:
        text = str(error.args[0].str())
        # Other errors can be due to missing properties, such as the key of a certificate.
        return "configuration property" in text
    return False
