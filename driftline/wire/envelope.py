"""Encode and decode events as Kafka messages: JSON values, CloudEvents headers, dead letters.

Events in the `windows`, `drift`, `retrain` and `models` topics have CloudEvents 1.0 headers in
binary mode (`ce_id`, `ce_type`, …). Predictions and outcomes have no such headers, because headers
would double the cost of producing these events.
"""

import hashlib
import logging
from typing import Final, TypeVar

import msgspec

from driftline.broker.port import Headers, Message, Outgoing
from driftline.errors import DataError
from driftline.logs import alike
from driftline.wire.column_decoders import DECODE_ERRORS, reason_of
from driftline.wire.events import (
    DriftEvent,
    Event,
    ModelsEvent,
    Offset,
    OutcomesEvent,
    PartitionNumber,
    PredictionsEvent,
    RetrainEvent,
)
from driftline.wire.partial_aggregates import PartsEvent
from driftline.wire.values import shortened
from driftline.wire.window_events import WindowsEvent

log = logging.getLogger(__name__)

T = TypeVar("T")

_LONGEST_KEY: Final = 1000

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
    """Decode one message. Raises DataError with the topic, partition, offset and reason."""
    try:
        return decoder.decode(message.value or b"")
    except msgspec.DecodeError as error:
        raise DataError(f"{message.place}: {shortened(str(error))}") from error
    except DECODE_ERRORS as error:
        raise DataError(f"{message.place}: {reason_of(error)}") from error


def decode_or_skip(decoder: msgspec.json.Decoder[T], message: Message) -> T | None:
    """Decode one message. If it is not a Driftline event, log a warning and return None.

    Use this function in reports about a topic, so that one foreign record does not hide all other
    records. Repeated warnings about the same topic are counted instead of logged.
    """
    try:
        return decode(decoder, message)
    except DataError as error:
        log.warning(
            "skipping a record that Driftline did not write: %s",
            error.message,
            extra=alike(message.topic),
        )
        return None


def cloud_event_headers(event: Event, *, id: str, source: str) -> Headers:
    """Return the headers that let a CloudEvents consumer route an event without decoding it."""
    kind = type(event).__struct_config__.tag
    return (
        ("ce_specversion", b"1.0"),
        ("ce_id", id.encode()),
        ("ce_type", f"driftline.{kind}".encode()),
        ("ce_source", f"/driftline/{source}".encode()),
        ("content-type", b"application/json"),
    )


def rare(topic: str, event: Event, *, id: str, key: str | None = None) -> Outgoing:
    """Return an event as a record for a single-partition topic: windows, drift, retrain, models."""
    return Outgoing(
        topic=topic,
        key=(key or id).encode(),
        value=encode(event),
        partition=0,
        headers=cloud_event_headers(event, id=id, source=topic),
    )


def dead_letter(topic: str, message: Message, *, reason: str, service: str) -> Outgoing:
    """Return a dead letter: the unchanged message, plus headers with its origin and the reason."""
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


def is_dead_letter(record: Outgoing) -> bool:
    """Return whether `dead_letter` made this record."""
    return any(name == "driftline_reason" for name, _ in record.headers)


def without_value(letter: Outgoing) -> Outgoing:
    """Return a dead letter with the size and digest of its record instead of the record itself.

    It is sent if the dead-letter topic does not accept a record as large as the source topic does.
    """
    value = letter.value or b""
    return msgspec.structs.replace(
        letter,
        key=None if letter.key is None or len(letter.key) > _LONGEST_KEY else letter.key,
        value=None,
        headers=(
            *(header for header in letter.headers if header[0].startswith("driftline_")),
            ("driftline_value_bytes", str(len(value)).encode()),
            ("driftline_value_sha256", hashlib.sha256(value).hexdigest().encode()),
        ),
    )


class DeadLetterOrigin(msgspec.Struct, frozen=True):
    """A dead letter's headers: the record's origin, and why `service` rejected the record.

    `value_bytes` is the size of the record's value if the dead letter does not contain the record.
    """

    reason: str
    service: str
    topic: str
    partition: PartitionNumber
    offset: Offset
    value_bytes: Offset | None = None


def dead_letter_origin(message: Message) -> DeadLetterOrigin:
    """Decode a dead letter's headers. Raises DataError if the headers are missing or invalid."""
    # If a dead letter was resent with its headers and rejected again, the new dead letter has two
    # sets of headers. The dict keeps the last set, which describes the last rejection.
    headers = {name: value.decode("utf-8", "replace") for name, value in message.headers}
    try:
        return msgspec.convert(
            {
                name: headers[f"driftline_{name}"]
                for name in DeadLetterOrigin.__struct_fields__
                if f"driftline_{name}" in headers
            },
            DeadLetterOrigin,
            strict=False,  # header values are text, so convert the numbers
        )
    except msgspec.ValidationError as error:
        raise DataError(f"{message.place}: not a dead letter: {shortened(str(error))}") from error
