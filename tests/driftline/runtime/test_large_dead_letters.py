"""A record that is too large for a dead letter does not stop the stream."""

import hashlib
from collections.abc import Sequence

import pytest

from driftline.broker.memory import MemoryBroker
from driftline.broker.port import Message, NewTopic, Outgoing, TopicPartition
from driftline.clock import ManualClock
from driftline.config.stream_sections import Delivery
from driftline.runtime.handler import Handler
from driftline.runtime.loop import Loop
from driftline.wire.envelope import dead_letter, dead_letter_origin

LARGE = b"x" * 2_000_000


class Forwarding(Handler):
    """Forwards records. Large records become dead letters at once, and bad ones by `reject`."""

    inputs = ("in",)

    def handle(self, messages: Sequence[Message]) -> Sequence[Outgoing]:
        output = []
        for message in messages:
            value = message.value or b""
            if value.startswith(b"bad"):
                raise ValueError("a bad record")
            if len(value) > 1_000_000:
                output.append(dead_letter("dead", message, reason="too large", service="s"))
            else:
                output.append(Outgoing("out", value, partition=0))
        return output

    def reject(self, message: Message, reason: str) -> Sequence[Outgoing]:
        return [dead_letter("dead", message, reason=reason, service="s")]


def read(broker: MemoryBroker, topic: str) -> Sequence[Message]:
    consumer = broker.consumer()
    consumer.assign({TopicPartition(topic, 0): 0})
    return consumer.poll(max_records=100, timeout_s=0)


@pytest.mark.parametrize("delivery", ["exactly_once", "at_least_once"])
@pytest.mark.parametrize("value", [LARGE, b"bad" + LARGE])
def test_the_dead_letter_is_written_without_the_record(delivery: Delivery, value: bytes) -> None:
    clock = ManualClock()
    broker = MemoryBroker(clock)
    broker.admin().create(
        [
            NewTopic("in", 1, 1, {"max.message.bytes": "5000000"}),
            NewTopic("out", 1),
            NewTopic("dead", 1),
        ]
    )
    producer = broker.producer()
    for each in (b"1", value, b"2"):
        headers = (("trace", b"7"),)
        producer.send(Outgoing("in", each, b"k" * 2_000, partition=0, headers=headers))
    loop = Loop(Forwarding(), broker, group="g", delivery=delivery, clock=clock)
    for _ in range(20):
        clock.advance(1.1)
        loop.step(0)
    assert [message.value for message in read(broker, "out")] == [b"1", b"2"]
    (letter,) = read(broker, "dead")
    assert (letter.key, letter.value) == (None, None)
    found = dict(letter.headers)
    assert "trace" not in found
    assert found["driftline_value_bytes"] == str(len(value)).encode()
    assert dead_letter_origin(letter).value_bytes == len(value)
    assert found["driftline_value_sha256"] == hashlib.sha256(value).hexdigest().encode()
    assert dead_letter_origin(letter).offset == 1
    assert broker.admin().group_offsets("g")[TopicPartition("in", 0)].offset == 3


def test_a_limit_that_was_raised_is_noticed() -> None:
    broker = MemoryBroker(ManualClock())
    broker.admin().create([NewTopic("out", 1)])
    producer = broker.producer()
    producer.send(Outgoing("out", b"1", partition=0))
    broker.admin().delete(["out"])
    broker.admin().create([NewTopic("out", 1, 1, {"max.message.bytes": "5000000"})])
    producer.send(Outgoing("out", LARGE, partition=0))
    producer.flush()
    assert [message.value for message in read(broker, "out")] == [LARGE]
