"""Records sent to a topic right after its creation are all written."""

from collections.abc import Callable

import pytest

from driftline.broker import Client, connect
from driftline.broker.port import NewTopic, Outgoing

TOPICS, RECORDS = 20, 100


@pytest.mark.kafka
@pytest.mark.parametrize("client", ["kafka-python", "librdkafka"])
def test_no_record_sent_to_a_new_topic_is_lost(
    kafka_bootstrap: str, topic_name: Callable[[], str], client: Client
) -> None:
    """The broker may refuse the first batches, because it does not know the topic yet."""
    broker = connect(client, kafka_bootstrap)
    admin = broker.admin()
    for _ in range(TOPICS):
        topic = topic_name()
        admin.create([NewTopic(topic, 3)])
        producer = broker.producer()
        for number in range(RECORDS):
            producer.send(Outgoing(topic, b"value", b"key %d" % number))
        producer.flush()
        producer.close()
        assert sum(found.end for found in admin.offsets(topic).values()) == RECORDS
        admin.delete([topic])
    admin.close()
