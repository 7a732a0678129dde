"""Read and write the state files of the services on this machine, and start and stop processes.

A stream's folder contains:

- `<service>-<slot>.json`: a service's state, which the service writes about once a second
- `<service>-<slot>.commits`: the worker's latest commits (`driftline.runtime.commits_file`)
- `wanted.json`: the services that `driftline up` requests
- `processes.json` and `supervisor.json`: the service processes, and the supervisor's own state;
  the supervisor writes both files

A process's start time distinguishes it from a later process with the same pid.

An unreadable file is treated as missing, so that a damaged file does not stop supervision.
`unreadable()` reports such files.
"""

import hashlib
import os
import signal
import subprocess
import time
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal, TypeVar, cast

import msgspec
import psutil

from driftline.config.settings import Settings
from driftline.config.stream import Stream
from driftline.errors import MachineError
from driftline.files import replace_file
from driftline.wire.topics import Service
from driftline.wire.values import parse_time

State = Literal[
    "starting", "waiting for Kafka", "waiting for a model", "running", "stopped", "failed"
]
TroubleKind = Literal["waiting for Kafka", "too few partitions", "no progress", "no model"]

T = TypeVar("T")
R = TypeVar("R", bound="Running")

# `kill` treats smaller numbers as process groups. Larger numbers overflow the kernel's pid type.
Pid = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]

# A service that exits this many times in a row soon after starting is in a crash loop.
CRASHES = 3

_PROCESSES = "processes.json"
_SUPERVISOR = "supervisor.json"
_WANTED = "wanted.json"
# Interval at which `stop` checks whether processes have ended.
_LOOK_EVERY_S = 0.05


class Running(msgspec.Struct, frozen=True):
    """A process, identified by its pid and its start time."""

    pid: Pid
    born: str

    @property
    def alive(self) -> bool:
        """Return whether the process is still running."""
        return born(self.pid) == self.born


class Trouble(msgspec.Struct, frozen=True):
    """A problem that keeps a service from working. `driftline health` tolerates it for a while."""

    kind: TroubleKind
    since: str  # RFC 3339 UTC
    detail: str


class ServiceState(Running, frozen=True, kw_only=True):
    """The state that a service process writes about itself. Times are RFC 3339 UTC."""

    service: Service
    slot: int
    state: State
    started: str
    updated: str
    partitions: int = 0  # number of partitions assigned to the worker
    consumed: int = 0  # number of messages handled since the service started
    lag: int = 0  # unread messages in the assigned partitions, updated about once a second
    published: dict[str, int] = {}  # topic role → messages published since the service started
    model: str | None = None  # inference: digest of the model in use
    gaps: int = 0  # gaps detected since the start: offset ranges deleted before they were read
    lost: int = 0  # number of offsets in all gaps with a known end
    problem: str | None = None  # outcomes: why labels and records are in different partitions
    rejected: dict[str, str] = {}  # inference: digest or record key of a rejected model → reason
    error: str | None = None
    stream_digest: str | None = None  # digest of the stream file that the service loaded
    troubles: tuple[Trouble, ...] = ()

    def __post_init__(self) -> None:
        """Check the times, so that a file with an invalid time is treated as unreadable."""
        for moment in (self.started, self.updated, *(trouble.since for trouble in self.troubles)):
            parse_time(moment)


class Process(Running, frozen=True, kw_only=True):
    """A supervised service's current process, or its last process if the service has ended."""

    service: Service
    slot: int
    log: str
    restarts: int = 0  # number of restarts since `driftline up` requested the service
    failures: int = 0  # number of consecutive exits; reset after the service has run for a minute
    error: str | None = None  # why the service last ended
    retry: str | None = None  # if the service has ended: time of the next start (RFC 3339 UTC)

    @property
    def name(self) -> str:
        """Return the name of the service's log and state files, without their suffixes."""
        return f"{self.service}-{self.slot}"

    @property
    def crash_looping(self) -> bool:
        """Return whether the service has exited `CRASHES` times in a row soon after starting."""
        return self.failures >= CRASHES


class SupervisorState(Running, frozen=True, kw_only=True):
    """The state that the supervisor writes about itself."""

    request: int  # number of the last request that the supervisor handled


class Wanted(msgspec.Struct, frozen=True):
    """A service that should run, with its command and log file."""

    service: Service
    slot: int
    command: tuple[str, ...]
    log: str

    @property
    def name(self) -> str:
        return f"{self.service}-{self.slot}"


class Request(msgspec.Struct, frozen=True):
    """The services that `driftline up` requests. Each request has its own number."""

    number: int = 0
    services: tuple[Wanted, ...] = ()


def folder_of(settings: Settings, stream: Stream) -> Path:
    """Return the folder that holds the state files and logs of a stream's services."""
    return settings.services / f"{stream.kafka.topic_prefix}{stream.name}"


def file_digest(file: Path) -> str:
    """Return a stream file's digest, which does not depend on comments, key order or layout."""
    content = tomllib.loads(file.read_text(encoding="utf-8"))
    return f"sha256:{hashlib.sha256(msgspec.json.encode(content, order='sorted')).hexdigest()}"


def born(pid: int) -> str | None:
    """Return a process's start time, or None if the process has ended or is a zombie.

    The time is in hundredths of a second since the machine booted, so that changes to the wall
    clock do not affect it.
    """
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        # A change to the wall clock shifts both times equally, so their difference is constant.
        return str(round((process.create_time() - psutil.boot_time()) * 100))
    except psutil.NoSuchProcess:
        return None


def write_state(folder: Path, state: ServiceState) -> None:
    """Replace a service's state file atomically, so that readers never see a partial file."""
    # The file need not survive a power failure, so it is not flushed to disk.
    path = folder / f"{state.service}-{state.slot}.json"
    replace_file(path, msgspec.json.encode(state), flush=False)


def read_states(folder: Path) -> tuple[ServiceState, ...]:
    """Return each service's last state, including services that have ended."""
    states = (_read(path, ServiceState) for path in _state_files(folder))
    return tuple(state for state in states if state is not None)


def read_state(folder: Path, service: Service, slot: int) -> ServiceState | None:
    """Return a service's last state, or None if its state file is missing or unreadable."""
    return _read(folder / f"{service}-{slot}.json", ServiceState)


def unreadable(folder: Path, name: str = "*") -> Iterator[str]:
    """Yield a message for each state file that cannot be read, with the reason.

    To check a single file, pass its name without `.json` as `name`. The supervisor and running
    services soon replace their own unreadable files.
    """
    kinds: dict[str, object] = {
        _PROCESSES: tuple[Process, ...],
        _SUPERVISOR: SupervisorState,
        _WANTED: Request,
    }
    for path in sorted(folder.glob(f"{name}.json")):
        try:
            _decode(path, kinds.get(path.name, ServiceState))
        except FileNotFoundError:
            continue  # the file was removed after the folder was listed
        except (OSError, msgspec.DecodeError) as error:
            yield f"{path} cannot be read, so its content is ignored: {error}"


def forget_ended(folder: Path) -> None:
    """Remove the state files of processes that have ended, and unreadable state files.

    A running service soon rewrites its file.
    """
    for path in _state_files(folder):
        state = _read(path, ServiceState)
        if path.is_file() and (state is None or not state.alive):
            path.unlink(missing_ok=True)


def write_processes(folder: Path, processes: Sequence[Process]) -> None:
    """Replace the list of supervised services."""
    replace_file(folder / _PROCESSES, msgspec.json.encode(processes))


def read_processes(folder: Path) -> tuple[Process, ...]:
    """Return the supervised services, including services that await a restart."""
    return _read(folder / _PROCESSES, tuple[Process, ...]) or ()


def write_request(folder: Path, request: Request) -> None:
    """Ask the supervisor to run the services of a request."""
    replace_file(folder / _WANTED, msgspec.json.encode(request))


def read_request(folder: Path) -> Request | None:
    """Return the last request, or None if its file is missing or unreadable."""
    return _read(folder / _WANTED, Request)


def write_supervisor(folder: Path, state: SupervisorState) -> None:
    """Replace the supervisor's state file."""
    replace_file(folder / _SUPERVISOR, msgspec.json.encode(state))


def read_supervisor(folder: Path) -> SupervisorState | None:
    """Return the supervisor's state, or None if it is not running or its file is unreadable."""
    state = _read(folder / _SUPERVISOR, SupervisorState)
    return state if state is not None and state.alive else None


def spawn(command: Sequence[str], output: Path) -> subprocess.Popen[bytes]:
    """Start a process in its own session, and append its output to a file."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("ab") as file:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,  # Ctrl-C in the terminal must not stop the process
        )


def stop(processes: Sequence[R], *, patience_s: float) -> tuple[R, ...]:
    """Send SIGTERM to all processes, and wait up to `patience_s` seconds for them to end.

    Processes that are still running after that time are killed and returned. Killing a service
    loses no data, because services resume from committed offsets, but its next start takes longer.

    If a process belongs to another user, stop all other processes, then raise MachineError.
    """
    foreign = [process for process in processes if not _send(process, signal.SIGTERM)]
    own = [process for process in processes if process not in foreign]
    deadline_s = time.monotonic() + patience_s
    while any(process.alive for process in own) and time.monotonic() < deadline_s:
        _look_again()
    stubborn = tuple(process for process in own if process.alive)
    for process in stubborn:
        _send(process, signal.SIGKILL)
    while any(process.alive for process in stubborn):
        _look_again()
    if foreign:
        pids = ", ".join(str(process.pid) for process in foreign)
        raise MachineError(
            f"these processes belong to another user and are still running: {pids}",
            hint="stop them as that user",
        )
    return stubborn


def _send(process: Running, sign: signal.Signals) -> bool:
    """Send a signal to a process if it is running. Return False if this user lacks permission."""
    if process.alive:
        try:
            os.kill(process.pid, sign)
        except ProcessLookupError:
            pass  # the process ended after the check
        except PermissionError:
            return False
    return True


def _look_again() -> None:
    time.sleep(_LOOK_EVERY_S)  # `wait` works only for child processes


def _state_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*-*.json"))  # the hyphen excludes processes.json


def _read(path: Path, kind: type[T]) -> T | None:
    """Return a file's content, or None if the file is missing or unreadable."""
    try:
        return cast(T, _decode(path, kind))
    except (OSError, msgspec.DecodeError):
        return None


def _decode(path: Path, kind: object) -> object:
    return msgspec.json.decode(path.read_bytes(), type=kind)
