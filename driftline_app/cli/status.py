"""`driftline status`: show a stream's models, and its services on this machine with their lag."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import typer
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from driftline.errors import BrokerError, UnsupportedCodec
from driftline.models.keys import Trusted
from driftline.ops.processes import file_digest, folder_of
from driftline.ops.status import Status
from driftline.ops.status import status as look
from driftline.ops.workers import Worker, look_at_workers
from driftline.safe_text import json_line, visible
from driftline.wire.topics import SERVICES, Role, Service
from driftline_app.cli.options import BootstrapServers, Json, StreamFile, stdout
from driftline_app.context import open_context
from driftline_app.message_lines import short_digest
from driftline_app.stream_file import find_stream_file

# Numbers of this size or more are abbreviated, for example to 12.3k.
_SHORTENED = 10_000
# At this many thousands or millions, switch to the next larger unit.
_LARGEST_SHOWN = 999.5


def status(
    file: StreamFile = None, bootstrap_server: BootstrapServers = None, json: Json = False
) -> None:
    """Show each service's state and lag, the models in use, and the last drift event and decision.

    The states come from the services' state files on this machine. Exit code 0: all four services
    are running on this machine and are healthy. 1: a service is not running, keeps crashing or is
    unhealthy according to `driftline health`, or the champion's announcement is missing. 2: the
    broker is unreachable, or another error occurred. The command prints each problem or error.

    Example: driftline status --json
    """
    path = find_stream_file(file)
    context = open_context(path, bootstrap_server)
    here = look_at_workers(
        folder_of(context.settings, context.stream), file_digest(path), now=datetime.now(UTC)
    )
    problems = tuple(here.problems())
    try:
        found = look(context.broker, context.stream, here, Trusted(context.settings.keys))
    except (BrokerError, UnsupportedCodec):
        # The state of the services on this machine can be shown even without a broker.
        if not json:
            _show_workers(context.stream.name, here.workers, {})
            _show_problems(problems, here.workers)
        raise
    if json:
        print(json_line(found))
    else:
        _show(found)
        _show_problems(found.problems, here.workers)
    if found.problems:
        raise typer.Exit(1)


def _show(found: Status) -> None:
    lags = {
        service.service: _counts({role: count for role, count in service.lag.items() if count})
        or "0"
        for service in found.services
    }
    workers = [worker for service in found.services for worker in service.workers]
    _show_workers(found.stream, workers, lags)
    serving = (
        ", ".join(short_digest(digest) for digest in found.serving) or "no model on this machine"
    )
    stdout.print(f"serving:   {serving}")
    frozen = " (automatic promotion is frozen)" if found.frozen else ""
    stdout.print(f"champion:  {short_digest(found.champion)}{frozen}")
    rejected = dict(found.rejected)
    for worker in workers:
        rejected |= worker.state.rejected if worker.alive else {}
        if worker.state.gaps:
            lost = f"{worker.state.gaps} gaps: {worker.state.lost:,} offsets were deleted unread"
            stdout.print(f"{worker.name}: {lost}; `driftline reconcile` lists them", style="red")
        if worker.alive and worker.state.problem is not None:
            stdout.print(f"{worker.name}: {escape(worker.state.problem)}", style="red")
    for name, why in rejected.items():
        what = short_digest(name) if name.startswith("sha256:") else escape(name)
        stdout.print(f"rejected:  {what}: {escape(why)}", style="red")
    drift, decision = found.drift, found.decision
    if drift is not None:
        text = f"{drift.kind} {drift.action} at {drift.position}: {drift.message}"
        stdout.print(f"last drift event: {drift.id} {escape(text)}")
    if decision is not None:
        what = (
            "promoted" if decision.promoted else "published" if decision.published else "not used"
        )
        text = f"{short_digest(decision.model)} {what}: {decision.reason}"
        stdout.print(f"last decision:    {decision.id} {escape(text)}")


def _show_workers(
    stream: str, workers: Sequence[Worker], lags: Mapping[Service, str | Text]
) -> None:
    table = Table(box=None, title=stream, title_justify="left", padding=(0, 1, 0, 0))
    for name in ("service", "state", "since (UTC)", "consumed", "published", "lag"):
        wraps = name in ("state", "since (UTC)")
        table.add_column(name, no_wrap=not wraps, min_width=11 if name == "state" else None)
    for service in SERVICES:
        lag = lags.get(service, "unknown")
        own = [worker for worker in workers if worker.state.service == service]
        if not own:
            table.add_row(service, "[dim]not here[/]", "", "", "", lag)
        for worker in own:
            table.add_row(*_row(worker, lag))
            lag = ""  # the lag is for the whole service: show it only once
    stdout.print(table)


def _row(worker: Worker, lag: str | Text) -> tuple[str | Text, ...]:
    service = worker.state
    ended = service.state if service.state in ("stopped", "failed") else "killed"
    state = service.state if worker.alive else f"[red]{ended}[/]"
    if worker.restarts:
        state += f", {worker.restarts} restart{'s' if worker.restarts > 1 else ''}"
    since = service.started[5:16].replace("T", " ")
    return (worker.name, state, since, _short(service.consumed), _counts(service.published), lag)


def _counts(counts: Mapping[Role, int] | Mapping[str, int]) -> Text:
    """Return one line of text for each count."""
    return Text("\n".join(visible(f"{role} {_short(count)}") for role, count in counts.items()))


def _short(count: int) -> str:
    """Format a number in at most six characters.

    >>> _short(9_999), _short(12_345), _short(24_345_678), _short(3_000_000_000)
    ('9,999', '12.3k', '24.3M', '3G')
    """
    if count < _SHORTENED:
        return f"{count:,}"
    for unit, size in (("k", 1e3), ("M", 1e6), ("G", 1e9)):
        if count < _LARGEST_SHOWN * size or unit == "G":
            break
    return f"{count / size:.3g}{unit}"


def _show_problems(problems: Sequence[str], workers: Sequence[Worker]) -> None:
    for problem in problems:
        stdout.print(f"problem:   {escape(problem)}", style="red", soft_wrap=True)
    if outdated := [worker.name for worker in workers if worker.outdated]:
        stdout.print(
            f"note:      {', '.join(outdated)} started with an earlier version of the stream file; "
            "run `driftline down` and then `driftline up` to apply the current version",
            style="yellow",
            soft_wrap=True,
        )
