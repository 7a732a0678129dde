"""Services as processes of this machine: what each says about itself, and which were started here.

In: a folder per stream. Out: `<service>-<slot>.json`, which a service writes about once a second;
`wanted.json`, in which `driftline up` asks for services; `processes.json` and `supervisor.json`,
which the supervisor writes. A process is told from a later one with the same pid by its birth.
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

# So many ends in a row, each soon after the start, make a crash loop.
CRASHES = 3

_PROCESSES = "processes.json"
_SUPERVISOR = "supervisor.json"
_WANTED = "wanted.json"
# How often a process that is awaited is looked at.
_LOOK_EVERY_S = 0.05


class Running(msgspec.Struct, frozen=True):
    """A process, told from a later one with its pid by its birth."""

    pid: int
    born: str

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return born(self.pid) == self.born


class Trouble(msgspec.Struct, frozen=True):
    """What keeps a service from its work. `driftline health` allows each kind some time."""

    kind: TroubleKind
    since: str  # RFC 3339 UTC
    detail: str


class ServiceState(Running, frozen=True, kw_only=True):
    """What a service process says about itself. Times are RFC 3339 UTC."""

    service: Service
    slot: int
    state: State
    started: str
    updated: str
    partitions: int = 0  # assigned to it
    consumed: int = 0  # messages handled since it started
    lag: int = 0  # messages of its partitions that it has still to read, as of a second ago
    published: dict[str, int] = {}  # role of a topic → messages published there since it started
    model: str | None = None  # inference: digest of the model that answers
    gaps: int = 0  # ranges of its inputs that were deleted before it read them, since it started
    lost: int = 0  # offsets in those of which the ends are known
    problem: str | None = None  # outcomes: what separates labels from their records
    refused: dict[str, str] = {}  # inference: digest of a model that was not let in → why
    error: str | None = None
    stream_digest: str | None = None  # of the stream file that it has read
    troubles: tuple[Trouble, ...] = ()


class Process(Running, frozen=True, kw_only=True):
    """A service as the supervisor keeps it: its present process, or else its last one."""

    service: Service
    slot: int
    log: str
    restarts: int = 0  # since `driftline up` asked for it
    failures: int = 0  # ends in a row, none of them after it had run well for a while
    error: str | None = None  # how it ended last
    retry: str | None = None  # RFC 3339 UTC: it has ended and is started again then

    @property
    def name(self) -> str:
        """As its log and its state file are called."""
        return f"{self.service}-{self.slot}"

    @property
    def crash_looping(self) -> bool:
        """Whether it ended again and again soon after its start."""
        return self.failures >= CRASHES


class SupervisorState(Running, frozen=True, kw_only=True):
    """What the supervisor says about itself."""

    request: int  # the last one that it has taken up


class Wanted(msgspec.Struct, frozen=True):
    """A service that is to run, and how."""

    service: Service
    slot: int
    command: tuple[str, ...]
    log: str

    @property
    def name(self) -> str:
        return f"{self.service}-{self.slot}"


class Request(msgspec.Struct, frozen=True):
    """Which services `driftline up` wants to run. Each one has a number of its own."""

    number: int = 0
    services: tuple[Wanted, ...] = ()


def folder_of(settings: Settings, stream: Stream) -> Path:
    """Where the services of a stream keep their states and logs."""
    return settings.services / f"{stream.kafka.topic_prefix}{stream.name}"


def file_digest(file: Path) -> str:
    """A digest of what a stream file says: comments, order and layout leave it as it is."""
    content = tomllib.loads(file.read_text(encoding="utf-8"))
    return f"sha256:{hashlib.sha256(msgspec.json.encode(content, order='sorted')).hexdigest()}"


def born(pid: int) -> str | None:
    """Return when a process was started; None if it is gone or a zombie.

    Counted in hundredths of a second since the machine booted, so that a change of the wall clock
    does not make a running process look like another one.
    """
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        # Both are times of the wall clock, and derived from the same reading of it.
        return str(round((process.create_time() - psutil.boot_time()) * 100))
    except psutil.NoSuchProcess:
        return None


def write_state(folder: Path, state: ServiceState) -> None:
    """Replace the state file of a service; a reader never meets half of it."""
    _replace(folder / f"{state.service}-{state.slot}.json", msgspec.json.encode(state))


def read_states(folder: Path) -> tuple[ServiceState, ...]:
    """What the services said last, also those that ended. Raises SettingsError."""
    return tuple(
        _read(path, ServiceState)
        for path in sorted(folder.glob("*-*.json"))  # not processes.json
    )


def read_state(folder: Path, service: Service, slot: int) -> ServiceState | None:
    """What one service said last; None if it never did. Raises SettingsError."""
    path = folder / f"{service}-{slot}.json"
    return _read(path, ServiceState) if path.exists() else None


def forget_ended(folder: Path) -> None:
    """Remove what processes said that are no more."""
    for state in read_states(folder):
        if not state.alive:
            (folder / f"{state.service}-{state.slot}.json").unlink(missing_ok=True)


def write_processes(folder: Path, processes: Sequence[Process]) -> None:
    """Note which services are kept running."""
    _replace(folder / _PROCESSES, msgspec.json.encode(processes))


def read_processes(folder: Path) -> tuple[Process, ...]:
    """The services that are kept running, also those that have just ended. Raises SettingsError."""
    path = folder / _PROCESSES
    return _read(path, tuple[Process, ...]) if path.exists() else ()


def write_request(folder: Path, request: Request) -> None:
    """Ask the supervisor for services."""
    _replace(folder / _WANTED, msgspec.json.encode(request))


def read_request(folder: Path) -> Request:
    """What was asked for last. Raises SettingsError."""
    path = folder / _WANTED
    return _read(path, Request) if path.exists() else Request()


def write_supervisor(folder: Path, state: SupervisorState) -> None:
    """Replace the supervisor's state file."""
    _replace(folder / _SUPERVISOR, msgspec.json.encode(state))


def read_supervisor(folder: Path) -> SupervisorState | None:
    """The supervisor, if it runs. Raises SettingsError."""
    path = folder / _SUPERVISOR
    state = _read(path, SupervisorState) if path.exists() else None
    return state if state is not None and state.alive else None


def spawn(command: Sequence[str], output: Path) -> subprocess.Popen[bytes]:
    """Start a process of its own session whose output goes to the end of a file."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("ab") as file:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,  # Ctrl-C in the terminal that started it must not end it
        )


def stop(processes: Sequence[R], *, patience_s: float) -> tuple[R, ...]:
    """Ask all to end and wait until they are gone; kill those that are not within `patience_s`.

    Returns those that had to be killed. Committed offsets make that safe, only slower to resume.
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
            return  # it ended in between


def _look_again() -> None:
    time.sleep(_LOOK_EVERY_S)  # not always our children, so they cannot be waited for


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
