"""The delivery guarantees of the loop, tested with a small stateful handler that sums pairs.

The handler buffers the first number of a pair until the second arrives. So its committed offset is
behind its position: after a restart, it must rebuild that state and publish no result twice.
"""

from collections.abc import Callable, Mapping, Sequence
from threading import Event
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driftline.broker.memory import MemoryBroker
from driftline.broker.memory_consumer import MemoryConsumer
from driftline.broker.memory_producer import MemoryProducer
from driftline.broker.port import (
    Committed,
    Message,
    NewTopic,
    Outgoing,
    OutgoingBatch,
    TopicPartition,
)
from driftline.clock import ManualClock
from driftline.config.stream_sections import Delivery
from driftline.errors import (
    BrokerUnavailable,
    StoreUnavailable,
    Stuck,
    TransactionAborted,
    UnsupportedCodec,
)
from driftline.runtime.handler import GroupProgress, Handler, LogChange
from driftline.runtime.loop import MAX_ABORTS_IN_A_ROW, PROGRESS_INTERVAL_S, Loop
from driftline.runtime.stalls import PATIENCE_S

IN, OUT, BROADCAST, DEAD = "in", "out", "broadcast", "dead"


class PairSums(Handler):
    """Publishes the sum of each pair of consecutive numbers in a partition."""

    inputs = (IN,)
    broadcast_topics: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.paused: frozenset[TopicPartition] = frozenset()
        self.broadcast: list[bytes] = []
        self.assignments: list[dict[TopicPartition, Committed]] = []
        self.starts: dict[TopicPartition, int] = {}
        self.progresss: list[GroupProgress] = []
        self.changes: list[LogChange] = []
        self._first: dict[TopicPartition, Message] = {}
        self._published: dict[TopicPartition, int] = {}

    def paused_partitions(self, assigned: frozenset[TopicPartition]) -> frozenset[TopicPartition]:
        return self.paused & assigned

    def on_broadcast(self, messages: Sequence[Message]) -> Sequence[Outgoing]:
        self.broadcast.extend(message.value or b"" for message in messages)
        return []

    def on_assigned(
        self, resume: Mapping[TopicPartition, Committed]
    ) -> Mapping[TopicPartition, int]:
        self.assignments.append(dict(resume))
        return self.starts

    def on_revoked(self, partitions: Sequence[TopicPartition]) -> None:
        for partition in partitions:
            self._first.pop(partition, None)

    def handle(self, messages: Sequence[Message]) -> Sequence[Outgoing]:
        output = []
        for message in messages:
            partition = TopicPartition(message.topic, message.partition)
            if first := self._first.pop(partition, None):
                total = int(first.value or b"0") + int(message.value or b"0")
                output.append(Outgoing(OUT, str(total).encode(), partition=message.partition))
            else:
                self._first[partition] = message
        return output

    def on_group_progress(self, progress: GroupProgress) -> None:
        self.progresss.append(progress)

    def on_log_change(self, change: LogChange) -> Sequence[Outgoing]:
        self.changes.append(change)
        return ()

    def reject(self, message: Message, reason: str) -> Sequence[Outgoing]:
        return [Outgoing(DEAD, message.value, partition=0)]

    def offsets_to_commit(self) -> Mapping[TopicPartition, Committed]:
        return {p: Committed(m.offset, "first of a pair") for p, m in self._first.items()}


@pytest.fixture
def broker() -> MemoryBroker:
    return new_broker()


def new_broker(partitions: int = 1) -> MemoryBroker:
    broker = MemoryBroker(ManualClock())
    broker.admin().create([NewTopic(name, partitions) for name in (IN, OUT, BROADCAST, DEAD)])
    return broker


def new_loop(
    broker: MemoryBroker,
    handler: PairSums | None = None,
    *,
    delivery: Delivery = "exactly_once",
    clock: ManualClock | None = None,
    interval_s: float = 0.0,
    max_records: int = 100,
    slot: int = 0,
) -> Loop:
    return Loop(
        handler or PairSums(),
        broker,
        group="pairs",
        delivery=delivery,
        clock=clock or ManualClock(),
        slot=slot,
        commit_interval_s=interval_s,
        max_records=max_records,
    )


def put(broker: MemoryBroker, *numbers: int, topic: str = IN) -> None:
    producer = broker.producer()
    for number in numbers:
        producer.send(Outgoing(topic, str(number).encode(), partition=0))
    producer.close()


def got(broker: MemoryBroker, topic: str = OUT, partitions: int = 1) -> list[int]:
    consumer = broker.consumer()
    consumer.assign({TopicPartition(topic, p): 0 for p in range(partitions)})
    messages = consumer.poll(max_records=10_000, timeout_s=0)
    consumer.close()
    return [int(message.value or b"") for message in messages]


def run(loop: Loop) -> None:
    while loop.step(0):
        pass


@pytest.mark.parametrize("delivery", ["exactly_once", "at_least_once"])
def test_the_results_of_records_are_published(broker: MemoryBroker, delivery: Delivery) -> None:
    put(broker, 1, 2, 3, 4)
    run(new_loop(broker, delivery=delivery))
    assert got(broker) == [3, 7]


@pytest.mark.parametrize("delivery", ["exactly_once", "at_least_once"])
def test_a_restart_continues_from_the_oldest_record_that_is_still_needed(
    broker: MemoryBroker, delivery: Delivery
) -> None:
    put(broker, 1, 2, 3)
    first = new_loop(broker, delivery=delivery)
    run(first)
    first.close()
    handler = PairSums()
    put(broker, 4)
    run(new_loop(broker, handler, delivery=delivery))
    assert got(broker) == [3, 7]
    assert handler.assignments == [{TopicPartition(IN, 0): Committed(2, "first of a pair")}]


def test_results_are_visible_only_after_the_commit_of_their_transaction(
    broker: MemoryBroker,
) -> None:
    put(broker, 1, 2)
    loop = new_loop(broker, clock=(clock := ManualClock()), interval_s=10)
    loop.step(0)
    assert got(broker) == []
    clock.advance(10)
    loop.step(0)
    assert got(broker) == [3]


def test_an_aborted_transaction_is_repeated_from_the_committed_offsets(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(broker, 1, 2, 3, 4)
    loop = new_loop(broker, max_records=2)
    commit = MemoryProducer.commit
    failures = [True, True, False, True]

    def commit_sometimes(producer: object) -> None:
        if failures and failures.pop(0):
            raise TransactionAborted("a coordinator moved")
        commit(producer)  # type: ignore[arg-type]

    monkeypatch.setattr(MemoryProducer, "commit", commit_sometimes)
    run(loop)
    assert got(broker) == [3, 7]


def test_the_handler_is_told_of_each_commit_that_succeeds_and_of_no_other(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    class Noting(PairSums):
        def offsets_to_commit(self) -> Mapping[TopicPartition, Committed]:
            calls.append("offsets")
            return super().offsets_to_commit()

        def on_committed(self) -> None:
            calls.append("committed")

    put(broker, 1, 2)
    loop = new_loop(broker, Noting())
    commit = MemoryProducer.commit

    def abort_once(producer: object) -> None:
        monkeypatch.setattr(MemoryProducer, "commit", commit)
        raise TransactionAborted("a coordinator moved")

    monkeypatch.setattr(MemoryProducer, "commit", abort_once)
    loop.step(0)
    assert calls == ["offsets"]
    loop.step(0)
    assert calls == ["offsets", "offsets", "committed"]
    loop.close()
    assert calls == ["offsets", "offsets", "committed"]  # nothing was left to commit


def test_too_many_aborts_in_a_row_are_an_error(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def abort(producer: object) -> None:
        raise TransactionAborted("always")

    put(broker, 1, 2)
    loop = new_loop(broker)
    monkeypatch.setattr(MemoryProducer, "commit", abort)
    for _ in range(MAX_ABORTS_IN_A_ROW):
        loop.step(0)
    with pytest.raises(TransactionAborted, match="always"):
        loop.step(0)


def test_broadcast_topics_are_read_to_their_end_before_the_first_input(
    broker: MemoryBroker,
) -> None:
    seen: list[list[bytes]] = []

    class Handler(PairSums):
        broadcast_topics = (BROADCAST,)

        def handle(self, messages: Sequence[Message]) -> Sequence[Outgoing]:
            seen.append(list(self.broadcast))
            return super().handle(messages)

    put(broker, *range(300), topic=BROADCAST)
    put(broker, 1)
    loop = new_loop(broker, handler := Handler(), max_records=7)
    run(loop)
    assert len(seen[0]) == 300
    put(broker, 300, topic=BROADCAST)
    run(loop)
    assert handler.broadcast[-1] == b"300"


def test_a_partition_is_not_read_while_the_handler_pauses_it() -> None:
    broker = new_broker(partitions=2)
    put(broker, 1, 2)
    producer = broker.producer()
    for number in (10, 20):
        producer.send(Outgoing(IN, str(number).encode(), partition=1))
    handler = PairSums()
    handler.paused = frozenset({TopicPartition(IN, 0)})
    loop = new_loop(broker, handler)
    run(loop)
    assert got(broker, partitions=2) == [30]
    handler.paused = frozenset({TopicPartition(IN, 1)})
    for number in (30, 40):
        producer.send(Outgoing(IN, str(number).encode(), partition=1))
    run(loop)
    assert got(broker, partitions=2) == [3, 30]
    handler.paused = frozenset()
    run(loop)
    assert got(broker, partitions=2) == [3, 30, 70]


def test_records_of_a_partition_paused_during_a_poll_are_read_again_later(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(broker, 1, 2, 3)
    handler = PairSums()
    loop = new_loop(broker, handler)
    poll = MemoryConsumer.poll
    waits = frozenset({TopicPartition(IN, 0)})

    def pause_meanwhile(*args: object, **options: object) -> object:
        handler.paused = waits
        return poll(*args, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(MemoryConsumer, "poll", pause_meanwhile)
        loop.step(0)
        loop.step(0)
    assert handler._first == {}
    handler.paused = frozenset()
    put(broker, 4)
    run(loop)
    assert got(broker) == [3, 7]


def test_an_abort_while_a_partition_is_paused_loses_no_records(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(broker, 1, 2, 3, 4)
    handler = PairSums()
    loop = new_loop(broker, handler, clock=(clock := ManualClock()), interval_s=1, max_records=2)
    loop.step(0)
    handler.paused = frozenset({TopicPartition(IN, 0)})
    loop.step(0)

    def abort(producer: object) -> None:
        raise TransactionAborted("a coordinator moved")

    with monkeypatch.context() as patch:
        patch.setattr(MemoryProducer, "commit", abort)
        clock.advance(1)
        loop.step(0)
    loop.step(0)
    assert len(handler.assignments) == 2
    handler.paused = frozenset()
    clock.advance(1)
    loop.step(0)
    clock.advance(1)
    loop.step(0)
    assert got(broker) == [3, 7]


@pytest.mark.parametrize("call", ["begin", "send", "commit"])
def test_an_abort_loses_no_result_of_a_broadcast_topic(
    call: str, broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Handler(PairSums):
        broadcast_topics = (BROADCAST,)

        def on_broadcast(self, messages: Sequence[Message]) -> list[Outgoing]:
            return [Outgoing(OUT, message.value, partition=0) for message in messages]

    put(broker, 1, 2, topic=BROADCAST)
    loop = new_loop(broker, Handler(), max_records=1)
    original = getattr(MemoryProducer, call)

    def abort_once(producer: object, *arguments: object) -> None:
        if isinstance(producer, MemoryProducer) and producer._id and calls.pop() == "abort":
            raise TransactionAborted("a coordinator moved")
        original(producer, *arguments)

    # The first call of `begin` is by the session, to fence its predecessor.
    calls = [*["work"] * 20, "abort", *["work"] * (call == "begin")]
    monkeypatch.setattr(MemoryProducer, call, abort_once)
    run(loop)
    put(broker, 3, topic=BROADCAST)
    run(loop)
    assert got(broker) == [1, 2, 3]


def test_a_batch_is_sent_in_order_with_the_other_records(broker: MemoryBroker) -> None:
    class Handler(PairSums):
        def handle(self, messages: Sequence[Message]) -> list[Outgoing | OutgoingBatch]:  # type: ignore[override]
            first, last = Outgoing(OUT, b"1", partition=0), Outgoing(OUT, b"4", partition=0)
            return [first, OutgoingBatch(OUT, 0, [None, b"key"], [b"2", b"3"]), last]

    put(broker, 0)
    run(new_loop(broker, Handler()))
    assert got(broker) == [1, 2, 3, 4]


def test_a_handler_may_choose_another_start_than_the_committed_offset(broker: MemoryBroker) -> None:
    put(broker, 1, 2, 3, 4, 5, 6)
    handler = PairSums()
    handler.starts = {TopicPartition(IN, 0): 2}
    run(new_loop(broker, handler))
    assert got(broker) == [7, 11]


def test_a_handler_gets_the_positions_and_commits_of_its_group() -> None:
    broker, clock = new_broker(partitions=2), ManualClock()
    put(broker, 1, 2, 3, 4, 5)
    loop = new_loop(broker, handler := PairSums(), clock=clock, max_records=1)
    loop.step(0)
    (progress,) = handler.progresss
    assert progress.positions == {TopicPartition(IN, 0): 1, TopicPartition(IN, 1): 0}
    loop.step(0)
    assert handler.progresss == [progress]
    clock.advance(PROGRESS_INTERVAL_S)
    loop.step(0)
    progress = handler.progresss[1]
    assert progress.positions == {TopicPartition(IN, 0): 3, TopicPartition(IN, 1): 0}
    assert progress.ends == {TopicPartition(IN, 0): 5, TopicPartition(IN, 1): 0}
    assert progress.lags == {TopicPartition(IN, 0): 2, TopicPartition(IN, 1): 0}
    assert progress.committed()[TopicPartition(IN, 0)] == Committed(2, "first of a pair")


def test_the_progress_callback_is_retried_if_the_broker_was_unreachable(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise BrokerUnavailable("no answer")

    clock = ManualClock()
    loop = new_loop(broker, handler := PairSums(), clock=clock)
    with monkeypatch.context() as patch:
        patch.setattr(MemoryConsumer, "ends", away)
        clock.advance(PROGRESS_INTERVAL_S)
        loop.step(0)
    assert handler.progresss == []
    put(broker, 1, 2)
    clock.advance(PROGRESS_INTERVAL_S)
    loop.step(0)
    assert len(handler.progresss) == 1
    assert got(broker) == [3]


def test_a_second_worker_takes_over_half_the_partitions_without_losses() -> None:
    broker = new_broker(partitions=4)
    first = Loop(
        PairSums(), broker, group="g", delivery="exactly_once", clock=ManualClock(),
        commit_interval_s=0,
    )  # fmt: skip
    producer = broker.producer()
    for number in range(40):
        producer.send(Outgoing(IN, b"1", partition=number % 4))
    run(first)
    second = Loop(
        PairSums(), broker, group="g", delivery="exactly_once", clock=ManualClock(), slot=1,
        commit_interval_s=0,
    )  # fmt: skip
    for number in range(40):
        producer.send(Outgoing(IN, b"1", partition=number % 4))
    for _ in range(20):
        first.step(0)
        second.step(0)
    assert got(broker, partitions=4) == [2] * 40
    sessions = (first._session, second._session)
    assert [len(session.positions) for session in sessions if session is not None] == [2, 2]


def test_a_revocation_that_fails_twice_leaves_no_positions_of_lost_partitions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Otherwise, the next commit would include them, although their results were dropped."""
    broker = new_broker(partitions=2)
    handlers = PairSums(), PairSums()
    first, second = (
        Loop(handler, broker, group="g", delivery="exactly_once", clock=ManualClock(), slot=slot)
        for slot, handler in enumerate(handlers)
    )
    producer = broker.producer()
    for number in range(40):
        producer.send(Outgoing(IN, b"1", partition=number % 2))
    first.step(0)
    first.step(0)  # handles all records; the commit interval is not over
    failing = ["commit", "begin"]

    def fails_once(name: str) -> Callable[[MemoryProducer], None]:
        call = getattr(MemoryProducer, name)

        def method(client: MemoryProducer) -> None:
            if failing and failing[0] == name:
                raise TransactionAborted(f"{failing.pop(0)} failed as planned")
            call(client)

        return method

    for name in ("commit", "begin"):
        monkeypatch.setattr(MemoryProducer, name, fails_once(name))
    second.step(0)
    first.step(0)
    assert not failing
    assert first._session is not None
    assert len(first._session.positions) < 2
    monkeypatch.undo()
    for _ in range(20):
        first.step(0)
        second.step(0)
    first.close()
    second.close()
    assert got(broker, partitions=2) == [2] * 20


@given(st.data())
@settings(max_examples=100)
def test_exactly_once_holds_whenever_the_process_dies(data: st.DataObject) -> None:
    numbers = data.draw(st.lists(st.integers(0, 99), max_size=20))
    broker = new_broker()
    put(broker, *numbers)
    for _ in range(data.draw(st.integers(0, 4))):
        clock = ManualClock()
        size = data.draw(st.integers(1, 5))
        doomed = new_loop(broker, clock=clock, interval_s=1, max_records=size)
        for _ in range(data.draw(st.integers(0, 6))):
            doomed.step(0)
            clock.advance(data.draw(st.sampled_from([0, 1])))
        # The process dies: its transaction is never committed, and its successor fences it.
        _forget_member(broker)
    last = new_loop(broker, max_records=3)
    for _ in range(30):
        last.step(0)
    pairs = zip(numbers[::2], numbers[1::2], strict=False)
    assert got(broker) == [a + b for a, b in pairs]


def _forget_member(broker: MemoryBroker) -> None:
    """Remove the members of the group, as a broker does after a session timeout."""
    group = broker._state.group("pairs")
    for member in list(group.members.values()):
        group.leave(member)


def test_the_loop_waits_for_kafka_until_partitions_are_assigned_again(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    problems: list[str | None] = []
    clock = ManualClock()
    loop = Loop(
        PairSums(),
        broker,
        group="g",
        delivery="exactly_once",
        clock=clock,
        on_connection=problems.append,
    )
    step = run_steps(loop, clock)
    step(2)
    ends, assignment = MemoryConsumer.ends, MemoryConsumer.assignment

    def away(*_: object) -> Mapping[TopicPartition, int]:
        raise BrokerUnavailable("no Kafka answers")

    monkeypatch.setattr(MemoryConsumer, "ends", away)
    step(1)
    # The client gives up its partitions, so there is nothing to request from the broker.
    monkeypatch.setattr(MemoryConsumer, "assignment", lambda _: frozenset())
    monkeypatch.setattr(MemoryConsumer, "ends", ends)
    step(3)
    before = list(problems)
    monkeypatch.setattr(MemoryConsumer, "assignment", assignment)
    step(1)

    assert before == ["no Kafka answers"]
    assert problems == ["no Kafka answers", None]


def test_kafka_works_again_only_when_unread_records_were_read(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    problems: list[str | None] = []
    stop, polls = _OutOfTime(4), 0
    poll = MemoryConsumer.poll

    def fails_after_an_empty_poll(consumer: MemoryConsumer, **wanted: Any) -> Sequence[Message]:
        nonlocal polls
        polls += 1
        clock.advance(PROGRESS_INTERVAL_S)
        if polls > 6:
            stop.set()
            return poll(consumer, **wanted)
        if polls % 2:
            poll(consumer, max_records=1, timeout_s=0)  # assigns the partitions
            consumer.seek(TopicPartition(IN, 0), 0)
            return []
        raise BrokerUnavailable("no records can be read")

    monkeypatch.setattr(MemoryConsumer, "poll", fails_after_an_empty_poll)
    put(broker, 1, 2)
    clock = ManualClock()
    loop = Loop(
        PairSums(),
        broker,
        group="pairs",
        delivery="exactly_once",
        clock=clock,
        on_connection=problems.append,
    )
    loop.run(stop, max_wait_s=0)

    assert problems == ["no records can be read"] * 3 + [None]
    assert got(broker) == [3]


def test_the_clients_are_replaced_if_the_group_never_assigns_partitions(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    poll = MemoryConsumer.poll
    clients: list[MemoryConsumer] = []

    def first_client_never_joins(consumer: MemoryConsumer, **wanted: Any) -> Sequence[Message]:
        clients.append(consumer)
        return [] if consumer is clients[0] else poll(consumer, **wanted)

    monkeypatch.setattr(MemoryConsumer, "poll", first_client_never_joins)
    put(broker, 1, 2)
    clock = ManualClock()
    loop = new_loop(broker, clock=clock)
    step = run_steps(loop, clock)
    step(int(PATIENCE_S))
    with pytest.raises(Stuck, match="completes no assignment"):
        step(1)
    step(2)
    loop.close()
    assert got(broker) == [3]


def test_a_worker_with_an_empty_assignment_keeps_its_clients(broker: MemoryBroker) -> None:
    clock = ManualClock()
    first, second = new_loop(broker, clock=clock), new_loop(broker, clock=clock, slot=1)
    for _ in range(2 * int(PATIENCE_S)):
        run_steps(first, clock)(1)
        run_steps(second, clock)(1)  # there is only one partition
    first.close()
    second.close()


def test_the_loop_ends_if_its_client_cannot_decompress_records(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def poll(*_: object, **__: object) -> None:
        raise UnsupportedCodec("zstandard is not installed")

    problems: list[str | None] = []
    monkeypatch.setattr(MemoryConsumer, "poll", poll)
    loop = new_loop(broker)
    loop._on_connection = problems.append
    with pytest.raises(UnsupportedCodec):
        loop.run(_OutOfTime(3), max_wait_s=0)
    assert problems == []


class _OutOfTime(Event):
    """An event that is set after some waits, each of which returns at once."""

    def __init__(self, waits: int) -> None:
        super().__init__()
        self.waits = waits

    def wait(self, timeout: float | None = None) -> bool:
        self.waits -= 1
        if not self.waits:
            self.set()
        return self.is_set()


def test_a_handler_that_needs_the_model_store_waits_for_it(broker: MemoryBroker) -> None:
    class NeedsTheStore(PairSums):
        attempts = 0

        def handle(self, messages: Sequence[Message]) -> Sequence[Outgoing]:
            self.attempts += 1
            if self.attempts <= 3:
                raise StoreUnavailable("the model store cannot be read")
            stop.waits = 1
            stop.wait()
            return super().handle(messages)

    stop = _OutOfTime(100)
    put(broker, 1, 2)
    loop = new_loop(broker, NeedsTheStore())
    loop.run(stop, max_wait_s=0)

    assert stop.waits == 0
    assert got(broker) == [3]
    assert got(broker, DEAD) == []


def run_steps(loop: Loop, clock: ManualClock) -> Callable[[int], None]:
    """Return a function that does steps with enough time in between for progress callbacks."""

    def step(count: int) -> None:
        for _ in range(count):
            clock.advance(PROGRESS_INTERVAL_S)
            loop.step(0)

    return step
