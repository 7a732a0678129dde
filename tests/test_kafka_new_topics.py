"""Records sent to a topic right after its creation are all written."""

from collections.abc import Callable
from functools import partial
from typing import Literal

import pytest

from driftline.broker import Client, connect
from driftline.broker.limits import wait_until
from driftline.broker.port import Broker, NewTopic, Outgoing
from driftline.broker.scan import ranges, scan

TOPICS, RECORDS = 15, 100


def is_complete(broker: Broker, topic: str) -> bool:
    return sum(map(len, scan(broker, ranges(broker, [topic])))) == RECORDS


@pytest.mark.kafka
@pytest.mark.parametrize("kind", ["plain", "gapless", "transactional"])
@pytest.mark.parametrize("client", ["kafka-python", "librdkafka"])
def test_no_record_sent_to_a_new_topic_is_lost(
    kafka_bootstrap: str,
    topic_name: Callable[[], str],
    client: Client,
    kind: Literal["plain", "gapless", "transactional"],
) -> None:
    """The broker may refuse the first batches, because it does not know the topic yet."""
    broker = connect(client, kafka_bootstrap)
    admin = broker.admin()
    for _ in range(TOPICS):
        topic = topic_name()
        admin.create([NewTopic(topic, 3)])
        transactional_id = topic if kind == "transactional" else None
        producer = broker.producer(transactional_id, gapless=kind == "gapless")
        if transactional_id:
            producer.begin()
        for number in range(RECORDS):
            producer.send(Outgoing(topic, b"value", b"key %d" % number))
        if transactional_id:
            producer.commit()
        producer.flush()
        producer.close()
        # Kafka ends a transaction in its partitions after the commit has returned.
        wait_until(partial(is_complete, broker, topic), f"{topic} lacks records", timeout_s=10)
        admin.delete([topic])
    admin.close()
