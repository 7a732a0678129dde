"""`driftline estimates`: compare estimated metrics with those computed from labels later."""

from collections.abc import Callable

import msgspec
import typer
from rich.table import Table

from driftline.broker.scan import Progress, ranges, scan, size
from driftline.safe_text import json_line
from driftline.wire.envelope import decode, outcomes_decoder, windows_decoder
from driftline.wire.events import DataWindow, Outcome
from driftline.wire.topics import Topics
from driftline.wire.values import shown_time
from driftline_app.cli.options import (
    BootstrapServers,
    Context,
    Json,
    Run,
    StreamFile,
    open_context,
    stdout,
)
from driftline_app.cli.progress_bar import progress_bar
from driftline_app.message_lines import short_digest
from monitor.estimates.coverage import Coverage, EstimateComparison, Truth, coverage


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
    """Compare the estimated metric of each window with the metric computed from its labels.

    The estimate was made when the window closed, without labels, from inputs and scores. It is
    right as long as the relation between inputs and labels stays the same. Labels that have not
    arrived yet are not counted.

    Example: driftline estimates --run last
    """
    context = open_context(file, bootstrap_server, run)
    with progress_bar("reading topics", hidden=json) as (started, passed):
        pairs = _read(context, started, passed)
    found = Estimates(pairs, coverage(pairs))
    if json:
        print(json_line(found))
    elif found.coverage is None:
        stdout.print("no window has both an estimate and labels")
        raise typer.Exit(1)
    else:
        _show(context, found.windows)
        stdout.print(error_sentence(found.coverage), highlight=False, soft_wrap=True)


def error_sentence(found: Coverage) -> str:
    """Return a sentence about the errors of estimates.

    >>> error_sentence(Coverage(9, 0.0214, 8 / 9, 0.0405))
    'estimates without labels: mean error 0.0214 over 9 windows, 89% of the true values within \
the 95% interval (mean error of the held-out metric: 0.0405)'
    """
    return (
        f"estimates without labels: mean error {found.mean_absolute_error:.3g} over "
        f"{found.windows} windows, {found.covered:.0%} of the true values within the 95% interval "
        f"(mean error of the held-out metric: {found.held_out_error:.3g})"
    )


def _read(
    context: Context, started: Callable[[int], None], passed: Progress
) -> list[EstimateComparison]:
    topics = Topics(context.stream)
    span = ranges(context.broker, [topics.windows, topics.outcomes])
    started(size(span))
    windows: list[DataWindow] = []
    truth = Truth(context.stream)
    for messages in scan(context.broker, span, progress=passed):
        outcomes = []
        for message in messages:
            if message.topic == topics.windows:
                window = decode(windows_decoder, message)
                if isinstance(window, DataWindow):
                    windows.append(window)
            elif isinstance(outcome := decode(outcomes_decoder, message), Outcome):
                outcomes.append(outcome)
        truth.add(outcomes)
    return truth.compare(windows)


def _show(context: Context, pairs: list[EstimateComparison]) -> None:
    by_row = context.stream.axis == "row"
    stdout.print(f"{context.stream.judged_by}, estimated and computed from labels", highlight=False)
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
