"""`driftline tail`: print the newest messages of a topic, and optionally those that follow."""

from collections.abc import Callable
from typing import Annotated, get_args

import typer

from driftline.broker.port import Broker, Message, OffsetRange, TopicPartition
from driftline.broker.scan import ranges, scan
from driftline.config.stream import Stream
from driftline.errors import SettingsError
from driftline.interrupts import check
from driftline.ops.status import newest
from driftline.wire.topics import Role, Topics
from driftline_app.cli import completion
from driftline_app.cli.options import BootstrapServers, Json, Run, StreamFile, open_context, stdout
from driftline_app.message_lines import line, moment, printed

_FOLLOW_WAIT_S = 0.5


def tail(
    topic: Annotated[
        str,
        typer.Argument(
            metavar="TOPIC",
            help=f"One of {', '.join(get_args(Role))}, or a topic's full name.",
            autocompletion=completion.topics,
        ),
    ],
    file: StreamFile = None,
    lines: Annotated[
        int, typer.Option("-n", "--lines", min=0, metavar="N", help="Number of messages.")
    ] = 10,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Keep printing new messages until Ctrl-C.")
    ] = False,
    from_start: Annotated[
        bool, typer.Option("--from-start", help="Print all messages, partition by partition.")
    ] = False,
    bootstrap_server: BootstrapServers = None,
    run: Run = None,
    json: Json = False,
) -> None:
    """Print the newest messages of a topic, one per line, the newest last.

    With --json, each line is the message as it was published. A dead letter may contain any bytes,
    so it is printed as an object with its position and headers.

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
                highlight=False,
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
        try:
            _follow(context.broker, span, show)
        except KeyboardInterrupt:
            return  # the usual way to stop


def resolve(stream: Stream, topic: str) -> tuple[str, Role]:
    """Return the name and role of a topic, given one of them. Raises SettingsError."""
    for planned in Topics(stream).plan():
        if topic in (planned.role, planned.name):
            return planned.name, planned.role
    raise SettingsError(
        f"stream {stream.name!r} has no topic {topic!r}",
        hint=f"expected one of {', '.join(get_args(Role))}",
    )


def _follow(
    broker: Broker, span: dict[TopicPartition, OffsetRange], show: Callable[[Message], None]
) -> None:
    consumer = broker.consumer(client_id="driftline-tail")
    try:
        consumer.assign({partition: offsets.end for partition, offsets in span.items()})
        while True:
            check()
            for message in consumer.poll(max_records=500, timeout_s=_FOLLOW_WAIT_S):
                show(message)
    finally:
        consumer.close()
