"""`driftline run` and `driftline demo`: stream a data set through all services in one process.

Input: a data set and a stream file. Output: the printed events, and the run's folder with its
topics, result and report.
"""

from pathlib import Path

import typer

from driftline.config.settings import load_settings
from driftline.interrupts import EXIT_CODE
from driftline.safe_text import json_line
from driftline_app.cli.options import (
    BootstrapServers,
    Data,
    Json,
    Limit,
    Seed,
    StreamFile,
    WarmUpShare,
    stderr,
    stdout,
)
from driftline_app.cli.progress_bar import step_bar
from driftline_app.cli.unsent import report_unsent
from driftline_app.stream_file import find_stream_file


def run(
    data: Data,
    file: StreamFile = None,
    warmup: WarmUpShare = 0.2,
    limit: Limit = None,
    seed: Seed = 0,
    bootstrap_servers: BootstrapServers = None,
    as_json: Json = False,
) -> None:
    """Stream DATA through all services: predict, detect drift, retrain, replace the model.

    All services run in this process. The first model is trained on the first rows, and the
    remaining rows are streamed. Events are printed as they occur. The topics and an HTML report are
    saved in the run's folder. Other commands can read the saved topics, for example
    `driftline tail drift --run last`.

    With -b, the run uses the stream's topics on that Kafka broker, and the features topic must be
    empty. Without -b, the run uses an in-memory broker, even if KAFKA_BOOTSTRAP_SERVERS is set, and
    a simulated clock that starts on 2000-01-01, so that all runs publish the same timestamps.
    Exits with code 1 if a record or label was lost or was too large for its topic.

    Example: driftline run elec2.csv.gz --warmup 0.2
    """
    _run(find_stream_file(file), data, warmup, limit, seed, bootstrap_servers, as_json)


def demo(
    limit: Limit = None,
    seed: Seed = 0,
    bootstrap_servers: BootstrapServers = None,
    as_json: Json = False,
) -> None:
    """Run a demo on Iris flowers: a faulty camera causes drift, and retraining restores accuracy.

    The records are drawn at random from the Iris data set. Halfway through, a fault changes the
    measurements. Driftline detects the drift, trains a new model and replaces the old one, and the
    accuracy recovers. Prints the events as they occur, then the totals and the path of an HTML
    report.

    Example: driftline demo
    """
    from producers.iris import STREAM_FILE

    _run(STREAM_FILE, "iris-drift", 0.2, limit, seed, bootstrap_servers, as_json)


def _run(
    file: Path,
    data: str,
    warmup: float,
    limit: int | None,
    seed: int,
    bootstrap_servers: str | None,
    as_json: bool,
) -> None:
    # Imported here to keep `--help` fast: these modules import pandas and scikit-learn.
    from driftline_app.assembly import without_evidently
    from driftline_app.replay.run import play

    console = stderr if as_json else stdout
    try:
        with step_bar() as progress:
            run = play(
                file,
                data,
                load_settings(bootstrap_servers=bootstrap_servers),
                warmup=warmup,
                limit=limit,
                seed=seed,
                on_kafka=bootstrap_servers is not None,
                console=console,
                progress=progress,
            )
    except KeyboardInterrupt:
        raise _interrupted("this run was not saved") from None
    try:
        run.write_report()
        if (missing := without_evidently()) is not None:
            console.print(missing, markup=False, soft_wrap=True)
    except KeyboardInterrupt:
        name = run.folder.name
        raise _interrupted(f"run {name} is saved, but its report is incomplete") from None
    if as_json:
        print(json_line(run.result))
    report_unsent(run.simulation.too_large)
    if run.result.lost or run.result.too_large:
        raise typer.Exit(1)


def _interrupted(consequence: str) -> typer.Exit:
    stderr.print(f"interrupted: {consequence}")
    return typer.Exit(EXIT_CODE)
