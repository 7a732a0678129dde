"""Run the supervisor process, which starts a stream's services and restarts them when they exit.

Input: the folder to which `driftline up` writes its requests. Output: the service processes, and
`processes.json`, `supervisor.json` and a log in the same folder. `driftline up` runs this module
as `python -m driftline.ops.supervisor FOLDER`. It does not connect to the broker.
"""

import fcntl
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, ParamSpec, Protocol

import msgspec

from driftline.clock import Clock, SystemClock, rfc3339
from driftline.config.settings import load_settings
from driftline.errors import DriftlineError, MachineError
from driftline.logs import Speaker, log_service
from driftline.ops.processes import (
    CRASHES,
    Process,
    Request,
    SupervisorState,
    Wanted,
    born,
    read_processes,
    read_request,
    read_state,
    read_supervisor,
    spawn,
    stop,
    write_processes,
    write_supervisor,
)

log = logging.getLogger(__name__)

# The pause before a restart. It doubles each time the service exits, up to `LONGEST_PAUSE_S`. It is
# reset once the service has run for `RAN_WELL_S`.
FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 60.0
# After this many doublings, the pause is at its maximum. A larger exponent could overflow.
_MOST_DOUBLINGS: Final = 6
RAN_WELL_S: Final = 60.0
# After SIGTERM, a service commits and leaves its group. This takes less than a second unless the
# broker is unreachable.
STOP_PATIENCE_S: Final = 30.0
# Maximum size of the file for output that bypasses a service's log, such as the traceback of a
# crash in the interpreter or a native library.
MAX_OUTPUT_BYTES: Final = 500_000
_STEP_EVERY_S: Final = 0.2
# Prefix of error messages that Driftline's commands print.
_ERROR: Final = "error: "

P = ParamSpec("P")


class Child(Protocol):
    """A child process, such as `subprocess.Popen`."""

    pid: int

    def poll(self) -> int | None:
        """Return the exit code, negative after a signal, or None while the process runs."""


class Supervisor:
    """Keeps services running. This class is not thread-safe.

    If an earlier supervisor was killed, its services may still be running. This supervisor adopts
    them: they continue without interruption, and are restarted when they exit.
    """

    def __init__(
        self,
        folder: Path,
        clock: Clock,
        start: Callable[[Wanted], Child] = lambda wanted: _start(wanted),
    ) -> None:
        self._folder = folder
        self._clock = clock
        self._start = start
        self._request = Request()
        self._kept: dict[str, _Kept] = {}
        self._left = {process.name: process for process in read_processes(folder) if process.alive}
        # Task of `step` that is failing → its last error, which has already been logged.
        self._failing: dict[str, str] = {}

    def step(self) -> None:
        """Handle a new request, detect services that have exited, and start services that are due.

        If one of these tasks fails, its error is logged once, and the next call retries the task.
        The other tasks are not affected.
        """
        self._try("the request", self._look_for_a_request)
        for kept in self._kept.values():
            self._try(kept.wanted.name, self._supervise, kept)
            self._try(f"output of {kept.wanted.name}", _limit_output, kept.wanted)
        self._try("the state files", self._write)

    def stop(self) -> None:
        """Stop all services, and wait until they have ended."""
        log.info("stopping all services")
        for process in stop(self._processes(), patience_s=STOP_PATIENCE_S):
            log.warning("%s did not end within %g s and was killed", process.name, STOP_PATIENCE_S)
        write_processes(self._folder, ())

    def _try(self, what: str, do: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        """Run one task of a step. If it fails, log the error unless it is the same as last time."""
        try:
            do(*args, **kwargs)
        except Exception as error:
            if self._failing.get(what) != repr(error):
                self._failing[what] = repr(error)
                expected = isinstance(error, OSError | DriftlineError)
                log.error("%s: %s; trying again", what, error, exc_info=not expected)
        else:
            self._failing.pop(what, None)

    def _supervise(self, kept: "_Kept") -> None:
        if kept.is_running:
            self._look_at(kept)
        elif self._clock.monotonic() >= kept.due_s:
            self._start_again(kept)

    def _processes(self) -> tuple[Process, ...]:
        kept = [kept.process for kept in self._kept.values() if kept.process is not None]
        # Add services that an earlier supervisor left running and that were not requested again,
        # because `driftline down` must stop them too.
        return (*kept, *(process for process in self._left.values() if process.alive))

    def _write(self) -> None:
        # Compare with the files' contents, so that damaged or missing files are also rewritten.
        processes, myself = self._processes(), _myself(self._request.number)
        if processes != read_processes(self._folder):
            write_processes(self._folder, processes)
        if myself != read_supervisor(self._folder):
            write_supervisor(self._folder, myself)

    def _look_for_a_request(self) -> None:
        request = read_request(self._folder)
        if request is not None and request.number != self._request.number:
            self._take_up(request)

    def _take_up(self, request: Request) -> None:
        for wanted in request.services:
            known = self._kept.get(wanted.name)
            if known is None:
                known = _Kept(wanted, self._left.pop(wanted.name, None), self._clock.monotonic())
                self._kept[wanted.name] = known
                if known.is_running:
                    log.info("%s is already running: adopting it", wanted.name)
            known.wanted = wanted
            # Start at once, because the operator may have fixed the cause of earlier failures.
            known.change(failures=0)
            known.due_s = self._clock.monotonic()
        self._request = request

    def _look_at(self, kept: "_Kept") -> None:
        assert kept.process is not None
        ran_s = self._clock.monotonic() - kept.started_s
        if not kept.has_ended():
            if kept.process.failures and ran_s >= RAN_WELL_S:
                kept.change(failures=0)
            return
        failures = 1 if ran_s >= RAN_WELL_S else kept.process.failures + 1
        pause_s = _pause_s(failures)
        try:
            error = self._how_it_ended(kept)
        except Exception as unknown:  # noqa: BLE001 - a restart does not need the reason
            error = f"ended; the reason is unknown: {unknown}"
        kept.ended(
            due_s=self._clock.monotonic() + pause_s,
            failures=failures,
            error=error,
            retry=rfc3339(self._clock.time() + pause_s),
        )
        often = f", {failures} times in a row" if failures >= CRASHES else ""
        log.warning("%s ended%s: %s; next start in %g s", kept.wanted.name, often, error, pause_s)

    def _start_again(self, kept: "_Kept") -> None:
        try:
            child = self._start(kept.wanted)
        except Exception as error:  # noqa: BLE001 - for example, the disk is full
            failures = 1 + (kept.process.failures if kept.process else 0)
            kept.due_s = self._clock.monotonic() + _pause_s(failures)
            kept.change(failures=failures, error=str(error))
            log.error("%s cannot be started: %s", kept.wanted.name, error)
            return
        kept.started(child, self._clock.monotonic())
        log.info("%s started, pid %d", kept.wanted.name, child.pid)

    def _how_it_ended(self, kept: "_Kept") -> str:
        """Describe how a service ended: its exit code and its last error.

        The error comes from the service's state file or, failing that, from its standard error.
        """
        assert kept.process is not None
        code = kept.child.poll() if kept.child is not None else None
        if code is None:
            end = "ended"
        elif code < 0:
            end = f"killed by {_signal_name(-code)}"
        else:
            end = f"exit code {code}"
        state = read_state(self._folder, kept.process.service, kept.process.slot)
        if state is not None and state.pid == kept.process.pid and state.error:
            return f"{end}: {state.error}"
        last = _last_words(output_of(kept.wanted), code)
        return f"{end}: {last}" if last else end


class _Kept:
    """A supervised service, with its process and the time of its next start."""

    def __init__(self, wanted: Wanted, left: Process | None, now_s: float) -> None:
        self.wanted = wanted
        self.process = left
        self.child: Child | None = None  # None before the first start, and for adopted processes
        self.is_running = left is not None
        self.started_s = now_s
        self.due_s = now_s

    def has_ended(self) -> bool:
        if self.child is not None:
            return self.child.poll() is not None
        return self.process is None or not self.process.alive

    def change(self, **fields: object) -> None:
        if self.process is not None:
            self.process = msgspec.structs.replace(self.process, **fields)

    def ended(self, *, due_s: float, failures: int, error: str, retry: str) -> None:
        self.is_running = False
        self.due_s = due_s
        self.change(failures=failures, error=error, retry=retry)

    def started(self, child: Child, now_s: float) -> None:
        before, wanted = self.process, self.wanted
        self.child = child
        self.is_running = True
        self.started_s = now_s
        self.process = Process(
            pid=child.pid,
            # A process that exited at once has no start time; `has_ended` detects its exit.
            born=born(child.pid) or "ended at once",
            service=wanted.service,
            slot=wanted.slot,
            log=wanted.log,
            restarts=0 if before is None else before.restarts + 1,
            failures=0 if before is None else before.failures,
            error=None if before is None else before.error,
        )


def _pause_s(failures: int) -> float:
    """Return the pause after this number of consecutive exits or failed starts."""
    doublings = min(failures - 1, _MOST_DOUBLINGS)
    return min(FIRST_PAUSE_S * float(2**doublings), LONGEST_PAUSE_S)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # real-time signals have no name
        return f"signal {number}"


def output_of(wanted: Wanted) -> Path:
    """Return the path of the file for output that bypasses the service's log."""
    return Path(wanted.log).with_suffix(".err")


def _start(wanted: Wanted) -> Child:
    output = output_of(wanted)
    if output.exists() and output.stat().st_size:
        output.replace(output.with_suffix(".err.1"))
    return spawn(wanted.command, output)


def _limit_output(wanted: Wanted) -> None:
    """Empty the output file if it is too large. The service keeps appending to it."""
    output = output_of(wanted)
    if output.exists() and output.stat().st_size > MAX_OUTPUT_BYTES:
        os.truncate(output, 0)


def _last_words(output: Path, code: int | None) -> str:
    """Return the error that a process printed, or "". `code` is its exit code, None if unknown.

    Driftline's commands print `error: …`, sometimes followed by a hint, and exit with code 2. Any
    other error comes from the interpreter, which prints the message on the last line.
    """
    if not output.exists() or (code is not None and code <= 0):
        return ""
    lines = output.read_text(encoding="utf-8", errors="replace").split("\n")
    if code in (None, 2):
        for line in reversed(lines):
            if line.startswith(_ERROR):
                return line.removeprefix(_ERROR).strip()
    if code is None:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _myself(request: int) -> SupervisorState:
    pid = os.getpid()
    return SupervisorState(pid=pid, born=born(pid) or "unknown", request=request)


def start_supervisor(folder: Path) -> subprocess.Popen[bytes]:
    """Start a folder's supervisor process. It exits at once if another one is already running."""
    command = (sys.executable, "-m", "driftline.ops.supervisor", str(folder.absolute()))
    return spawn(command, folder / "supervisor.err")


def main(folder: Path) -> None:
    """Supervise until SIGTERM or SIGINT, then stop all services. Raises DriftlineError."""
    settings = load_settings()
    log_service(
        Speaker(folder.name, "supervisor", 0),
        level=settings.log_level,
        format=settings.log_format,
        file=folder / "supervisor.log",
    )
    halt = threading.Event()
    for sign in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sign, lambda *_: halt.set())
    with (folder / "supervisor.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("exiting, because another supervisor is running")
            return
        supervisor = Supervisor(folder, SystemClock())
        while not halt.is_set():
            supervisor.step()
            halt.wait(_STEP_EVERY_S)
        try:
            supervisor.stop()
        except (OSError, MachineError) as error:  # a full disk, or another user's service
            log.error("%s", error)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
