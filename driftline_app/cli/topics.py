"""`driftline topics`: compare a stream's topics with the plan, create missing ones, print ACLs."""

from collections.abc import Sequence
from contextlib import closing
from typing import Annotated

import msgspec
import typer
from rich.table import Table

from driftline.config.settings import load_settings
from driftline.errors import SettingsError
from driftline.ops import access_rights as access
from driftline.safe_text import json_line
from driftline.wire.topics import Topic, TopicDifference, Topics, differences
from driftline.wire.topics import apply as create_missing
from driftline_app.cli.options import BootstrapServers, Json, StreamFile, stdout
from driftline_app.context import open_context
from driftline_app.stream_file import find_stream

# Minimum terminal width, in columns, at which the table also shows keys, writers and readers.
_WIDE = 120

topics = typer.Typer(
    help="Compare the stream's topics with the plan, create missing topics, and print ACLs.",
    no_args_is_help=True,
)


class PlannedTopic(msgspec.Struct, frozen=True):
    """One line of `topics plan --json`: a planned topic, and how the existing topic differs."""

    topic: Topic
    differences: tuple[TopicDifference, ...]


@topics.command()
def plan(
    file: StreamFile = None, bootstrap_server: BootstrapServers = None, json: Json = False
) -> None:
    """Show all planned topics, and how the topics on the broker differ from the plan.

    Exits with code 1 if a topic is missing or differs from the plan. A topic with longer retention
    or a larger message size limit than planned does not count as different. If the terminal has at
    least 120 columns, the table also shows each topic's key, writers and readers.

    Example: driftline topics plan -b local
    """
    context = open_context(file, bootstrap_server)
    planned = Topics(context.stream)
    with closing(context.broker.admin()) as admin:
        different = differences(admin, planned)
    items = [
        PlannedTopic(topic, tuple(d for d in different if d.topic == topic.name))
        for topic in planned.plan()
    ]
    if json:
        for item in items:
            print(json_line(item))
    else:
        stdout.print(_table(items, wide=stdout.width >= _WIDE))
        if any(difference.found is None for difference in different):
            stdout.print("`driftline topics apply` creates missing topics")
    if _is_wrong(different):
        raise typer.Exit(1)


@topics.command()
def apply(
    file: StreamFile = None, bootstrap_server: BootstrapServers = None, json: Json = False
) -> None:
    """Create missing topics, and report existing topics that differ from the plan.

    Existing topics are never changed. Exits with code 1 if a topic differs from the plan. A topic
    with longer retention or a larger message size limit than planned does not count as different.

    Example: driftline topics apply -b local
    """
    context = open_context(file, bootstrap_server)
    planned = Topics(context.stream)
    with closing(context.broker.admin()) as admin:
        created = create_missing(admin, planned)
        different = differences(admin, planned)
    if json:
        print(json_line({"created": created, "differences": different}))
    else:
        for name in created:
            stdout.print(f"created {name}")
        if not created:
            stdout.print("all topics exist")
        for difference in different:
            stdout.print(str(difference), style=_style([difference]))
    if _is_wrong(different):
        raise typer.Exit(1)


@topics.command()
def acls(
    file: StreamFile = None,
    principal: Annotated[
        list[str] | None,
        typer.Option(
            "--principal",
            "-p",
            metavar="ROLE=PRINCIPAL",
            help="Kafka principal for a role, such as inference=User:CN=scorer. May be repeated. "
            "Default: User:ROLE.",
            show_default=False,
        ),
    ] = None,
    bootstrap_server: BootstrapServers = None,
    json: Json = False,
) -> None:
    """Print the minimal ACLs that services, producers, readers and operators need.

    The ACLs are printed as kafka-acls.sh commands. This command does not connect to the broker.

    Example: driftline topics acls --principal monitor=User:watch
    """
    settings = load_settings(bootstrap_servers=bootstrap_server)
    stream = find_stream(file)
    rights = access.acls(stream, _principals(principal or [], access.roles(Topics(stream))))
    if json:
        for right in rights:
            print(json_line(right))
        return
    for line in access.commands(rights, settings.bootstrap_servers):
        print(line)


def _principals(given: Sequence[str], known: Sequence[str]) -> dict[str, str]:
    found = {}
    for each in given:
        role, _, principal = each.partition("=")
        if role not in known or ":" not in principal:
            raise SettingsError(
                f"--principal {each}",
                hint=f"expected ROLE=TYPE:NAME, where ROLE is one of {', '.join(known)}",
            )
        found[role] = principal
    return found


def _table(items: Sequence[PlannedTopic], *, wide: bool) -> Table:
    """Return the plan as a table. A `wide` table also shows keys, writers and readers."""
    table = Table(box=None, pad_edge=False)
    table.add_column("topic", overflow="fold")
    table.add_column("partitions", justify="right", no_wrap=True)
    for name in ("key", "written by", "read by") if wide else ():
        table.add_column(name)
    table.add_column("retention", no_wrap=True)
    table.add_column("on the broker")
    for item in items:
        topic = item.topic
        who = (topic.key, ", ".join(topic.writers), ", ".join(topic.readers))
        table.add_row(
            topic.name,
            str(topic.partitions),
            *(who if wide else ()),
            _retention(topic),
            f"[{_style(item.differences)}]{'; '.join(map(_short, item.differences))}[/]"
            if item.differences
            else "[green]as planned[/]",
        )
    return table


def _is_wrong(different: Sequence[TopicDifference]) -> bool:
    return not all(difference.keeps_more for difference in different)


def _style(different: Sequence[TopicDifference]) -> str:
    return "red" if _is_wrong(different) else "yellow"


def _retention(topic: Topic) -> str:
    if topic.config["cleanup.policy"] == "compact":
        return "newest per key"
    kept_ms = int(topic.config["retention.ms"])
    return "forever" if kept_ms < 0 else f"{kept_ms / 86_400_000:g} days"


def _short(difference: TopicDifference) -> str:
    if difference.found is None:
        return "missing"
    return f"{difference.what} is {difference.found}"
