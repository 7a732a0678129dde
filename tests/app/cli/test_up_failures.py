"""`driftline up` when the supervisor does not work. No broker is needed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from driftline.errors import DriftlineError
from driftline.ops.processes import (
    Process,
    Request,
    SupervisorState,
    born,
    read_request,
    spawn,
    write_processes,
    write_supervisor,
)
from driftline_app.background_services import ask_supervisor, wait_for_supervisor

SLEEPS = "import signal; print('here', flush=True); signal.pause()"
Supervisor = subprocess.Popen[bytes]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("driftline_app.background_services.START_PATIENCE_S", 0.0)


def started(folder: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> list[Supervisor]:
    """Let `up` start this code in place of the supervisor."""
    made: list[Supervisor] = []

    def start(folder: Path) -> Supervisor:
        made.append(spawn([sys.executable, "-c", code], folder / "supervisor.err"))
        return made[-1]

    monkeypatch.setattr("driftline_app.background_services.start_supervisor", start)
    return made


def test_a_supervisor_that_does_not_accept_the_request_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = started(tmp_path, monkeypatch, SLEEPS)
    (tmp_path / "supervisor.log").write_text("No space left on device")
    with pytest.raises(DriftlineError, match="was stopped") as raised:
        wait_for_supervisor(tmp_path, *ask_supervisor(tmp_path, ()))

    assert made[0].returncode is not None
    assert "No space left on device" in raised.value.message
    assert "the disk is not full" in raised.value.hint


def test_a_supervisor_that_adopts_services_keeps_running_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = born(os.getpid()) or ""
    write_processes(
        tmp_path, [Process(pid=os.getpid(), born=own, service="monitor", slot=0, log="log")]
    )
    made = started(tmp_path, monkeypatch, SLEEPS)
    try:
        with pytest.raises(DriftlineError) as raised:
            wait_for_supervisor(tmp_path, *ask_supervisor(tmp_path, ()))
        assert made[0].poll() is None
    finally:
        made[0].kill()
        made[0].wait()

    expected = f"the supervisor (pid {made[0].pid}) is running, but does not accept the request"
    assert raised.value.message == expected


def test_a_supervisor_that_ends_is_reported_with_its_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = started(tmp_path, monkeypatch, "raise SystemExit('no home')")
    request, child = ask_supervisor(tmp_path, ())
    made[0].wait()
    with pytest.raises(DriftlineError, match=r"ended with exit code 1(?s:.*)no home"):
        wait_for_supervisor(tmp_path, request, child)


def test_a_request_after_a_damaged_one_has_a_new_number(tmp_path: Path) -> None:
    myself = SupervisorState(pid=os.getpid(), born=born(os.getpid()) or "", request=7)
    write_supervisor(tmp_path, myself)
    (tmp_path / "wanted.json").write_text("{")
    ask_supervisor(tmp_path, ())

    assert read_request(tmp_path) == Request(8)
