"""Services as processes: told apart by birth, ended in good order, killed only when stubborn."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from driftline.errors import SettingsError
from driftline.processes import (
    Process,
    ServiceState,
    born,
    forget_ended,
    read_processes,
    read_state,
    read_states,
    start,
    stop,
    write_processes,
    write_state,
)

# Says that it is there, then sleeps until a signal comes.
OBEDIENT = "import signal; print('here', flush=True); signal.pause()"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + OBEDIENT


def state(pid: int, birth: str) -> ServiceState:
    return ServiceState(
        service="inference",
        slot=0,
        pid=pid,
        born=birth,
        state="running",
        started="2026-01-01T00:00:00Z",
        updated="2026-01-01T00:00:00Z",
    )


def started(code: str, log: Path) -> Process:
    process = start("inference", 0, [sys.executable, "-c", code], log)
    while b"here" not in log.read_bytes():
        assert process.alive
    return process


def test_a_process_has_one_birth_and_none_when_it_is_gone() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()

    assert born(os.getpid()) == born(os.getpid())
    assert born(child.pid) is None


@pytest.mark.skipif(sys.platform != "linux", reason="replaces psutil's reading of Linux' boot time")
def test_a_changed_wall_clock_does_not_make_a_process_another_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = born(os.getpid())
    booted_s = psutil.boot_time()
    monkeypatch.setattr("psutil._psplatform.boot_time", lambda: booted_s + 3600)

    assert born(os.getpid()) == before


def test_a_process_is_asked_to_end_and_is_gone_after(tmp_path: Path) -> None:
    process = started(OBEDIENT, tmp_path / "log")

    assert stop([process], patience_s=20) == ()
    assert not process.alive


def test_a_process_that_does_not_end_is_killed_and_named(tmp_path: Path) -> None:
    process = started(STUBBORN, tmp_path / "log")

    assert stop([process], patience_s=0) == (process,)
    assert not process.alive


def test_another_process_with_the_same_pid_is_left_alone() -> None:
    impostor = Process("inference", 0, os.getpid(), "born before", "log")

    assert not impostor.alive
    assert stop([impostor], patience_s=0) == ()


def test_states_and_processes_are_read_as_they_were_written(tmp_path: Path) -> None:
    mine = state(os.getpid(), born(os.getpid()) or "")
    process = Process("inference", 0, mine.pid, mine.born, "log")
    write_state(tmp_path, mine)
    write_processes(tmp_path, [process])

    assert read_state(tmp_path, "inference", 0) == mine
    assert read_state(tmp_path, "monitor", 0) is None
    assert read_states(tmp_path) == (mine,)
    assert read_processes(tmp_path) == (process,)


def test_what_ended_processes_said_is_forgotten_and_the_rest_kept(tmp_path: Path) -> None:
    write_state(tmp_path, state(os.getpid(), "born before"))
    forget_ended(tmp_path)
    assert read_states(tmp_path) == ()

    write_state(tmp_path, state(os.getpid(), born(os.getpid()) or ""))
    forget_ended(tmp_path)
    assert len(read_states(tmp_path)) == 1


def test_a_broken_state_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "monitor-0.json").write_text("{", encoding="utf-8")

    with pytest.raises(SettingsError, match=r"monitor-0\.json cannot be read"):
        read_states(tmp_path)
