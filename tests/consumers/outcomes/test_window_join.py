"""The complete join gives the expected outcomes and rejected labels in all circumstances.

The order in which the two topics are read, the batches, aborts and kills make no difference.
"""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.consumers.outcomes.join_world import LABELS, PREDICTIONS, Join, Label, Log, drive, logs


@given(log=logs(), data=st.data())
@settings(max_examples=150)
def test_order_batches_and_crashes_do_not_change_the_results_in_memory(
    log: Log, data: st.DataObject
) -> None:
    join = Join(log)
    actions = ["read"] * 6 + ["look", "commit", "commit", "abort", "kill"]
    drive(join, data, actions)
    assert join.outcomes() == log.outcomes()
    assert join.rejected() == log.rejected()


@given(log=logs(), data=st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_order_batches_and_crashes_do_not_change_the_results_with_a_cache(
    log: Log, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("state")
    join = Join(log, folder / "state", memory_records=data.draw(st.integers(0, 4)))
    actions = ["read"] * 8 + ["look", "commit", "commit", "commit", "abort"]
    drive(join, data, [*actions, "kill", "stop", "lose", "restore"], copy=folder / "copy")
    assert join.outcomes() == log.outcomes()
    assert join.rejected() == log.rejected()


ROWS = tuple(range(200))
LONG = Log(ROWS, tuple(Label(row, "a", row + 9, row) for row in ROWS))


def test_with_a_cache_a_restart_rereads_only_records_that_the_cache_lacks(tmp_path: Path) -> None:
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
    assert (
        cached.reread <= 4 + 4 + 5 + 5 + 2
    )  # the records in memory, and those since the last commits


def test_a_worker_that_was_stopped_cleanly_rereads_almost_no_records(tmp_path: Path) -> None:
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


def test_a_redelivery_is_recognised_after_a_restart_without_rereading(tmp_path: Path) -> None:
    log = Log((*range(20), *range(15, 25)), tuple(Label(row, "a", row, row) for row in range(25)))
    join = Join(log, tmp_path)
    join.read(PREDICTIONS, 20)
    join.commit()
    join.report_progress()
    join.read(PREDICTIONS, 0)
    join.stop()
    join.finish()
    assert join.reread == 0
    assert join.outcomes() == log.outcomes()


def test_records_evicted_without_a_commit_are_still_in_the_cache(tmp_path: Path) -> None:
    nobody = tuple(Label(1_000 + row, "a", row, row) for row in range(58))
    log = Log(tuple(range(100)), (*nobody, Label(60, "a", 60, 60)))
    join = Join(log, tmp_path, memory_records=0)
    join.read(LABELS, 58)
    join.commit()
    join.read(PREDICTIONS, 100)
    join.read(LABELS, 1)
    for _ in range(3):
        join.read(LABELS, 0)  # the dead letters are in a transaction that never ends
    join.kill()
    join.finish()
    assert join.rejected() == log.rejected()


@pytest.mark.parametrize("memory_records", [1, 2, 100])
def test_records_evicted_from_memory_are_read_again_after_an_abort(
    tmp_path: Path, memory_records: int
) -> None:
    log = Log((1, 16, 17), (Label(1, "a", 1, 1), Label(16, "b", 16, 16)))
    join = Join(log, tmp_path, memory_records=memory_records)
    join.read(LABELS, 2)
    join.commit()
    join.read(PREDICTIONS, 1)
    join.read(PREDICTIONS, 1)  # the first label leaves the join window
    join.abort()
    join.finish()
    assert join.outcomes() == log.outcomes()


def test_records_in_the_cache_are_not_added_again_after_an_abort(tmp_path: Path) -> None:
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
    join.read(LABELS, 3)  # read again and written to the cache
    join.stop()
    join.read(PREDICTIONS, 7)
    join.read(LABELS, 5)
    join.abort()
    join.finish()
    assert join.rejected() == log.rejected()
    assert join.outcomes() == log.outcomes()


def test_memory_is_bounded_if_no_labels_arrive(tmp_path: Path) -> None:
    join = Join(Log(tuple(range(2_000)), ()), tmp_path, memory_records=50)
    most = 0
    for _ in range(200):
        join.read(PREDICTIONS, 10)
        join.commit()
        most = max(most, join.handler._joins[0].buffered_predictions.in_memory)
    assert most <= 50 + 10 + 2  # plus a batch and the open block
    join.finish()


def test_memory_is_bounded_if_labels_are_read_long_before_their_predictions(tmp_path: Path) -> None:
    join = Join(LONG, tmp_path, memory_records=20)
    most = 0
    for _ in range(20):
        join.read(LABELS, 10)
        join.commit()
        most = max(most, join.handler._joins[0].buffered_labels.in_memory)
    assert most <= 20 + 10 + 2
    join.finish()
    assert join.outcomes() == LONG.outcomes()


def test_a_cache_that_does_not_match_the_commits_is_not_used(tmp_path: Path) -> None:
    """Recreated topics begin at offset 0, and the commits of the group are gone."""
    first = Join(LONG, tmp_path, memory_records=0)
    for partition in (PREDICTIONS, LABELS):
        first.read(partition, 100)
        first.commit()
    first.finish()
    log = Log(tuple(range(5)), (Label(3, "b", None, 3),))
    second = Join(log, tmp_path, memory_records=0)
    second.finish()
    assert second.outcomes() == log.outcomes()


def test_a_cache_in_use_by_another_process_is_not_touched(tmp_path: Path) -> None:
    first = Join(LONG, tmp_path, memory_records=0)
    first.read(PREDICTIONS, 100)
    first.commit()
    second = Join(LONG, tmp_path, memory_records=0)
    second.finish()
    assert second.outcomes() == LONG.outcomes()
    assert [path.name for path in tmp_path.iterdir()] == ["0"]
    first.finish()
    assert first.outcomes() == LONG.outcomes()


def test_a_restart_logs_how_many_records_it_rereads_and_how_long_that_took(
    caplog: pytest.LogCaptureFixture,
) -> None:
    join = Join(LONG)
    join.read(PREDICTIONS, 50)
    join.read(LABELS, 1)
    join.commit()
    with caplog.at_level("INFO", "consumers.outcomes.handler"):
        join.kill()
        join.clock.advance(2.5)
        join.finish()
    assert [record.getMessage() for record in caplog.records] == [
        "rereading 51 records in 1 partitions to rebuild the join's state",
        "rebuilt the join's state in 2.5 s",
    ]
