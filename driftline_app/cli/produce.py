"""`driftline produce`: send a data set to the features and labels topics of a stream."""

import time
from typing import Annotated

import typer
from rich.progress import Progress, TaskID

from driftline.broker.port import Broker
from driftline.clock import SystemClock
from driftline.config.stream import Stream
from driftline.errors import SettingsError
from driftline.interrupts import check
from driftline.safe_text import json_line
from driftline.wire.events import MAX_ROW
from driftline.wire.topics import Topics, require
from driftline_app.cli import completion
from driftline_app.cli.options import (
    DATA_HELP,
    BootstrapServers,
    Json,
    StreamFile,
    open_context,
    stdout,
)
from driftline_app.cli.progress_bar import counting_bar
from driftline_app.cli.unsent import report_unsent
from producers.delivery import Delivery
from producers.numbering import next_row
from producers.pacing import paced
from producers.playback import Playback
from producers.rows import RowSource
from producers.sources import open_source

# Rows between two updates of the progress bar. An update costs more than sending a record.
_PROGRESS_EVERY = 500


def produce(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help=f'{DATA_HELP} "-" reads JSON lines from standard input.',
            autocompletion=completion.data_sets,
        ),
    ],
    file: StreamFile = None,
    bootstrap_server: BootstrapServers = None,
    rate: Annotated[
        float | None,
        typer.Option(
            metavar="N",
            help="Send N records per second. Default: as fast as possible.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Stop after N rows. Skipped rows do not count.",
            show_default=False,
        ),
    ] = None,
    skip: Annotated[
        str | None,
        typer.Option(
            metavar="N",
            help="Skip the first N rows, or this fraction of them, such as 1000 or 0.2. Row "
            "numbers include skipped rows.",
            show_default=False,
        ),
    ] = None,
    first_row: Annotated[
        int | None,
        typer.Option(
            "--first-row",
            min=0,
            max=MAX_ROW,
            metavar="N",
            help="Number (@row) of the first record, if rows that are skipped have no higher one. "
            "Default: one more than the highest number in the topic.",
            show_default=False,
        ),
    ] = None,
    labels: Annotated[
        bool,
        typer.Option("--labels/--no-labels", help="Whether to send labels as well."),
    ] = True,
    seed: Annotated[int, typer.Option(help="Seed for random label delays and missing labels.")] = 0,
    json: Json = False,
) -> None:
    """Send the rows of DATA to the stream's topics: records, and labels after their delay.

    Example: driftline produce elec2.csv.gz --skip 0.2 --rate 100
    """
    source = open_source(data)
    context = open_context(file, bootstrap_server)
    playback = _playback(context.stream, context.broker, source, seed, limit, skip, first_row)
    producer = context.broker.producer()
    delivery = Delivery(producer, Topics(context.stream))
    interrupted = False
    try:
        with counting_bar(hidden=json) as progress:
            task = progress.add_task(context.stream.name, total=playback.total)
            try:
                _send(playback, delivery, rate, labels, progress, task)
            except KeyboardInterrupt:
                interrupted = True
            delivery.confirm()
    finally:
        producer.close()
    _report(delivery, interrupted, json)
    if interrupted:
        raise typer.Exit(130)
    if delivery.too_large:
        raise typer.Exit(1)


def _playback(
    stream: Stream,
    broker: Broker,
    source: RowSource,
    seed: int,
    limit: int | None,
    skip: str | None,
    first_row: int | None,
) -> Playback:
    topics = Topics(stream)
    admin = broker.admin()
    try:
        require(admin, topics, role="producers")
    finally:
        admin.close()
    if first_row is None:
        first_row = next_row(broker, stream) if stream.needs_row else 0
    skipped = 0 if skip is None else _rows_to_skip(skip, source.count())
    last = None if limit is None else skipped + limit
    playback = Playback(stream, source, seed=seed, limit=last)
    playback.skip(skipped)
    # Rows of an empty topic get the numbers of the data. In others, numbers continue from the
    # highest one.
    playback.number_from(first_row)
    return playback


def _rows_to_skip(skip: str, total: int | None) -> int:
    try:
        value = float(skip)
    except ValueError:
        value = -1.0
    if "." in skip and 0 < value < 1:
        if total is None:
            raise SettingsError("--skip: cannot take a fraction of data whose length is unknown")
        return int(total * value)
    if value >= 0 and value.is_integer():
        return int(value)
    raise SettingsError(
        f"--skip: expected a number such as 1000 or a fraction such as 0.2, got {skip!r}"
    )


def _send(
    playback: Playback,
    delivery: Delivery,
    rate: float | None,
    labels: bool,
    progress: Progress,
    task: TaskID,
) -> None:
    plays = (play for play in playback.play() if labels or play.kind == "record")
    step = 1 if rate else _PROGRESS_EVERY
    shown = -step
    for play in paced(plays, rate, clock=SystemClock(), sleep=time.sleep):
        check()
        delivery.send(play)
        if play.row - shown >= step:
            shown = play.row
            progress.update(task, completed=play.row + 1)


def _report(delivery: Delivery, interrupted: bool, json: bool) -> None:
    if json:
        result = {
            "records": delivery.records,
            "labels": delivery.labels,
            "row": delivery.row,
            "too_large": len(delivery.too_large),
            "interrupted": interrupted,
        }
        print(json_line(result))
    else:
        stdout.print(
            f"{'interrupted: ' if interrupted else ''}{delivery.records} records and "
            f"{delivery.labels} labels delivered"
            + ("" if delivery.row is None else f", up to data row {delivery.row}")
        )
    report_unsent(delivery.too_large)
