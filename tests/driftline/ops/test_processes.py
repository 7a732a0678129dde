"""Service processes are identified by their start time, and killed only if they do not stop."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import psutil
import pytest

from driftline.errors import MachineError
from driftline.ops.processes import (
    Process,
    Request,
    ServiceState,
    SupervisorState,
    born,
    file_digest,
    forget_ended,
    read_processes,
    read_request,
    read_state,
    read_states,
    read_supervisor,
    spawn,
    stop,
    unreadable,
    write_processes,
    write_request,
    write_state,
    write_supervisor,
)

# Reports that it is running, then sleeps until a signal arrives.
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


def process(pid: int, birth: str) -> Process:
    return Process(service="inference", slot=0, pid=pid, born=birth, log="log")


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[[str], Process]]:
    """Return a function that starts Python code as a process."""
    children: list[subprocess.Popen[bytes]] = []

    def start(code: str) -> Process:
        log = tmp_path / "log"
        children.append(child := spawn([sys.executable, "-c", code], log))
        while b"here" not in log.read_bytes():
            assert child.poll() is None
        return process(child.pid, born(child.pid) or "")

    yield start
    for child in children:
        child.kill()
        child.wait()


def test_a_process_has_a_constant_start_time_and_none_after_its_end() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()

    assert born(os.getpid()) == born(os.getpid())
    assert born(child.pid) is None


@pytest.mark.skipif(sys.platform != "linux", reason="replaces psutil's reading of Linux' boot time")
def test_a_change_of_the_wall_clock_does_not_change_the_start_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = born(os.getpid())
    booted_s = psutil.boot_time()
    monkeypatch.setattr("psutil._psplatform.boot_time", lambda: booted_s + 3600)

    assert born(os.getpid()) == before


def test_a_process_is_asked_to_end_and_ends(started: Callable[[str], Process]) -> None:
    obedient = started(OBEDIENT)

    assert stop([obedient], patience_s=20) == ()
    assert not obedient.alive


def test_a_process_that_does_not_end_is_killed_and_returned(
    started: Callable[[str], Process],
) -> None:
    stubborn = started(STUBBORN)

    assert stop([stubborn], patience_s=0) == (stubborn,)
    assert not stubborn.alive


def test_another_process_with_the_same_pid_is_not_stopped() -> None:
    impostor = process(os.getpid(), "born before")

    assert not impostor.alive
    assert stop([impostor], patience_s=0) == ()


def test_states_and_processes_are_read_back_unchanged(tmp_path: Path) -> None:
    mine = state(os.getpid(), born(os.getpid()) or "")
    kept = process(mine.pid, mine.born)
    write_state(tmp_path, mine)
    write_processes(tmp_path, [kept])

    assert read_state(tmp_path, "inference", 0) == mine
    assert read_state(tmp_path, "monitor", 0) is None
    assert read_states(tmp_path) == (mine,)
    assert read_processes(tmp_path) == (kept,)


def test_only_the_states_of_ended_processes_are_deleted(tmp_path: Path) -> None:
    write_state(tmp_path, state(os.getpid(), "born before"))
    forget_ended(tmp_path)
    assert read_states(tmp_path) == ()

    write_state(tmp_path, state(os.getpid(), born(os.getpid()) or ""))
    forget_ended(tmp_path)
    assert len(read_states(tmp_path)) == 1


DAMAGED = [
    ("monitor-0.json", ""),
    ("monitor-0.json", "{"),
    ("monitor-0.json", '{"pid": 1}'),
    ("monitor-0.json", "a time"),
    ("monitor-0.json", "a folder"),
    ("processes.json", ""),
    ("processes.json", '[{"pid":-1,"born":"1","service":"inference","slot":0,"log":"x"}]'),
    ("processes.json", '[{"pid":0,"born":"1","service":"inference","slot":0,"log":"x"}]'),
    ("processes.json", '[{"pid":99999999999,"born":"1","service":"inference","slot":0,"log":"x"}]'),
    ("supervisor.json", '{"pid":-5,"born":"1","request":1}'),
    ("supervisor.json", '{"pid":99999999999999999999,"born":"1","request":1}'),
    ("wanted.json", "[]"),
]


@pytest.mark.parametrize(("name", "content"), DAMAGED)
def test_a_damaged_state_file_counts_as_missing_and_is_named(
    tmp_path: Path, name: str, content: str
) -> None:
    path = tmp_path / name
    if content == "a folder":
        path.mkdir()
    elif content == "a time":
        said = msgspec.to_builtins(state(os.getpid(), "1")) | {"updated": "garbage"}
        path.write_bytes(msgspec.json.encode(said))
    else:
        path.write_text(content, encoding="utf-8")

    assert read_states(tmp_path) == ()
    assert read_state(tmp_path, "monitor", 0) is None
    assert read_processes(tmp_path) == ()
    assert read_supervisor(tmp_path) is None
    assert read_request(tmp_path) is None
    (problem,) = unreadable(tmp_path)
    assert problem.startswith(f"{path} cannot be read, so its content is ignored: ")
    forget_ended(tmp_path)
    assert path.exists() == (content == "a folder" or name != "monitor-0.json")


def test_a_folder_without_damage_has_no_unreadable_file(tmp_path: Path) -> None:
    mine = state(os.getpid(), born(os.getpid()) or "")
    write_state(tmp_path, mine)
    write_processes(tmp_path, [process(mine.pid, mine.born)])
    write_supervisor(tmp_path, SupervisorState(pid=mine.pid, born=mine.born, request=1))
    write_request(tmp_path, Request(1))

    assert list(unreadable(tmp_path)) == []
    assert list(unreadable(tmp_path / "missing")) == []


def test_what_must_survive_a_power_failure_is_flushed_before_it_replaces_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[str] = []

    def fsync(number: int) -> None:
        flushed.append(Path(f"/dev/fd/{number}").resolve().name.split(".")[0])
        assert os.fstat(number).st_size  # written before

    monkeypatch.setattr("os.fsync", fsync)
    write_processes(tmp_path, [])
    write_supervisor(tmp_path, SupervisorState(pid=1, born="1", request=1))
    write_request(tmp_path, Request(1))
    write_state(tmp_path, state(1, "1"))

    assert flushed == ["processes", "supervisor", "wanted"]  # a state is written each second


def test_processes_of_another_user_are_named_after_the_others_have_ended(
    started: Callable[[str], Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    obedient = started(OBEDIENT)
    foreign = process(os.getpid(), born(os.getpid()) or "")
    kill = os.kill

    def refuse(pid: int, sign: int) -> None:
        if pid == foreign.pid:
            raise PermissionError(1, "Operation not permitted")
        kill(pid, sign)

    monkeypatch.setattr("os.kill", refuse)
    with pytest.raises(MachineError, match=f"another user and are still running: {foreign.pid}"):
        stop([foreign, obedient], patience_s=20)

    assert not obedient.alive


def test_a_process_file_of_an_older_version_is_read(tmp_path: Path) -> None:
    written = {"service": "monitor", "slot": 0, "pid": 7, "born": "8", "log": "monitor-0.log"}
    (tmp_path / "processes.json").write_bytes(msgspec.json.encode([written]))

    assert [kept.name for kept in read_processes(tmp_path)] == ["monitor-0"]


def test_the_digest_of_a_stream_file_changes_only_with_its_content(tmp_path: Path) -> None:
    digests = []
    for text in (
        'version = 1\nname = "s"\n[time]\nstart = 2026-01-01T00:00:00Z',
        '# a comment\nname    = "s"\nversion = 1\n\ntime = {start = 2026-01-01T00:00:00Z}\n',
        'version = 1\nname = "t"\n[time]\nstart = 2026-01-01T00:00:00Z',
    ):
        (tmp_path / "s.toml").write_text(text, encoding="utf-8")
        digests.append(file_digest(tmp_path / "s.toml"))

    assert digests[0] == digests[1] != digests[2]
