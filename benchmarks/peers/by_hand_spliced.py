"""Benchmark peer: a hand-written Kafka loop that sends the same content as Driftline.

Each value contains the prediction, the scored record, the record's offset and the model's digest.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from benchmarks.peers.common import Arguments, OnnxModel, arguments
from benchmarks.peers.loops import Work, at_least_once


class SourcePosition(msgspec.Struct):
    """The scored record's topic, partition and offset."""

    topic: str
    partition: int
    offset: int


class SplicedPrediction(msgspec.Struct, tag_field="type", tag="prediction"):
    """The value to send. The record's bytes are copied into it unchanged."""

    record_id: str
    time: str | None
    row: int
    prediction: str
    scores: dict[str, float]
    model: str
    source: SourcePosition
    record: msgspec.Raw


def predictions(given: Arguments) -> Work:
    """Return a function that converts a batch of messages to the values to send."""
    scorer = OnnxModel(given)
    decode = msgspec.json.Decoder(dict[str, Any]).decode
    encode = msgspec.json.Encoder().encode
    classes, digest = given.classes, given.digest

    def work(messages: Sequence[Any]) -> list[bytes]:
        values = [message.value() for message in messages]
        records = [decode(value) for value in values]
        return [
            encode(
                SplicedPrediction(
                    record_id=record["id"],
                    time=None,
                    row=record["@row"],
                    prediction=label,
                    scores=dict(zip(classes, scores, strict=True)),
                    model=digest,
                    source=SourcePosition(message.topic(), message.partition(), message.offset()),
                    record=msgspec.Raw(value),
                )
            )
            for message, value, record, (label, scores) in zip(
                messages, values, records, scorer.classify(records), strict=True
            )
        ]

    return work


if __name__ == "__main__":
    given = arguments()
    at_least_once(given, predictions(given))
