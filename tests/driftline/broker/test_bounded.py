"""Calls of clients that are given up, and what they leave behind."""

import gc
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import pytest

from driftline.broker.bounded import call_within
from driftline.broker.librdkafka_consumer import LibrdkafkaConsumer
from driftline.broker.librdkafka_values import ClientErrors, ck
from driftline.broker.limits import TopicLimits
from driftline.broker.port import Committed, TopicInfo, TopicPartition
from driftline.errors import BrokerUnavailable, TransactionAborted


class Client:
    def fail(self) -> None:
        raise KeyError("refused")


@pytest.fixture
def no_garbage_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_garbage_collection")
def test_a_call_that_raises_keeps_no_client_alive() -> None:
    client = Client()
    known = weakref.ref(client)
    with suppress(KeyError):
        call_within(5.0, client.fail)
    del client
    for thread in threading.enumerate():
        if thread.name == "driftline-call":
            thread.join()
    assert known() is None


def test_a_call_that_does_not_return_is_given_up() -> None:
    done = threading.Event()
    with pytest.raises(TimeoutError, match="no answer within"):
        call_within(0.01, done.wait)
    done.set()


@pytest.mark.usefixtures("no_garbage_collection")
def test_a_call_that_fails_after_it_was_given_up_keeps_no_client_alive() -> None:
    class Slow:
        def __init__(self) -> None:
            self.released = threading.Event()

        def fail(self) -> None:
            self.released.wait()
            raise KeyError("refused")

    client = Slow()
    known = weakref.ref(client)
    with pytest.raises(TimeoutError):
        call_within(0.01, client.fail)
    client.released.set()
    del client
    for thread in threading.enumerate():
        if thread.name == "driftline-call":
            thread.join()
    assert known() is None


def test_the_error_of_a_call_is_raised_in_the_callers_thread() -> None:
    with pytest.raises(KeyError, match="refused"):
        call_within(5.0, Client().fail)


def test_a_commit_that_never_returns_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """As librdkafka's does when its session times out while it waits for the coordinator."""
    monkeypatch.setattr("driftline.broker.librdkafka_consumer.ANSWER_TIMEOUT_S", 0.01)
    released = threading.Event()

    class Stuck:
        def commit(self, **_: object) -> None:
            released.wait()

    limits = TopicLimits(lambda topic: None)
    consumer = LibrdkafkaConsumer(Stuck(), "group", limits, ClientErrors())
    with pytest.raises(BrokerUnavailable, match="cannot commit offsets: no answer"):
        consumer.commit({TopicPartition("topic", 0): Committed(1)})
    released.set()


def test_after_a_failed_revocation_a_new_assignment_is_known_but_not_reported() -> None:
    """The caller, who gets the error first, then seeks in the new partitions or abandons them."""
    partition = TopicPartition("topic", 0)

    class Rebalancing:
        def subscribe(self, topics: list[str], *, on_assign: Any, on_revoke: Any) -> None:
            self.callbacks = on_revoke, on_assign

        def consume(self, count: int, timeout_s: float) -> list[Any]:
            for callback in self.callbacks:
                callback(self, [partition])
            raise ck.KafkaException(ck.KafkaError(ck.KafkaError._TRANSPORT))

    def revoked(partitions: Sequence[TopicPartition]) -> None:
        raise TransactionAborted("failed as planned")

    assigned: list[Sequence[TopicPartition]] = []
    limits = TopicLimits(lambda topic: TopicInfo(topic, 1, {}))
    consumer = LibrdkafkaConsumer(Rebalancing(), "group", limits, ClientErrors())
    consumer.subscribe(["topic"], assigned=assigned.append, revoked=revoked)
    with pytest.raises(TransactionAborted, match="failed as planned"):
        consumer.poll(max_records=1, timeout_s=0)
    assert consumer.assignment() == {partition}
    assert assigned == []
