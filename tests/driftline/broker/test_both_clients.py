"""Each Kafka client reads what the other one wrote, so a service may switch its client."""

import re
import uuid
from collections.abc import Callable

import pytest

from driftline.broker import connect
from driftline.broker.port import Broker, Committed, NewTopic, Outgoing, TopicPartition

pytestmark = pytest.mark.kafka


@pytest.mark.parametrize(
    ("writes", "reads"), [("kafka-python", "librdkafka"), ("librdkafka", "kafka-python")]
)
def test_both_clients_read_each_others_records_and_commits_with_metadata(
    writes: str, reads: str, kafka_bootstrap: str, topic_name: Callable[[], str]
) -> None:
    writing: Broker = connect(writes, kafka_bootstrap)  # type: ignore[arg-type]
    reading: Broker = connect(reads, kafka_bootstrap)  # type: ignore[arg-type]
    topic, group = topic_name(), f"group-{uuid.uuid4().hex[:12]}"
    admin = writing.admin()
    admin.create([NewTopic(topic, 2)])
    plain, in_transaction = TopicPartition(topic, 0), TopicPartition(topic, 1)

    consumer, producer = writing.consumer(group), writing.producer(group)
    consumer.commit({plain: Committed(3, '{"published": 7}')})
    producer.begin()
    producer.send(Outgoing(topic, b"value", b"key", 1, (("name", b"\x00"),)))
    producer.send_offsets({in_transaction: Committed(5, "µ")}, consumer.group_metadata())
    producer.commit()

    expected = {plain: Committed(3, '{"published": 7}'), in_transaction: Committed(5, "µ")}
    other, other_admin = reading.consumer(group), reading.admin()
    assert other.committed([plain, in_transaction]) == expected
    assert other_admin.group_offsets(group) == expected
    other.assign({in_transaction: 0})
    records = other.poll(max_records=10, timeout_s=30)
    assert [(r.key, r.value, r.headers) for r in records] == [
        (b"key", b"value", (("name", b"\x00"),))
    ]
    for length in range(1, 40):
        metadata = "µ" + "x" * length
        consumer.commit({plain: Committed(length, metadata)})
        assert other.committed([plain]) == {plain: Committed(length, metadata)}
    for client in (consumer, producer, other, admin, other_admin):
        client.close()


def test_both_clients_report_the_same_topic_id(
    kafka_bootstrap: str, topic_name: Callable[[], str]
) -> None:
    admins = [
        connect("kafka-python", kafka_bootstrap).admin(),
        connect("librdkafka", kafka_bootstrap).admin(),
    ]
    names = [
        topic_name() for _ in range(20)
    ]  # most of 20 ids contain a character that is not safe in URLs
    admins[0].create([NewTopic(name, 1) for name in names])
    first, second = (admin.topic_ids(names) for admin in admins)
    assert first == second
    assert all(re.fullmatch(r"[\w-]{22}", topic_id) for topic_id in first.values())
    for admin in admins:
        admin.close()
