"""Start and stop a stream's services as background processes on this machine.

Input: the folder of the stream's state files, and the services to run. Output: a request file for
the supervisor, which starts the services and keeps them running. If no supervisor is running, one
is started.
"""

import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from driftline.errors import DriftlineError
from driftline.ops.processes import (
    Process,
    Request,
    ServiceState,
    Wanted,
    forget_ended,
    read_processes,
    read_request,
    read_state,
    read_supervisor,
    stop,
    write_processes,
    write_request,
)
from driftline.ops.supervisor import STOP_PATIENCE_S, output_of, start_supervisor
from driftline.ops.workers import START_PATIENCE_S
from driftline.wire.topics import Service
from driftline_app.service_process import service_command

_POLL_EVERY_S: Final = 0.1
_LOG_LINES: Final = 15
# Time that a supervisor may take to exit after its services have exited.
_STOP_MARGIN_S: Final = 5.0

Supervisor = subprocess.Popen[bytes]


class Stopped(msgspec.Struct, frozen=True):
    """The services that were stopped. `killed` lists those that had to be killed."""

    stopped: tuple[Process, ...]
    killed: tuple[Process, ...]


def start_services(
    folder: Path, slots: Sequence[tuple[Service, int]], file: Path, servers: str
) -> tuple[Process, ...]:
    """Start the workers that are not running yet, and wait until all have joined their groups.

    Return the processes of all workers. Raises DriftlineError.
    """
    wanted = []
    for service, slot in slots:
        log = str((folder / f"{service}-{slot}.log").absolute())
        command = (*service_command(service, slot, file, servers), "--log-file", log)
        wanted.append(Wanted(service, slot, command, log))
    request, started = ask_supervisor(folder, wanted)
    wait_for_supervisor(folder, request, started)
    deadline_s = time.monotonic() + START_PATIENCE_S
    for each in request.services:
        while not _has_started(folder, each):
            if time.monotonic() > deadline_s:
                raise _failed(each, f"is not running after {START_PATIENCE_S:g} s")
            time.sleep(_POLL_EVERY_S)
    return tuple(p for each in request.services if (p := _process(folder, each)) is not None)


def replace_supervisor(folder: Path) -> bool:
    """Start a supervisor if services are running without one. Return whether one was started.

    Raises DriftlineError.
    """
    if read_supervisor(folder) is not None or not any(p.alive for p in read_processes(folder)):
        return False
    wait_for_supervisor(folder, *ask_supervisor(folder, ()))
    return True


def stop_services(folder: Path) -> Stopped:
    """Stop the supervisor and all services, and wait until their processes have exited."""
    supervisor = read_supervisor(folder)
    running = tuple(process for process in read_processes(folder) if process.alive)
    # Stop the supervisor first, because it would restart the services.
    everything = [*([supervisor] if supervisor else []), *running]
    killed = {process.pid for process in stop(everything, patience_s=STOP_PATIENCE_S)}
    # Then stop any service that the supervisor started in the meantime.
    stop(read_processes(folder), patience_s=STOP_PATIENCE_S)
    write_processes(folder, ())
    write_request(folder, Request((read_request(folder) or Request()).number))
    return Stopped(running, tuple(process for process in running if process.pid in killed))


def written_state(folder: Path, process: Process) -> ServiceState | None:
    """Return the state that a process wrote, or None if the process has not written its state.

    The state file may still contain an earlier process's state.
    """
    state = read_state(folder, process.service, process.slot)
    return state if state is not None and state.pid == process.pid else None


def ask_supervisor(folder: Path, services: Sequence[Wanted]) -> tuple[Request, Supervisor | None]:
    """Ask the supervisor to also run `services`. Start a supervisor if none is running.

    Return the request, and the supervisor's process if this function started the supervisor.
    """
    wanted = {}
    supervisor = read_supervisor(folder)
    last = read_request(folder) or Request()
    alive = {process.name for process in read_processes(folder) if process.alive}
    for known in last.services:
        if supervisor is not None or known.name in alive:
            wanted[known.name] = known
    for each in services:
        wanted[each.name] = each
    forget_ended(folder)
    handled = 0 if supervisor is None else supervisor.request
    request = Request(max(last.number, handled) + 1, tuple(wanted.values()))
    write_request(folder, request)
    return request, start_supervisor(folder) if supervisor is None else None


def wait_for_supervisor(folder: Path, request: Request, started: Supervisor | None) -> None:
    """Wait until the supervisor has accepted the request. Raises DriftlineError.

    `started` is the supervisor that was started for the request, or None. On a timeout, stop this
    supervisor unless services are running, because a supervisor stops all services before it exits.
    """
    deadline_s = time.monotonic() + START_PATIENCE_S
    while (supervisor := read_supervisor(folder)) is None or supervisor.request != request.number:
        if time.monotonic() > deadline_s:
            raise _no_supervisor(folder, started)
        time.sleep(_POLL_EVERY_S)  # wait for the supervisor to write its state file


def _no_supervisor(folder: Path, started: Supervisor | None) -> DriftlineError:
    """Return the error to raise when the supervisor does not accept a request.

    If no service is running, first stop the supervisor `started`.
    """
    logs = _last_lines(folder / "supervisor.log", folder / "supervisor.err")
    hint = "check that the disk is not full and the folder is writable, then try again"
    if started is None or any(process.alive for process in read_processes(folder)):
        who = "the supervisor" if started is None else f"the supervisor (pid {started.pid})"
        return DriftlineError(f"{who} is running, but does not accept the request{logs}", hint=hint)
    if started.poll() is None:
        started.terminate()  # before it exits, the supervisor stops its services
        try:
            started.wait(STOP_PATIENCE_S + _STOP_MARGIN_S)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()
        end = "did not write its state, and was stopped"
    else:
        end = f"ended with exit code {started.returncode}"
    return DriftlineError(f"could not start the supervisor: it {end}{logs}", hint=hint)


def _has_started(folder: Path, wanted: Wanted) -> bool:
    """Return whether a worker has joined its group. Raises DriftlineError if it has exited."""
    if (process := _process(folder, wanted)) is None:
        return False
    if process.failures:
        raise _failed(wanted, f"has ended: {process.error}")
    state = written_state(folder, process)
    return state is not None and state.state != "starting"


def _failed(wanted: Wanted, problem: str) -> DriftlineError:
    return DriftlineError(
        f"{wanted.name} {problem}{_last_lines(Path(wanted.log), output_of(wanted))}",
        hint="the supervisor keeps restarting this service, and the other services keep running; "
        "`driftline status` shows all services, and `driftline down` stops all services",
    )


def _process(folder: Path, wanted: Wanted) -> Process | None:
    return next((p for p in read_processes(folder) if p.name == wanted.name), None)


def _last_lines(*logs: Path) -> str:
    """Return the last lines of each non-empty log, under a heading."""
    shown = ""
    for log in logs:
        if log.exists() and (text := log.read_text(encoding="utf-8", errors="replace")):
            end = "\n".join(text.splitlines()[-_LOG_LINES:])
            shown += f"\nthe last lines of {log}:\n{end}"
    return shown
