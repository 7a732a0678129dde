"""If its cache fails, the join continues without it and publishes the same results."""

import errno
import logging
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.outcomes import state_store
from consumers.outcomes.handler import OutcomesHandler
from driftline.broker.port import Committed
from driftline.clock import ManualClock
from driftline.errors import StateLost
from tests.consumers.outcomes.join_world import (
    LABELS,
    PREDICTIONS,
    STREAM,
    Join,
    Label,
    Log,
    drive,
    logs,
)


class _FailingDisk:
    """Opens databases whose calls fail with a full disk after a number of calls."""

    def __init__(self, calls: int) -> None:
        self.left = calls

    def open(self, path: Path, options: object) -> Any:
        self.spend()
        return _FailingDatabase(_open(path, options), self)

    def spend(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")


class _FailingDatabase:
    def __init__(self, database: Any, disk: _FailingDisk) -> None:
        self._database = database
        self._disk = disk

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._database, name)

        def call(*arguments: Any, **options: Any) -> Any:
            if name == "close":  # so that another process can open the database
                method()
            self._disk.spend()
            return None if name == "close" else method(*arguments, **options)

        return call


_open = state_store._open


@given(st.data(), logs(), st.integers(0, 150))
def test_a_disk_failure_at_any_call_does_not_change_the_published_results(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, log: Log, calls: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(state_store, "_open", _FailingDisk(calls).open)
        join = Join(log, tmp_path_factory.mktemp("state"))
        drive(join, data, ["read", "read", "read", "look", "commit", "abort", "stop"])
    assert join.outcomes() == log.outcomes()
    assert join.rejected() == log.rejected()


def _many(count: int = 400) -> Log:
    """Return a log with more records than the join buffers in memory."""
    rows = tuple(range(1, count))
    return Log(rows, tuple(Label(row, "a", row + 5, row + 5) for row in rows))


def _read_all(join: Join) -> None:
    while left := join.left():
        for partition in left:
            join.read(partition, 20)
        join.report_progress()
        join.commit()
    join.finish()


def _errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR]


def _a_file(folder: Path) -> None:
    folder.parent.mkdir(parents=True)
    folder.write_text("in the way")


def _a_file_in_it(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "0").write_text("in the way")


@pytest.mark.parametrize("obstacle", [_a_file, _a_file_in_it])
def test_a_join_that_cannot_open_its_cache_works_in_memory_and_logs_this_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, obstacle: Callable[[Path], None]
) -> None:
    state = tmp_path / "state" / "outcomes"
    obstacle(state)
    join = Join(_many(), state)
    _read_all(join)
    assert join.outcomes() == _many().outcomes()
    (message,) = _errors(caplog)
    assert "no cache is used until the next start" in message


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a disk that has room for an empty cache, but not for its records."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        why = getattr(error, "stderr", "") or error
        pytest.skip(f"no small disk can be mounted here: {why}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk_is_logged_once_and_used_again_after_the_next_start(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(state_store, "_WRITE_BUFFER_BYTES", 64 << 10)
    rest = small_disk / "rest"
    log = _many(900)
    join = Join(log, small_disk / "state")
    with pytest.raises(OSError, match="No space left"):
        rest.write_bytes(b"x" * (2 << 20))  # fills the rest of the disk
    _read_all(join)
    assert join.outcomes() == log.outcomes()
    (message,) = _errors(caplog)
    assert "no cache is used until the next start" in message
    rest.unlink()
    caplog.clear()
    again = Join(Log((1, 2), (Label(1, "a", 1, 1),)), small_disk / "state")
    _read_all(again)
    assert again.outcomes() == [(1, "a", 0)]
    assert _errors(caplog) == []


def test_the_join_continues_without_a_cache_whose_folder_was_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_store, "_WRITE_BUFFER_BYTES", 64 << 10)
    join = Join(_many(), tmp_path / "state")
    for partition in join.left():
        join.read(partition, 200)
    join.commit()
    shutil.rmtree(tmp_path / "state")
    _read_all(join)
    assert join.outcomes() == _many().outcomes()


def test_without_a_cache_the_join_pauses_at_its_memory_limit_and_logs_this_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "state").write_text("in the way")
    handler = OutcomesHandler(STREAM, ManualClock(), state=tmp_path / "state", uncached_records=3)
    both = frozenset({PREDICTIONS, LABELS})
    handler.on_assigned(dict.fromkeys(both, Committed(0)))
    log = Log((1, 2, 3), ()).messages()[PREDICTIONS]
    handler.handle(log[:2])
    assert handler.paused_partitions(both) == frozenset()
    handler.handle(log[2:])
    assert handler.paused_partitions(both) == both
    assert handler.paused_partitions(both) == both
    _, message = _errors(caplog)  # the first is of the cache
    assert "the join has paused" in message


def test_a_process_uses_another_folder_while_the_cache_is_open_elsewhere(tmp_path: Path) -> None:
    first, second = state_store.Cache(tmp_path / "0"), state_store.Cache(tmp_path / "0")
    third = state_store.Cache(tmp_path / "0")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "0-1", "0-2"]
    for opened in (first, second, third):
        opened.close()
    assert [path.name for path in tmp_path.iterdir()] == ["0"]


def test_the_folder_of_a_process_that_was_killed_is_used_again_but_not_its_records(
    tmp_path: Path,
) -> None:
    left = state_store.Cache(tmp_path / "0-1")
    batch = state_store.CacheBatch()
    batch.put_record(b"L", "a", b"old")
    left.write(batch, state_store.Covered(("predictions", "labels"), "token"))
    left.close()
    first, second = state_store.Cache(tmp_path / "0"), state_store.Cache(tmp_path / "0")
    assert second.records(b"L", ["a"]) == [None]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "0-1"]
    for opened in (first, second):
        opened.close()


def test_a_damaged_value_raises_state_lost_and_deletes_the_cache(tmp_path: Path) -> None:
    opened = state_store.Cache(tmp_path / "0")
    with pytest.raises(StateLost):
        opened.decode(lambda value: [][0], b"junk")
    with pytest.raises(StateLost):
        opened.covered()
    opened.close()
    assert not (tmp_path / "0").exists()
