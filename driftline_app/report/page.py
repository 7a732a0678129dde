"""Write a run's report: one HTML file without scripts or external resources.

Input: a `RunReport`, in which `driftline run` collects the metric over time and the events. Output:
the file. This module reads no topic.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

from driftline_app.report.elements import element, format_value, table, title_of
from driftline_app.report.incidents import Incident, comparison, conclusion, extra_errors, incidents
from driftline_app.report.line_chart import Mark, Series, chart
from driftline_app.report.values import Happened, RunEvent, RunReport

STYLE = Path(__file__).with_name("report.css")

# Content Security Policy that keeps the browser from executing or loading anything.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
# Links to other files must match this pattern, because the file names are read from topics and are
# not trusted.
_REPORT = re.compile(r"reports/[\w.-]+\.html")

# Event names, as `driftline run` prints them.
_NAMES: dict[Happened, str] = {
    "drift opened": "drift opened",
    "drift updated": "drift updated",
    "drift resolved": "drift resolved",
    "retrain": "retrain requested",
    "swap": "model swapped",
    "kept": "model kept",
    "refused": "model rejected",
}


def write_report(path: Path, report: RunReport) -> None:
    """Write the report to `path`, in an existing folder. Raises OSError."""
    write_page(path, f"Run of {report.stream}", _body(report))


def write_page(path: Path, title: str, body: list[ET.Element]) -> None:
    """Write a self-contained page to `path`, in an existing folder. Raises OSError."""
    page = element(
        "html",
        element(
            "head",
            element("meta", charset="utf-8"),
            element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            element("title", title),
            element("style", STYLE.read_text(encoding="utf-8")),
        ),
        element("body", element("main", *body)),
        lang="en",
    )
    path.write_text(
        "<!doctype html>\n" + ET.tostring(page, encoding="unicode", method="html") + "\n",
        encoding="utf-8",
    )


def _body(report: RunReport) -> list[ET.Element]:
    found = incidents(report.events, report.changes)
    quiet = element("p", "No drift and no retraining: the first model served all records.")
    return [
        element("p", "Driftline run ", element("code", report.run), class_="over"),
        element("h1", report.stream),
        element("p", conclusion(report), class_="lead"),
        element("p", comparison(report)),
        *(part for incident in found for part in _incident(incident, report, len(found) > 1)),
        element("h2", f"{title_of(report.metric)} over time"),
        element("div", _chart(report), class_="plot"),
        element("h2", "The run in numbers"),
        _tiles(report),
        element("h2", "All events"),
        events_table(report.events) if report.events else quiet,
        *(element("p", note, class_="note") for note in report.notes),
    ]


def _incident(incident: Incident, report: RunReport, is_one_of_many: bool) -> Iterator[ET.Element]:
    """Yield an incident's steps, from the change to the recovery."""
    since, change, swaps = incident.began, incident.change, incident.swaps

    def after(row: int) -> str:
        return f"row {row:,}" if row == since else f"row {row:,}, {row - since:,} later"

    steps: list[tuple[str, str, str]] = []
    if change is not None:
        steps.append(("Change", after(since), ": ".join(filter(None, change[1:]))))
    steps.append(("Drift found", after(incident.detected), "; ".join(incident.findings)))
    if swaps:
        more = f"; {plural(len(swaps) - 1, 'more model')} followed" if len(swaps) > 1 else ""
        steps.append(("New model in service", after(swaps[0]), f"trained on new outcomes{more}"))
    if incident.resolved is None:
        steps.append(("Not recovered yet", "", "a drift event is still open"))
    else:
        errors = extra_errors(incident, report)
        cost = "" if errors is None else f"; cost: about {plural(errors, 'more wrong prediction')}"
        steps.append(("Recovered", after(incident.resolved), "all drift events resolved" + cost))
    if is_one_of_many:
        yield element("h2", f"Incident at row {since:,}")
    yield element(
        "ol",
        *(
            element(
                "li",
                element("b", name),
                element("span", when),
                element("span", text, class_="small"),
            )
            for name, when, text in steps
        ),
        class_="steps",
    )


def _tiles(report: RunReport) -> ET.Element:
    totals, metric = report.totals, report.metric
    better = "higher is better" if report.higher_is_better else "lower is better"
    shown = (
        (f"{metric}, loop", format_value(totals.loop), better),
        (f"{metric}, first model", format_value(totals.static), "never retrained"),
        (f"{metric}, baseline", format_value(totals.baseline), _baseline(report)),
        ("records", f"{totals.records:,}", f"in {totals.seconds:.1f} s"),
        ("predictions", f"{totals.predictions:,}", "records that were scored"),
        ("outcomes", f"{totals.outcomes:,}", "predictions with their label"),
        ("dead letters", f"{totals.dead_letters:,}", "could not be processed"),
        ("lost", f"{totals.lost:,}", "neither prediction nor dead letter"),
        ("windows", f"{totals.windows:,}", "of data and of performance"),
        ("models", f"{totals.models:,}", "published, including the first"),
    )
    return element(
        "dl",
        *(
            element(
                "div",
                element("dt", name),
                element("dd", value),
                element("dd", note, class_="small"),
                **({"class_": "bad"} if name == "lost" and totals.lost else {}),
            )
            for name, value, note in shown
        ),
    )


def _baseline(report: RunReport) -> str:
    return {
        "prior": "always the most frequent label, or the mean",
        "previous_label": "always the last known label",
    }.get(report.baseline, report.baseline)


def _chart(report: RunReport) -> ET.Element:
    over = report.over_time
    changes = (
        Mark(
            row=change.row,
            until=change.row,
            lane="change",
            style="change",
            text=f"row {change.row:,}: {change.text} {change.detail}",
            link="",
        )
        for change in report.changes
    )
    return chart(
        rows=over.rows,
        block=over.block,
        series=(
            Series("baseline", f"baseline: {_baseline(report)}", over.baseline),
            Series("static", "first model, never retrained", over.static),
            Series("loop", "Driftline's loop", over.loop),
        ),
        marks=(*changes, *marks_of(report.events, over.rows[-1] if over.rows else 0)),
        label=f"{report.stream}: {report.metric} of the loop, the first model and the baseline",
    )


def marks_of(events: Sequence[RunEvent], last: int) -> tuple[Mark, ...]:
    """Return the events as marks for the chart.

    A drift event becomes a span, which ends at the row where the event is resolved or, if it is
    still open, at `last`. Any other event becomes a point.
    """
    resolved = {event.id: event.row for event in events if event.what == "drift resolved"}
    marks = []
    for event in events:
        if event.what in ("drift updated", "drift resolved"):
            continue
        drift = event.what == "drift opened"
        marks.append(
            Mark(
                row=event.row,
                until=resolved.get(event.id, last) if drift else event.row,
                lane=f"{event.drift or 'data'} drift" if drift else _NAMES[event.what],
                style="drift" if drift else event.what,
                text=f"row {event.row:,}: {_name(event)}: {event.text}",
                link=f"#{event.id}",
            )
        )
    # Order of the lanes: drift, then requests, then their results.
    order = ("drift", "retrain", "swap", "kept", "refused")
    return tuple(sorted(marks, key=lambda mark: (order.index(mark.style), mark.row)))


def events_table(events: Sequence[RunEvent]) -> ET.Element:
    """Return a table with one row per event."""
    seen: set[str] = set()
    rows = []
    for event in events:
        # The chart links to an event's first row in the table.
        anchor = {} if event.id in seen else {"id": event.id}
        seen.add(event.id)
        why: list[ET.Element | str] = [event.text]
        if event.report and _REPORT.fullmatch(event.report):
            why += [" ", element("a", "Evidently report", href=event.report)]
        dot = element("i", class_=f"dot {event.what.split()[0]}")
        short = event.id[:19] + "…" if event.id.startswith("sha256:") else event.id
        rows.append(
            element(
                "tr",
                element("td", f"{event.row:,}", class_="number"),
                element("td", dot, _name(event), class_="what"),
                element("td", *why, class_="why"),
                element("td", element("code", short, title=event.id), class_="id"),
                **anchor,
            )
        )
    return table(("Row", "Event", "Reason", "Id"), rows)


def _name(event: RunEvent) -> str:
    return " ".join(filter(None, (event.drift, _NAMES[event.what])))


def plural(count: int, noun: str) -> str:
    """Return a count followed by its noun in the singular or plural.

    >>> plural(1, "model"), plural(4800, "record")
    ('1 model', '4,800 records')
    """
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
