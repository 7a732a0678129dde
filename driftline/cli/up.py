"""`driftline up|down|status`: the services as processes of this machine, each with its own log."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.markup import escape
from rich.table import Table

from driftline.cli.lines import short_digest
from driftline.cli.options import (
    BootstrapServers,
    Context,
    Json,
    StreamFile,
    find_stream_file,
    open_context,
    stderr,
    stdout,
)
from driftline.errors import BrokerUnavailable, DriftlineError
from driftline.operations import ServiceStatus, Status
from driftline.operations import status as look
from driftline.processes import (
    Process,
    ServiceState,
    folder_of,
    forget_ended,
    read_processes,
    read_state,
    start,
    stop,
    write_processes,
)
from driftline.settings import load_settings
from driftline.stream import load
from driftline.topics import SERVICES, Service, Topics, require
from driftline.topics import apply as create_missing

# Importing scikit-learn, pandas and Evidently takes some 10 s on two slow cores.
_START_PATIENCE_S = 90.0
# A clean end commits and leaves the group: under a second, unless the broker is gone.
_STOP_PATIENCE_S = 30.0
_LOOK_EVERY_S = 0.1
_LOG_LINES = 15


def up(
    file: StreamFile = None,
    bootstrap_server: BootstrapServers = None,
    workers: Annotated[
        int, typer.Option(min=1, help="Workers of inference, outcomes and monitor, each.")
    ] = 1,
    broker: Annotated[
        bool, typer.Option("--broker", help="Also start the local Kafka, as `broker up` does.")
    ] = False,
    json: Json = False,
) -> None:
    """Start all services of a stream, each as a process of its own, and wait until they run.

    Creates the topics if they are missing. They go on after this command ends: `driftline status`
    looks after them, `driftline down` stops them.

    Example: driftline up elec2.toml --broker; driftline produce elec2.csv; driftline down
    """
    path = find_stream_file(file)
    if broker:
        bootstrap_server = _start_broker()
    context = open_context(path, bootstrap_server)
    _create_topics(context, json)
    folder = folder_of(context.settings, context.stream)
    forget_ended(folder)
    running = [process for process in read_processes(folder) if process.alive]
    have = {process.name for process in running}
    slots: list[tuple[Service, int]] = [
        (service, slot)
        for service in SERVICES
        for slot in range(workers if service != "trainer" else 1)
    ]
    started = []
    for service, slot in slots:
        if f"{service}-{slot}" not in have:
            command = _command(service, slot, path, context.settings.bootstrap_servers)
            log = (folder / f"{service}-{slot}.log").absolute()
            started.append(start(service, slot, command, log))
            write_processes(folder, [*running, *started])
    with stderr.status(f"starting {len(started)} services"):
        _wait_until_they_run(folder, started)
    if json:
        for process in (*running, *started):
            print(msgspec.json.encode(process).decode())
        return
    _show_started(folder, running, started)


def down(file: StreamFile = None, json: Json = False) -> None:
    """Stop the services that `up` started, and wait until they have ended.

    Each commits what it has done and leaves its group, so nothing is done twice on the next start.

    Example: driftline down elec2.toml
    """
    stream = load(find_stream_file(file))
    folder = folder_of(load_settings(), stream)
    running = [process for process in read_processes(folder) if process.alive]
    with stderr.status(f"stopping {len(running)} services"):
        killed = stop(running, patience_s=_STOP_PATIENCE_S)
    write_processes(folder, [])
    if json:
        result = {
            "stopped": [process.name for process in running],
            "killed": [process.name for process in killed],
        }
        print(msgspec.json.encode(result).decode())
        return
    stdout.print(
        f"stopped {', '.join(process.name for process in running)}"
        if running
        else "none was running"
    )
    for process in killed:
        stdout.print(
            f"{process.name} did not end within {_STOP_PATIENCE_S:g} s and was killed: its next "
            f"start resumes from its committed offsets; see {process.log}",
            style="yellow",
            highlight=False,
        )


def status(
    file: StreamFile = None, bootstrap_server: BootstrapServers = None, json: Json = False
) -> None:
    """Show each service's state and lag, the model that answers, the last drift and decision.

    Exits 1 unless all four services run on this machine.

    Example: driftline status elec2.toml --json
    """
    context = open_context(file, bootstrap_server)
    found = look(context.broker, context.stream, folder_of(context.settings, context.stream))
    if json:
        print(msgspec.json.encode(found).decode())
    else:
        _show_status(found)
    if not all(any(w.alive for w in service.workers) for service in found.services):
        raise typer.Exit(1)


# ---- up -----------------------------------------------------------------------------------------


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
                error.message, hint="`driftline broker up` starts a local Kafka, or `up --broker`"
            ) from error
        raise
    try:
        created = create_missing(admin, topics)
        require(admin, topics)
    finally:
        admin.close()
    if created and not json:
        stdout.print(f"created {len(created)} topics: {', '.join(created)}", highlight=False)


def _command(service: Service, slot: int, file: Path, servers: str) -> Sequence[str]:
    return (
        *(sys.executable, "-m", "driftline.cli", service, str(file.absolute())),
        *("--bootstrap-server", servers, "--slot", str(slot)),
    )


def _wait_until_they_run(folder: Path, processes: Sequence[Process]) -> None:
    """Wait for each one's state file to say that it has joined its group. Raises DriftlineError."""
    deadline_s = time.monotonic() + _START_PATIENCE_S
    for process in processes:
        while (said := _said(folder, process)) is None or said.state == "starting":
            late = time.monotonic() > deadline_s
            if late or not process.alive:
                raise _failed(process, "does not run yet" if late else "has ended")
            time.sleep(_LOOK_EVERY_S)  # another process is awaited; it tells by its file
        if said.state in ("failed", "stopped"):
            raise _failed(process, f"has {said.state}")


def _failed(process: Process, problem: str) -> DriftlineError:
    return DriftlineError(
        f"{process.name} {problem}; the end of {process.log}:\n{_end_of(process.log)}",
        hint="the others go on; `driftline down` stops them",
    )


def _said(folder: Path, process: Process) -> ServiceState | None:
    """What this very process has said, not an earlier one of its name."""
    said = read_state(folder, process.service, process.slot)
    return said if said is not None and said.pid == process.pid else None


def _end_of(log: str) -> str:
    lines = Path(log).read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(lines[-_LOG_LINES:])


def _show_started(folder: Path, running: Sequence[Process], started: Sequence[Process]) -> None:
    table = Table(box=None)
    for name in ("service", "pid", "state", "log"):
        table.add_column(name, no_wrap=True)
    waits = False
    for process in (*running, *started):
        said = _said(folder, process)
        state = said.state if said else "starting"
        waits = waits or state == "waiting for a model"
        also = " (ran already)" if process in running else ""
        table.add_row(process.name, str(process.pid), state + also, Path(process.log).name)
    stdout.print(table)
    stdout.print(f"logs are in {folder}", highlight=False, soft_wrap=True)
    if waits:
        stdout.print("`driftline train FILE --data DATA` publishes a first model")


# ---- status -------------------------------------------------------------------------------------


def _show_status(found: Status) -> None:
    table = Table(box=None, title=found.stream, title_justify="left")
    for name in ("service", "state", "since (UTC)", "consumed", "published", "lag"):
        table.add_column(name, overflow="fold", no_wrap=name == "service")
    for service in found.services:
        for row in _rows(service):
            table.add_row(*row)
    stdout.print(table)
    answering = ", ".join(short_digest(digest) for digest in found.answering) or "none here"
    stdout.print(f"answering: {answering}", highlight=False)
    frozen = " (automatic promotion is frozen)" if found.frozen else ""
    stdout.print(f"champion:  {short_digest(found.champion)}{frozen}", highlight=False)
    for service in found.services:
        for worker in service.workers:
            for digest, why in worker.said.refused.items() if worker.alive else ():
                stdout.print(f"refused:   {short_digest(digest)}: {escape(why)}", style="red")
            if worker.alive and worker.said.problem is not None:
                name = f"{worker.said.service}-{worker.said.slot}"
                stdout.print(f"{name}: {escape(worker.said.problem)}", style="red")
    drift, decision = found.drift, found.decision
    if drift is not None:
        said = f"{drift.kind} {drift.action} at {drift.position}: {drift.message}"
        stdout.print(f"last drift event: {drift.id} {escape(said)}", highlight=False)
    if decision is not None:
        what = "promoted" if decision.promoted else "published" if decision.published else "kept"
        said = f"{short_digest(decision.model)} {what}: {decision.reason}"
        stdout.print(f"last decision:    {decision.id} {escape(said)}", highlight=False)


def _rows(service: ServiceStatus) -> list[tuple[str, ...]]:
    lag = ", ".join(f"{role} {count:,}" for role, count in service.lag.items())
    if not service.workers:
        return [(service.service, "[dim]not here[/]", "", "", "", lag)]
    rows: list[tuple[str, ...]] = []
    for worker in service.workers:
        said = worker.said
        ended = said.state if said.state in ("stopped", "failed") else "killed"
        state = said.state if worker.alive else f"[red]{ended}[/]"
        if said.error and not worker.alive:
            state += f" [red]{escape(said.error.splitlines()[0])}[/]"
        published = ", ".join(f"{role} {count:,}" for role, count in said.published.items())
        name = f"{said.service}-{said.slot}"
        rows.append((name, state, said.started, f"{said.consumed:,}", published, lag))
        lag = ""  # of the service, not of each worker
    return rows
