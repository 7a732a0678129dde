"""`driftline backtest`: compare policies of retraining on recorded data."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, get_args

import typer
from rich.console import Console
from rich.progress import TaskID
from rich.text import Text

from driftline.config.stream import Policy, Stream
from driftline.errors import DriftlineError, SettingsError
from driftline.safe_text import json_line, visible_lines
from driftline.wire.topics import Topics
from driftline_app.cli import completion
from driftline_app.cli.options import (
    DATA_HELP,
    BootstrapServers,
    Json,
    Run,
    StreamFile,
    open_context,
    stderr,
    stdout,
)
from driftline_app.cli.progress_bar import counting_bar, progress_bar
from driftline_app.cli.run import Limit, Seed, WarmUpShare
from driftline_app.cli.stream_file import find_stream

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

    from driftline.audit.export_records import Recorded
    from driftline_app.backtest.process_pool import Tell

Policies = Annotated[
    list[str] | None,
    typer.Option(
        "--policy",
        "-p",
        metavar="NAME",
        help="Policy to compare: harm, drift, schedule, always or never. May be repeated. Default: "
        "the policy in the stream file.",
        show_default=False,
        autocompletion=completion.policies,
    ),
]


def backtest(
    file: StreamFile = None,
    data: Annotated[
        str | None,
        typer.Argument(
            metavar="DATA",
            help=f"{DATA_HELP} Default: the records in the stream's topics.",
            show_default=False,
            autocompletion=completion.data_sets,
        ),
    ] = None,
    policy: Policies = None,
    warmup: WarmUpShare = 0.2,
    limit: Limit = None,
    seed: Seed = 0,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder for a report: an HTML page, and its plots as PNG files.",
            show_default=False,
        ),
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Number of processes. Default: one per CPU core.",
            show_default=False,
        ),
    ] = None,
    bootstrap_server: BootstrapServers = None,
    run: Run = None,
    as_json: Json = False,
) -> None:
    """Compare policies of retraining on DATA with each other and with simple baselines.

    Without DATA, the records and labels are those in the stream's topics on Kafka, or with --run
    those that a run saved. They are read once, up to their current end. Nothing is written to them.

    Each policy is played through the same services as in `driftline run`, and its result is that of
    a run with this policy. The baselines are: never retrain; retrain after each window; retrain as
    often as the policy did, but at regular intervals; predict the previous label. To measure false
    alarms, the rows are also played in random order, where nothing drifts.

    Example: driftline backtest elec2.csv.gz --policy harm --policy drift

    Example: driftline backtest -b kafka:9092
    """
    # Imported here, because these modules import pandas and scikit-learn: `--help` stays quick.
    from driftline.audit.export_records import as_recorded, write_recorded
    from driftline_app.backtest.process_pool import cores
    from driftline_app.backtest.result import backtest_all
    from driftline_app.cli.backtest_table import write_table

    if data is not None and (bootstrap_server is not None or run is not None):
        option = "--run" if run is not None else "--bootstrap-server"
        raise SettingsError(
            f"{option} reads topics, and {data} is a data set", hint="remove one of the two"
        )
    context = None if data is not None else open_context(file, bootstrap_server, run)
    # With --stream and --run, the settings are those of the file, and the records those of the run.
    stream = find_stream(file) if context is None or file is not None else context.stream
    names = list(dict.fromkeys(policy or [stream.retrain.policy]))
    known: tuple[Policy, ...] = get_args(Policy)
    for name in names:
        if name not in known:
            raise SettingsError(
                f"--policy {name}: unknown policy", hint=f"expected one of {', '.join(known)}"
            )
    if report is not None:
        report.mkdir(parents=True, exist_ok=True)  # fails before the plays, not after them
    out = stderr if as_json else stdout
    with tempfile.TemporaryDirectory(prefix="driftline-backtest-") as folder:
        if context is not None:
            data = str(Path(folder) / f"{stream.name}.jsonl")
            stream = as_recorded(stream)
            with progress_bar("reading topics", hidden=as_json) as (started, passed):
                recorded = write_recorded(
                    context.broker, stream, Path(data), total=started, progress=passed
                )
            _tell_recorded(out, stream, recorded)
        assert data is not None
        with _plays_bar() as tell:
            found = backtest_all(
                stream,
                data,
                [name for name in known if name in names],
                folder=Path(folder),
                warmup=warmup,
                limit=limit,
                seed=seed,
                processes=processes or cores(),
                tell=tell,
            )
        write_table(out, stream, found)
        if report is not None:
            from driftline_app.backtest.page import backtest_page

            page = backtest_page(
                stream,
                data,
                found,
                title=data if context is None else Topics(stream).features,
                warmup=warmup,
                limit=limit,
                seed=seed,
            )
            _write_report(out, report, stream, page)
    if as_json:
        print(json_line(found.result))


@contextmanager
def _plays_bar() -> Iterator["Tell"]:
    """Show a progress bar for each play, on a terminal only."""
    with counting_bar() as bar:
        tasks: dict[str, TaskID] = {}

        def tell(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name)
            bar.update(tasks[name], completed=done, total=total)

        yield tell


def _write_report(out: Console, folder: Path, stream: Stream, body: list["Element"]) -> None:
    from driftline_app.report.page import write_page
    from driftline_app.report.png_pictures import write_pictures

    page = folder / "report.html"
    write_page(page, f"Backtest of {stream.name}", body)
    out.print(f"report: {page}", highlight=False, soft_wrap=True)
    try:
        pictures = write_pictures(folder, body)
    except (DriftlineError, OSError) as error:  # the page contains the same plots
        out.print(Text(visible_lines(f"no pictures: {error}")), soft_wrap=True)
    else:
        out.print(f"pictures: {len(pictures)} PNG files in the same folder", highlight=False)


_LEFT_OUT: Final = {
    "unreadable_records": "unreadable records (dead letters)",
    "unreadable_labels": "unreadable labels (dead letters)",
    "labels_without_record": "labels without a readable record of their id in their partition",
    "repeated_labels": "repeated labels",
    "revised_labels": "labels that a later label replaced",
}


def _tell_recorded(out: Console, stream: Stream, recorded: "Recorded") -> None:
    """Print how many records and labels were read, and how many were left out."""
    lines = [f"{recorded.records:,} records of {stream.name}, {recorded.labelled:,} with a label"]
    for field, words in _LEFT_OUT.items():
        if count := getattr(recorded, field):
            lines.append(f"  left out: {count:,} {words}")
    for line in lines:
        out.print(line, highlight=False, markup=False, soft_wrap=True)
