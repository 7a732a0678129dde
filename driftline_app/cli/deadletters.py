"""`driftline deadletters`: list, show and resend records that the services could not process."""

from typing import Annotated

import msgspec
import typer
from rich.markup import escape
from rich.table import Table

from driftline.safe_text import json_line
from driftline.wire.topics import Topics
from driftline_app.cli.options import BootstrapServers, Json, Run, StreamFile, stderr, stdout
from driftline_app.context import open_context
from driftline_app.message_lines import moment, plain

deadletters = typer.Typer(
    help="List, show and resend records and labels that the services could not process.",
    no_args_is_help=True,
)

Reason = Annotated[
    str, typer.Option(metavar="TEXT", help="Select only dead letters whose reason contains TEXT.")
]


@deadletters.command("list")
def list_(
    file: StreamFile = None,
    reason: Reason = "",
    bootstrap_server: BootstrapServers = None,
    run: Run = None,
    json: Json = False,
) -> None:
    """Count dead letters by service, topic and reason, most frequent first.

    Prints one line per group, with the publish time and the position (PARTITION@OFFSET) of the
    group's newest dead letter.

    Example: driftline deadletters list --run last
    """
    from driftline.audit.dead_letters import groups

    context = open_context(file, bootstrap_server, run)
    found = groups(context.broker, context.stream, reason=reason)
    if json:
        for group in found:
            print(json_line(group))
        return
    if not found:
        stdout.print("no dead letters")
        return
    roles: dict[str, str] = {topic.name: topic.role for topic in Topics(context.stream).plan()}
    table = Table(box=None, pad_edge=False)
    table.add_column("count", justify="right", no_wrap=True)
    for name in ("service", "topic", "newest (UTC)", "position"):
        table.add_column(name, no_wrap=True)
    table.add_column("reason", overflow="fold")
    for group in found:
        table.add_row(
            f"{group.count:,}",
            escape(group.service),
            escape(roles.get(group.topic, group.topic)),
            moment(group.newest_ms)[:-3],  # cut off the seconds
            group.newest,
            escape(group.reason),
        )
    stdout.print(table)


class _Shown(msgspec.Struct, frozen=True):
    """One line of `deadletters show --json`. Bytes that are not valid UTF-8 are escaped."""

    at: str
    id: str | None
    reason: str
    service: str
    topic: str
    partition: int
    offset: int
    published: str
    key: str | None
    headers: dict[str, str]
    value: str


@deadletters.command()
def show(
    name: Annotated[
        str,
        typer.Argument(
            metavar="ID|PARTITION@OFFSET",
            help="A record's id, or a dead letter's position as printed by `deadletters list`.",
        ),
    ],
    file: StreamFile = None,
    bootstrap_server: BootstrapServers = None,
    run: Run = None,
    json: Json = False,
) -> None:
    """Show a dead letter: its reason, its origin and its original bytes.

    If several dead letters have this record id, all of them are shown. Exits with code 1 if no dead
    letter matches.

    Example: driftline deadletters show 3@17 --run last
    """
    from driftline.audit.dead_letters import find

    context = open_context(file, bootstrap_server, run)
    found = find(context.broker, context.stream, name)
    for letter in found:
        message, origin = letter.message, letter.origin
        shown = _Shown(
            at=letter.place,
            id=letter.id,
            reason=origin.reason,
            service=origin.service,
            topic=origin.topic,
            partition=origin.partition,
            offset=origin.offset,
            published=moment(letter.timestamp_ms),
            key=None if message.key is None else plain(message.key),
            headers={
                header: plain(value)
                for header, value in message.headers
                if not header.startswith("driftline_")
            },
            value=plain(message.value)
            if origin.value_bytes is None
            else f"not kept: {origin.value_bytes:,} bytes were too large for a dead letter",
        )
        if json:
            print(json_line(shown))
            continue
        for field, value in msgspec.structs.asdict(shown).items():
            if field == "headers":
                value = " ".join(f"{name}={text}" for name, text in shown.headers.items())
            if value not in (None, ""):
                stdout.print(f"{field:>10}  {value}", markup=False, soft_wrap=True)
        stdout.print()
    if not found:
        if not json:
            stderr.print(f"no dead letter {name!r}", markup=False)
        raise typer.Exit(1)


@deadletters.command()
def replay(
    file: StreamFile = None,
    reason: Reason = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count the dead letters without resending them.")
    ] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Also resend dead letters that were already resent.")
    ] = False,
    bootstrap_server: BootstrapServers = None,
    json: Json = False,
) -> None:
    """Resend dead letters, unchanged, to their original topic and partition.

    Use this command after you have fixed the cause, for example a wrong setting in the stream file.
    A record that fails again becomes a new dead letter. Dead letters that were already resent are
    skipped unless --again is given. Prints how many dead letters were resent and how many were
    skipped.

    Example: driftline deadletters replay --reason "missing value" --dry-run
    """
    from driftline.audit.dead_letters import replay as send

    context = open_context(file, bootstrap_server)
    done = send(context.broker, context.stream, reason=reason, dry_run=dry_run, again=again)
    if json:
        print(json_line(done))
        return
    stdout.print(f"{'would resend' if dry_run else 'resent'} {done.sent}")
    if done.again:
        stdout.print(f"skipped {done.again} that were already resent; use --again to include them")
    if done.other:
        stdout.print(f"skipped {done.other} that are neither records nor labels")
    if done.too_large:
        stdout.print(f"skipped {done.too_large} whose record is too large")
