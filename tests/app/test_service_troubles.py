"""Troubles of a service are detected, with their start times."""

from collections.abc import Sequence

import pytest

from driftline.broker.port import TopicPartition
from driftline.clock import ManualClock
from driftline.errors import BrokerUnavailable
from driftline.ops.processes import Trouble
from driftline_app.service_troubles import Troubles

A, B = TopicPartition("s.features", 0), TopicPartition("s.features", 1)


class Worker:
    """A worker of a service whose topics have the given numbers of partitions, among others."""

    def __init__(self, partitions: Sequence[int] = (4,), members: int = 1) -> None:
        self.clock = ManualClock(0.0)
        self.members = members
        self.reachable = True
        self.counted = 0
        self.troubles = Troubles(partitions, self._count, self.clock.monotonic)

    def _count(self) -> int:
        self.counted += 1
        if not self.reachable:
            raise BrokerUnavailable("no Kafka answers")
        return self.members

    def has(self, partitions: int, now: str = "10:00") -> tuple[Trouble, ...]:
        self.troubles.note_partitions(partitions, now)
        return self.troubles.now()


# ---- Kafka --------------------------------------------------------------------------------------


def test_waiting_for_kafka_has_the_time_of_the_first_failure_and_the_last_reason() -> None:
    troubles = Worker().troubles
    troubles.note_connection("refused", "10:00")
    troubles.note_connection("timed out", "10:01")

    assert troubles.waits_for_kafka
    assert troubles.now() == (Trouble("waiting for Kafka", "10:00", "timed out"),)
    troubles.note_connection(None, "10:02")
    assert troubles.now() == ()


# ---- partitions ---------------------------------------------------------------------------------


def test_the_only_worker_should_have_all_partitions() -> None:
    worker = Worker(partitions=(4, 4, 1))

    assert worker.has(9) == ()
    assert worker.has(0) == (Trouble("too few partitions", "10:00", "0 of 9, its fair share is 9"),)
    assert worker.has(0, now="10:01")[0].since == "10:00"
    assert worker.has(9) == ()


@pytest.mark.parametrize(
    ("partitions", "members", "share"), [((4,), 2, 2), ((4,), 3, 1), ((4, 4), 3, 2)]
)
def test_one_of_several_workers_should_have_its_share(
    partitions: Sequence[int], members: int, share: int
) -> None:
    worker = Worker(partitions, members)

    assert worker.has(share) == ()
    assert len(worker.has(share - 1)) == 1


def test_a_worker_without_partitions_is_healthy_if_there_are_too_few() -> None:
    assert Worker(partitions=(2, 1), members=3).has(0) == ()


def test_a_worker_counts_even_if_it_is_not_in_the_group() -> None:
    assert len(Worker(members=0).has(0)) == 1


def test_workers_are_counted_twice_a_minute_and_only_while_partitions_are_shared() -> None:
    worker = Worker(members=2)
    for _ in range(60):
        worker.has(2)
        worker.clock.advance(1)
    for _ in range(60):
        worker.has(4)
        worker.clock.advance(1)

    assert worker.counted == 2


def test_others_that_join_later_make_its_share_smaller() -> None:
    worker = Worker(members=1)
    assert len(worker.has(2)) == 1
    worker.members = 2
    worker.clock.advance(10)

    assert worker.has(2) == ()


def test_while_workers_cannot_be_counted_the_last_count_is_used() -> None:
    worker = Worker(members=2)
    worker.has(2)
    worker.reachable = False
    worker.clock.advance(60)

    assert worker.has(2) == ()
    assert len(worker.has(1)) == 1


# ---- progress -----------------------------------------------------------------------------------


def test_a_partition_that_is_not_read_is_named_with_the_time_it_stopped() -> None:
    troubles = Worker().troubles
    troubles.note_progress({A: 5, B: 5}, {A: 0, B: 3}, set(), "10:00")
    troubles.note_progress({A: 6, B: 5}, {A: 2, B: 9}, set(), "10:01")

    assert troubles.now() == (Trouble("no progress", "10:00", "9 to read at s.features[1]@5"),)


def test_a_partition_that_is_read_is_no_trouble_regardless_of_its_lag() -> None:
    troubles = Worker().troubles
    troubles.note_progress({A: 5}, {A: 1_000_000}, set(), "10:00")
    troubles.note_progress({A: 6}, {A: 2_000_000}, set(), "10:01")

    assert [trouble.since for trouble in troubles.now()] == ["10:01"]


@pytest.mark.parametrize("paused", [{A}, frozenset({A, B})])
def test_paused_partitions_are_no_trouble(paused: set[TopicPartition]) -> None:
    troubles = Worker().troubles
    troubles.note_progress({A: 5}, {A: 3}, paused, "10:00")

    assert troubles.now() == ()


def test_idle_and_revoked_partitions_are_no_trouble() -> None:
    troubles = Worker().troubles
    troubles.note_progress({A: 5}, {A: 3}, set(), "10:00")
    troubles.note_progress({}, {}, set(), "10:01")
    assert troubles.now() == ()
    troubles.note_progress({A: 5}, {A: 0}, set(), "10:02")
    assert troubles.now() == ()
