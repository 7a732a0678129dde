"""The join as a whole: in whatever order two topics are read, in whatever batches, with whatever
kills, the outcomes and refused labels are those that a few lines say are right."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.consumers.join_world import LABELS, PREDICTIONS, Join, Label, Log, drive, logs


@given(log=logs(), data=st.data())
@settings(max_examples=150)
def test_any_order_any_batches_and_any_crash_give_the_same_in_memory(
    log: Log, data: st.DataObject
) -> None:
    join = Join(log)
    actions = ["read"] * 6 + ["look", "commit", "commit", "abort", "kill"]
    drive(join, data, actions)
    assert join.outcomes() == log.outcomes()
    assert join.refused() == log.refused()


@given(log=logs(), data=st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_order_any_batches_and_any_crash_give_the_same_with_a_cache(
    log: Log, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("state")
    join = Join(log, folder / "state", memory_records=data.draw(st.integers(0, 4)))
    actions = ["read"] * 8 + ["look", "commit", "commit", "commit", "abort"]
    drive(join, data, [*actions, "kill", "stop", "lose", "restore"], copy=folder / "copy")
    assert join.outcomes() == log.outcomes()
    assert join.refused() == log.refused()


ROWS = tuple(range(200))
LONG = Log(ROWS, tuple(Label(row, "a", row + 9, row) for row in ROWS))


def test_with_its_cache_a_restart_reads_again_only_what_the_cache_lacks(tmp_path: Path) -> None:
    cached, bare = Join(LONG, tmp_path, memory_records=4), Join(LONG)
    for join in (cached, bare):
        for partition, count in ((PREDICTIONS, 20), (LABELS, 2)):
            for _ in range(count):
                join.read(partition, 5)
                join.commit()
        join.kill()
        join.finish()
        assert join.outcomes() == LONG.outcomes()
    assert bare.reread > 90
    assert cached.reread <= 4 + 4 + 5 + 5 + 2  # what was in memory, and the last commits


def test_a_stopped_worker_reads_next_to_nothing_again(tmp_path: Path) -> None:
    join = Join(LONG, tmp_path, memory_records=1_000)
    for partition in (PREDICTIONS, LABELS):
        for _ in range(20):
            join.read(partition, 5)
            join.commit()
    join.read(LABELS, 5)
    join.stop()
    join.finish()
    assert join.reread <= 5
    assert join.outcomes() == LONG.outcomes()


def test_a_redelivery_is_told_after_a_restart_that_read_nothing_again(tmp_path: Path) -> None:
    log = Log((*range(20), *range(15, 25)), tuple(Label(row, "a", row, row) for row in range(25)))
    join = Join(log, tmp_path)
    join.read(PREDICTIONS, 20)
    join.commit()
    join.look()
    join.read(PREDICTIONS, 0)
    join.stop()
    join.finish()
    assert join.reread == 0
    assert join.outcomes() == log.outcomes()


def test_what_was_forgotten_and_not_committed_is_still_in_the_cache(tmp_path: Path) -> None:
    nobody = tuple(Label(1_000 + row, "a", row, row) for row in range(58))
    log = Log(tuple(range(100)), (*nobody, Label(60, "a", 60, 60)))
    join = Join(log, tmp_path, memory_records=0)
    join.read(LABELS, 58)
    join.commit()
    join.read(PREDICTIONS, 100)
    join.read(LABELS, 1)
    for _ in range(3):
        join.read(LABELS, 0)  # the letters are in a transaction that never ends
    join.kill()
    join.finish()
    assert join.refused() == log.refused()


@pytest.mark.parametrize("memory_records", [1, 2, 100])
def test_what_was_forgotten_in_memory_and_aborted_is_read_again(
    tmp_path: Path, memory_records: int
) -> None:
    log = Log((1, 16, 17), (Label(1, "a", 1, 1), Label(16, "b", 16, 16)))
    join = Join(log, tmp_path, memory_records=memory_records)
    join.read(LABELS, 2)
    join.commit()
    join.read(PREDICTIONS, 1)
    join.read(PREDICTIONS, 1)  # the first label is left behind by the horizon
    join.abort()
    join.finish()
    assert join.outcomes() == log.outcomes()


def test_what_was_forgotten_and_aborted_is_not_read_again_beside_the_cache(tmp_path: Path) -> None:
    nobody = Label(3, "a", 12, 12)
    log = Log(
        (1, 16, 17, 18, 33, 34, 35),
        (
            *(Label(16, "a", 9, 9), Label(16, "a", 11, 11), nobody, Label(3, "a", None, 13)),
            *(Label(row, "a", at, at) for row, at in ((1, 15), (36, 24), (33, 28), (35, 30))),
        ),
    )
    join = Join(log, tmp_path, memory_records=0)
    join.read(PREDICTIONS, 5)
    join.commit()
    join.read(PREDICTIONS, 2)
    join.read(LABELS, 6)
    join.stop()
    join.read(LABELS, 3)  # again, and into the cache
    join.stop()
    join.read(PREDICTIONS, 7)
    join.read(LABELS, 5)
    join.abort()
    join.finish()
    assert join.refused() == log.refused()
    assert join.outcomes() == log.outcomes()


def test_without_labels_memory_is_bounded(tmp_path: Path) -> None:
    join = Join(Log(tuple(range(2_000)), ()), tmp_path, memory_records=50)
    most = 0
    for _ in range(200):
        join.read(PREDICTIONS, 10)
        join.commit()
        most = max(most, join.handler._joins[0].kept_predictions.in_memory)
    assert most <= 50 + 10 + 2  # a batch, and the block that is still open
    join.finish()


def test_labels_read_long_before_their_predictions_are_bounded_too(tmp_path: Path) -> None:
    join = Join(LONG, tmp_path, memory_records=20)
    most = 0
    for _ in range(20):
        join.read(LABELS, 10)
        join.commit()
        most = max(most, join.handler._joins[0].kept_labels.in_memory)
    assert most <= 20 + 10 + 2
    join.finish()
    assert join.outcomes() == LONG.outcomes()


def test_a_cache_of_other_commits_is_not_used(tmp_path: Path) -> None:
    """Topics made anew begin at offset 0, and the group's commits go with them."""
    first = Join(LONG, tmp_path, memory_records=0)
    for partition in (PREDICTIONS, LABELS):
        first.read(partition, 100)
        first.commit()
    first.finish()
    log = Log(tuple(range(5)), (Label(3, "b", None, 3),))
    second = Join(log, tmp_path, memory_records=0)
    second.finish()
    assert second.outcomes() == log.outcomes()


def test_a_cache_that_another_process_holds_is_left_alone(tmp_path: Path) -> None:
    first = Join(LONG, tmp_path, memory_records=0)
    first.read(PREDICTIONS, 100)
    first.commit()
    second = Join(LONG, tmp_path, memory_records=0)
    second.finish()
    assert second.outcomes() == LONG.outcomes()
    assert [path.name for path in tmp_path.iterdir()] == ["0"]
    first.finish()
    assert first.outcomes() == LONG.outcomes()


def test_a_restart_says_how_far_it_goes_back_and_how_long_it_took(
    caplog: pytest.LogCaptureFixture,
) -> None:
    join = Join(LONG)
    join.read(PREDICTIONS, 50)
    join.read(LABELS, 1)
    join.commit()
    with caplog.at_level("INFO", "consumers.outcomes"):
        join.kill()
        join.clock.advance(2.5)
        join.finish()
    assert [record.getMessage() for record in caplog.records] == [
        "the join goes back 51 records in 1 partitions to rebuild its state",
        "the join's state is rebuilt after 2.5 s",
    ]
