"""A hand-written loop with kafka-python, a client in pure Python; it sends only the prediction."""

import time
from typing import Any

import msgspec
from kafka import KafkaConsumer, KafkaProducer

from benchmarks.peers.common import COMMIT_INTERVAL_S, MAX_BATCH, MAX_WAIT_S, Scorer, arguments


def main() -> None:
    """Consume, score and send until killed; commit offsets of delivered results every second."""
    given = arguments()
    scorer = Scorer(given)
    decode = msgspec.json.Decoder(dict[str, Any]).decode
    encode = msgspec.json.Encoder().encode
    consumer = KafkaConsumer(
        given.source,
        bootstrap_servers=given.bootstrap,
        group_id=given.group,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        max_poll_records=MAX_BATCH,
    )
    producer = KafkaProducer(
        bootstrap_servers=given.bootstrap,
        acks="all",
        linger_ms=5,  # librdkafka's default; kafka-python's default of 0 sends tiny batches
    )
    send, sink = producer.send, given.sink
    futures: list[Any] = []
    committed_s = time.monotonic()
    while True:
        polled = consumer.poll(timeout_ms=int(1000 * MAX_WAIT_S))
        for messages in polled.values():
            records = [decode(message.value) for message in messages]
            for message, record, (answer, scores) in zip(
                messages, records, scorer.answers(records), strict=True
            ):
                value = encode({"id": record["id"], "prediction": answer, "score": max(scores)})
                futures.append(send(sink, value, message.key))
        if futures and time.monotonic() - committed_s >= COMMIT_INTERVAL_S:
            producer.flush()
            for future in futures:
                future.get(0)  # raises the error if the result was not delivered
            consumer.commit()
            futures.clear()
            committed_s = time.monotonic()


if __name__ == "__main__":
    main()
