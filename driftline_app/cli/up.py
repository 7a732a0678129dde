"""`driftline up` and `driftline down`: run all services as supervised background processes."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.table import Table

from driftline.config.settings import load_settings
from driftline.config.stream import load
from driftline.errors import BrokerUnavailable
from driftline.ops.processes import Process, folder_of, read_processes, unreadable
from driftline.ops.supervisor import STOP_PATIENCE_S
from driftline.safe_text import json_line
from driftline.wire.topics import SERVICES, Topics, require
from driftline.wire.topics import apply as create_missing
from driftline_app.background_services import (
    replace_supervisor,
    start_services,
    stop_services,
    written_state,
)
from driftline_app.champion_change import catalog_of
from driftline_app.cli.options import BootstrapServers, Json, StreamFile, stderr, stdout
from driftline_app.context import Context, open_context
from driftline_app.stream_file import find_stream_file
from driftline_app.systemd_units import systemd_units


def up(
    file: StreamFile = None,
    bootstrap_server: BootstrapServers = None,
    workers: Annotated[
        int,
        typer.Option(
            min=1, metavar="N", help="Number of workers per service. The trainer always has one."
        ),
    ] = 1,
    broker: Annotated[
        bool,
        typer.Option("--broker", help="Also start a local broker, as `driftline broker up` does."),
    ] = False,
    print_units: Annotated[
        Literal["systemd"] | None,
        typer.Option(
            "--print",
            help="Print a systemd unit for each worker without starting anything.",
            show_default=False,
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Start all services of a stream, and keep them running in the background.

    Creates missing topics, and waits until all services are running. If a service exits, a
    supervisor restarts it, after a delay that grows from 1 s to a minute. `driftline down` stops
    all services. Running this command again starts only services that are not running, and replaces
    the supervisor if it was killed. Exit code 0: all services are running. 2: an error occurred.

    Example: driftline up --broker
    """
    path = find_stream_file(file)
    stream, settings = load(path), load_settings(bootstrap_servers=bootstrap_server)
    slots = [
        (service, slot)
        for service in SERVICES
        for slot in range(workers if service != "trainer" else 1)
    ]
    if print_units is not None:
        print(systemd_units(path, stream, settings, slots))
        return
    folder = folder_of(settings, stream)
    # Do this first, so that running services have a supervisor even if a later step fails.
    if replace_supervisor(folder):
        stderr.print("the supervisor had ended; started another one for the running services")
    if broker:
        bootstrap_server = _start_broker()
    context = open_context(path, bootstrap_server)
    _create_topics(context, json)
    before = {process.pid for process in read_processes(folder) if process.alive}
    with stderr.status("starting the services that are not running yet"):
        processes = start_services(folder, slots, path, context.settings.bootstrap_servers)
    if json:
        for process in processes:
            print(json_line(process))
        return
    _show_started(folder, processes, before)
    if catalog_of(context).champion is None:
        stdout.print("no model yet; `driftline train --data DATA` publishes the first one")


def down(file: StreamFile = None, json: Json = False) -> None:
    """Stop the services that `driftline up` started, and wait until they have exited.

    Each service commits its work and leaves its consumer group, so that no work is repeated after
    the next start. Prints the names of the stopped services.

    Example: driftline down
    """
    folder = folder_of(load_settings(), load(find_stream_file(file)))
    damaged = list(unreadable(folder, "processes"))
    with stderr.status("stopping the services"):
        found = stop_services(folder)
    for each in damaged:
        text = f"{each}; services listed in it may still be running; `driftline status` shows them"
        stderr.print(text, style="yellow", soft_wrap=True, markup=False)
    stopped = [process.name for process in found.stopped]
    if json:
        killed = [process.name for process in found.killed]
        print(json_line({"stopped": stopped, "killed": killed}))
        return
    stdout.print(f"stopped {', '.join(stopped)}" if stopped else "no service was running")
    for process in found.killed:
        stdout.print(
            f"{process.name} did not exit within {STOP_PATIENCE_S:g} s and was killed; when "
            f"started again, it resumes from its committed offsets; see {process.log}",
            style="yellow",
        )


def _start_broker() -> str:
    from driftline.broker.local import LocalKafka

    with stderr.status("starting Apache Kafka"):
        return LocalKafka(load_settings().broker).up().bootstrap_servers


def _create_topics(context: Context, json: bool) -> None:
    topics = Topics(context.stream)
    try:
        with closing(context.broker.admin()) as admin:
            created = create_missing(admin, topics)
            more = require(admin, topics)
    except BrokerUnavailable as error:
        if context.settings.bootstrap_servers == context.settings.local_broker:
            raise BrokerUnavailable(
                error.message,
                hint="`driftline broker up` or `driftline up --broker` starts a local Kafka",
            ) from error
        raise
    for difference in more:
        text = f"{difference}: more than planned, which is allowed"
        stderr.print(text, style="yellow", soft_wrap=True)
    if created and not json:
        stdout.print(f"created {len(created)} topics: {', '.join(created)}")


def _show_started(folder: Path, processes: Sequence[Process], before: set[int]) -> None:
    table = Table(box=None)
    for name in ("service", "pid", "state", "log"):
        table.add_column(name, no_wrap=True)
    for process in processes:
        written = written_state(folder, process)
        state = written.state if written else "starting"
        also = " (already running)" if process.pid in before else ""
        table.add_row(process.name, str(process.pid), state + also, Path(process.log).name)
    stdout.print(table)
    stdout.print(f"logs are in {folder}", soft_wrap=True)
