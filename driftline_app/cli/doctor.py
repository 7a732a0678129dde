"""`driftline doctor`: check the installation, processes, broker and models, and suggest fixes."""

from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from driftline.broker import connect
from driftline.config.settings import load_settings
from driftline.config.stream import Stream, load
from driftline.errors import StreamFileError
from driftline.ops.doctor import (
    Check,
    check_broker,
    check_installation,
    check_models,
    check_services,
)
from driftline.ops.processes import file_digest, folder_of
from driftline.ops.workers import look_at_workers
from driftline.safe_text import json_line
from driftline_app.cli.options import BootstrapServers, Json, StreamFile, stdout
from driftline_app.stream_file import find_stream_file

_MARKS = {"ok": "[green]ok[/]", "warn": "[yellow]warn[/]", "fail": "[red]fail[/]"}


def doctor(
    file: StreamFile = None,
    bootstrap_server: BootstrapServers = None,
    broker: Annotated[
        bool, typer.Option("--broker/--no-broker", help="Also check the broker and its topics.")
    ] = True,
    json: Json = False,
) -> None:
    """Check the installation, the services on this machine, the broker, topics and the champion.

    Prints the result of each check, and suggests a fix for each problem. Exit code 0: no check
    failed, although there may be warnings. 1: a check failed, for example because the broker is
    unreachable. 2: a setting is invalid.

    Example: driftline doctor -b local
    """
    settings = load_settings(bootstrap_servers=bootstrap_server)
    checks = [*check_installation(), *check_models(settings)]
    stream: Stream | None = None
    try:
        path = find_stream_file(file)
        stream = load(path)
        checks.append(Check("stream file", "ok", stream.name))
        folder = folder_of(settings, stream)
        here = look_at_workers(folder, file_digest(path), now=datetime.now(UTC))
        checks.extend(check_services(here))
    except StreamFileError as error:
        # An invalid file given with --stream is a failure. Without --stream, only warn.
        checks.append(Check("stream file", "fail" if file else "warn", error.message, error.hint))
    if broker:
        client = connect(settings.client, settings.bootstrap_servers, settings.properties)
        checks.extend(check_broker(settings, client, stream))
    if json:
        for check in checks:
            print(json_line(check))
    else:
        _show(checks)
    if any(check.result == "fail" for check in checks):
        raise typer.Exit(1)


def _show(checks: list[Check]) -> None:
    table = Table(box=None, show_header=False)
    table.add_column()
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in checks:
        table.add_row(_MARKS[check.result], escape(check.name), escape(check.found))
        if check.todo:
            table.add_row("", "", f"[bold]→[/] {escape(check.todo)}")
    stdout.print(table)
