"""Find a run's incidents for its report, and describe each change, detection and recovery.

Input: a run's events and its metric over time. Output: `Incident`s, and sentences about them. An
incident lasts as long as at least one drift event is open.
"""

from collections.abc import Callable, Sequence
from statistics import fmean

import msgspec

from driftline_app.report.elements import format_value, title_of
from driftline_app.report.values import MetricOverTime, RunEvent, RunReport
from producers.rows import Change

# The metric before a change is averaged over this many blocks, enough to average out noise.
_BLOCKS_BEFORE = 20


class Incident(msgspec.Struct, frozen=True, kw_only=True):
    """One incident. Rows are data rows, counted from 0."""

    change: Change | None  # the cause, as declared by the data set; None if unknown
    detected: int  # the row at which the first drift event opened
    findings: tuple[str, ...]  # messages of the drift events
    swaps: tuple[int, ...]  # rows at which a new model took over
    resolved: int | None  # row where the last drift event was resolved; None if one is still open

    @property
    def began(self) -> int:
        """Return the row of the change or, if no change is known, the row of the detection."""
        return self.detected if self.change is None else self.change.row


def incidents(events: Sequence[RunEvent], changes: Sequence[Change]) -> tuple[Incident, ...]:
    """Return the incidents in order. `events` must be sorted by row.

    A known change belongs to the first incident that is detected at or after the row of the change.
    """
    found: list[Incident] = []
    open_ids: set[str] = set()
    since: list[RunEvent] = []
    for event in events:
        if event.what == "drift opened":
            open_ids.add(event.id)
        if open_ids:
            since.append(event)
        if event.what == "drift resolved":
            open_ids.discard(event.id)
            if since and not open_ids:
                found.append(_incident(since, changes, found, event.row))
                since = []
    if since:
        found.append(_incident(since, changes, found, None))
    return tuple(found)


def _incident(
    events: Sequence[RunEvent],
    changes: Sequence[Change],
    earlier: Sequence[Incident],
    resolved: int | None,
) -> Incident:
    detected = events[0].row
    after = earlier[-1].detected if earlier else -1
    causes = [change for change in changes if after < change.row <= detected]
    return Incident(
        change=causes[-1] if causes else None,
        detected=detected,
        findings=tuple(event.text for event in events if event.what == "drift opened"),
        swaps=tuple(event.row for event in events if event.what == "swap"),
        resolved=resolved,
    )


def conclusion(report: RunReport) -> str:
    """Return a sentence that sums up the run."""
    found = incidents(report.events, report.changes)
    records = f"{report.totals.records:,} records"
    if not found:
        return f"No drift was found in {records}."
    if len(found) > 1:
        state = "all are over" if found[-1].resolved is not None else "the last is still open"
        return f"Driftline found {len(found)} incidents in {records}; {state}."
    return _sentence(found[0], report)


def comparison(report: RunReport) -> str:
    """Compare the run's metric with the first model's, as text; empty if there are no outcomes."""
    totals = report.totals
    if totals.loop is None or totals.static is None:
        return ""
    return (
        f"{title_of(report.metric)} over the whole run is {format_value(totals.loop)}. With the "
        f"first model, never retrained, it would have been {format_value(totals.static)}."
    )


def _sentence(incident: Incident, report: RunReport) -> str:
    """Describe an incident's known steps: change, detection, new model and recovery."""
    change, swaps, resolved = incident.change, incident.swaps, incident.resolved
    levels, metric = levels_of(incident, report.over_time), report.metric
    if change is None:
        parts = [f"Driftline found drift at row {incident.detected:,}"]
        if swaps:
            parts.append(f"replaced the model at row {swaps[0]:,}")
    else:
        found = f"Driftline found the drift after {incident.detected - change.row:,} records"
        if levels.before is None or levels.meanwhile is None:
            found = f"{change.text.capitalize()} at row {change.row:,}; {found}"
        else:
            found = (
                f"{title_of(metric)} went from {format_value(levels.before)} to "
                f"{format_value(levels.meanwhile)} when {change.text} at row {change.row:,}; "
            ) + found
        parts = [found]
        if swaps:
            parts.append(f"replaced the model after {swaps[0] - change.row:,}")
    if resolved is None:
        parts.append("the incident is still open")
    elif levels.after is None:
        parts.append(f"the incident ended at row {resolved:,}")
    else:
        parts.append(f"{metric} has been {format_value(levels.after)} since row {resolved:,}")
    return f"{', '.join(parts[:-1])}, and {parts[-1]}."


class Levels(msgspec.Struct, frozen=True):
    """The mean metric before, during and after an incident; None if a period has no blocks."""

    before: float | None
    meanwhile: float | None  # from the change to the first new model, or to the incident's end
    after: float | None


def levels_of(incident: Incident, over: MetricOverTime) -> Levels:
    """Return the run's mean metric before, during and after an incident."""
    repaired = incident.swaps[0] if incident.swaps else incident.resolved

    def mean(is_wanted: Callable[[int, int], bool], newest: int = 0) -> float | None:
        chosen = [
            value
            for row, value in zip(over.rows, over.loop, strict=True)
            if value is not None and is_wanted(row - over.block + 1, row)
        ]
        return fmean(chosen[-newest:]) if chosen else None

    return Levels(
        before=mean(lambda first, last: last < incident.began, _BLOCKS_BEFORE),
        meanwhile=mean(
            lambda first, last: first >= incident.began and (repaired is None or last <= repaired)
        ),
        after=None
        if incident.resolved is None
        else mean(lambda first, last: first > (incident.resolved or 0)),
    )


def extra_errors(incident: Incident, report: RunReport) -> int | None:
    """Estimate how many wrong predictions an incident caused.

    This is the number of wrong predictions between the change and the recovery, minus the number
    expected at the accuracy before the change. Return None if this accuracy is unknown, or if the
    stream's metric is not accuracy.
    """
    if report.metric != "accuracy":
        return None
    before = levels_of(incident, report.over_time).before
    if before is None:
        return None
    end = report.over_time.rows[-1] if incident.resolved is None else incident.resolved
    over = report.over_time
    lost = sum(
        (before - value) * over.block
        for row, value in zip(over.rows, over.loop, strict=True)
        if value is not None and incident.began <= row <= end
    )
    return max(0, round(lost))
