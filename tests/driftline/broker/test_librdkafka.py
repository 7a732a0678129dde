"""Test what only the librdkafka clients have: a bounded queue, and threads that must end."""

import gc
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress

import pytest

from driftline.broker import connect
from driftline.broker.librdkafka import LibrdkafkaBroker
from driftline.broker.port import NewTopic, OutgoingBatch, TopicPartition
from driftline.errors import BrokerError

pytestmark = pytest.mark.kafka


def test_a_batch_waits_for_a_full_queue_and_loses_no_records(
    kafka_bootstrap: str, topic_name: Callable[[], str]
) -> None:
    # The adapter sets the limit in bytes itself. The limit in records has the same effect.
    broker = connect("librdkafka", kafka_bootstrap, {"queue.buffering.max.messages": "100"})
    topic, count = topic_name(), 5_000
    admin, producer, consumer = broker.admin(), broker.producer(), broker.consumer()
    admin.create([NewTopic(topic, 1)])
    producer.send_batch(OutgoingBatch(topic, 0, [None] * count, [b"%d" % i for i in range(count)]))
    producer.flush()
    consumer.assign({TopicPartition(topic, 0): 0})
    read: list[bytes | None] = []
    while len(read) < count and (batch := consumer.poll(max_records=count, timeout_s=10)):
        read += [message.value for message in batch]
    assert read == [b"%d" % i for i in range(count)]
    for client in (admin, producer, consumer):
        client.close()


def test_the_client_of_a_closed_admin_is_freed_even_after_a_failed_request(
    kafka_bootstrap: str, topic_name: Callable[[], str]
) -> None:
    broker = LibrdkafkaBroker(kafka_bootstrap)
    admin, topics = broker.admin(), [NewTopic(topic_name(), 1)]
    admin.create(topics)
    known = weakref.ref(admin._client)
    gc.disable()
    try:
        with suppress(BrokerError):
            admin.create(topics)  # fails, because the topic exists
        admin.close()
        del admin
        for thread in threading.enumerate():
            if thread.name == "driftline-end":
                thread.join(10)
        assert known() is None
    finally:
        gc.enable()
