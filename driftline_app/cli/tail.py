"""`driftline tail`: print a topic's newest messages and, with --follow, new messages."""

from typing import Annotated, get_args

import typer

from driftline.broker.port import Message
from driftline.broker.scan import ranges, scan
from driftline.client.read_events import new_messages
from driftline.config.stream import Stream
from driftline.errors import SettingsError
from driftline.ops.status import newest
from driftline.wire.topics import Role, Topics
from driftline_app.cli import completion
from driftline_app.cli.options import BootstrapServers, Json, Run, StreamFile, stdout
from driftline_app.context import open_context
from driftline_app.message_lines import line, moment, printed


def tail(
    topic: Annotated[
        str,
        typer.Argument(
            metavar="TOPIC",
            help=f"Topic to read: {', '.join(get_args(Role))}, or a topic's full name.",
            autocompletion=completion.topics,
        ),
    ],
    file: StreamFile = None,
    lines: Annotated[
        int, typer.Option("-n", "--lines", min=0, metavar="N", help="Number of messages to print.")
    ] = 10,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Also print new messages as they arrive.")
    ] = False,
    from_start: Annotated[
        bool, typer.Option("--from-start", help="Print all messages, partition by partition.")
    ] = False,
    bootstrap_server: BootstrapServers = None,
    run: Run = None,
    json: Json = False,
) -> None:
    """Print a topic's newest messages, one per line, newest last.

    With --follow, the command runs until you press Ctrl-C. With --json, each line is a message as
    it was published. A dead letter may contain arbitrary bytes, so it is printed as a JSON object
    with its position, headers and content.

    Example: driftline tail drift --run last
    """
    context = open_context(file, bootstrap_server, run)
    name, role = resolve(context.stream, topic)

    def show(message: Message) -> None:
        if json:
            print(printed(message, role), flush=True)
        else:
            place = f"[{message.partition}]@{message.offset}"
            stdout.print(
                f"{moment(message.timestamp_ms)} {place:<10} {line(role, message)}",
                markup=False,
                soft_wrap=True,
            )

    span = ranges(context.broker, [name])
    if from_start:
        for batch in scan(context.broker, span):
            for message in batch:
                show(message)
    else:
        for message in newest(context.broker, span, lines):
            show(message)
    if follow:
        ends = {partition: offsets.end for partition, offsets in span.items()}
        try:
            for message in new_messages(context.broker, ends):
                show(message)
        except KeyboardInterrupt:
            return  # Ctrl-C is the usual way to end --follow


def resolve(stream: Stream, topic: str) -> tuple[str, Role]:
    """Return a topic's name and role, given its name or its role. Raises SettingsError."""
    for planned in Topics(stream).plan():
        if topic in (planned.role, planned.name):
            return planned.name, planned.role
    raise SettingsError(
        f"stream {stream.name!r} has no topic {topic!r}",
        hint=f"expected one of {', '.join(get_args(Role))}",
    )
