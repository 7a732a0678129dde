"""librdkafka's bounded queue, which the other clients do not have."""

from collections.abc import Callable

import pytest

from driftline.broker import connect
from driftline.broker.port import NewTopic, OutgoingBatch, TopicPartition

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
