"""Benchmark peer: a hand-written Kafka loop that scores batches and sends only predictions.

It uses confluent-kafka, msgspec and ONNX.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from benchmarks.peers.common import Arguments, OnnxModel, arguments
from benchmarks.peers.loops import Work, at_least_once


def predictions(given: Arguments) -> Work:
    """Return a function that converts a batch of messages to the values to send.

    Each value is a JSON object with the record's id, its predicted class and the class's
    probability.
    """
    scorer = OnnxModel(given)
    decode = msgspec.json.Decoder(dict[str, Any]).decode
    encode = msgspec.json.Encoder().encode

    def work(messages: Sequence[Any]) -> list[bytes]:
        records = [decode(message.value()) for message in messages]
        return [
            encode({"id": record["id"], "prediction": label, "score": max(scores)})
            for record, (label, scores) in zip(records, scorer.classify(records), strict=True)
        ]

    return work


if __name__ == "__main__":
    given = arguments()
    at_least_once(given, predictions(given))
