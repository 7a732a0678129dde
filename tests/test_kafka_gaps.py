"""Deleted labels and predictions on a real Kafka are published as gaps and listed by reconcile."""

import time
from collections.abc import Callable
from contextlib import suppress

import pytest
from confluent_kafka import TopicPartition as KafkaPartition
from confluent_kafka.admin import AdminClient

from consumers.outcomes.handler import OutcomesHandler
from driftline.audit.reconcile import reconcile
from driftline.audit.reconcile_findings import Lost
from driftline.broker import Client, connect
from driftline.broker.port import Broker, NewTopic, Outgoing, TopicPartition
from driftline.clock import SystemClock
from driftline.config.stream import Stream, loads
from driftline.errors import BrokerError
from driftline.runtime.loop import Loop
from driftline.wire.commit_metadata import handled
from driftline.wire.envelope import encode, outcomes_decoder
from driftline.wire.events import Gap, Watermark
from driftline.wire.labels import LabelCodec
from driftline.wire.topics import Topics

DEADLINE_S = 60.0
FILE = """
version = 1
name = "{name}"
task = "classification"
target = "y"
features = {{ x = "number" }}
kafka = {{ partitions = 1 }}
"""


class Setting:
    """A stream on Kafka with its join."""

    def __init__(self, client: Client, servers: str, name: str) -> None:
        self.broker: Broker = connect(client, servers)
        self.stream: Stream = loads(FILE.format(name=name))
        self.topics = Topics(self.stream)
        self.admin = self.broker.admin()
        topics = self.topics
        for topic in (
            topics.features,
            topics.predictions,
            topics.labels,
            topics.outcomes,
            topics.deadletters,
        ):
            self.admin.create([NewTopic(topic, 1)])
        self.servers = servers

    def join(self) -> Loop:
        return Loop(
            OutcomesHandler(self.stream, SystemClock()),
            self.broker,
            group=self.topics.group("outcomes"),
            delivery="exactly_once",
            clock=SystemClock(),
            commit_interval_s=0.1,
        )

    def put(self, topic: str, count: int) -> None:
        """Send records that are never joined: watermarks or labels."""
        codec = LabelCodec(self.stream)
        producer = self.broker.producer()
        for number in range(count):
            value = encode(Watermark(number))
            if topic == self.topics.labels:
                value = codec.encode(str(number), "yes")
            producer.send(Outgoing(topic, value, b"k", 0))
        producer.flush()
        producer.close()

    def read(self, loop: Loop, topic: str, offset: int) -> None:
        """Run the loop until it has committed this offset."""
        at = TopicPartition(topic, 0)
        deadline = time.monotonic() + DEADLINE_S
        group = self.topics.group("outcomes")
        while True:
            loop.step(0.1)
            held = self.admin.group_offsets(group).get(at)
            if held is not None and handled(held) >= offset:
                return
            assert time.monotonic() < deadline, held

    def create_again(self, topic: str) -> None:
        self.admin.delete([topic])
        deadline = time.monotonic() + DEADLINE_S
        while True:
            try:
                self.admin.create([NewTopic(topic, 1)])
            except BrokerError:  # it is still being deleted
                assert time.monotonic() < deadline
                time.sleep(0.2)
            else:
                return

    def delete_before(self, topic: str, offset: int) -> None:
        admin = AdminClient({"bootstrap.servers": self.servers})
        for done in admin.delete_records([KafkaPartition(topic, 0, offset)]).values():
            done.result(DEADLINE_S)

    def gaps(self) -> list[Gap]:
        consumer = self.broker.consumer()
        consumer.assign({TopicPartition(self.topics.outcomes, 0): 0})
        found: list[Gap] = []
        deadline = time.monotonic() + DEADLINE_S
        while not found and time.monotonic() < deadline:
            for message in consumer.poll(max_records=1000, timeout_s=0.2):
                event = outcomes_decoder.decode(message.value or b"")
                found += event.gaps if isinstance(event, Watermark) else ()
        consumer.close()
        return found


@pytest.mark.kafka
@pytest.mark.parametrize("name", ["labels", "predictions"])
@pytest.mark.parametrize(
    ("client", "what"),
    [
        ("librdkafka", "deleted"),
        ("librdkafka", "recreated"),
        ("librdkafka", "recreated while running"),
        ("kafka-python", "deleted"),
        ("kafka-python", "recreated"),
        ("kafka-python", "recreated while running"),
    ],
)
def test_records_deleted_before_the_join_read_them_are_a_gap_and_lost(
    client: Client, name: str, what: str, kafka_bootstrap: str, topic_name: Callable[[], str]
) -> None:
    setting = Setting(client, kafka_bootstrap, topic_name())
    topic = getattr(setting.topics, name)
    loop = setting.join()
    setting.put(topic, 3)
    setting.read(loop, topic, 3)
    if what == "recreated while running":
        setting.create_again(topic)
        setting.put(topic, 2)
    else:
        loop.close()
        if what == "deleted":
            setting.put(topic, 4)
            setting.delete_before(topic, 5)
        else:
            setting.create_again(topic)
            setting.put(topic, 2)
        loop = setting.join()
    deadline = time.monotonic() + DEADLINE_S
    end = 7 if what == "deleted" else 2
    lost = Lost(topic, 0, 3, 5 if what == "deleted" else None)
    while time.monotonic() < deadline:
        with suppress(BrokerError):  # the next step creates new clients, as in `Loop.run`
            loop.step(0.1)
        held = setting.admin.group_offsets(setting.topics.group("outcomes")).get(
            TopicPartition(topic, 0)
        )
        if held is not None and handled(held) == end:
            break
    loop.close()

    assert setting.gaps() == [Gap(0, lost.start, lost.end, topic)]
    found = reconcile(setting.broker, setting.stream)
    assert found.lost == (lost,)
    assert not found.clean
