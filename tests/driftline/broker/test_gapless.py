"""A gapless producer writes no records after one that the broker did not accept."""

import uuid
from collections.abc import Callable

import pytest
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from driftline.broker import Client, connect
from driftline.broker.port import NewTopic, Outgoing, TopicPartition
from driftline.errors import BrokerError

pytestmark = pytest.mark.kafka


@pytest.mark.parametrize("client", ["kafka-python", "librdkafka"])
def test_no_record_is_written_after_a_rejected_one(
    client: Client, kafka_bootstrap: str, topic_name: Callable[[], str]
) -> None:
    broker, topic = connect(client, kafka_bootstrap), topic_name()
    admin = broker.admin()
    admin.create([NewTopic(topic, 1)])
    producer = broker.producer(gapless=True)

    def send(number: int, size: int = 1) -> None:
        producer.send(Outgoing(topic, b"%d" % number + b" " * size, partition=0))

    for number in range(100):
        send(number)
    producer.flush()
    _limit(kafka_bootstrap, topic, 500)

    def go_on() -> None:
        for number in range(100, 200):
            send(number, size=2000 if number == 120 else 1)
            if number % 10 == 0:
                producer.flush()

    with pytest.raises(BrokerError):
        go_on()
    with pytest.raises(BrokerError):
        go_on()
    producer.abandon()

    consumer = broker.consumer(client_id=f"reader-{uuid.uuid4().hex[:8]}")
    consumer.assign({TopicPartition(topic, 0): 0})
    end = admin.offsets(topic)[TopicPartition(topic, 0)].end
    found: list[int] = []
    while consumer.position(TopicPartition(topic, 0)) < end:
        records = consumer.poll(max_records=1000, timeout_s=0.5)
        found += [int(record.value or b"-1") for record in records]
    consumer.close()
    admin.close()
    assert found == list(range(len(found)))
    assert 100 <= len(found) <= 120


def _limit(servers: str, topic: str, max_bytes: int) -> None:
    entry = ConfigEntry(
        "max.message.bytes", str(max_bytes), incremental_operation=AlterConfigOpType.SET
    )
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    admin = AdminClient({"bootstrap.servers": servers})
    for done in admin.incremental_alter_configs([resource]).values():
        done.result(30.0)
