"""`driftline produce`: send a data set's rows to a stream's features and labels topics."""

from contextlib import closing
from typing import Annotated

import typer

from driftline.errors import SettingsError
from driftline.interrupts import EXIT_CODE
from driftline.safe_text import json_line
from driftline.wire.events import MAX_ROW
from driftline.wire.topics import Topics
from driftline_app.cli.options import (
    BootstrapServers,
    Json,
    Seed,
    StreamFile,
    data_argument,
    stdout,
)
from driftline_app.cli.progress_bar import step_bar
from driftline_app.cli.unsent import report_unsent
from driftline_app.context import open_context
from driftline_app.produce_data import numbered_playback, send_rows
from producers.delivery import Delivery
from producers.sources import open_source

Rate = Annotated[
    float | None,
    typer.Option(
        metavar="N",
        help="Send at most N feature records per second. Default: as fast as possible.",
        show_default=False,
    ),
]
RowLimit = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Send at most N rows, not counting skipped rows. Default: all rows.",
        show_default=False,
    ),
]
Skip = Annotated[
    str | None,
    typer.Option(
        metavar="N",
        help="Rows to skip at the start: a number (1000) or a fraction of all rows (0.2). Skipped "
        "rows still count towards row numbers. Default: none.",
        show_default=False,
    ),
]
FirstRow = Annotated[
    int | None,
    typer.Option(
        "--first-row",
        min=0,
        max=MAX_ROW,
        metavar="N",
        help="Number (@row) of the first record. If rows skipped by --skip have higher numbers, "
        "numbering continues after them. Default: one more than the highest number in the "
        "features topic.",
        show_default=False,
    ),
]


def produce(
    data: Annotated[str, data_argument('Use "-" to read JSON Lines from standard input.')],
    file: StreamFile = None,
    bootstrap_server: BootstrapServers = None,
    rate: Rate = None,
    limit: RowLimit = None,
    skip: Skip = None,
    first_row: FirstRow = None,
    labels: Annotated[
        bool,
        typer.Option("--labels/--no-labels", help="Also send the labels."),
    ] = True,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Send the rows of DATA to the stream's features and labels topics.

    Each label is sent after the delay that the stream file sets in `[simulate] label_delay`. Prints
    how many records and labels were delivered. Exits with code 1 if a record or label was too large
    for its topic.

    Example: driftline produce elec2.csv.gz --skip 0.2 --rate 100
    """
    source = open_source(data)
    context = open_context(file, bootstrap_server)
    skipped = 0 if skip is None else _rows_to_skip(skip, source.count())
    playback = numbered_playback(
        context.stream,
        context.broker,
        source,
        seed=seed,
        skip=skipped,
        limit=limit,
        first_row=first_row,
    )
    total = playback.total
    interrupted = False
    with closing(context.broker.producer()) as producer, step_bar(hidden=json) as progress:
        delivery = Delivery(producer, Topics(context.stream))
        try:
            send_rows(
                playback,
                delivery,
                rate=rate,
                labels=labels,
                progress=lambda row: progress(context.stream.name, row, total),
            )
        except KeyboardInterrupt:
            interrupted = True
        delivery.confirm()
    _report(delivery, interrupted, json)
    if interrupted:
        raise typer.Exit(EXIT_CODE)
    if delivery.too_large:
        raise typer.Exit(1)


def _rows_to_skip(skip: str, total: int | None) -> int:
    try:
        value = float(skip)
    except ValueError:
        value = -1.0
    if "." in skip and 0 < value < 1:
        if total is None:
            raise SettingsError("--skip: cannot skip a fraction of data whose length is unknown")
        return int(total * value)
    if value >= 0 and value.is_integer():
        return int(value)
    raise SettingsError(
        f"--skip: expected a number such as 1000 or a fraction such as 0.2, got {skip!r}"
    )


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
