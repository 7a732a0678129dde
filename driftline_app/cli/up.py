"""`driftline up` and `driftline down`: run the services as supervised processes of this machine."""

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.table import Table

from driftline.config.settings import load_settings
from driftline.config.stream import load
from driftline.errors import BrokerUnavailable, DriftlineError
from driftline.ops.processes import (
    Process,
    Request,
    ServiceState,
    SupervisorState,
    Wanted,
    folder_of,
    forget_ended,
    read_processes,
    read_request,
    read_state,
    read_supervisor,
    stop,
    unreadable,
    write_processes,
    write_request,
)
from driftline.ops.supervisor import STOP_PATIENCE_S, output_of, start_supervisor
from driftline.ops.workers import START_PATIENCE_S
from driftline.safe_text import json_line
from driftline.wire.topics import SERVICES, Service, Topics, require
from driftline.wire.topics import apply as create_missing
from driftline_app.cli.options import (
    BootstrapServers,
    Context,
    Json,
    StreamFile,
    open_context,
    stderr,
    stdout,
)
from driftline_app.cli.stream_file import find_stream_file
from driftline_app.systemd_units import systemd_units

_LOOK_EVERY_S = 0.1
_LOG_LINES = 15
# The time that a supervisor needs to end after its services.
_STOP_MARGIN_S = 5.0


def up(
    file: StreamFile = None,
    bootstrap_server: BootstrapServers = None,
    workers: Annotated[
        int,
        typer.Option(
            min=1, metavar="N", help="Number of workers each for inference, outcomes and monitor."
        ),
    ] = 1,
    broker: Annotated[
        bool,
        typer.Option("--broker", help="Also start the local Kafka, like `driftline broker up`."),
    ] = False,
    print_units: Annotated[
        Literal["systemd"] | None,
        typer.Option(
            "--print",
            help="Print a systemd unit for each service, and start nothing.",
            show_default=False,
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Start all services of a stream, and keep them running in the background.

    Creates missing topics, and waits until all services run. A supervisor restarts a service that
    ends: after 1 s, then 2 s, and so on up to a minute. `driftline status` shows the services, and
    `driftline down` stops them. Running the command again is safe: it starts only what is missing,
    and replaces a supervisor that was killed. Exit code 0: all services run. 2: one does not.

    Example: driftline up --broker
    """
    path = find_stream_file(file)
    slots = [
        (service, slot)
        for service in SERVICES
        for slot in range(workers if service != "trainer" else 1)
    ]
    if print_units is not None:
        print(
            systemd_units(
                path, load(path), load_settings(bootstrap_servers=bootstrap_server), slots
            )
        )
        return
    settings = load_settings(bootstrap_servers=bootstrap_server)
    folder = folder_of(settings, load(path))
    # First of all, so that running services have a supervisor even if a later step fails.
    _replace_supervisor(folder)
    if broker:
        bootstrap_server = _start_broker()
    context = open_context(path, bootstrap_server)
    _create_topics(context, json)
    before = {process.pid for process in read_processes(folder) if process.alive}
    wanted = _wanted(folder, slots, path, context.settings.bootstrap_servers)
    request, started = _ask(folder, wanted)
    with stderr.status(f"starting {len(request.services) - len(before)} services"):
        processes = _wait_until_they_run(folder, request, started)
    if json:
        for process in processes:
            print(json_line(process))
        return
    _show_started(folder, processes, before)
    if not _has_champion(context):
        stdout.print("no model yet; `driftline train --data DATA` publishes the first one")


def down(file: StreamFile = None, json: Json = False) -> None:
    """Stop the services that `driftline up` started, and wait until they have ended.

    Each service commits its work and leaves its consumer group, so the next start repeats nothing.

    Example: driftline down
    """
    stream = load(find_stream_file(file))
    folder = folder_of(load_settings(), stream)
    supervisor = read_supervisor(folder)
    running = [process for process in read_processes(folder) if process.alive]
    with stderr.status(f"stopping {len(running)} services"):
        # The supervisor first, because it would restart the services.
        everything = [*([supervisor] if supervisor else []), *running]
        stubborn = {process.pid for process in stop(everything, patience_s=STOP_PATIENCE_S)}
        # Then whatever the supervisor was starting in that moment.
        stop(read_processes(folder), patience_s=STOP_PATIENCE_S)
    for damaged in unreadable(folder, "processes"):
        text = f"{damaged}; services that it names may still run; `driftline status` shows them"
        stderr.print(text, style="yellow", highlight=False, soft_wrap=True, markup=False)
    write_processes(folder, ())
    write_request(folder, Request((read_request(folder) or Request()).number))
    killed = [process for process in running if process.pid in stubborn]
    if json:
        result = {
            "stopped": [process.name for process in running],
            "killed": [process.name for process in killed],
        }
        print(json_line(result))
        return
    stdout.print(
        f"stopped {', '.join(process.name for process in running)}"
        if running
        else "no service was running"
    )
    for process in killed:
        stdout.print(
            f"{process.name} did not end within {STOP_PATIENCE_S:g} s and was killed; its next "
            f"start resumes from its committed offsets; see {process.log}",
            style="yellow",
            highlight=False,
        )


def _start_broker() -> str:
    from driftline.broker.local import LocalKafka

    with stderr.status("starting Apache Kafka"):
        return LocalKafka(load_settings().broker).up().bootstrap_servers


def _create_topics(context: Context, json: bool) -> None:
    topics = Topics(context.stream)
    try:
        admin = context.broker.admin()
    except BrokerUnavailable as error:
        if context.settings.bootstrap_servers == context.settings.local_broker:
            raise BrokerUnavailable(
                error.message,
                hint="`driftline broker up` or `driftline up --broker` starts a local Kafka",
            ) from error
        raise
    try:
        created = create_missing(admin, topics)
        more = require(admin, topics)
    finally:
        admin.close()
    for difference in more:
        text = f"{difference}: more than planned, which is allowed"
        stderr.print(text, style="yellow", highlight=False, soft_wrap=True)
    if created and not json:
        stdout.print(f"created {len(created)} topics: {', '.join(created)}", highlight=False)


def _has_champion(context: Context) -> bool:
    from driftline.models.catalog import read_catalog
    from driftline.models.keys import Trusted

    trusted = Trusted(context.settings.keys)
    return read_catalog(context.broker, Topics(context.stream), trusted).champion is not None


def _replace_supervisor(folder: Path) -> None:
    """Start a supervisor if services run without one. Raises DriftlineError."""
    if read_supervisor(folder) is None and any(p.alive for p in read_processes(folder)):
        _wait_for_supervisor(folder, *_ask(folder, ()))
        stderr.print("the supervisor had ended; started another one for the running services")


def _wanted(
    folder: Path, slots: Sequence[tuple[Service, int]], file: Path, servers: str
) -> tuple[Wanted, ...]:
    """Return the command of each service to start."""
    wanted = []
    for service, slot in slots:
        log = (folder / f"{service}-{slot}.log").absolute()
        command = (
            *(sys.executable, "-m", "driftline_app.cli", service, "--stream", str(file.absolute())),
            *("--bootstrap-server", servers, "--slot", str(slot), "--log-file", str(log)),
        )
        wanted.append(Wanted(service, slot, command, str(log)))
    return tuple(wanted)


def _ask(
    folder: Path, services: Sequence[Wanted]
) -> tuple[Request, subprocess.Popen[bytes] | None]:
    """Ask the supervisor to run these services too. Start a supervisor if there is none.

    Return the request, and the supervisor if it was started.
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


def _wait_for_supervisor(
    folder: Path, request: Request, started: subprocess.Popen[bytes] | None
) -> None:
    """Wait until the supervisor has accepted the request. Raises DriftlineError.

    If it does not, stop the supervisor that was `started` for it, unless services ran before: it
    would stop them, too.
    """
    deadline_s = time.monotonic() + START_PATIENCE_S
    while not _has_taken_up(read_supervisor(folder), request):
        if time.monotonic() > deadline_s:
            raise _no_supervisor(folder, started)
        time.sleep(_LOOK_EVERY_S)  # until the other process writes its file


def _no_supervisor(folder: Path, started: subprocess.Popen[bytes] | None) -> DriftlineError:
    """Return the error that the supervisor does not accept a request, after stopping it."""
    shown = _ends_of(folder / "supervisor.log", folder / "supervisor.err")
    hint = "check that the disk is not full and the folder is writable, then run it again"
    if started is None or any(process.alive for process in read_processes(folder)):
        who = "the supervisor" if started is None else f"the supervisor (pid {started.pid})"
        return DriftlineError(f"{who} runs, but does not accept the request{shown}", hint=hint)
    if started.poll() is None:
        started.terminate()  # it stops the services that it has started
        try:
            started.wait(STOP_PATIENCE_S + _STOP_MARGIN_S)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()
        end = "did not write its state, and was stopped"
    else:
        end = f"ended with exit code {started.returncode}"
    return DriftlineError(f"the supervisor does not start: it {end}{shown}", hint=hint)


def _wait_until_they_run(
    folder: Path, request: Request, started: subprocess.Popen[bytes] | None
) -> tuple[Process, ...]:
    """Wait until the supervisor has accepted the request and each service has joined its group.

    Raises DriftlineError.
    """
    _wait_for_supervisor(folder, request, started)
    deadline_s = time.monotonic() + START_PATIENCE_S
    for wanted in request.services:
        while True:
            process = _process(folder, wanted)
            said = None if process is None else _said(folder, process)
            if process is not None and process.failures:
                raise _failed(wanted, f"has ended: {process.error}")
            if process is not None and said is not None and said.state != "starting":
                break
            if time.monotonic() > deadline_s:
                raise _failed(wanted, f"is not running after {START_PATIENCE_S:g} s")
            time.sleep(_LOOK_EVERY_S)
    return tuple(p for wanted in request.services if (p := _process(folder, wanted)) is not None)


def _has_taken_up(supervisor: SupervisorState | None, request: Request) -> bool:
    return supervisor is not None and supervisor.request == request.number


def _failed(wanted: Wanted, problem: str) -> DriftlineError:
    shown = _ends_of(Path(wanted.log), output_of(wanted))
    return DriftlineError(
        f"{wanted.name} {problem}{shown}",
        hint="the supervisor keeps restarting it, and the other services run; `driftline status` "
        "shows them, `driftline down` stops them",
    )


def _process(folder: Path, wanted: Wanted) -> Process | None:
    return next((p for p in read_processes(folder) if p.name == wanted.name), None)


def _said(folder: Path, process: Process) -> ServiceState | None:
    """Return the state that this process has written, and not an earlier one of the same name."""
    said = read_state(folder, process.service, process.slot)
    return said if said is not None and said.pid == process.pid else None


def _ends_of(*logs: Path) -> str:
    """Return the last lines of those files that are not empty, each after a title."""
    ends = ((path, _end_of(path)) for path in logs)
    return "".join(f"\nthe last lines of {path}:\n{end}" for path, end in ends if end)


def _end_of(log: Path) -> str:
    if not log.exists():
        return ""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(lines[-_LOG_LINES:])


def _show_started(folder: Path, processes: Sequence[Process], before: set[int]) -> None:
    table = Table(box=None)
    for name in ("service", "pid", "state", "log"):
        table.add_column(name, no_wrap=True)
    for process in processes:
        said = _said(folder, process)
        state = said.state if said else "starting"
        also = " (already running)" if process.pid in before else ""
        table.add_row(process.name, str(process.pid), state + also, Path(process.log).name)
    stdout.print(table)
    stdout.print(f"logs are in {folder}", highlight=False, soft_wrap=True)
