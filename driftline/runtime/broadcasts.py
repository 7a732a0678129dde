"""Read a handler's broadcast topics from Kafka, in full and without a consumer group.

Input: a handler and a broker. Output: the topics' records, passed to the handler, and the handler's
results, passed to `send`. After a failure, reading resumes at the positions of the last commit.
"""

import logging
from collections.abc import Callable

from driftline.broker.port import Broker, Consumer, TopicPartition
from driftline.clock import Clock
from driftline.errors import Stuck
from driftline.runtime.handler import Handler, LogChange, Output
from driftline.runtime.input_logs import InputLogs
from driftline.runtime.stalls import PATIENCE_S

log = logging.getLogger(__name__)


class BroadcastReader:
    """Read a worker's broadcast topics. One object serves all of the worker's sessions in turn.

    The first `read` of each session creates a consumer. When a session ends, it closes or abandons
    its consumer.
    """

    def __init__(
        self,
        handler: Handler,
        broker: Broker,
        logs: InputLogs,
        clock: Clock,
        *,
        client_id: str,
        max_records: int,
    ) -> None:
        self._handler = handler
        self._broker = broker
        self._logs = logs
        self._clock = clock
        self._client_id = f"{client_id}-broadcast"
        self._max_records = max_records
        # Created by a session's first `read`; reset to None by `close` and `abandon`.
        self._consumer: Consumer | None = None
        # The offset in each partition from which the next session reads. Set by `remember`.
        self._positions: dict[TopicPartition, int] = {}

    def read(self, send: Callable[[Output], None]) -> bool:
        """Pass new records to the handler and send its results. Return whether records arrived.

        If the handler has broadcast topics, a session's first call reads them to their end and
        returns True. Raises Stuck if unread records do not arrive for 30 s.
        """
        if not self._handler.broadcast_topics:
            return False
        if self._consumer is None:
            self._read_to_end(send)
            return True
        messages = self._consumer.poll(max_records=self._max_records, timeout_s=0)
        if messages:
            send(self._handler.on_broadcast(messages))
        return bool(messages)

    def _read_to_end(self, send: Callable[[Output], None]) -> None:
        created_again = self._logs.compare_broadcasts(self._handler.broadcast_topics)
        admin = self._broker.admin()
        try:
            ranges = {
                partition: offsets
                for topic in self._handler.broadcast_topics
                for partition, offsets in admin.offsets(topic).items()
            }
        finally:
            admin.close()
        self._consumer = consumer = self._broker.consumer(client_id=self._client_id)
        starts = {}
        for partition, offsets in ranges.items():
            if (id := created_again.get(partition.topic)) is not None:
                log.error(
                    "%s was recreated: its earlier records are lost; reading the new topic from "
                    "the beginning",
                    partition.topic,
                )
                self._positions.pop(partition, None)
                change = LogChange(partition, id, offsets.start, is_new_topic=True)
                send(self._handler.on_log_change(change))
            known = self._positions.get(partition, offsets.start)
            starts[partition] = known if offsets.start <= known <= offsets.end else offsets.start
        consumer.assign(starts)
        last_record_s = self._clock.monotonic()
        while any(consumer.position(p) < offsets.end for p, offsets in ranges.items()):
            found = consumer.poll(max_records=self._max_records, timeout_s=0.05)
            send(self._handler.on_broadcast(found))
            if found:
                last_record_s = self._clock.monotonic()
            elif self._clock.monotonic() - last_record_s >= PATIENCE_S:
                raise Stuck("broadcast records do not arrive; retrying with new clients")

    def remember(self) -> None:
        """Store the current positions. Call this only after all results have been committed."""
        if self._consumer is not None:
            for partition in self._consumer.assignment():
                self._positions[partition] = self._consumer.position(partition)

    def close(self) -> None:
        """Close the consumer. If this raises an error, call `abandon`."""
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None

    def abandon(self) -> None:
        """Free the consumer after a failure, without waiting for the broker."""
        if self._consumer is not None:
            self._consumer.abandon()
            self._consumer = None
