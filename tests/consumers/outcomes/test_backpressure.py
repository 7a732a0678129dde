"""The join reads its two topics in step, and never pauses both for ever."""

from collections.abc import Iterable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumers.outcomes.handler import OutcomesHandler
from driftline.broker.memory import MemoryBroker
from driftline.broker.port import NewTopic, Outgoing, TopicPartition
from driftline.clock import ManualClock
from driftline.config.stream import loads
from driftline.runtime.loop import Loop
from driftline.wire.envelope import outcomes_decoder
from driftline.wire.events import Outcome
from tests.consumers.outcomes.join_world import (
    LABELS,
    PREDICTIONS,
    Join,
    Log,
    drive,
    logs,
    prediction,
)

STREAM = loads(
    """
    version = 1
    name = "s"
    task = "classification"
    target = "y"
    features = { x = "number" }
    labels = { horizon = 100_000 }
    """
)
BATCH = 50
MEMORY_RECORDS = 1200
SLACK = MEMORY_RECORDS // 6
# The broker returns equal numbers of records from both topics. If only one row in four has a label,
# labels would therefore be read four times as far.
RARE = 4


class World:
    """A broker with the join's topics, and workers that read them."""

    def __init__(self, partitions: int = 1) -> None:
        self.partitions = partitions
        self.clock = ManualClock()
        self.broker = MemoryBroker(self.clock)
        names = ("s.predictions", "s.labels", "s.outcomes", "s.deadletters")
        self.broker.admin().create([NewTopic(name, partitions) for name in names])
        self._producer = self.broker.producer()

    def predictions(self, rows: Iterable[int], partition: int = 0) -> None:
        for row in rows:
            self._producer.send(
                Outgoing("s.predictions", prediction(row, partition), partition=partition)
            )

    def labels(self, rows: Iterable[int], partition: int = 0, *, at: int | None = 0) -> None:
        for row in rows:
            known = {} if at is None else {"@at": row + at}
            value = msgspec.json.encode({"@row": row, "y": "a"} | known)
            self._producer.send(Outgoing("s.labels", value, partition=partition))

    def worker(self, slot: int = 0) -> tuple[OutcomesHandler, Loop]:
        handler = OutcomesHandler(STREAM, self.clock, memory_records=MEMORY_RECORDS)
        loop = Loop(
            handler,
            self.broker,
            group="s.outcomes",
            delivery="exactly_once",
            clock=self.clock,
            slot=slot,
            max_records=BATCH,
            commit_interval_s=0,
        )
        return handler, loop

    def run(self, loop: Loop) -> None:
        """Step the loop until nothing is left to read; time passes for progress callbacks."""
        while loop.step(0):
            self.clock.advance(0.1)

    def outcomes(self) -> list[int]:
        """Return the rows that have an outcome, in order."""
        consumer = self.broker.consumer()
        consumer.assign({TopicPartition("s.outcomes", p): 0 for p in range(self.partitions)})
        found = consumer.poll(max_records=1_000_000, timeout_s=0)
        consumer.close()
        events = [outcomes_decoder.decode(message.value or b"") for message in found]
        return sorted(event.row or 0 for event in events if isinstance(event, Outcome))


def apart(handler: OutcomesHandler, partition: int = 0) -> int:
    """Return by how many offsets one topic is ahead of the other."""
    progress = handler._joins[partition].progress
    return abs(progress.labels.next_offset - progress.predictions.next_offset)


def test_a_backlog_of_both_topics_is_read_in_step() -> None:
    world = World()
    world.labels(range(0, 4000, RARE))
    world.predictions(range(4000))
    handler, loop = world.worker()
    most, switches, held = 0, 0, frozenset[TopicPartition]()
    while loop.step(0):
        progress = handler._joins[0].progress
        ahead = progress.labels.next_offset - progress.predictions.next_offset // RARE
        most = max(most, ahead)
        switches += loop.paused > held
        held = loop.paused
    assert SLACK < most <= SLACK + BATCH
    assert 0 < switches <= 4000 // RARE // (SLACK // 2)
    assert world.outcomes() == list(range(0, 4000, RARE))


@pytest.mark.parametrize("at", [None, 0, 500])
@pytest.mark.parametrize("first", ["labels", "predictions"])
def test_a_topic_is_read_to_its_end_if_the_other_is_empty(first: str, at: int | None) -> None:
    world = World()
    if first == "labels":
        world.labels(range(2000), at=at)
    else:
        world.predictions(range(2000))
    handler, loop = world.worker()
    world.run(loop)
    assert apart(handler) == 2000
    if first == "labels":
        world.predictions(range(2000))
    else:
        world.labels(range(2000), at=at)
    world.run(loop)
    assert world.outcomes() == list(range(2000))


def test_each_partition_waits_only_for_its_own_counterpart() -> None:
    world = World(partitions=3)
    world.labels(range(1000), 0)  # their predictions arrive later
    world.labels(range(1000, 2000), 1)
    world.predictions(range(1000, 2000), 1)
    world.predictions(range(2000, 3000), 2)
    handler, loop = world.worker()
    world.run(loop)
    assert world.outcomes() == list(range(1000, 2000))
    assert apart(handler, 0) == apart(handler, 2) == 1000
    world.predictions(range(1000), 0)
    world.labels(range(2000, 3000), 2)
    world.run(loop)
    assert world.outcomes() == list(range(3000))


def test_another_worker_continues_with_a_paused_partition() -> None:
    world = World(partitions=2)
    for partition in range(2):
        rows = range(2000 * partition, 2000 * (partition + 1))
        world.labels(rows[::RARE], partition)
        world.predictions(rows, partition)
    _, first = world.worker()
    for _ in range(15):
        first.step(0)
    assert first.paused
    _, second = world.worker(slot=1)
    for _ in range(150):
        first.step(0)
        second.step(0)
    assert world.outcomes() == list(range(0, 4000, RARE))


def test_a_restart_buffers_few_new_records_until_its_state_is_rebuilt() -> None:
    world = World()
    world.labels(range(0, 1012, RARE))
    world.predictions(range(1012))
    _, loop = world.worker()
    world.run(loop)
    loop.close()
    world.labels(range(1012, 4000, RARE))
    world.predictions(range(1012, 4000))
    handler, loop = world.worker()
    most = 0
    while loop.step(0):
        deferred = handler._deferred.get(0, [])
        most = max(most, sum(len(messages) for _, messages in deferred))
    assert 0 < most <= BATCH
    assert world.outcomes() == list(range(0, 4000, RARE))


@given(log=logs(), data=st.data())
@settings(max_examples=150)
def test_a_topic_is_paused_only_while_the_other_can_be_read(log: Log, data: st.DataObject) -> None:
    join = Join(log, memory_records=data.draw(st.sampled_from([0, 6, 18])))
    assigned = frozenset((PREDICTIONS, LABELS))
    actions = ["read"] * 6 + ["look", "look", "commit", "abort", "kill"]

    def readable(join: Join) -> list[TopicPartition]:
        left = join.left()
        free = set(left) - join.handler.paused_partitions(assigned)
        assert free or not left
        return sorted(free)

    drive(join, data, actions, readable=readable)
    assert join.outcomes() == log.outcomes()
    assert join.rejected() == log.rejected()
