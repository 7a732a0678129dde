"""`driftline estimates`: compare estimated metrics with the metrics later computed from labels."""

from collections.abc import Sequence

import msgspec
import typer
from rich.table import Table

from driftline.config.stream import Stream
from driftline.safe_text import json_line
from driftline.wire.values import shown_time
from driftline_app.cli.options import BootstrapServers, Json, Run, StreamFile, stdout
from driftline_app.cli.progress_bar import progress_bar
from driftline_app.context import open_context
from driftline_app.estimate_errors import compare_estimates, error_sentence, missing_sentence
from driftline_app.message_lines import short_digest
from monitor.estimates.coverage import Coverage, EstimateComparison, coverage


class Estimates(msgspec.Struct, frozen=True):
    """The output of `driftline estimates --json`."""

    windows: list[EstimateComparison]
    coverage: Coverage | None


def estimates(
    file: StreamFile = None,
    bootstrap_server: BootstrapServers = None,
    run: Run = None,
    json: Json = False,
) -> None:
    """Compare each window's estimated metric with the metric computed from its labels.

    When a window closes, the monitor estimates the metric from inputs and scores alone. An estimate
    is valid only while the relation between inputs and labels stays the same. Labels that have not
    arrived yet are left out.

    Example: driftline estimates --run last
    """
    context = open_context(file, bootstrap_server, run)
    with progress_bar("reading topics", hidden=json) as (total, progress):
        compared = compare_estimates(context.broker, context.stream, total, progress)
    found = Estimates(compared.pairs, coverage(compared.pairs))
    if json:
        print(json_line(found))
    elif found.coverage is None:
        stdout.print(missing_sentence(compared), soft_wrap=True)
        raise typer.Exit(1)
    else:
        _show(context.stream, found.windows)
        stdout.print(error_sentence(found.coverage), soft_wrap=True)


def _show(stream: Stream, pairs: Sequence[EstimateComparison]) -> None:
    by_row = stream.axis == "row"
    stdout.print(f"{stream.judged_by.name}, estimated and computed from labels")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0) if by_row else (0, 1, 0, 0))
    for name in ("window until", "model", "estimate", "95% interval", "actual", "labels", ""):
        table.add_column(name, justify="left" if name in ("model", "") else "right", no_wrap=True)
    for pair in pairs:
        estimate = pair.estimate
        table.add_row(
            f"{pair.end:,}" if by_row else shown_time(pair.end),
            short_digest(pair.model),
            f"{estimate.value:.4g}",
            f"{estimate.low:.4g}–{estimate.high:.4g}",
            f"{pair.realised:.4g}",
            f"{pair.outcomes:,}",
            "" if pair.covered else "outside",
        )
    stdout.print(table)
