"""Idle partitions: when their watermark advances, how far, and that they never block others."""

from collections.abc import Mapping

import pytest

from consumers.inference.idle_partitions import IdlePartitions
from driftline.broker.port import Committed, TopicPartition
from driftline.clock import ManualClock
from driftline.config.stream import Stream, loads
from driftline.runtime.handler import GroupProgress

TOPIC = "s.features"
FILE = """
version = 1
name = "s"
task = "classification"
target = "y"
features = {{ x = "number" }}
windows = {{ {windows} }}
{time}
"""
BY_ROW = loads(FILE.format(windows='records = 100, idle = "10s"', time=""))
BY_TIME = loads(
    FILE.format(
        windows='span = "1h", idle = "10s", lateness = "1m"',
        time='time = { column = "at", format = "rfc3339" }',
    )
)
HOUR = 3_600_000_000


AT = TopicPartition(TOPIC, 1)


def worker(
    clock: ManualClock, *partitions: int, stream: Stream = BY_ROW, metadata: str = ""
) -> IdlePartitions:
    idle = IdlePartitions(stream, clock)
    idle.on_assigned({TopicPartition(TOPIC, p): Committed(5, metadata) for p in partitions})
    idle.on_group_progress(view(dict.fromkeys(partitions, 0)))
    return idle


def read(idle: IdlePartitions, partition: int, position: int, offset: int = 9) -> None:
    idle.read(partition, offset + 1)
    idle.scored(partition, position)


def view(lags: Mapping[int, int], *others: IdlePartitions) -> GroupProgress:
    committed = {}
    for other in others:
        committed.update(other.offsets_to_commit(TOPIC))
    positions = dict.fromkeys((TopicPartition(TOPIC, p) for p in lags), 100)
    ends = {TopicPartition(TOPIC, p): 100 + lag for p, lag in lags.items()}
    return GroupProgress(positions, ends, lambda: committed)


def moved(
    idle: IdlePartitions, lags: Mapping[int, int] | None = None, *others: IdlePartitions
) -> list[tuple[int, int]]:
    """Return the watermarks of two steps of the loop with a progress callback in between."""
    found = idle.watermarks()
    idle.on_group_progress(view({0: 0, 1: 0} if lags is None else lags, *others))
    return found + idle.watermarks()


def test_an_idle_partition_advances_to_the_position_of_the_others_some_seconds_ago() -> None:
    idle = worker(clock := ManualClock(), 0, 1)
    read(idle, 0, 41)
    clock.advance(9)
    read(idle, 0, 42)
    assert moved(idle) == []
    clock.advance(1)
    assert moved(idle) == [(1, 42)]
    assert moved(idle) == []
    clock.advance(9)
    assert moved(idle) == [(1, 43)]
    clock.advance(100)
    assert moved(idle) == []


def test_after_a_pause_the_first_partition_read_does_not_make_others_late() -> None:
    idle = worker(clock := ManualClock(), 0, 1)
    read(idle, 0, 990)
    read(idle, 1, 991)
    clock.advance(60)
    assert moved(idle) == [(0, 992)]
    read(idle, 0, 6975)
    assert moved(idle) == []
    clock.advance(9)
    assert moved(idle) == []
    read(idle, 1, 5886)
    clock.advance(9)
    assert moved(idle) == []
    clock.advance(1)
    assert moved(idle) == [(1, 6976)]


def test_a_partition_whose_records_are_all_rejected_is_not_idle() -> None:
    idle = worker(clock := ManualClock(), 0, 1)
    read(idle, 0, 41)
    clock.advance(9)
    idle.read(1, 7)
    clock.advance(9)
    assert moved(idle) == []


def test_a_partition_with_only_dead_letters_advances_like_an_idle_one() -> None:
    idle = worker(clock := ManualClock(), 0, 1)
    read(idle, 0, 41)
    found = []
    for second in range(1, 13):  # it is read continuously, but never to its end
        clock.advance(1)
        idle.read(1, 10 * second)
        idle.rejected(1, None)
        found += idle.watermarks()
        idle.on_group_progress(GroupProgress({AT: 10 * second}, {AT: 10 * second + 3}, dict))
        found += idle.watermarks()
    assert found == [(1, 42)]
    read(idle, 1, 60)
    clock.advance(9)
    idle.read(1, 19)
    assert moved(idle, {0: 0, 1: 0}) == []


def test_dead_letters_advance_data_windows_at_once_but_the_join_only_when_idle() -> None:
    idle = worker(clock := ManualClock(), 0, 1)
    read(idle, 0, 41)
    idle.read(1, 8)
    assert [idle.rejected(1, position) for position in (50, 45, None)] == [51, 51, 51]
    clock.advance(10)
    assert moved(idle) == [(0, 51), (1, 51)]


def test_a_partition_with_unread_records_is_not_idle() -> None:
    idle = worker(clock := ManualClock(), 0, 1)
    read(idle, 0, 41)
    clock.advance(100)
    assert moved(idle, {0: 0, 1: 3}) == []
    assert moved(idle, {0: 0, 1: 0}) == [(1, 42)]


def test_a_delayed_worker_checks_the_log_ends_before_it_treats_a_partition_as_idle() -> None:
    idle = worker(clock := ManualClock(), 0, 1)
    read(idle, 0, 41)
    clock.advance(100)
    assert idle.watermarks() == []
    assert moved(idle) == [(1, 42)]


def test_no_partition_is_idle_while_the_worker_reads_none() -> None:
    idle = worker(clock := ManualClock(), 0, 1)
    read(idle, 0, 41)
    clock.advance(20)
    idle.wait()
    assert moved(idle) == []


def test_a_worker_gets_the_positions_of_others_from_the_commits_of_the_group() -> None:
    clock = ManualClock()
    busy, silent = worker(clock, 0), worker(clock, 1)
    read(busy, 0, 41)
    clock.advance(10)
    assert moved(silent, {1: 0}, busy, silent) == []
    clock.advance(10)
    assert moved(silent) == [(1, 42)]


def test_a_restart_restores_the_positions_of_its_partitions() -> None:
    clock = ManualClock()
    before = worker(clock, 0)
    read(before, 0, 41, offset=20)
    (held,) = before.offsets_to_commit(TOPIC).values()
    assert held.offset == 21
    idle = worker(clock, 0, 1, metadata=held.metadata)
    clock.advance(10)
    assert moved(idle) == []
    read(idle, 0, 50)
    clock.advance(10)
    assert moved(idle) == [(1, 51)]


def test_a_revoked_partition_gets_no_watermark() -> None:
    idle = worker(clock := ManualClock(), 0, 1)
    read(idle, 0, 41)
    idle.on_revoked([TopicPartition(TOPIC, 1)])
    clock.advance(20)
    assert moved(idle) == []


@pytest.mark.parametrize("age_s", [3, 3_000])
def test_a_wholly_idle_stream_advances_with_the_clock_only_if_its_times_are_recent(
    age_s: int,
) -> None:
    clock = ManualClock()
    clock.advance(1_000_000)
    idle = worker(clock, 0, stream=BY_TIME)
    newest = int((clock.time() - age_s) * 1e6)
    read(idle, 0, newest)
    clock.advance(3610)
    assert moved(idle) == ([(0, newest + HOUR - 60_000_000)] if age_s == 3 else [])
    clock.advance(9)
    assert moved(idle) == []
