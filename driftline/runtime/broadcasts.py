"""Read the broadcast topics, which every worker reads in full and without a group.

Input: the broadcast topics of a handler. Output: their records for the handler, whose results are
sent. After a failure, reading resumes at the positions of the last commit.
"""

import logging
from collections.abc import Callable

from driftline.broker.port import Broker, Consumer, TopicPartition
from driftline.runtime.handler import Handler, LogChange, Output
from driftline.runtime.input_logs import InputLogs

log = logging.getLogger(__name__)


class BroadcastReader:
    """Reads the broadcast topics. One object serves all sessions of the worker, one after another.

    Each session makes a new consumer with its first `read`, and closes or abandons it at its end.
    """

    def __init__(
        self, handler: Handler, broker: Broker, logs: InputLogs, *, client_id: str, max_records: int
    ) -> None:
        self._handler = handler
        self._broker = broker
        self._logs = logs
        self._client_id = f"{client_id}-broadcast"
        self._max_records = max_records
        # Made by the first `read` of a session, None again after `close` or `abandon`.
        self._consumer: Consumer | None = None
        # Next offset to read of each partition, set by `remember`.
        self._positions: dict[TopicPartition, int] = {}

    def read(self, send: Callable[[Output], None]) -> bool:
        """Pass new records to the handler and send its results. Return whether there were any.
        The first call of a session reads the topics to their end and returns True."""
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
                    "%s was created again: its earlier records are lost; reading the new topic "
                    "from its beginning",
                    partition.topic,
                )
                self._positions.pop(partition, None)
                change = LogChange(partition, id, offsets.start, is_new_topic=True)
                send(self._handler.on_log_change(change))
            known = self._positions.get(partition, offsets.start)
            starts[partition] = known if offsets.start <= known <= offsets.end else offsets.start
        consumer.assign(starts)
        while any(consumer.position(p) < offsets.end for p, offsets in ranges.items()):
            found = consumer.poll(max_records=self._max_records, timeout_s=0.05)
            send(self._handler.on_broadcast(found))

    def remember(self) -> None:
        """Remember the positions. Call it after the results of all read records were committed."""
        if self._consumer is not None:
            for partition in self._consumer.assignment():
                self._positions[partition] = self._consumer.position(partition)

    def close(self) -> None:
        """Close the consumer. If that raises, call `abandon`."""
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None

    def abandon(self) -> None:
        """Free the consumer after a failure, without waiting for the broker."""
        if self._consumer is not None:
            self._consumer.abandon()
            self._consumer = None
