"""`driftline backtest`: replay recorded data under retraining policies, and compare the results."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, get_args

import msgspec
import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from driftline.config.measure import higher_is_better
from driftline.config.stream import Stream
from driftline.config.stream_sections import Policy
from driftline.errors import DriftlineError, SettingsError
from driftline.safe_text import json_line, visible_lines
from driftline.wire.topics import Topics
from driftline_app.cli import completion
from driftline_app.cli.options import (
    BootstrapServers,
    Json,
    Limit,
    Run,
    Seed,
    StreamFile,
    WarmUpShare,
    data_argument,
    stderr,
    stdout,
)
from driftline_app.cli.progress_bar import parallel_bars, progress_bar
from driftline_app.context import Context, open_context
from driftline_app.stream_file import find_stream

if TYPE_CHECKING:
    from driftline_app.backtest.result import Backtest

OptionalData = Annotated[
    str | None, data_argument("Default: the records and labels in the stream's topics.")
]
Policies = Annotated[
    list[str] | None,
    typer.Option(
        "--policy",
        "-p",
        metavar="NAME",
        help="Retraining policy to compare: harm, drift, schedule, always or never. May be "
        "repeated. Default: the policy in the stream file.",
        show_default=False,
        autocompletion=completion.policies,
    ),
]
Report = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Write a report to this folder: an HTML page, and its plots as PNG files. Default: no "
        "report.",
        show_default=False,
    ),
]
Processes = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Number of parallel processes. Default: one per CPU core.",
        show_default=False,
    ),
]

# Field of `Recorded` → description of the records or labels that the field counts.
_LEFT_OUT: Final = {
    "unreadable_records": "unreadable records (dead letters)",
    "unreadable_labels": "unreadable labels (dead letters)",
    "labels_without_record": "labels whose partition has no readable record with the same id",
    "repeated_labels": "repeated labels",
    "revised_labels": "labels replaced by a later label",
}


def backtest(
    file: StreamFile = None,
    data: OptionalData = None,
    policy: Policies = None,
    warmup: WarmUpShare = 0.2,
    limit: Limit = None,
    seed: Seed = 0,
    report: Report = None,
    processes: Processes = None,
    bootstrap_server: BootstrapServers = None,
    run: Run = None,
    as_json: Json = False,
) -> None:
    """Replay DATA with several retraining policies, and compare them with simple baselines.

    Without DATA, the command reads records and labels from the stream's topics on Kafka or, with
    --run, from the topics that a run saved. It reads each topic once, up to its current end, and
    never writes to a topic.

    Each policy runs with the same services as `driftline run`, so its result is what a run with
    that policy would achieve. The baselines are: never retrain; retrain after each window; retrain
    as many times as the policy did, but at regular intervals; predict the previous label. To
    measure false alarms, the rows are also replayed in random order, which removes all drift.

    Prints a table that compares the policies and the baselines.

    Example: driftline backtest elec2.csv.gz --policy harm --policy drift

    Example: driftline backtest -b kafka:9092
    """
    # Imported here to keep `--help` fast: these modules import pandas and scikit-learn.
    from driftline_app.backtest.policy_runs import Job
    from driftline_app.backtest.process_pool import cores
    from driftline_app.backtest.result import backtest_all

    if data is not None and (bootstrap_server is not None or run is not None):
        name = "--run" if run is not None else "--bootstrap-server"
        raise SettingsError(
            f"{name} reads topics, but {data} is a data set", hint="omit one of them"
        )
    context = None if data is not None else open_context(file, bootstrap_server, run)
    # With both --stream and --run, settings come from the stream file, and records from the run.
    stream = find_stream(file) if context is None or file is not None else context.stream
    policies = _policies(policy or [stream.retrain.policy])
    if report is not None:
        report.mkdir(parents=True, exist_ok=True)  # fail now rather than after the long replays
    out = stderr if as_json else stdout
    with tempfile.TemporaryDirectory(prefix="driftline-backtest-") as folder:
        title = data or Topics(stream).features
        if context is not None:
            stream, data = _export_topics(context, stream, Path(folder), out)
        assert data is not None
        job = Job("first model", stream, data, Path(folder), warmup, limit, seed)
        with parallel_bars() as progress:
            found = backtest_all(job, policies, processes or cores(), progress)
        _show(out, found)
        if report is not None:
            _write_report(out, report, found, title)
    if as_json:
        print(json_line(found.result))


def _policies(names: Sequence[str]) -> list[Policy]:
    """Return the policies with these names, in the order of `Policy`. Raises SettingsError."""
    known: tuple[Policy, ...] = get_args(Policy)
    for name in names:
        if name not in known:
            raise SettingsError(
                f"--policy {name}: unknown policy", hint=f"expected one of {', '.join(known)}"
            )
    return [name for name in known if name in names]


def _export_topics(
    context: Context, stream: Stream, folder: Path, out: Console
) -> tuple[Stream, str]:
    """Write the topics' records and labels to a data file, and print how many were left out.

    Return the stream to use when replaying the file, and the file's path.
    """
    from driftline_app.backtest.export_records import as_recorded, write_recorded

    stream, file = as_recorded(stream), folder / f"{stream.name}.jsonl"
    with progress_bar("reading topics", hidden=out is stderr) as (total, progress):
        recorded = write_recorded(context.broker, stream, file, total=total, progress=progress)
    lines = [f"{recorded.records:,} records of {stream.name}, {recorded.labelled:,} with a label"]
    for field, words in _LEFT_OUT.items():
        if count := getattr(recorded, field):
            lines.append(f"  left out: {count:,} {words}")
    for line in lines:
        out.print(line, markup=False, soft_wrap=True)
    return stream, str(file)


def _show(out: Console, found: "Backtest") -> None:
    """Print the policies, the baselines and the false-alarm rate, in at most 80 columns."""
    from driftline_app.backtest.result import comparison
    from driftline_app.estimate_errors import error_sentence

    result = found.result
    better = "higher" if higher_is_better(result.metric) else "lower"
    out.print(f"{found.job.stream.name}: {result.metric}, {better} is better")
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0)
    table.add_column("policy", no_wrap=True)
    for name in (result.metric, "over never", "over periodic", "events", "trained", "CPU s"):
        table.add_column(name, justify="right")
    for number, row in enumerate(comparison(found), 1):
        table.add_row(*msgspec.structs.astuple(row), end_section=number == len(result.policies))
    out.print(table)
    lines = [
        f"{name}: {error_sentence(policy.estimates)}"
        for name, policy in result.policies.items()
        if policy.estimates is not None
    ]
    if result.false_alarm_rate is not None:
        lines.append(
            f"false alarms: {result.false_alarm_rate:.3f} drift events per window, in "
            f"{result.shuffled_windows} windows of the same rows in random order"
        )
    for line in lines:
        out.print(line, soft_wrap=True)


def _write_report(out: Console, folder: Path, found: "Backtest", title: str) -> None:
    from driftline_app.backtest.page import backtest_page
    from driftline_app.report.page import write_page
    from driftline_app.report.png_pictures import write_pictures

    page, body = folder / "report.html", backtest_page(found, title)
    write_page(page, f"Backtest of {found.job.stream.name}", body)
    out.print(f"report: {page}", soft_wrap=True)
    try:
        pictures = write_pictures(folder, body)
    except (DriftlineError, OSError) as error:  # not fatal: the page contains the same plots
        out.print(Text(visible_lines(f"no pictures: {error}")), soft_wrap=True)
    else:
        out.print(f"pictures: {len(pictures)} PNG files in the same folder")
