"""Records on which a handler raises become dead letters, and all others are processed."""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import pytest

from driftline.broker.memory import MemoryBroker
from driftline.broker.memory_consumer import MemoryConsumer
from driftline.broker.port import Committed, Message, NewTopic, Outgoing, TopicPartition
from driftline.clock import ManualClock
from driftline.config.stream_sections import Delivery
from driftline.errors import BrokerUnavailable, DriftlineError, InstanceFenced
from driftline.runtime.bad_record_isolation import MAX_CULPRITS_IN_A_ROW
from driftline.runtime.handler import Handler
from driftline.runtime.loop import Loop
from driftline.wire.commit_metadata import handled

IN, OUT, DEAD = "in", "out", "dead"


class Copies(Handler):
    """Publishes each number, or raises the error that `fails` returns for it."""

    inputs = (IN,)

    def __init__(self, fails: Callable[[int], Exception | None]) -> None:
        self._fails = fails
        self.largest_batch = 0
        self.calls = 0

    def handle(self, messages: Sequence[Message]) -> Sequence[Outgoing]:
        self.calls += 1
        for message in messages:
            if error := self._fails(int(message.value or b"")):
                raise error
        self.largest_batch = max(self.largest_batch, len(messages))
        return [Outgoing(OUT, message.value, partition=0) for message in messages]

    def reject(self, message: Message, reason: str) -> Sequence[Outgoing]:
        return [Outgoing(DEAD, b"%b: %b" % (message.value, reason.encode()), partition=0)]  # type: ignore[str-format]


class World:
    """A topic of numbers from 0 on, and a worker that reads it."""

    def __init__(
        self,
        count: int,
        fails: Callable[[int], Exception | None],
        *,
        delivery: Delivery = "exactly_once",
        partitions: int = 3,
        handler: type[Copies] = Copies,
    ) -> None:
        self._make, self._delivery, self._partitions = partial(handler, fails), delivery, partitions
        self.broker = MemoryBroker(ManualClock())
        topics = [NewTopic(IN, partitions), NewTopic(OUT, 1), NewTopic(DEAD, 1)]
        self.broker.admin().create(topics)
        self.put(range(count))
        self.restart()

    def put(self, numbers: Iterable[int]) -> None:
        producer = self.broker.producer()
        for number in numbers:
            producer.send(Outgoing(IN, b"%d" % number, partition=number % self._partitions))
        producer.close()

    def restart(self) -> None:
        self.handler = self._make()
        self.clock = ManualClock()
        self.loop = Loop(
            self.handler,
            self.broker,
            group="copies",
            delivery=self._delivery,
            clock=self.clock,
            commit_interval_s=0.0,
            max_records=1000,
        )

    def run(self) -> None:
        while self.loop.step(0):
            pass
        self.loop.step(0)

    def read(self, topic: str) -> list[bytes]:
        consumer = self.broker.consumer()
        consumer.assign({TopicPartition(topic, 0): 0})
        return [m.value or b"" for m in consumer.poll(max_records=100_000, timeout_s=0)]

    @property
    def out(self) -> list[int]:
        return sorted(set(map(int, self.read(OUT))))

    @property
    def dead(self) -> list[int]:
        return sorted(int(value.split(b":")[0]) for value in self.read(DEAD))


class _Rebuilding(Copies):
    """Needs every record again after a restart, but publishes each result only once."""

    def __init__(self, fails: Callable[[int], Exception | None]) -> None:
        super().__init__(fails)
        self._read: dict[TopicPartition, int] = {}
        self._published: dict[TopicPartition, int] = {}

    def on_assigned(self, resume: Mapping[TopicPartition, Committed]) -> None:
        self._published = {partition: handled(at) for partition, at in resume.items()}
        self._read |= self._published

    def handle(self, messages: Sequence[Message]) -> Sequence[Outgoing]:
        output = super().handle(messages)
        new = []
        for message, record in zip(messages, output, strict=True):
            if message.offset >= self._note(message):
                new.append(record)
        return new

    def reject(self, message: Message, reason: str) -> Sequence[Outgoing]:
        self._note(message)
        return super().reject(message, reason)

    def _note(self, message: Message) -> int:
        partition = TopicPartition(message.topic, message.partition)
        self._read[partition] = max(message.offset + 1, self._read.get(partition, 0))
        return self._published.get(partition, 0)

    def offsets_to_commit(self) -> Mapping[TopicPartition, Committed]:
        return {at: Committed(0, f'{{"published":{n}}}') for at, n in self._read.items()}


def test_a_record_that_fails_again_after_a_restart_has_only_one_dead_letter() -> None:
    def fails(number: int) -> Exception | None:
        return KeyError(number) if number == 30 else None

    world = World(60, fails, handler=_Rebuilding)
    world.run()
    world.loop.close()
    world.restart()
    world.put(range(60, 90))
    world.run()
    assert world.dead == [30]
    assert sorted(map(int, world.read(OUT))) == sorted({*range(90)} - {30})


@pytest.mark.parametrize("delivery", ["exactly_once", "at_least_once"])
@pytest.mark.parametrize("poison", [{0}, {1500}, {2999}, {0, 1, 2}, set(range(7, 3000, 300))])
def test_only_poison_records_become_dead_letters(delivery: Delivery, poison: set[int]) -> None:
    world = World(3000, lambda n: KeyError(n) if n in poison else None, delivery=delivery)
    world.run()
    assert world.dead == sorted(poison)
    assert world.out == sorted(set(range(3000)) - poison)
    if delivery == "exactly_once":
        assert len(world.read(OUT)) == 3000 - len(poison)


@pytest.mark.parametrize("delivery", ["exactly_once", "at_least_once"])
@pytest.mark.parametrize("failures", range(1, 16))  # after ten, a batch is a single record
@pytest.mark.parametrize("poison", [{1500}, {0}, {1500, 1501}, {10, 1500, 2999}])
def test_a_reader_that_ignores_repeats_gets_all_results(
    delivery: Delivery, failures: int, poison: set[int]
) -> None:
    """Results are in the order of their sources, except for those that are sent again."""
    failed = Counter[int]()

    def fails(number: int) -> Exception | None:
        if number not in poison or failed[number] == failures:
            return None
        failed[number] += 1
        return KeyError(number)

    world = World(3000, fails, delivery=delivery, partitions=1)
    world.run()
    seen: list[int] = []
    for number in map(int, world.read(OUT)):
        if not seen or number > seen[-1]:
            seen.append(number)
    assert sorted({*seen, *world.dead}) == list(range(3000))


def test_a_dead_letter_contains_the_error() -> None:
    world = World(10, lambda n: ValueError("seven") if n == 7 else None)
    world.run()
    assert world.read(DEAD) == [b"7: cannot be processed: ValueError: seven"]


@pytest.mark.parametrize("poison", [{0}, {500}, {999}, {0, 250, 999}])
def test_few_calls_find_the_poison_records_of_a_batch(poison: set[int]) -> None:
    world = World(1000, lambda n: KeyError(n) if n in poison else None, partitions=1)
    world.run()
    assert world.dead == sorted(poison)
    assert world.handler.calls < 60 * len(poison)


def test_batches_grow_again_after_a_poison_record() -> None:
    world = World(9000, lambda n: KeyError(n) if n == 50 else None, partitions=1)
    world.run()
    assert world.handler.largest_batch == 1000


@pytest.mark.parametrize("failures", [1, 3, 10])
def test_a_temporary_failure_causes_no_dead_letter(failures: int) -> None:
    left = [KeyError("for a while")] * failures
    world = World(3000, lambda n: left.pop() if left else None)
    world.run()
    assert world.dead == []
    assert world.out == list(range(3000))


def test_a_service_on_which_every_record_fails_stops_without_skipping_any() -> None:
    world = World(1000, KeyError)
    with pytest.raises(DriftlineError, match=f"{MAX_CULPRITS_IN_A_ROW} records in a row"):
        world.run()
    assert world.read(DEAD) == world.read(OUT) == []
    assert world.broker.admin().group_offsets("copies") == {}


def test_a_single_record_is_not_blamed_before_another_was_handled() -> None:
    world = World(1, lambda n: KeyError(n) if n == 0 else None, partitions=1)
    world.run()
    assert world.dead == []
    world.broker.producer().send(Outgoing(IN, b"1", partition=0))
    world.run()
    assert (world.dead, world.out) == ([0], [1])


def test_the_last_record_is_blamed_when_those_before_it_were_handled() -> None:
    world = World(5, lambda n: KeyError(n) if n == 4 else None, partitions=1)
    world.run()
    assert (world.dead, world.out) == ([4], [0, 1, 2, 3])


@pytest.mark.parametrize("error", [OSError("disk full"), MemoryError(), DriftlineError("a model")])
def test_an_error_that_would_affect_any_record_is_not_blamed_on_one(error: Exception) -> None:
    world = World(10, lambda n: error if n == 5 else None)
    with pytest.raises(type(error)):
        world.run()
    assert world.dead == []


class Stop(threading.Event):
    """An event that is set after some waits, each of which returns at once."""

    def __init__(self, clock: ManualClock, waits: int) -> None:
        super().__init__()
        self.clock, self.left, self.waited_s = clock, waits, list[float]()

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.waited_s.append(timeout)
        self.clock.advance(timeout)
        self.left -= 1
        if not self.left:
            self.set()
        return self.is_set()


def test_kafka_is_retried_at_growing_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(10, lambda n: None)

    def away(*args: object, **options: object) -> None:
        raise BrokerUnavailable("no answer")

    stop = Stop(world.clock, waits=8)
    with monkeypatch.context() as patch:
        patch.setattr(MemoryConsumer, "poll", away)
        world.loop.run(stop, max_wait_s=0)
    assert stop.waited_s == [0.5, 1, 2, 4, 8, 15, 15, 15]
    assert world.read(OUT) == []


def test_a_fenced_worker_retries_once_and_then_gives_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(10, lambda n: None)

    def fenced(*args: object, **options: object) -> None:
        raise InstanceFenced("another process has taken this one's place")

    stop = Stop(world.clock, waits=100)
    with monkeypatch.context() as patch:
        patch.setattr(MemoryConsumer, "poll", fenced)
        with pytest.raises(InstanceFenced):
            world.loop.run(stop, max_wait_s=0)
    assert len(stop.waited_s) == 1


def test_poison_records_among_good_ones_do_not_stop_the_service() -> None:
    poison = set(range(3, 1500, 30))
    world = World(1500, lambda n: KeyError(n) if n in poison else None, partitions=1)
    world.run()
    assert world.dead == sorted(poison)


def test_a_client_that_returns_no_records_although_some_exist_is_replaced_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(10, lambda n: None)
    world.run()
    world.broker.producer().send(Outgoing(IN, b"10", partition=0))
    replaced = 0
    with monkeypatch.context() as patch:
        patch.setattr(MemoryConsumer, "_read", lambda consumer, max_records: [])
        for _ in range(500):
            world.clock.advance(1.0)
            replaced += _raises_unavailable(world.loop)
    assert replaced == 1
    world.run()
    assert world.out == list(range(11))


def _raises_unavailable(loop: Loop) -> bool:
    try:
        loop.step(0)
    except BrokerUnavailable:
        return True
    return False
