"""`driftline run` and `driftline demo`: play one data set through all services in one process."""

import shutil
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.progress import Progress

from driftline.client.saved_runs import STREAM_FILE, TOPICS
from driftline.config.settings import Settings, load_settings
from driftline.config.stream import Stream, load
from driftline.safe_text import json_line
from driftline_app.cli.options import (
    BootstrapServers,
    Data,
    Json,
    StreamFile,
    stderr,
    stdout,
)
from driftline_app.cli.progress_bar import counting_bar
from driftline_app.cli.stream_file import find_stream_file

if TYPE_CHECKING:
    from driftline_app.replay.narrator import Narrator
    from driftline_app.replay.simulation import Simulation

WarmUpShare = Annotated[
    float,
    typer.Option(
        "--warmup",
        min=0.01,
        max=0.9,
        help="Train the first model on this share of the rows, and stream the others.",
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(
        min=1, metavar="N", help="Use only the first N rows of the data.", show_default=False
    ),
]
Seed = Annotated[int, typer.Option(help="Seed for random label delays and missing labels.")]


def run(
    data: Data,
    file: StreamFile = None,
    warmup: WarmUpShare = 0.2,
    limit: Limit = None,
    seed: Seed = 0,
    bootstrap_servers: BootstrapServers = None,
    as_json: Json = False,
) -> None:
    """Play DATA through all services: predict, detect drift, retrain, replace the model.

    The services run in this process, on an in-memory broker. The first rows train the first model,
    and the rest is streamed. The topics are saved in the folder of the run, so that commands with
    `--run` can read them, such as `driftline tail drift --run last`. With -b, the run uses the
    stream's topics on that Kafka, where the features topic must be empty.

    Example: driftline run elec2.csv.gz --warmup 0.2
    """
    play(find_stream_file(file), data, warmup, limit, seed, bootstrap_servers, as_json)


def demo(
    limit: Limit = None,
    seed: Seed = 0,
    bootstrap_servers: BootstrapServers = None,
    as_json: Json = False,
) -> None:
    """Run a demo on Iris flowers: a faulty camera causes drift, and retraining repairs the model.

    Records are drawn from the Iris data set, until a fault changes the measurements. Driftline
    detects the drift, retrains the model and replaces it, and the accuracy recovers. The last line
    is the path of the report.

    Example: driftline demo
    """
    from producers.iris import STREAM_FILE

    play(
        STREAM_FILE,
        "iris-drift",
        0.2,
        limit,
        seed,
        bootstrap_servers,
        as_json,
    )


def play(
    file: Path,
    data: str,
    warmup: float,
    limit: int | None,
    seed: int,
    bootstrap_servers: str | None,
    as_json: bool,
) -> None:
    """Run a stream file over a data set, and print what happens. Raises DriftlineError."""
    # Imported here, because these modules import pandas and scikit-learn: `--help` stays quick.
    from driftline_app.assembly import without_evidently
    from driftline_app.cli.unsent import report_unsent
    from driftline_app.replay.narrator import Narrator, write_run_report

    settings = load_settings(bootstrap_servers=bootstrap_servers)
    stream = load(file)
    console = stderr if as_json else stdout
    narrator = Narrator(stream, console)
    folder = _new_folder(settings, stream.name)
    kept = False
    try:
        shutil.copyfile(file, folder / STREAM_FILE)
        with counting_bar() as bar:
            simulation = _prepare(
                stream,
                data,
                settings,
                folder,
                narrator,
                bar,
                warmup=warmup,
                limit=limit,
                seed=seed,
                on_kafka=bootstrap_servers is not None,
            )
            try:
                result = simulation.run()
                _keep_topics(simulation, folder)
                kept = True
            finally:
                simulation.close()
        (folder / "result.json").write_bytes(msgspec.json.encode(result))
        report = folder / "report.html"
        write_run_report(report, simulation, result)
        narrator.finish(result, report)
        if (missing := without_evidently()) is not None:
            console.print(missing, markup=False, highlight=False, soft_wrap=True)
    except KeyboardInterrupt:
        stderr.print(
            f"interrupted: run {folder.name} is saved, but its report is incomplete"
            if kept
            else "interrupted: this run was not saved",
            highlight=False,
        )
        raise typer.Exit(130) from None
    finally:
        # `--run last` must not find an incomplete run.
        if not kept:
            shutil.rmtree(folder, ignore_errors=True)
    if as_json:
        print(json_line(result))
    report_unsent(simulation.too_large)
    if result.lost or result.too_large:
        raise typer.Exit(1)


def _prepare(
    stream: Stream,
    data: str,
    settings: Settings,
    folder: Path,
    narrator: "Narrator",
    bar: Progress,
    *,
    warmup: float,
    limit: int | None,
    seed: int,
    on_kafka: bool,
) -> "Simulation":
    """Train the first model and create topics and services. Raises DriftlineError."""
    from driftline_app.replay.simulation import prepare
    from producers.sources import open_source

    task = bar.add_task("warm-up", total=None)
    simulation = prepare(
        stream,
        open_source(data),
        settings,
        reports=folder / "reports",
        warmup=warmup,
        limit=limit,
        seed=seed,
        on_kafka=on_kafka,
        on_happening=narrator.tell,
        on_progress=lambda row: bar.update(task, completed=row),
        on_training=lambda step, done, total: bar.update(
            task, description=f"first model: {step}", completed=done, total=total
        ),
    )
    narrator.start(simulation.first)
    bar.update(task, description="streaming", total=simulation.total_rows)
    return simulation


def _keep_topics(simulation: "Simulation", folder: Path) -> None:
    """Save all topics of an in-memory broker, or none. Topics on a Kafka stay there."""
    part = folder / f"{TOPICS}.part"
    simulation.save(part)
    if part.exists():
        part.rename(folder / TOPICS)


def _new_folder(settings: Settings, name: str) -> Path:
    """Create a folder for a run. Its name begins with the time, so that the newest sorts last."""
    stamp = datetime.fromtimestamp(time.time(), UTC).strftime("%Y%m%dT%H%M%S")
    folder = settings.runs / f"{stamp}-{name}"
    number = 1
    while folder.exists():
        number += 1
        folder = settings.runs / f"{stamp}-{number:02}-{name}"
    folder.mkdir(parents=True)
    return folder
