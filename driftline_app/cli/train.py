"""`driftline train`: train a model on a labelled data set, and publish it to a Kafka stream."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from driftline.safe_text import json_line
from driftline_app.cli import completion
from driftline_app.cli.options import DATA_HELP, BootstrapServers, Json, StreamFile, stdout
from driftline_app.cli.progress_bar import step_bar
from driftline_app.context import open_context

if TYPE_CHECKING:
    from driftline_app.train_on_data import TrainResult


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
        typer.Option("--promote", help="Make the model the champion even if the stream has one."),
    ] = False,
    bootstrap_server: BootstrapServers = None,
    json: Json = False,
) -> None:
    """Train a model on DATA, and publish it to the stream.

    The model's package is signed and saved in the model store. A stream's first model becomes the
    champion. Rows without a label are skipped. Prints the candidates that were tried, with their
    metrics, and the digest of the new model.

    Example: driftline train --data elec2.csv.gz -b local
    """
    from driftline_app.train_on_data import train_on_data

    context = open_context(file, bootstrap_server)
    with step_bar(hidden=json) as progress:
        result = train_on_data(context, data, limit=limit, promote=promote, progress=progress)
    if json:
        print(json_line(result))
    else:
        _show(result)


def _show(result: "TrainResult") -> None:
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
