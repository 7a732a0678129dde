"""Print a run's events to the console as they happen, one line each, and the run's totals."""

from pathlib import Path

from rich.console import Console
from rich.markup import escape

from driftline.config.stream import Stream
from driftline.wire.events import (
    ComparisonStarted,
    DriftEvent,
    RetrainDecision,
    RetrainRequest,
    RolePointer,
)
from driftline_app.estimate_errors import error_sentence
from driftline_app.message_lines import short_digest
from driftline_app.replay.first_model import FirstModel
from driftline_app.replay.observer import ObservedEvent
from driftline_app.replay.simulation import RunResult
from driftline_app.report.elements import format_value
from driftline_app.report.page import plural


class RunOutput:
    """Prints a run's events and totals to a console."""

    def __init__(self, stream: Stream, console: Console) -> None:
        self._stream = stream
        self._console = console

    def print_first_model(self, first: FirstModel) -> None:
        """Print a line about the first model. Call this before streaming begins."""
        trained, metric = first.trained, self._stream.judged_by.name
        self._print(
            f"[bold]{self._stream.name}[/]: first model {short_digest(trained.digest)} "
            f"({trained.candidate}, {metric} {trained.value:.3f} on held-out rows), "
            f"trained on the first {first.rows:,} rows; streaming the rest"
        )

    def print_event(self, observed: ObservedEvent) -> None:
        """Print a line about an event, unless another event's line covers it."""
        event = observed.event
        match event:
            case DriftEvent():
                colour = "green" if event.action == "resolved" else "red"
                text = f"[{colour}]{event.kind} drift {event.action}[/]  {escape(event.message)}"
            case RetrainRequest():
                text = f"[yellow]retrain requested[/]  {escape(event.reason)}"
            case ComparisonStarted():
                model = short_digest(event.challenger)
                text = f"[yellow]comparing models[/]  {model}: {escape(event.reason)}"
            case RetrainDecision(promoted=True):
                model = short_digest(event.model)
                text = f"[cyan]model swapped[/]  {model}: {escape(event.reason)}"
            case RetrainDecision():
                text = f"[yellow]model kept[/]  {escape(event.reason)}"
            case RolePointer(by="trainer") if event.is_rollback:
                text = f"[red]model rolled back[/]  {escape(event.reason)}"
            case RolePointer(by="trainer"):
                return  # the line about the retrain decision already reports this change
            case RolePointer():
                text = f"[cyan]model chosen by operator[/]  {short_digest(event.digest)}"
        self._print(f"row {observed.row:>9,}  {text}")

    def print_totals(self, result: RunResult, report: Path) -> None:
        """Print the totals, the metric with its baselines, and the report's path."""
        metric = result.metric
        lost = f"[red]{result.lost} lost[/]" if result.lost else "0 lost"
        repeated = (
            f"{plural(result.duplicate_ids, 'repeated id')}, " if result.duplicate_ids else ""
        )
        self._console.print()
        self._print(
            f"{plural(result.records, 'record')} → {plural(result.predictions, 'prediction')}, "
            f"{plural(result.outcomes, 'outcome')}, {plural(result.dead_letters, 'dead letter')}, "
            f"{repeated}{lost}; {plural(len(result.alerts), 'drift event')}, "
            f"{plural(len(result.retrains), 'retraining')}, "
            f"{plural(len(result.models), 'model')}, {result.seconds:.1f} s"
        )
        error = f" ± {metric.gain_error:.3f}" if metric.gain_error is not None else ""
        gain = f"; gain {metric.gain:+.3f}{error}" if metric.gain is not None else ""
        self._print(
            f"{metric.name}: loop [bold]{format_value(metric.loop)}[/], first model only "
            f"{format_value(metric.static)}, {self._stream.baseline.replace('_', ' ')} "
            f"{format_value(metric.baseline)}{gain}"
        )
        if result.estimates is not None:
            self._print(error_sentence(result.estimates))
        self._print(f"report: {report}")

    def _print(self, text: str) -> None:
        self._console.print(text, soft_wrap=True)
