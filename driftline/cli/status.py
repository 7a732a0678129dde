"""`driftline status`: how the services of a stream do, here and on its broker."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import typer
from rich.markup import escape
from rich.table import Table

from driftline.cli.lines import short_digest
from driftline.cli.options import (
    BootstrapServers,
    Json,
    StreamFile,
    open_context,
    stdout,
)
from driftline.cli.stream_file import find_stream_file
from driftline.errors import BrokerError
from driftline.models.keys import Trusted
from driftline.operations import Status
from driftline.operations import status as look
from driftline.plain import json_line
from driftline.processes import file_digest, folder_of
from driftline.topics import SERVICES, Role, Service
from driftline.workers import Worker, look_at_workers


def status(
    file: StreamFile = None, bootstrap_server: BootstrapServers = None, json: Json = False
) -> None:
    """Show each service's state and lag, the model that answers, the last drift and decision.

    Exit code 0: all four services run on this machine and are well. 1: one does not run, ends again
    and again, or is not well by the rules of `driftline health`; it is named. 2: the broker cannot
    be asked, or another error that the message explains.

    Example: driftline status elec2.toml --json
    """
    path = find_stream_file(file)
    context = open_context(path, bootstrap_server)
    here = look_at_workers(
        folder_of(context.settings, context.stream), file_digest(path), now=datetime.now(UTC)
    )
    problems = tuple(here.problems())
    try:
        found = look(context.broker, context.stream, here, Trusted(context.settings.keys))
    except BrokerError:
        # Without a broker something is known all the same.
        if not json:
            _show_workers(context.stream.name, here.workers, {})
            _show_problems(problems, here.workers)
        raise
    if json:
        print(json_line(found))
    else:
        _show(found)
        _show_problems(problems, here.workers)
    if problems:
        raise typer.Exit(1)


def _show(found: Status) -> None:
    lags = {
        service.service: _counts({role: count for role, count in service.lag.items() if count})
        or "0"
        for service in found.services
    }
    workers = [worker for service in found.services for worker in service.workers]
    _show_workers(found.stream, workers, lags)
    answering = ", ".join(short_digest(digest) for digest in found.answering) or "none here"
    stdout.print(f"answering: {answering}", highlight=False)
    frozen = " (automatic promotion is frozen)" if found.frozen else ""
    stdout.print(f"champion:  {short_digest(found.champion)}{frozen}", highlight=False)
    refused = dict(found.refused)
    for worker in workers:
        refused |= worker.said.refused if worker.alive else {}
        said_by = f"{worker.said.service}-{worker.said.slot}"
        if worker.said.gaps:
            lost = f"{worker.said.gaps} gaps, {worker.said.lost:,} offsets deleted unread"
            stdout.print(f"{said_by}: {lost}; `driftline reconcile` names them", style="red")
        if worker.alive and worker.said.problem is not None:
            stdout.print(f"{said_by}: {escape(worker.said.problem)}", style="red")
    for name, why in refused.items():
        what = short_digest(name) if name.startswith("sha256:") else escape(name)
        stdout.print(f"refused:   {what}: {escape(why)}", style="red")
    drift, decision = found.drift, found.decision
    if drift is not None:
        said = f"{drift.kind} {drift.action} at {drift.position}: {drift.message}"
        stdout.print(f"last drift event: {drift.id} {escape(said)}", highlight=False)
    if decision is not None:
        what = "promoted" if decision.promoted else "published" if decision.published else "kept"
        said = f"{short_digest(decision.model)} {what}: {decision.reason}"
        stdout.print(f"last decision:    {decision.id} {escape(said)}", highlight=False)


def _show_workers(stream: str, workers: Sequence[Worker], lags: Mapping[Service, str]) -> None:
    table = Table(box=None, title=stream, title_justify="left")
    for name in ("service", "state", "since (UTC)", "restarts", "consumed", "published", "lag"):
        table.add_column(name, overflow="fold", no_wrap=name == "service")
    for service in SERVICES:
        lag = lags.get(service, "unknown")
        own = [worker for worker in workers if worker.said.service == service]
        if not own:
            table.add_row(service, "[dim]not here[/]", "", "", "", "", lag)
        for worker in own:
            table.add_row(*_row(worker, lag))
            lag = ""  # of the service, not of each worker
    stdout.print(table)


def _row(worker: Worker, lag: str) -> tuple[str, ...]:
    said = worker.said
    ended = said.state if said.state in ("stopped", "failed") else "killed"
    state = said.state if worker.alive else f"[red]{ended}[/]"
    restarts = str(worker.restarts) if worker.restarts else ""
    since = said.started[5:16].replace("T", " ")
    return (worker.name, state, since, restarts, f"{said.consumed:,}", _counts(said.published), lag)


def _counts(counts: Mapping[Role, int] | Mapping[str, int]) -> str:
    return ", ".join(f"{role} {count:,}" for role, count in counts.items())


def _show_problems(problems: Sequence[str], workers: Sequence[Worker]) -> None:
    for problem in problems:
        stdout.print(f"problem:   {escape(problem)}", style="red", highlight=False, soft_wrap=True)
    if outdated := [worker.name for worker in workers if worker.outdated]:
        stdout.print(
            f"note:      {', '.join(outdated)} run another version of the stream file than the one "
            "on disk; `driftline down` and `driftline up` apply it",
            style="yellow",
            highlight=False,
            soft_wrap=True,
        )
