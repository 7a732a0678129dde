"""Build a finished run's report from its events and metrics, and write it to an HTML file."""

from collections.abc import Collection
from pathlib import Path
from typing import Final

from driftline.config.measure import higher_is_better
from driftline.wire.events import (
    ComparisonStarted,
    DriftEvent,
    RetrainDecision,
    RetrainRequest,
    RolePointer,
)
from driftline_app.replay.observer import ObservedEvent
from driftline_app.replay.simulation import RunResult, Simulation
from driftline_app.report.page import write_report
from driftline_app.report.values import Happened, MetricOverTime, RunEvent, RunReport, Totals

# Number of blocks in the report's chart: enough to show a drop and a recovery without noise.
_BLOCKS: Final = 100


def write_run_report(path: Path, simulation: Simulation, result: RunResult) -> None:
    """Write a finished run's HTML report."""
    stream = simulation.stream
    block = max(1, result.records // _BLOCKS)
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
                for observed in simulation.events
                if (event := report_event(observed, drawn)) is not None
            ),
            changes=tuple(
                change for change in simulation.changes if rows and change.row <= rows[-1]
            ),
        ),
    )


def report_event(observed: ObservedEvent, drawn: Collection[str] = ()) -> RunEvent | None:
    """Return the report's entry for an event, or None if another event's entry covers it.

    `drawn` contains the file names of the run's Evidently reports. If the event's report is among
    them, the entry links to it.
    """
    event = observed.event
    what: Happened
    match event:
        case DriftEvent():
            what = f"drift {event.action}"  # type: ignore[assignment]  # a value of `Happened`
            return RunEvent(
                row=observed.row,
                what=what,
                text=event.message,
                id=event.id,
                drift=event.kind,
                report=f"reports/{event.report}" if event.report in drawn else None,
            )
        case RetrainRequest():
            return RunEvent(row=observed.row, what="retrain", text=event.reason, id=event.id)
        case ComparisonStarted():
            return None  # the entry of the retrain decision reports the result
        case RetrainDecision():
            what = "swap" if event.promoted else "kept"
            return RunEvent(row=observed.row, what=what, text=event.reason, id=event.id)
        case RolePointer(by="trainer") if not event.is_rollback:
            return None  # the entry of the retrain decision reports this change
        case RolePointer():
            return RunEvent(row=observed.row, what="swap", text=event.reason, id=event.digest)
