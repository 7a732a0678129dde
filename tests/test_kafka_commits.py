"""On a real Kafka, outdated committed offsets do not make a new worker publish results twice."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import get_args

import pytest

from driftline.broker import Client, connect
from driftline.broker.port import (
    Broker,
    Committed,
    Message,
    NewTopic,
    Outgoing,
    TopicPartition,
)
from driftline.clock import SystemClock
from driftline.config.stream_sections import Delivery
from driftline.errors import BrokerError
from driftline.runtime.handler import Handler
from driftline.runtime.loop import Loop

DEADLINE_S = 90.0


class Copier(Handler):
    """Copies records from one topic to another."""

    def __init__(self, source: str, sink: str) -> None:
        self._source, self._sink = source, sink

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self._source,)

    def handle(self, messages: Sequence[Message]) -> Sequence[Outgoing]:
        return [Outgoing(self._sink, message.value, partition=0) for message in messages]

    def reject(self, message: Message, reason: str) -> Sequence[Outgoing]:
        raise NotImplementedError


class Setting:
    """A pair of topics on Kafka, and workers that run one after the other."""

    def __init__(self, broker: Broker, name: str, delivery: Delivery, file: Path) -> None:
        self.broker, self.group, self._delivery, self._file = broker, name, delivery, file
        self.source, self.sink = f"{name}.in", f"{name}.out"
        self.admin = broker.admin()
        self.admin.create([NewTopic(self.source, 1), NewTopic(self.sink, 1)])

    def put(self, *values: str) -> None:
        producer = self.broker.producer()
        for value in values:
            producer.send(Outgoing(self.source, value.encode(), partition=0))
        producer.flush()
        producer.close()

    def run(self, end: int) -> Mapping[TopicPartition, Committed]:
        """Let a new worker commit up to this offset. Return the committed offsets."""
        loop = Loop(
            Copier(self.source, self.sink),
            self.broker,
            group=self.group,
            delivery=self._delivery,
            clock=SystemClock(),
            commit_interval_s=0.1,
            commits_file=self._file,
        )
        deadline = time.monotonic() + DEADLINE_S
        while True:
            loop.step(0.1)
            found = self.admin.group_offsets(self.group)
            at = found.get(TopicPartition(self.source, 0))
            if at is not None and at.offset == end:
                break
            assert time.monotonic() < deadline, found
        loop.close()
        return found

    def restore(self, commits: Mapping[TopicPartition, Committed]) -> None:
        """Commit outdated offsets once the group has no members."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            consumer = self.broker.consumer(self.group)
            try:
                consumer.commit(commits)
                return
            except BrokerError:  # the last worker's session has not timed out yet
                assert time.monotonic() < deadline
                time.sleep(0.5)
            finally:
                consumer.close()

    def got(self, count: int) -> list[str]:
        consumer = self.broker.consumer()
        consumer.assign({TopicPartition(self.sink, 0): 0})
        found: list[str] = []
        deadline = time.monotonic() + DEADLINE_S
        while len(found) < count and time.monotonic() < deadline:
            messages = consumer.poll(max_records=1000, timeout_s=0.2)
            found += [(message.value or b"").decode() for message in messages]
        found += [
            (message.value or b"").decode()
            for message in consumer.poll(max_records=1000, timeout_s=1.0)
        ]
        consumer.close()
        return found


@pytest.mark.kafka
@pytest.mark.parametrize("delivery", get_args(Delivery))
@pytest.mark.parametrize("client", ["librdkafka", "kafka-python"])
def test_a_new_worker_does_not_trust_outdated_commits(
    client: Client,
    delivery: Delivery,
    kafka_bootstrap: str,
    topic_name: Callable[[], str],
    tmp_path: Path,
) -> None:
    broker = connect(client, kafka_bootstrap)
    setting = Setting(broker, topic_name(), delivery, tmp_path / "commits")
    setting.put("a")
    outdated = setting.run(1)
    setting.put("b")
    setting.run(2)
    setting.restore(outdated)
    setting.put("c")
    setting.run(3)
    assert setting.got(3) == ["a", "b", "c"]
