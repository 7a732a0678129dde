"""Offsets are committed only for handled records, whichever call of handler or client raises.

The property is tested on all three brokers, with both delivery guarantees. A worker whose loop ends
with an error is replaced by another one in its slot.
"""

import random
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driftline.broker import connect
from driftline.broker.memory import MemoryBroker
from driftline.broker.port import Broker, Committed, Message, NewTopic, Outgoing, TopicPartition
from driftline.clock import ManualClock
from driftline.config.stream_sections import Delivery
from driftline.errors import (
    BrokerError,
    BrokerUnavailable,
    DeliveryFailed,
    InstanceFenced,
    TransactionAborted,
)
from driftline.runtime.handler import Handler
from driftline.runtime.input_logs import without_topic_id
from driftline.runtime.loop import Loop

CLIENT_ERRORS: tuple[Callable[[str], Exception], ...] = (
    BrokerError, BrokerUnavailable, DeliveryFailed, InstanceFenced, TransactionAborted, OSError,
)  # fmt: skip
HANDLER_ERRORS: tuple[Callable[[str], Exception], ...] = (KeyError, ValueError, OSError)
# Methods that by contract do not raise, or not while records could be lost.
SAFE = {"abandon", "close", "assignment", "max_message_bytes"}


class Faults:
    """Raises errors at planned calls: `plan` maps the number of a call to (error, is_before)."""

    def __init__(self, plan: Mapping[int, tuple[Callable[[str], Exception], bool]]) -> None:
        self.plan = plan
        self.calls = 0
        self.raised = 0
        self.in_except_blocks: set[str] = set()  # methods of clients that were called in one

    def wrap(self, target: object) -> Any:
        return _Faulty(self, target)

    def call(self, method: Callable[..., Any], *args: Any, **options: Any) -> Any:
        self.calls += 1
        if sys.exception() is not None and not isinstance(
            getattr(method, "__self__", None), PairsAndEchoes
        ):
            self.in_except_blocks.add(method.__qualname__)
        error, is_before = self.plan.get(self.calls, (None, False))
        if error is not None and is_before:
            self._raise(error, method)
        result = method(*args, **options)
        if error is not None:
            self._raise(error, method)
        return result

    def _raise(self, error: Callable[[str], Exception], method: Callable[..., Any]) -> None:
        self.raised += 1
        raise error(f"{method.__name__} failed as planned")


class _Faulty:
    """A broker, client or handler whose calls may raise."""

    def __init__(self, faults: Faults, target: object) -> None:
        self._faults = faults
        self._target = target

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        if name in SAFE or not callable(found):
            return found
        if name in ("consumer", "producer", "admin"):
            return lambda *args, **options: _Faulty(self._faults, found(*args, **options))
        return lambda *args, **options: self._faults.call(found, *args, **options)


class PairsAndEchoes(Handler):
    """Publishes each number when the next one of its partition arrives, so it buffers one."""

    inputs: tuple[str, ...] = ()

    def __init__(self, topics: tuple[str, str, str]) -> None:
        self.source, self.out, self.dead = topics
        self.inputs = (self.source,)
        self._held: dict[TopicPartition, Message] = {}
        self._next: dict[TopicPartition, int] = {}
        self._published: dict[TopicPartition, int] = {}

    def on_assigned(self, resume: Mapping[TopicPartition, Committed]) -> None:
        self.on_revoked(list(resume))
        for partition, at in resume.items():
            self._next[partition] = at.offset
            self._published[partition] = int(at.metadata or 0)

    def on_revoked(self, partitions: Sequence[TopicPartition]) -> None:
        for partition in partitions:
            self._held.pop(partition, None)

    def handle(self, messages: Sequence[Message]) -> Sequence[Outgoing]:
        output = []
        for message in messages:
            partition = TopicPartition(message.topic, message.partition)
            if (held := self._held.pop(partition, None)) is not None:
                output.append(Outgoing(self.out, held.value, partition=0))
            if message.value == b"poison":
                raise KeyError("a value that the handler does not understand")
            self._held[partition] = message
            self._next[partition] = message.offset + 1
        return output

    def reject(self, message: Message, reason: str) -> Sequence[Outgoing]:
        partition = TopicPartition(message.topic, message.partition)
        self._next[partition] = max(message.offset + 1, self._next[partition])
        return [Outgoing(self.dead, message.value, partition=0)]

    def offsets_to_commit(self) -> Mapping[TopicPartition, Committed]:
        return {
            partition: Committed(message.offset, str(self._published_now(partition)))
            for partition, message in self._held.items()
        }

    def _published_now(self, partition: TopicPartition) -> int:
        return max(self._next[partition], self._published[partition])


class Stop:
    """The event that ends a worker; it also advances the clock in each step."""

    def __init__(self, clock: ManualClock, patience_s: float, until: Callable[[], bool]) -> None:
        self._clock, self._until = clock, until
        self._deadline_s = time.monotonic() + patience_s

    def is_set(self) -> bool:
        assert time.monotonic() < self._deadline_s
        self._clock.advance(0.4)
        return self._until()

    def wait(self, timeout_s: float) -> None:
        self._clock.advance(timeout_s)


class World:
    """A broker with a topic of numbers, and workers that fail and are replaced."""

    def __init__(
        self, broker: Broker, topics: tuple[str, str, str], delivery: Delivery, patience_s: float
    ) -> None:
        self.broker, self.topics, self.delivery = broker, topics, delivery
        self.patience_s = patience_s
        self.group = f"group-{uuid.uuid4().hex[:12]}"
        broker.admin().create(
            [NewTopic(topics[0], 2), *(NewTopic(topic, 1) for topic in topics[1:])]
        )
        self.clock = ManualClock()

    def put(self, values: Sequence[bytes]) -> None:
        producer = self.broker.producer()
        for number, value in enumerate(values):
            producer.send(Outgoing(self.topics[0], value, partition=number % 2))
        producer.close()

    def loop(self, faults: Faults | None, max_records: int) -> Loop:
        handler: Any = PairsAndEchoes(self.topics)
        broker: Any = self.broker
        if faults is not None:
            handler, broker = faults.wrap(handler), faults.wrap(broker)
        return Loop(
            handler,
            broker,
            group=self.group,
            delivery=self.delivery,
            clock=self.clock,
            max_records=max_records,
            commit_interval_s=1.0,
        )

    def live(self, faults: Faults | None, max_records: int, until: Callable[[], bool]) -> None:
        """Run workers in one slot, one after the other, until `until` is true."""
        stop: Any = Stop(self.clock, self.patience_s, until)
        while not stop.is_set():
            with suppress(BrokerError, OSError, LookupError, ValueError):  # the worker has ended
                self.loop(faults, max_records).run(stop, max_wait_s=0.01)

    def has_committed(self, ends: Sequence[int]) -> bool:
        """Return whether all records before these offsets (by partition) were handled."""
        admin = self.broker.admin()
        offsets = admin.group_offsets(self.group)
        admin.close()
        partitions = [TopicPartition(self.topics[0], number) for number in range(len(ends))]
        known = [offsets.get(partition, Committed(0)) for partition in partitions]
        found = [without_topic_id(at)[1] for at in known]
        handled = [max(at.offset, int(at.metadata or 0)) for at in found]
        return all(offset >= end for offset, end in zip(handled, ends, strict=True))

    def values(self, topic: str) -> list[bytes | None]:
        ends = self.broker.admin().offsets(topic)
        consumer = self.broker.consumer()
        consumer.assign(dict.fromkeys(ends, 0))
        found: list[bytes | None] = []
        while any(consumer.position(p) < span.end for p, span in ends.items()):
            found += [m.value for m in consumer.poll(max_records=1000, timeout_s=0.2)]
        consumer.close()
        return found


def check(world: World, faults: Faults, count: int, poison: set[int], max_records: int) -> None:
    """Check that all results are published despite failures, exactly or at least once."""
    values = [b"poison" if n in poison else b"%d" % n for n in range(count)]
    world.put([*values, *[b"last"] * 2])
    ends = [len(values[n::2]) for n in (0, 1)]
    last = max(faults.plan, default=0)
    world.live(faults, max_records, lambda: faults.calls > last and world.has_committed(ends))
    assert not faults.in_except_blocks, "confluent-kafka may leak, see driftline/broker/port.py"
    world.put([b"last"] * 2)  # the handler keeps one of them buffered in each partition
    world.live(None, 100, lambda: world.has_committed([end + 2 for end in ends]))
    out, dead = Counter(world.values(world.topics[1])), Counter(world.values(world.topics[2]))
    del out[b"last"], dead[b"last"]
    expected = set(values) - {b"poison"}
    assert set(out) | set(dead) >= expected
    assert b"poison" not in out
    assert dead[b"poison"] >= len(poison)
    if world.delivery == "exactly_once":
        # A planned error of the handler on a single record looks like a poison record.
        assert not set(out) & set(dead)
        assert max(out.values(), default=1) == 1


plans = st.dictionaries(
    st.integers(1, 120),
    st.tuples(st.sampled_from(CLIENT_ERRORS + HANDLER_ERRORS), st.booleans()),
    max_size=8,
)


@pytest.mark.parametrize("delivery", get_args(Delivery))
@given(
    plan=plans,
    count=st.integers(0, 40),
    poison=st.sets(st.integers(0, 39), max_size=3),
    max_records=st.integers(1, 30),
)
@settings(max_examples=150)
def test_no_failure_loses_results_in_memory(
    delivery: Delivery,
    plan: Mapping[int, tuple[Callable[[str], Exception], bool]],
    count: int,
    poison: set[int],
    max_records: int,
) -> None:
    world = World(MemoryBroker(ManualClock()), ("in", "out", "dead"), delivery, 100.0)
    check(world, Faults(plan), count, {n for n in poison if n < count}, max_records)


@pytest.mark.kafka
@pytest.mark.parametrize("delivery", get_args(Delivery))
@pytest.mark.parametrize("client", ["kafka-python", "librdkafka"])
@pytest.mark.parametrize("seed", range(3))
def test_no_failure_loses_results_on_kafka(
    client: Any,
    delivery: Delivery,
    seed: int,
    kafka_bootstrap: str,
    topic_name: Callable[[], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # After each of at most six planned failures, the loop waits up to a second for each of its
    # clients to close. Here it hardly waits, which bounds the test's time. Nothing is weakened: the
    # clients close in the background, so the next session starts while old clients still run.
    monkeypatch.setattr("driftline.broker.bounded._LET_GO_S", 0.05)
    draw = random.Random(seed)
    broker = connect(client, kafka_bootstrap, {"heartbeat.interval.ms": "100"})
    world = World(broker, (topic_name(), topic_name(), topic_name()), delivery, 90.0)
    errors = CLIENT_ERRORS + HANDLER_ERRORS
    plan = {draw.randint(1, 200): (draw.choice(errors), draw.random() < 0.5) for _ in range(6)}
    check(world, Faults(plan), 60, set(draw.sample(range(60), 2)), draw.randint(3, 30))
