"""Print what happens in a run, one line per event, and fill the report of the run."""

from collections.abc import Collection
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from driftline.config.stream import Stream
from driftline.learning.metrics import higher_is_better
from driftline.wire.events import DriftEvent, RetrainDecision, RetrainRequest, RolePointer
from driftline_app.cli.estimates import error_sentence
from driftline_app.message_lines import short_digest
from driftline_app.replay.observer import Happening
from driftline_app.replay.simulation import FirstModel, RunResult, Simulation
from driftline_app.report.page import plural, write_report
from driftline_app.report.values import Happened, MetricOverTime, RunEvent, RunReport, Totals

# Blocks in the chart of the report: enough to show a drop and a recovery without noise.
BLOCKS = 100


class Narrator:
    """Print one line for each event of a run."""

    def __init__(self, stream: Stream, console: Console) -> None:
        self._stream = stream
        self._console = console

    def start(self, first: FirstModel) -> None:
        """Print the line about the first model, before the stream begins."""
        self._say(
            f"[bold]{self._stream.name}[/]: first model {short_digest(first.digest)} "
            f"({first.candidate}, {self._stream.judged_by} {first.value:.3f} on held-out rows), "
            f"trained on the first {first.rows:,} rows; streaming the rest"
        )

    def tell(self, happening: Happening) -> None:
        """Print an event, unless another line covers it."""
        event = happening.event
        match event:
            case DriftEvent():
                colour = "green" if event.action == "resolved" else "red"
                text = f"[{colour}]{event.kind} drift {event.action}[/]  {escape(event.message)}"
            case RetrainRequest():
                text = f"[yellow]retrain requested[/]  {escape(event.reason)}"
            case RetrainDecision(promoted=True):
                model = short_digest(event.model)
                text = f"[cyan]model swapped[/]  {model}: {escape(event.reason)}"
            case RetrainDecision():
                text = f"[yellow]model kept[/]  {escape(event.reason)}"
            case RolePointer(by="trainer"):
                return  # the line about its decision covers this
            case RolePointer():
                text = f"[cyan]model chosen by operator[/]  {short_digest(event.digest)}"
        self._say(f"row {happening.row:>9,}  {text}")

    def finish(self, result: RunResult, report: Path) -> None:
        """Print totals, the metric and its baselines, and the path of the report."""
        metric = result.metric
        lost = f"[red]{result.lost} lost[/]" if result.lost else "0 lost"
        repeated = (
            f"{plural(result.duplicate_ids, 'repeated id')}, " if result.duplicate_ids else ""
        )
        self._console.print()
        self._say(
            f"{plural(result.records, 'record')} → {plural(result.predictions, 'prediction')}, "
            f"{plural(result.outcomes, 'outcome')}, {plural(result.dead_letters, 'dead letter')}, "
            f"{repeated}{lost}; {plural(len(result.alerts), 'drift event')}, "
            f"{plural(len(result.retrains), 'retraining')}, "
            f"{plural(len(result.models), 'model')}, {result.seconds:.1f} s"
        )
        error = f" ± {metric.gain_error:.3f}" if metric.gain_error is not None else ""
        gain = f"; gain {metric.gain:+.3f}{error}" if metric.gain is not None else ""
        self._say(
            f"{metric.name}: loop [bold]{shown(metric.loop)}[/], first model only "
            f"{shown(metric.static)}, {self._stream.baseline.replace('_', ' ')} "
            f"{shown(metric.baseline)}{gain}"
        )
        if result.estimates is not None:
            self._say(error_sentence(result.estimates))
        self._say(f"report: {report}")

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False, soft_wrap=True)


def shown(value: float | None) -> str:
    """Return a metric as text; a dash if it is unknown."""
    return "–" if value is None else f"{value:.4g}" if abs(value) >= 10 else f"{value:.3f}"


def write_run_report(path: Path, simulation: Simulation, result: RunResult) -> None:
    """Write the HTML report of a finished run."""
    stream = simulation.stream
    block = max(1, result.records // BLOCKS)
    rows, values = simulation.observer.compared.over_time(block)
    metric = result.metric
    drawn = {file.name for file in (path.parent / "reports").glob("*.html")}
    write_report(
        path,
        RunReport(
            stream=stream.name,
            run=path.parent.name,
            metric=metric.name,
            higher_is_better=higher_is_better(metric.name),
            baseline=stream.baseline,
            totals=Totals(
                records=result.records,
                predictions=result.predictions,
                outcomes=result.outcomes,
                dead_letters=result.dead_letters,
                lost=result.lost,
                windows=result.windows,
                models=len(result.models),
                loop=metric.loop,
                static=metric.static,
                baseline=metric.baseline,
                seconds=result.seconds,
            ),
            over_time=MetricOverTime(
                rows=tuple(rows),
                loop=tuple(values["loop"]),
                static=tuple(values["static"]),
                baseline=tuple(values["baseline"]),
                block=block,
            ),
            events=tuple(
                event
                for happening in simulation.happenings
                if (event := report_event(happening, drawn)) is not None
            ),
            changes=tuple(
                change for change in simulation.changes if rows and change.row <= rows[-1]
            ),
        ),
    )


def report_event(happening: Happening, drawn: Collection[str] = ()) -> RunEvent | None:
    """Return the report's entry for an event; None if another event covers it.

    It links to Evidently's report if that is among `drawn`, the file names of the run's reports.
    """
    event = happening.event
    what: Happened
    match event:
        case DriftEvent():
            what = f"drift {event.action}"  # type: ignore[assignment]  # one of the three
            return RunEvent(
                row=happening.row,
                what=what,
                text=event.message,
                id=event.id,
                drift=event.kind,
                report=f"reports/{event.report}" if event.report in drawn else None,
            )
        case RetrainRequest():
            return RunEvent(row=happening.row, what="retrain", text=event.reason, id=event.id)
        case RetrainDecision():
            what = "swap" if event.promoted else "kept"
            return RunEvent(row=happening.row, what=what, text=event.reason, id=event.id)
        case RolePointer(by="trainer"):
            return None  # the decision covers it, with its reason
        case RolePointer():
            return RunEvent(row=happening.row, what="swap", text=event.reason, id=event.digest)
