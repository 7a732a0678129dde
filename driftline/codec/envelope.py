"""Events to and from bytes: JSON values, CloudEvents headers on the rare topics, dead letters.

The headers follow CloudEvents 1.0 in Kafka's binary mode (`ce_id`, `ce_type`, …). Hot topics
(predictions, outcomes) carry none: headers double the cost of producing.
"""

import logging
from typing import TypeVar

import msgspec

from driftline.broker.port import Headers, Message, Outgoing
from driftline.codec.schema import DECODE_ERRORS, reason_of
from driftline.codec.values import shortened
from driftline.errors import DataError
from driftline.events import (
    DriftEvent,
    Event,
    Gap,
    ModelsEvent,
    Offset,
    OutcomesEvent,
    PartitionNumber,
    PartsEvent,
    PredictionsEvent,
    RetrainEvent,
    Watermark,
    WindowsEvent,
)
from driftline.handler import LogChange
from driftline.logs import alike

log = logging.getLogger(__name__)

T = TypeVar("T")

_encoder = msgspec.json.Encoder()
encode = _encoder.encode

predictions_decoder: msgspec.json.Decoder[PredictionsEvent] = msgspec.json.Decoder(PredictionsEvent)
outcomes_decoder: msgspec.json.Decoder[OutcomesEvent] = msgspec.json.Decoder(OutcomesEvent)
parts_decoder: msgspec.json.Decoder[PartsEvent] = msgspec.json.Decoder(PartsEvent)
windows_decoder: msgspec.json.Decoder[WindowsEvent] = msgspec.json.Decoder(WindowsEvent)
drift_decoder: msgspec.json.Decoder[DriftEvent] = msgspec.json.Decoder(DriftEvent)
retrain_decoder: msgspec.json.Decoder[RetrainEvent] = msgspec.json.Decoder(RetrainEvent)
models_decoder: msgspec.json.Decoder[ModelsEvent] = msgspec.json.Decoder(ModelsEvent)


def decode(decoder: msgspec.json.Decoder[T], message: Message) -> T:
    """Decode one message; raises DataError naming where it stands and what is wrong with it."""
    try:
        return decoder.decode(message.value or b"")
    except msgspec.DecodeError as error:
        raise DataError(f"{message.place}: {shortened(str(error))}") from error
    except DECODE_ERRORS as error:
        raise DataError(f"{message.place}: {reason_of(error)}") from error


def decode_or_skip(decoder: msgspec.json.Decoder[T], message: Message) -> T | None:
    """Decode one message for a reader that reports on a topic; warn and return None if the record
    is not Driftline's: it must not keep the reader from reporting on the others. Of several such
    records of a topic one is named, with their number."""
    try:
        return decode(decoder, message)
    except DataError as error:
        log.warning(
            "skipping a record that is not Driftline's: %s",
            error.message,
            extra=alike(message.topic),
        )
        return None


def cloud_event_headers(event: Event, *, id: str, source: str) -> Headers:
    """Headers that let any CloudEvents consumer route an event without reading its value."""
    kind = type(event).__struct_config__.tag
    return (
        ("ce_specversion", b"1.0"),
        ("ce_id", id.encode()),
        ("ce_type", f"driftline.{kind}".encode()),
        ("ce_source", f"/driftline/{source}".encode()),
        ("content-type", b"application/json"),
    )


def rare(topic: str, event: Event, *, id: str, key: str | None = None) -> Outgoing:
    """An event for one of the single-partition topics: windows, drift, retrain, models."""
    return Outgoing(
        topic=topic,
        key=(key or id).encode(),
        value=encode(event),
        partition=0,
        headers=cloud_event_headers(event, id=id, source=topic),
    )


def dead_letter(topic: str, message: Message, *, reason: str, service: str) -> Outgoing:
    """The message as it came, with its origin and the reason as headers."""
    return Outgoing(
        topic=topic,
        key=message.key,
        value=message.value,
        partition=message.partition,
        headers=(
            *message.headers,
            ("driftline_reason", shortened(reason).encode()),
            ("driftline_service", service.encode()),
            ("driftline_topic", message.topic.encode()),
            ("driftline_partition", str(message.partition).encode()),
            ("driftline_offset", str(message.offset).encode()),
        ),
    )


def lost_unread(change: LogChange, outcomes: str) -> list[Outgoing]:
    """The record of the topic `outcomes` that says which offsets were deleted before they were
    read; none if none were."""
    if change.unread is None:
        return []
    topic, partition = change.partition
    end = None if change.is_new_topic else change.start
    mark = Watermark(None, gaps=(Gap(partition, change.unread, end, topic),))
    return [Outgoing(outcomes, encode(mark), partition=partition)]


class DeadLetterOrigin(msgspec.Struct, frozen=True):
    """What the headers of a dead letter say."""

    reason: str
    service: str
    topic: str
    partition: PartitionNumber
    offset: Offset


def dead_letter_origin(message: Message) -> DeadLetterOrigin:
    """Read a dead letter's headers. Raises DataError if they are not there."""
    # A letter that was replayed and failed again carries two sets: the last one is its own.
    headers = {name: value.decode("utf-8", "replace") for name, value in message.headers}
    try:
        return msgspec.convert(
            {name: headers[f"driftline_{name}"] for name in DeadLetterOrigin.__struct_fields__},
            DeadLetterOrigin,
            strict=False,  # numbers are text in headers
        )
    except (KeyError, msgspec.ValidationError) as error:
        raise DataError(f"{message.place}: not a dead letter: {shortened(str(error))}") from error
