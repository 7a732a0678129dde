"""Iterate over a stream's stored and new predictions, outcomes or drift events on a broker.

Input: a broker and a stream. Output: iterators over events. The iterators join no consumer group
and commit nothing, so they do not affect services or other readers.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from driftline.broker.port import Broker, Message, TopicPartition
from driftline.broker.scan import ranges, scan
from driftline.client.connection import as_broker, as_stream
from driftline.config.stream import Stream
from driftline.interrupts import check
from driftline.wire.envelope import (
    decode_or_skip,
    drift_decoder,
    outcomes_decoder,
    predictions_decoder,
)
from driftline.wire.events import DriftEvent, Log, Outcome, Prediction, PredictionsEvent
from driftline.wire.topics import Topics

_POLL_S = 0.5

Start = Literal["earliest", "latest"]
T = TypeVar("T")


def predictions(
    broker: Broker | str,
    stream: Stream | str | Path,
    *,
    start: Start = "earliest",
    follow: bool = False,
) -> Iterator[Prediction]:
    """Iterate over a stream's predictions.

    broker: a Kafka broker's address, `"host:port"`, or a broker object.
    stream: the path of a stream file, or a loaded stream.
    start: `"earliest"` begins with the first stored event, `"latest"` after the last one.
    follow: whether to wait for new events. If false, the iterator ends after the last stored event.

    Within a partition, predictions are in the order of their feature records. If inference repeats
    a prediction after a restart, the repetition is skipped, unless the iterator began after the
    original prediction. Records that Driftline did not write are logged and skipped. Raises
    StreamFileError, SettingsError and BrokerError; iterating can also raise BrokerError.
    """
    topic = Topics(as_stream(stream)).predictions
    messages = _messages(as_broker(broker), topic, start, follow)
    return _without_repeats(_decoded(predictions_decoder, messages))


def outcomes(
    broker: Broker | str,
    stream: Stream | str | Path,
    *,
    start: Start = "earliest",
    follow: bool = False,
) -> Iterator[Outcome]:
    """Iterate over a stream's outcomes: predictions joined with their labels.

    The parameters and errors are the same as for `predictions`. If a label changes, its record gets
    another outcome with a larger `revision`.
    """
    topic = Topics(as_stream(stream)).outcomes
    messages = _messages(as_broker(broker), topic, start, follow)
    events = _decoded(outcomes_decoder, messages)
    return (event for _, event in events if isinstance(event, Outcome))


def drift_events(
    broker: Broker | str,
    stream: Stream | str | Path,
    *,
    start: Start = "earliest",
    follow: bool = False,
) -> Iterator[DriftEvent]:
    """Iterate over the changes to a stream's drift events: opened, updated, resolved.

    The parameters and errors are the same as for `predictions`. All changes to one drift event have
    the same `id`.
    """
    topic = Topics(as_stream(stream)).drift
    messages = _messages(as_broker(broker), topic, start, follow)
    return (event for _, event in _decoded(drift_decoder, messages))


def new_messages(broker: Broker, offsets: Mapping[TopicPartition, int]) -> Iterator[Message]:
    """Yield the partitions' messages from these offsets onwards, and wait for new messages.

    The iterator never ends on its own. Raises BrokerError.
    """
    consumer = broker.consumer(client_id="driftline-follow")
    try:
        consumer.assign(offsets)
        while True:
            check()
            yield from consumer.poll(max_records=500, timeout_s=_POLL_S)
    finally:
        consumer.close()


def _messages(broker: Broker, topic: str, start: Start, follow: bool) -> Iterator[Message]:
    span = ranges(broker, [topic])
    stored: Iterable[Message] = ()
    if start == "earliest":
        stored = chain.from_iterable(scan(broker, span))
    coming: Iterable[Message] = ()
    if follow:
        coming = new_messages(broker, {partition: found.end for partition, found in span.items()})
    return chain(stored, coming)


def _decoded(
    decoder: msgspec.json.Decoder[T], messages: Iterable[Message]
) -> Iterator[tuple[int, T]]:
    """Yield the partition and the event of each message that contains an event."""
    for message in messages:
        event = decode_or_skip(decoder, message)
        if event is not None:
            yield message.partition, event


def _without_repeats(events: Iterable[tuple[int, PredictionsEvent]]) -> Iterator[Prediction]:
    """Skip watermarks, and repeated predictions for the same feature record.

    Within a partition, the offsets of the feature records increase until the feature topic is
    recreated. A watermark with the new topic id then precedes the first prediction for the new log.
    """
    logs: dict[int, Log] = {}  # partition → newest log of feature records
    newest: dict[int, int] = {}  # partition → largest offset of a feature record
    for partition, event in events:
        if isinstance(event, Prediction):
            if event.source.offset > newest.get(partition, -1):
                newest[partition] = event.source.offset
                yield event
        elif event.log is not None:
            before = logs.get(partition)
            if before is None or before.topic_id != event.log.topic_id:
                newest[partition] = event.log.offset - 1
            logs[partition] = event.log
