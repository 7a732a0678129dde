"""The loop reports that Kafka works again only after it has made progress."""

from collections.abc import Sequence

import pytest

from driftline.broker.memory import MemoryBroker
from driftline.broker.memory_consumer import MemoryConsumer
from driftline.broker.memory_producer import MemoryProducer
from driftline.broker.port import Message, NewTopic, Outgoing
from driftline.clock import ManualClock
from driftline.config.stream_sections import Delivery
from driftline.errors import AccessDenied, TransactionAborted
from driftline.runtime.handler import Handler
from driftline.runtime.loop import Loop


class Forwarding(Handler):
    """Forwards records. Also reads a broadcast topic, if `broadcasts` is True."""

    inputs = ("in",)

    def __init__(self, *, broadcasts: bool) -> None:
        self._broadcasts = broadcasts

    @property
    def broadcast_topics(self) -> tuple[str, ...]:
        return ("models",) if self._broadcasts else ()

    def handle(self, messages: Sequence[Message]) -> Sequence[Outgoing]:
        return [Outgoing("out", message.value, partition=0) for message in messages]

    def reject(self, message: Message, reason: str) -> Sequence[Outgoing]:
        return []


class Stop:
    """Stops the loop after 400 s, and sends a record every `every` steps."""

    def __init__(self, clock: ManualClock, broker: MemoryBroker, every: int) -> None:
        self._clock = clock
        self._producer = broker.producer()
        self._every = every
        self._steps = 0

    def is_set(self) -> bool:
        self._steps += 1
        self._clock.advance(0.05)
        if self._steps % self._every == 0:
            self._producer.send(Outgoing("in", b"x", partition=0))
        return self._clock.monotonic() > 400

    def wait(self, seconds: float) -> None:
        self._clock.advance(seconds)


@pytest.mark.parametrize("delivery", ["exactly_once", "at_least_once"])
@pytest.mark.parametrize("broadcasts", [True, False])
@pytest.mark.parametrize("every", [3, 400])
def test_no_recovery_is_reported_while_every_write_fails(
    delivery: Delivery, broadcasts: bool, every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = ManualClock()
    broker = MemoryBroker(clock)
    broker.admin().create([NewTopic(name, 1) for name in ("in", "out", "models")])
    stop = Stop(clock, broker, every)
    for _ in range(5):
        broker.producer().send(Outgoing("in", b"x", partition=0))
    heard: list[str | None] = []
    bad: set[int] = set()
    send, flush, commit = MemoryProducer.send, MemoryProducer.flush, MemoryProducer.commit
    polled: set[MemoryConsumer] = set()
    poll = MemoryConsumer.poll

    def poll_late(self: MemoryConsumer, *, max_records: int, timeout_s: float) -> Sequence[Message]:
        # As on Kafka, the first poll only joins the group.
        first = self not in polled
        polled.add(self)
        return poll(self, max_records=0 if first else max_records, timeout_s=timeout_s)

    def note(self: MemoryProducer, record: Outgoing) -> None:
        if record.topic == "out":
            bad.add(id(self))
        send(self, record)

    def refuse_flush(self: MemoryProducer) -> None:
        if id(self) in bad:
            raise AccessDenied("cannot write to topic 'out'")
        flush(self)

    def refuse_commit(self: MemoryProducer) -> None:
        if id(self) in bad:
            bad.discard(id(self))
            raise TransactionAborted("cannot commit: topic out refuses records")
        commit(self)

    monkeypatch.setattr(MemoryConsumer, "poll", poll_late)
    monkeypatch.setattr(MemoryProducer, "send", note)
    monkeypatch.setattr(MemoryProducer, "flush", refuse_flush)
    monkeypatch.setattr(MemoryProducer, "commit", refuse_commit)
    loop = Loop(
        Forwarding(broadcasts=broadcasts),
        broker,
        group="g",
        delivery=delivery,
        clock=clock,
        on_connection=heard.append,
    )
    loop.run(stop, max_wait_s=0.0)  # type: ignore[arg-type]
    assert heard, "the outage was reported"
    assert None not in heard
