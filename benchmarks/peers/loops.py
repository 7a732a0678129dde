"""confluent-kafka loops for the benchmark peers, with at-least-once delivery or transactions.

Input: `work`, a function that converts a batch of messages to values, one per message.
Output: the values, sent to the sink topic with the messages' keys.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

from confluent_kafka import Consumer, Producer

from benchmarks.peers.common import (
    COMMIT_INTERVAL_S,
    MAX_BATCH,
    MAX_WAIT_S,
    TRANSACTION_S,
    Arguments,
    consumer_settings,
    producer_settings,
)

Work = Callable[[Sequence[Any]], Sequence[bytes]]


def at_least_once(given: Arguments, work: Work) -> None:
    """Send results until killed. Every second, flush and commit the consumed offsets."""
    consumer = Consumer(consumer_settings(given))
    consumer.subscribe([given.source])
    producer = Producer(producer_settings(given))
    produce, sink = producer.produce, given.sink
    uncommitted = False
    committed_s = time.monotonic()
    while True:
        messages = consumer.consume(MAX_BATCH, MAX_WAIT_S)
        if messages:
            for message, value in zip(messages, work(messages), strict=True):
                produce(sink, value, message.key())
            uncommitted = True
        producer.poll(0)
        if uncommitted and time.monotonic() - committed_s >= COMMIT_INTERVAL_S:
            producer.flush()
            consumer.commit(asynchronous=False)
            uncommitted = False
            committed_s = time.monotonic()


def transactions(given: Arguments, work: Work) -> None:
    """Send results and commit offsets in transactions of 200 ms, until killed."""
    consumer = Consumer(consumer_settings(given))
    consumer.subscribe([given.source])
    settings = {
        "transactional.id": given.group,
        # Delay in ms between retries while the previous transaction completes (default: 100).
        "retry.backoff.ms": 10,
    }
    producer = Producer(producer_settings(given) | settings)
    producer.init_transactions()
    produce, sink = producer.produce, given.sink
    began_s: float | None = None
    while True:
        messages = consumer.consume(MAX_BATCH, MAX_WAIT_S)
        if messages:
            if began_s is None:
                producer.begin_transaction()
                began_s = time.monotonic()
            for message, value in zip(messages, work(messages), strict=True):
                produce(sink, value, message.key())
        producer.poll(0)
        if began_s is not None and time.monotonic() - began_s >= TRANSACTION_S:
            producer.send_offsets_to_transaction(
                consumer.position(consumer.assignment()), consumer.consumer_group_metadata()
            )
            producer.commit_transaction()
            began_s = None
