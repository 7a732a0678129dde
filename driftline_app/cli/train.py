"""`driftline train`: train a model of a stream from a data set with labels."""

from typing import Annotated

import msgspec
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from driftline.clock import SystemClock
from driftline.config.stream import Metric, Simulate, Stream
from driftline.errors import DataError
from driftline.models.package import Scoring
from driftline.safe_text import json_line
from driftline.wire.events import Removed, Trial, Value
from driftline.wire.labels import LabelCodec
from driftline_app.cli import completion
from driftline_app.cli.options import (
    DATA_HELP,
    BootstrapServers,
    Json,
    StreamFile,
    open_context,
    stderr,
    stdout,
)


class TrainResult(msgspec.Struct, frozen=True):
    """The output of `driftline train --json`."""

    digest: str
    candidate: str
    parameters: dict[str, str | int | float | bool | None]
    scoring: Scoring
    scoring_reason: str
    metric: Metric
    value: float
    rows: int
    promoted: bool
    removed: tuple[Removed, ...]
    trials: tuple[Trial, ...]


def train(
    data: Annotated[
        str,
        typer.Option(
            "--data",
            metavar="DATA",
            help=DATA_HELP,
            autocompletion=completion.data_sets,
        ),
    ],
    file: StreamFile = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Train on the first N rows only.", show_default=False
        ),
    ] = None,
    promote: Annotated[
        bool,
        typer.Option("--promote", help="Make the model the champion, even if there is one."),
    ] = False,
    bootstrap_server: BootstrapServers = None,
    json: Json = False,
) -> None:
    """Train a model on DATA, and publish it to the stream.

    The package of the model is signed and stored. The first model of a stream becomes the champion.
    Rows without a label are skipped.

    Example: driftline train --data elec2.csv.gz -b local
    """
    from driftline.models.catalog import read_catalog
    from driftline.models.keys import Trusted
    from driftline.wire.topics import Topics, require
    from trainer.first import train_first

    context = open_context(file, bootstrap_server)
    stream, topics = context.stream, Topics(context.stream)
    admin = context.broker.admin()
    try:
        require(admin, topics)  # fail before training, not after it
    finally:
        admin.close()
    catalog = read_catalog(context.broker, topics, Trusted(context.settings.keys))
    promote = promote or catalog.champion is None
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns, console=stderr, transient=True, disable=json or not stderr.is_terminal
    ) as bar:
        task = bar.add_task("reading", total=None)
        records, labels = labelled_records(stream, data, limit)
        trained = train_first(
            stream,
            records,
            labels,
            settings=context.settings,
            clock=SystemClock(),
            catalog=catalog,
            promote=promote,
            progress=lambda step, done, total: bar.update(
                task, description=step, completed=done, total=total
            ),
        )
    producer = context.broker.producer(client_id="driftline-train")
    try:
        for record in trained.records:
            producer.send(record)
        producer.flush()
    finally:
        producer.close()
    manifest = trained.manifest
    result = TrainResult(
        digest=trained.digest,
        candidate=manifest.candidate,
        parameters=manifest.parameters,
        scoring=manifest.scoring,
        scoring_reason=manifest.scoring_reason,
        metric=manifest.metric,
        value=manifest.value,
        rows=manifest.rows,
        promoted=promote,
        removed=manifest.removed,
        trials=manifest.trials,
    )
    if json:
        print(json_line(result))
    else:
        _tell(result)


def labelled_records(
    stream: Stream, data: str, limit: int | None = None
) -> tuple[list[bytes], list[Value]]:
    """Return the labelled records of a data set, as bytes to be sent, and their labels.

    `limit` restricts this to the first rows.

    Raises DataError if there are none.
    """
    from producers.playback import Playback
    from producers.sources import open_source

    own = stream.simulate.delay is None
    playback = Playback(
        msgspec.structs.replace(stream, simulate=Simulate(label_delay="data" if own else 0)),
        open_source(data),
        limit=limit,
    )
    codec = LabelCodec(stream)
    waiting: dict[str, bytes] = {}
    records: list[bytes] = []
    labels: list[Value] = []
    for play in playback.play():
        if play.record_id is None:
            continue  # a row that is no record: the codec would refuse it
        if play.kind == "record":
            waiting[play.record_id] = play.value
        elif (record := waiting.pop(play.record_id, None)) is not None:
            try:
                label = codec.decode(play.value).label
            except DataError:
                continue  # outcomes would reject it, so the record has no label
            records.append(record)
            labels.append(label)
    if not records:
        playback.require_columns()
        raise DataError(
            f"{data}: no row has a label in column {stream.target!r}",
            hint="the data must have the stream file's `target` column",
        )
    return records, labels


def _tell(result: TrainResult) -> None:
    table = Table(box=None)
    table.add_column("candidate", no_wrap=True)
    table.add_column("parameters")
    for name in ("rows", result.metric):
        table.add_column(name, justify="right")
    for trial in result.trials:
        parameters = ", ".join(f"{name}={value}" for name, value in trial.parameters.items())
        table.add_row(trial.candidate, parameters, f"{trial.rows:,}", f"{trial.metric:.4g}")
    stdout.print(table)
    for item in result.removed:
        stdout.print(f"left out: {item.count:,} × {item.reason}", markup=False)
    stdout.print(result.digest, markup=False, soft_wrap=True)
    stdout.print(
        f"{result.candidate}, {result.metric} {result.value:.4g} on held-out rows; "
        f"fitted on {result.rows:,}; scored by {result.scoring} ({result.scoring_reason})",
        markup=False,
        soft_wrap=True,
    )
    stdout.print(
        "this model is now the champion"
        if result.promoted
        else "the stream has a champion; `driftline models promote` replaces it with this model"
    )
