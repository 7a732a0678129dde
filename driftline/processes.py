"""Read and write the state files of the services on this machine, and start and stop processes.

The folder of a stream contains:

- `<service>-<slot>.json`: the state of a service, which it writes about once a second
- `wanted.json`: the services that `driftline up` asks for
- `processes.json` and `supervisor.json`: the processes and the supervisor, which writes both

The start time of a process distinguishes it from a later process with the same pid.
"""

import hashlib
import os
import signal
import subprocess
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeVar

import msgspec
import psutil

from driftline.errors import SettingsError
from driftline.settings import Settings
from driftline.stream import Stream
from driftline.topics import Service

State = Literal[
    "starting", "waiting for Kafka", "waiting for a model", "running", "stopped", "failed"
]
TroubleKind = Literal["waiting for Kafka", "too few partitions", "no progress"]

T = TypeVar("T")
R = TypeVar("R", bound="Running")

# The number of consecutive ends soon after the start that counts as a crash loop.
CRASHES = 3

_PROCESSES = "processes.json"
_SUPERVISOR = "supervisor.json"
_WANTED = "wanted.json"
# How often to check whether a process has ended.
_LOOK_EVERY_S = 0.05


class Running(msgspec.Struct, frozen=True):
    """A process, identified by its pid and its start time."""

    pid: int
    born: str

    @property
    def alive(self) -> bool:
        """Return whether the process still runs."""
        return born(self.pid) == self.born


class Trouble(msgspec.Struct, frozen=True):
    """A problem that keeps a service from working. `driftline health` allows each some time."""

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
    partitions: int = 0  # assigned to it
    consumed: int = 0  # messages handled since it started
    lag: int = 0  # unread messages of its partitions, about a second ago
    published: dict[str, int] = {}  # role of a topic → messages published there since it started
    model: str | None = None  # inference: digest of the model that serves
    gaps: int = 0  # ranges of its inputs that were deleted before it read them, since it started
    lost: int = 0  # offsets in those gaps whose ends are known
    problem: str | None = None  # outcomes: why labels and records are in different partitions
    refused: dict[str, str] = {}  # inference: digest of a rejected model → why
    error: str | None = None
    stream_digest: str | None = None  # of the stream file that the service has loaded
    troubles: tuple[Trouble, ...] = ()


class Process(Running, frozen=True, kw_only=True):
    """A supervised service: its current process, or its last one."""

    service: Service
    slot: int
    log: str
    restarts: int = 0  # since `driftline up` asked for it
    failures: int = 0  # consecutive ends; reset to 0 when the service has run for a minute
    error: str | None = None  # the reason for its last end
    retry: str | None = None  # RFC 3339 UTC: when it is restarted, if it has ended

    @property
    def name(self) -> str:
        """Return the name of the service's log and state file, without suffix."""
        return f"{self.service}-{self.slot}"

    @property
    def crash_looping(self) -> bool:
        """Return whether the service has ended `CRASHES` times in a row soon after its start."""
        return self.failures >= CRASHES


class SupervisorState(Running, frozen=True, kw_only=True):
    """The state that the supervisor writes about itself."""

    request: int  # the number of the last request that it has handled


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
    """The services that `driftline up` asks for. Each request has its own number."""

    number: int = 0
    services: tuple[Wanted, ...] = ()


def folder_of(settings: Settings, stream: Stream) -> Path:
    """Return the folder with the states and logs of the services of a stream."""
    return settings.services / f"{stream.kafka.topic_prefix}{stream.name}"


def file_digest(file: Path) -> str:
    """Return a digest of a stream file that does not depend on comments, order or layout."""
    content = tomllib.loads(file.read_text(encoding="utf-8"))
    return f"sha256:{hashlib.sha256(msgspec.json.encode(content, order='sorted')).hexdigest()}"


def born(pid: int) -> str | None:
    """Return the start time of a process, or None if it has ended or is a zombie.

    The time is in hundredths of a second since the machine booted, so that a change of the wall
    clock does not change it.
    """
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        # Both times depend on the wall clock in the same way, so their difference does not.
        return str(round((process.create_time() - psutil.boot_time()) * 100))
    except psutil.NoSuchProcess:
        return None


def write_state(folder: Path, state: ServiceState) -> None:
    """Replace the state file of a service at once, so that readers never see a partial file."""
    _replace(folder / f"{state.service}-{state.slot}.json", msgspec.json.encode(state))


def read_states(folder: Path) -> tuple[ServiceState, ...]:
    """Return the last state of each service, also of those that ended. Raises SettingsError."""
    return tuple(
        _read(path, ServiceState)
        for path in sorted(folder.glob("*-*.json"))  # the hyphen excludes processes.json
    )


def read_state(folder: Path, service: Service, slot: int) -> ServiceState | None:
    """Return the last state of a service, or None if it wrote none. Raises SettingsError."""
    path = folder / f"{service}-{slot}.json"
    return _read(path, ServiceState) if path.exists() else None


def forget_ended(folder: Path) -> None:
    """Remove the state files of processes that have ended. Raises SettingsError."""
    for state in read_states(folder):
        if not state.alive:
            (folder / f"{state.service}-{state.slot}.json").unlink(missing_ok=True)


def write_processes(folder: Path, processes: Sequence[Process]) -> None:
    """Replace the list of supervised services."""
    _replace(folder / _PROCESSES, msgspec.json.encode(processes))


def read_processes(folder: Path) -> tuple[Process, ...]:
    """Return the supervised services, also those that await a restart. Raises SettingsError."""
    path = folder / _PROCESSES
    return _read(path, tuple[Process, ...]) if path.exists() else ()


def write_request(folder: Path, request: Request) -> None:
    """Ask the supervisor to run services."""
    _replace(folder / _WANTED, msgspec.json.encode(request))


def read_request(folder: Path) -> Request:
    """Return the last request. Raises SettingsError."""
    path = folder / _WANTED
    return _read(path, Request) if path.exists() else Request()


def write_supervisor(folder: Path, state: SupervisorState) -> None:
    """Replace the state file of the supervisor."""
    _replace(folder / _SUPERVISOR, msgspec.json.encode(state))


def read_supervisor(folder: Path) -> SupervisorState | None:
    """Return the state of the supervisor, or None if it does not run. Raises SettingsError."""
    path = folder / _SUPERVISOR
    state = _read(path, SupervisorState) if path.exists() else None
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
            start_new_session=True,  # Ctrl-C in the terminal must not stop it
        )


def stop(processes: Sequence[R], *, patience_s: float) -> tuple[R, ...]:
    """Send SIGTERM to all processes and wait until they have ended, at most `patience_s`.

    The others are killed and returned. A kill loses no data, because services resume from committed
    offsets; the restart only takes longer.
    """
    for process in processes:
        _send(process, signal.SIGTERM)
    deadline_s = time.monotonic() + patience_s
    while any(process.alive for process in processes) and time.monotonic() < deadline_s:
        _look_again()
    stubborn = tuple(process for process in processes if process.alive)
    for process in stubborn:
        _send(process, signal.SIGKILL)
    while any(process.alive for process in stubborn):
        _look_again()
    return stubborn


def _send(process: Running, sign: signal.Signals) -> None:
    if process.alive:
        try:
            os.kill(process.pid, sign)
        except ProcessLookupError:
            return  # it has ended since the check


def _look_again() -> None:
    time.sleep(_LOOK_EVERY_S)  # they may not be child processes, so `wait` would not work


def _replace(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_bytes(content)
    part.replace(path)


def _read(path: Path, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError) as error:
        raise SettingsError(
            f"{path} cannot be read: {error}", hint="delete it if no service runs"
        ) from error
