"""Client for applications: send feature records, and later their labels, to Kafka."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from driftline.broker.port import Broker, Outgoing
from driftline.client.connection import as_broker, as_stream
from driftline.config.stream import Stream
from driftline.config.stream_sections import ID, ROW
from driftline.errors import DataError
from driftline.wire.feature_records import RecordCodec
from driftline.wire.labels import LabelCodec
from driftline.wire.topics import Topics
from driftline.wire.values import key_bytes, text, to_time_us
from producers.numbering import next_row
from producers.shaping import Shaper


class FeatureProducer:
    """Check records against the stream file, number them if the stream requires it, and send them.

    broker: the address of a Kafka broker, `"host:port"`, or a broker object. With an address,
    environment variables select the client library and its properties.
    stream: the path of a stream file, or a loaded stream.
    first_row: the number (`@row`) of the first record. The default is one more than the highest
    number in the features topic. `first_row` is ignored if the stream does not number its records.

    Inference can score every record that `send` accepts, except records with categories that the
    model does not know.

    Use a producer in one thread only. If the stream numbers its records (`@row`), run only one
    producer at a time. A new producer continues after the highest number in the features
    topic.

    >>> from driftline.client.connection import memory_broker
    >>> from driftline.config.stream import loads
    >>> stream = loads('''
    ... version = 1
    ... name = "shop"
    ... task = "classification"
    ... target = "returned"
    ... record = { id = "order" }
    ... features = { price = "number", colour = "category" }
    ... ''')
    >>> with FeatureProducer(memory_broker(stream), stream) as producer:
    ...     order = producer.send({"order": 17, "price": 9.5, "colour": "red"})
    ...     producer.label(order, "no")
    >>> order
    '17'
    """

    def __init__(
        self,
        broker: Broker | str,
        stream: Stream | str | Path,
        *,
        first_row: int | None = None,
    ) -> None:
        broker, stream = as_broker(broker), as_stream(stream)
        self._stream = stream
        self._topics = Topics(stream)
        self._records = RecordCodec(stream)
        self._labels = LabelCodec(stream)
        self._shaper = Shaper(stream, textual=False)
        if first_row is None:
            first_row = next_row(broker, stream) if stream.needs_row else 0
        self._row = first_row
        self._producer = broker.producer()

    def send(self, record: Mapping[str, Any]) -> str:
        """Send one feature record and return its id.

        record: a mapping from column names to values, which may be `datetime` objects or NumPy
        scalars. The target and the columns that the stream file drops are not sent. `@row` is added
        if the stream requires it. The record is queued when this method returns, and delivered once
        `flush` returns. If the record is invalid, DataError is raised with the reason, and nothing
        is sent. Also raises MessageTooLarge and BrokerError.
        """
        shaped = self._shaper.shape(record, self._row)
        batch = self._records.decode([shaped.value])
        if batch.rejected:
            raise DataError(f"stream {self._stream.name}: {batch.rejected[0].reason}")
        self._producer.send(
            Outgoing(topic=self._topics.features, key=shaped.key, value=shaped.value)
        )
        self._row += 1
        return batch.ids[0]

    def label(
        self,
        record_id: str | int,
        value: str | float | bool,
        *,
        at: datetime | int | None = None,
        key: str | float | None = None,
    ) -> None:
        """Send a record's label. The label may be sent before or after the record.

        record_id: the id that `send` returned.
        value: the true class or, for regression, the true number.
        at: the position at which the label became known: a `datetime` with a time zone if windows
        are spans of time, or a record number if windows are spans of records. By default, the label
        gets its record's position.
        key: the record's value in the key column. It is required if the stream file sets a key
        column other than the id, because a label must be in the same partition as its record.

        Raises DataError, MessageTooLarge and BrokerError.
        """
        record_id = text(record_id)
        by_id = self._stream.record.key in (ID, self._stream.record.id)
        if by_id:
            key = record_id
        elif key is None:
            raise DataError(
                f"stream {self._stream.name}: the label of {record_id!r} needs a key",
                hint=f"pass the record's value of {self._stream.record.key!r}, the key column",
            )
        label = text(value) if self._stream.task == "classification" else value
        encoded = self._labels.encode(record_id, label, at=self._position(at), key=key)
        self._labels.decode(encoded)
        self._producer.send(Outgoing(topic=self._topics.labels, key=key_bytes(key), value=encoded))

    @property
    def next_row(self) -> int:
        """The number (`@row`) of the next record. Unused in streams without numbered records."""
        return self._row

    def flush(self) -> None:
        """Wait until the broker has confirmed every message. Raises DeliveryFailed."""
        self._producer.flush()

    def close(self) -> None:
        """Free all resources without waiting for deliveries. Safe to call twice."""
        self._producer.close()

    def __enter__(self) -> "FeatureProducer":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Flush and close, even after an error, so that messages sent earlier are delivered."""
        try:
            self.flush()
        finally:
            self.close()

    def _position(self, at: datetime | int | None) -> int | None:
        if at is None:
            return None
        if self._stream.axis == "row":
            if isinstance(at, datetime):
                raise DataError(
                    f"stream {self._stream.name}: windows are spans of records, so `at` must be a "
                    f"record number ({ROW}), not a time"
                )
            return at
        if not isinstance(at, datetime) or at.tzinfo is None:
            raise DataError(
                f"stream {self._stream.name}: `at` must be a time with a zone, got {at!r}"
            )
        return to_time_us(at)
