"""Connect to Kafka with librdkafka (confluent-kafka), the fast client in the extra `librdkafka`.

Input: broker addresses, and client properties keyed by dotted librdkafka name. Output: clients
that implement the interfaces in `port`. The clients never commit automatically, read uncommitted
records or create topics implicitly.
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

# The logger for the library's own messages (see `driftline.logs`).
_client_log = logging.getLogger("librdkafka")
# Drop each gapless producer's warning that `enable.gapless.guarantee` is experimental. The tests in
# tests/driftline/broker/test_gapless.py cover this property.
_client_log.addFilter(lambda record: "enable.gapless.guarantee is" not in record.getMessage())

# Long enough for a slow broker start, and short enough for a user who is waiting for an error.
CONNECT_TIMEOUT_S = 10.0

_CONSUMER: Mapping[str, object] = {
    "enable.auto.commit": False,  # only the loop commits
    "enable.auto.offset.store": False,
    "auto.offset.reset": "earliest",
    "isolation.level": "read_committed",
    "enable.partition.eof": True,  # otherwise the position stops before a final transaction marker
    "partition.assignment.strategy": "range",
    "group.protocol": "classic",
    "queued.max.messages.kbytes": 32_768,  # prefetch limit for all partitions; default 64 MB
    "fetch.queue.backoff.ms": 5,  # with the default, 1000 ms, reading a backlog takes 4x as long
    "fetch.wait.max.ms": 100,  # seeks and resumes wait for any pending fetch; default 500 ms
    "session.timeout.ms": 10_000,  # time until a killed worker loses its partitions; default 45 s
    # The wait for a response, which may be lost while the broker stalls; default 60 s. The client
    # has other limits for joining the group and for heartbeats.
    "socket.timeout.ms": 20_000,
    "heartbeat.interval.ms": 1000,  # interval at which members check for a rebalance; default 3 s
}
# A send takes 3.7 µs, including 0.4 µs for the size check. The median time from sending a record to
# reading it is 0.6 ms. A transaction takes 5 ms with one record and 15 to 22 ms with 1,000 records.
_PRODUCER: Mapping[str, object] = {
    "acks": "all",
    "enable.idempotence": True,
    # With five requests in flight, 19 of 8,592 new topics lost records without an error, also in
    # transactions and with the gapless guarantee; with one, 0 of 3,666. The likely cause: the first
    # batch of a new producer in a partition fails, and the second one succeeds. The broker accepts
    # any first sequence number, and then takes the retried first batch for a duplicate.
    "max.in.flight.requests.per.connection": 1,
    # Java clients and the other adapters use murmur2; librdkafka's own default uses CRC32. The
    # suffix `_random` affects only records without a key. Plain `murmur2` would send all such
    # records to the same partition.
    "partitioner": "murmur2_random",
    # The default is 5 ms. In a slow stream, each prediction waits for the linger time. A fast
    # stream is no slower with 1 ms, because records are queued in batches (187,000 records/s with
    # 1 ms, 183,000 with 5 ms; medians of four rounds).
    "linger.ms": 1,
    # The default is 100 ms. A transaction waits this long if the previous one has not ended yet. A
    # value of 10 ms reduces the 99th percentile of one-record transaction times from 146 to 26 ms
    # (Kafka 4.1, two busy cores).
    "retry.backoff.ms": 10,
    # By default, idle connections are never closed. `send_offsets` may ignore its timeout and wait
    # until any connection changes state (confluentinc/librdkafka#5456). Closing an idle connection
    # ends this wait. Otherwise an abandoned producer would hold 2 to 7 MB of memory, 7 threads and
    # 9 open files.
    "connections.max.idle.ms": 60_000,
    # `send` blocks when this much data is unsent. With the default, 1 GB, the queue would fill
    # the memory while the broker is unreachable. A queue larger than the CPU cache is slower: with
    # 30 features, inference took 11 to 14 µs of CPU time per record with 64 MB, but 10 to 13 µs
    # with 16 MB.
    "queue.buffering.max.kbytes": 16_384,
    "message.max.bytes": CLIENT_MAX_BYTES,  # topics have their own limits
    "delivery.report.only.error": True,  # a callback for each success would double a send's cost
}


class LibrdkafkaBroker:
    """Create confluent-kafka clients for one cluster.

    If the broker becomes unreachable later, the clients wait for it, but unacknowledged records
    time out.
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
        # Create this client now to report invalid properties early. It connects on first use.
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
        # librdkafka requires a group id even for a consumer that never joins a group.
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
            own["delivery.timeout.ms"] = 60_000  # the default, 5 min, would report errors too late
        else:
            own["transactional.id"] = transactional_id
            limit_ms = int(transaction_timeout_s * 1000)
            own["transaction.timeout.ms"] = limit_ms
            # librdkafka rejects a longer socket timeout, which a user may want for the consumer.
            wanted_ms = int(self._properties.get("socket.timeout.ms", limit_ms))
            own["socket.timeout.ms"] = min(limit_ms, wanted_ms)
        client = self._connected(*self._make(ck.Producer, _PRODUCER, own))
        return LibrdkafkaProducer(client, transactional_id, self._limits)

    def admin(self) -> LibrdkafkaAdmin:
        client = self._connected(*self._make(ck_admin.AdminClient, {}, {}))
        return LibrdkafkaAdmin(client, self._outsider)

    def _describe(self, topic: str) -> TopicInfo | None:
        return LibrdkafkaAdmin(self._admin_client, self._outsider).describe([topic]).get(topic)

    def _outsider(self, group: str) -> Any:
        """Create a consumer that reads a group's offsets without joining the group."""
        return self._make(ck.Consumer, _CONSUMER, {"group.id": group})[0]

    def _make(
        self, make: Any, defaults: Mapping[str, object], own: Mapping[str, object]
    ) -> tuple[Any, ClientErrors]:
        """Create a client and the object that collects its errors."""
        errors = ClientErrors()
        config = {
            # The default is 10 s. Clients should reconnect within seconds of a broker restart.
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
        """Wait until the cluster responds to the client, then return the client.

        On failure, raises BrokerUnavailable or AccessDenied, and destroys the client in the
        background.
        """
        try:
            self._wait_for_answer(client, errors)
        except BaseException:
            end_elsewhere(client)
            raise
        return client

    def _wait_for_answer(self, client: Any, errors: ClientErrors) -> None:
        # Do not store an exception in a variable. Its traceback would keep the client and the
        # client's threads alive until the next garbage collection.
        reason = ""
        for timeout_s in probe.attempts(self._connect_timeout_s):
            try:
                client.list_topics(timeout=timeout_s)
                return
            except ck.KafkaException as error:
                reason = error.args[0].str()
            client.poll(0)  # lets the client report the cause of the failure to `errors`
            probe.raise_refusal(self._servers, self._properties)
        raise probe.unreachable(
            self._servers, without_secrets(errors.first or reason, self._properties)
        )


def _refused(name: str, value: str) -> bool:
    """Return whether librdkafka rejects this property when no other property is set."""
    try:
        ck_admin.AdminClient({name: value}, logger=_client_log)
    except ck.KafkaException as error:
        text = str(error.args[0].str())
        # Other errors may only mean that another property is missing, such as a certificate's key.
        return "configuration property" in text
    return False
