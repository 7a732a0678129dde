"""The supervisor starts services, restarts them after growing pauses, and adopts running ones."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from driftline.clock import ManualClock
from driftline.ops.processes import (
    Process,
    Request,
    ServiceState,
    Wanted,
    born,
    read_processes,
    read_supervisor,
    write_processes,
    write_request,
    write_state,
)
from driftline.ops.supervisor import (
    LONGEST_PAUSE_S,
    MAX_OUTPUT_BYTES,
    RAN_WELL_S,
    Supervisor,
    output_of,
)
from driftline.wire.topics import SERVICES, Service


class Child:
    """A process that the test ends."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.code: int | None = None

    def poll(self) -> int | None:
        return self.code


class Supervised:
    """A supervisor with a manual clock, and the processes that it started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = ManualClock(1_767_225_600.0)
        self.children: list[Child] = []
        self.refused: OSError | None = None
        self.started: list[str] = []
        self.supervisor = Supervisor(folder, self.clock, self._start)

    def _start(self, wanted: Wanted) -> Child:
        if self.refused is not None:
            raise self.refused
        self.started.append(wanted.name)
        self.children.append(Child(10_000_000 + len(self.children)))  # no process has this pid
        return self.children[-1]

    def ask(self, *services: Service, number: int = 1) -> None:
        wanted = [
            Wanted(service, 0, ("run", service), str(self.folder / f"{service}-0.log"))
            for service in services
        ]
        write_request(self.folder, Request(number, tuple(wanted)))
        self.supervisor.step()

    def after(self, seconds: float) -> int:
        """Let this time pass; return how many processes have been started in total."""
        self.clock.advance(seconds)
        self.supervisor.step()
        return len(self.children)

    def end(self, code: int = 1, child: int = -1) -> Process:
        """End the last process; return its entry in the state file."""
        self.children[child].code = code
        self.supervisor.step()
        return self.noted()

    def noted(self) -> Process:
        return read_processes(self.folder)[0]


@pytest.fixture
def supervised(tmp_path: Path) -> Supervised:
    return Supervised(tmp_path)


def test_requested_services_are_started_once(supervised: Supervised) -> None:
    supervised.ask(*SERVICES)
    supervised.after(1)

    assert supervised.started == [f"{service}-0" for service in SERVICES]
    assert [process.restarts for process in read_processes(supervised.folder)] == [0] * 4


def test_a_service_that_ends_is_restarted_after_a_second(supervised: Supervised) -> None:
    supervised.ask("monitor")
    process = supervised.end(-signal.SIGKILL)

    assert (process.error, process.retry) == ("killed by SIGKILL", "2026-01-01T00:00:01Z")
    assert supervised.after(0.9) == 1
    assert supervised.after(0.1) == 2
    assert (supervised.noted().restarts, supervised.noted().retry) == (1, None)


def test_a_service_that_ends_successfully_is_restarted_too(supervised: Supervised) -> None:
    supervised.ask("monitor")
    supervised.end(0)

    assert supervised.after(1) == 2


def test_pauses_double_up_to_a_minute(supervised: Supervised) -> None:
    supervised.ask("monitor")
    pauses = []
    for _ in range(9):
        supervised.end()
        before, pause_s = len(supervised.children), 0
        while supervised.after(1) == before:
            pause_s += 1
        pauses.append(pause_s + 1)

    assert pauses == [1, 2, 4, 8, 16, 32, LONGEST_PAUSE_S, LONGEST_PAUSE_S, LONGEST_PAUSE_S]


def test_the_pause_is_reset_after_a_service_has_run_for_a_while(supervised: Supervised) -> None:
    supervised.ask("monitor")
    for _ in range(4):
        supervised.end()
        supervised.after(60)
    assert supervised.noted().crash_looping
    supervised.after(RAN_WELL_S)
    assert not supervised.noted().crash_looping
    supervised.end()

    assert supervised.after(1) == 6
    assert supervised.noted().restarts == 5


def test_a_service_that_ends_three_times_in_a_row_is_crash_looping(supervised: Supervised) -> None:
    supervised.ask("monitor")
    loops = []
    for _ in range(4):
        loops.append(supervised.end().crash_looping)
        supervised.after(60)

    assert loops == [False, False, True, True]
    assert supervised.noted().crash_looping  # it is running, but not long enough yet


def test_the_last_error_is_the_one_that_the_service_wrote(supervised: Supervised) -> None:
    supervised.ask("monitor")
    write_state(
        supervised.folder,
        ServiceState(
            service="monitor",
            slot=0,
            pid=supervised.children[0].pid,
            born="ended at once",
            state="failed",
            started="2026-01-01T00:00:00Z",
            updated="2026-01-01T00:00:00Z",
            error="topics are missing",
        ),
    )

    assert supervised.end(2).error == "exit code 2: topics are missing"


def test_without_a_written_error_the_last_printed_line_is_the_last_error(
    supervised: Supervised,
) -> None:
    supervised.ask("monitor")
    (supervised.folder / "monitor-0.err").write_text("Traceback\nImportError: no numpy\n\n")

    assert supervised.end(1).error == "exit code 1: ImportError: no numpy"
    supervised.after(1)
    assert supervised.noted().error == "exit code 1: ImportError: no numpy"


RIVAL = (
    "error: another process has taken the place of s.monitor.0 in its group\n"
    "  no two workers of a service may have the same --slot\n"
)


def test_the_last_error_does_not_include_the_hint_after_it(supervised: Supervised) -> None:
    supervised.ask("monitor")
    (supervised.folder / "monitor-0.err").write_text(f"a warning of a library\n{RIVAL}")

    expected = "exit code 2: another process has taken the place of s.monitor.0 in its group"
    assert supervised.end(2).error == expected


def test_the_error_of_another_process_in_the_slot_is_not_the_last_error(
    supervised: Supervised,
) -> None:
    supervised.ask("monitor")
    (supervised.folder / "monitor-0.err").write_text(RIVAL)
    write_state(
        supervised.folder,
        ServiceState(
            service="monitor",
            slot=0,
            pid=os.getpid(),
            born=born(os.getpid()) or "",
            state="failed",
            started="2026-01-01T00:00:00Z",
            updated="2026-01-01T00:00:00Z",
            error="an error of the rival",
        ),
    )

    expected = "exit code 2: another process has taken the place of s.monitor.0 in its group"
    assert supervised.end(2).error == expected


def test_an_earlier_printed_error_is_not_the_last_error(supervised: Supervised) -> None:
    supervised.ask("monitor")
    (supervised.folder / "monitor-0.err").write_text(
        "error: one\nerror: two\n  a hint\nMemoryError"
    )

    assert supervised.end(1).error == "exit code 1: MemoryError"
    supervised.after(1)
    assert supervised.end(2).error == "exit code 2: two"
    supervised.after(2)
    assert supervised.end(-signal.SIGKILL).error == "killed by SIGKILL"


def test_the_last_error_of_a_wrong_command_line_is_its_last_line(supervised: Supervised) -> None:
    supervised.ask("monitor")
    (supervised.folder / "monitor-0.err").write_text("Usage: driftline\nNo such option: --slots\n")

    assert supervised.end(2).error == "exit code 2: No such option: --slots"


def test_a_service_that_cannot_be_started_is_retried(supervised: Supervised) -> None:
    supervised.ask("monitor")
    supervised.refused = OSError(28, "No space left on device")
    supervised.end()
    supervised.after(1)

    assert supervised.noted().error == "[Errno 28] No space left on device"
    supervised.refused = None
    assert supervised.after(60) == 2


def test_a_new_request_starts_missing_services_at_once(supervised: Supervised) -> None:
    supervised.ask("monitor")
    for _ in range(5):
        supervised.end()
        supervised.after(60)
    supervised.end()
    supervised.ask("monitor", "trainer", number=2)

    assert supervised.started[-2:] == ["monitor-0", "trainer-0"]
    assert supervised.noted().failures == 0
    found = read_supervisor(supervised.folder)
    assert found is not None
    assert found.request == 2


def test_a_new_request_does_not_restart_running_services(supervised: Supervised) -> None:
    supervised.ask("monitor")
    supervised.ask("monitor", number=2)

    assert supervised.started == ["monitor-0"]


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    yield child
    child.kill()
    child.wait()


def test_services_that_a_killed_supervisor_left_running_are_adopted(
    tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    left = Process(
        service="monitor",
        slot=0,
        pid=sleeper.pid,
        born=born(sleeper.pid) or "",
        log=str(tmp_path / "monitor-0.log"),
        restarts=3,
    )
    write_processes(tmp_path, [left])
    supervised = Supervised(tmp_path)
    supervised.ask("monitor")
    assert supervised.started == []
    assert supervised.noted() == left
    (tmp_path / "monitor-0.err").write_text(RIVAL)
    sleeper.kill()
    sleeper.wait()
    supervised.supervisor.step()

    # The exit code of an adopted process is unknown, but its output is known.
    expected = "ended: another process has taken the place of s.monitor.0 in its group"
    assert supervised.noted().error == expected
    assert supervised.after(1) == 1
    assert supervised.noted().restarts == 4


def test_a_running_service_that_is_not_requested_stays_in_the_state_file(
    tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    left = Process(
        service="monitor", slot=5, pid=sleeper.pid, born=born(sleeper.pid) or "", log="log"
    )
    gone = msgspec.structs.replace(left, slot=6, born="long ago")
    write_processes(tmp_path, [left, gone])
    supervised = Supervised(tmp_path)
    supervised.ask("monitor")

    assert [process.slot for process in read_processes(tmp_path)] == [0, 5]


def test_stopping_ends_all_services_and_clears_the_state_file(
    tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    left = Process(
        service="monitor", slot=0, pid=sleeper.pid, born=born(sleeper.pid) or "", log="log"
    )
    write_processes(tmp_path, [left])
    supervised = Supervised(tmp_path)
    supervised.ask("monitor")
    supervised.supervisor.stop()

    assert sleeper.wait() == -signal.SIGTERM
    assert read_processes(tmp_path) == ()


def test_the_output_of_services_outside_their_logs_is_bounded(supervised: Supervised) -> None:
    supervised.ask("monitor")
    output = supervised.folder / "monitor-0.err"
    output.write_bytes(b"x" * (MAX_OUTPUT_BYTES + 1))
    supervised.after(1)

    assert output.stat().st_size == 0


def test_the_output_of_a_process_is_kept_after_its_restart(
    tmp_path: Path,
) -> None:
    supervisor = Supervisor(tmp_path, clock := ManualClock(0.0))
    code = "import os; os.write(2, str(os.getpid()).encode())"
    wanted = Wanted("monitor", 0, (sys.executable, "-c", code), str(tmp_path / "monitor-0.log"))
    write_request(tmp_path, Request(1, (wanted,)))

    def pid_after_it_ended() -> int:
        supervisor.step()
        pid = read_processes(tmp_path)[0].pid
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        supervisor.step()
        return pid

    first = pid_after_it_ended()
    clock.advance(1)
    second = pid_after_it_ended()

    assert output_of(wanted).read_text() == str(second)
    assert output_of(wanted).with_suffix(".err.1").read_text() == str(first)


@pytest.mark.parametrize("damage", ["", "{", "a folder"])
def test_a_damaged_state_file_does_not_keep_services_from_being_restarted(
    supervised: Supervised, damage: str
) -> None:
    supervised.ask("inference", "outcomes")
    path = supervised.folder / "inference-0.json"
    if damage == "a folder":
        path.mkdir()
    else:
        path.write_text(damage)
    for child in supervised.children:
        child.code = -signal.SIGKILL
    supervised.supervisor.step()

    assert supervised.noted().error == "killed by SIGKILL"
    assert supervised.after(1) == 4


def test_output_that_cannot_be_read_does_not_keep_a_service_from_being_restarted(
    supervised: Supervised,
) -> None:
    supervised.ask("monitor")
    (supervised.folder / "monitor-0.err").mkdir()

    assert supervised.end(1).error.startswith("ended; the reason is unknown: ")  # type: ignore[union-attr]
    assert supervised.after(1) == 2


def test_a_service_that_is_killed_by_a_real_time_signal_is_restarted(
    supervised: Supervised,
) -> None:
    supervised.ask("monitor")

    assert supervised.end(-37).error == "killed by signal 37"
    assert supervised.after(1) == 2


def test_a_service_that_has_crashed_for_days_is_still_restarted(supervised: Supervised) -> None:
    supervised.ask("monitor")
    supervised.supervisor._kept["monitor-0"].change(failures=1100)  # a float holds 1023 doublings
    supervised.end()

    assert supervised.after(LONGEST_PAUSE_S) == 2


def test_an_unexpected_error_of_one_service_is_logged_once_and_the_others_are_handled(
    supervised: Supervised, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    supervised.ask("inference", "outcomes")
    for child in supervised.children:
        child.code = 1
    poll = Child.poll

    def fail(child: Child) -> int | None:
        if child is supervised.children[0]:
            raise ValueError("unexpected")
        return poll(child)

    monkeypatch.setattr(Child, "poll", fail)
    supervised.supervisor.step()
    assert supervised.after(1) == 3
    assert [r.message for r in caplog.records if "unexpected" in r.message] == [
        "inference-0: unexpected; trying again"
    ]
    monkeypatch.undo()
    supervised.supervisor.step()
    assert supervised.after(1) == 4


@pytest.mark.parametrize("name", ["processes.json", "supervisor.json"])
@pytest.mark.parametrize("damage", ["", "missing"])
def test_the_supervisor_replaces_its_damaged_files(
    supervised: Supervised, name: str, damage: str
) -> None:
    supervised.ask("monitor")
    path = supervised.folder / name
    content = path.read_bytes()
    path.unlink() if damage == "missing" else path.write_text(damage)
    supervised.supervisor.step()

    assert path.read_bytes() == content


def test_a_damaged_request_does_not_replace_the_one_before(supervised: Supervised) -> None:
    supervised.ask("monitor")
    (supervised.folder / "wanted.json").write_text("{")
    supervised.end()
    found = read_supervisor(supervised.folder)

    assert supervised.after(1) == 2
    assert found is not None
    assert found.request == 1
