"""Write the report of a run: one HTML file without scripts and external resources.

In: a `RunReport` with the metric over time and the events. Out: the file. It reads no topic and
computes nothing; `driftline run` fills the `RunReport`.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

from driftline_app.report.incidents import Incident, comparison, conclusion, extra_errors, incidents
from driftline_app.report.line_chart import Mark, Series, chart, element, format_value
from driftline_app.report.values import Happened, RunEvent, RunReport, title_of
from producers.rows import Change

STYLE = Path(__file__).with_name("report.css")

# The browser runs and loads nothing, whatever a value contains.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
# The only links to other files. Names of windows come from the topics, so they are checked.
_REPORT = re.compile(r"reports/[\w.-]+\.html")

_MEANING: dict[Happened, str] = {
    "drift opened": "A drift event opened.",
    "drift updated": "The severity of an open drift event grew.",
    "drift resolved": "A drift event was resolved.",
    "retrain": "A new model was requested.",
    "swap": "A new champion serves from this row on.",
    "kept": "A new model was trained, but the champion was better.",
    "refused": "A model package was rejected.",
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
    parts = [
        element("p", "Driftline run ", element("code", report.run), class_="over"),
        element("h1", report.stream),
        element("p", conclusion(report), class_="lead"),
        element("p", comparison(report)),
        *(_incident(incident, report, len(found) > 1) for incident in found),
        element("h2", f"{title_of(report.metric)} over time"),
        element("div", _chart(report), class_="scroll", tabindex="0"),
        element("h2", "The run in numbers"),
        _tiles(report),
        element("h2", "All events"),
    ]
    if report.events:
        parts.append(element("div", events_table(report.events), class_="scroll", tabindex="0"))
    else:
        parts.append(
            element("p", "No drift and no retraining: the first model served all records.")
        )
    parts.extend(element("p", note, class_="note") for note in report.notes)
    return parts


def _incident(incident: Incident, report: RunReport, is_one_of_many: bool) -> ET.Element:
    """The steps of an incident, from the change to the recovery."""
    since = incident.began

    def after(row: int) -> str:
        return f"row {row:,}" if row == since else f"row {row:,}, {row - since:,} later"

    steps: list[tuple[str, str, str]] = []
    if incident.change is not None:
        change = incident.change
        steps.append(("Change", f"row {since:,}", ": ".join(filter(None, change[1:]))))
    steps.append(("Drift found", after(incident.detected), "; ".join(incident.findings)))
    if incident.swaps:
        more = len(incident.swaps) - 1
        again = f", and {plural(more, 'further one')} before it ended" if more else ""
        steps.append(
            ("New model in service", after(incident.swaps[0]), f"retrained on new outcomes{again}")
        )
    if incident.resolved is None:
        steps.append(("Recovered", "not yet", "a drift event is still open"))
    else:
        errors = extra_errors(incident, report)
        cost = "all drift events are resolved"
        if errors is not None:
            cost += f"; about {errors:,} predictions more were wrong than before"
        steps.append(("Recovered", after(incident.resolved), cost))
    return element(
        "section",
        *([element("h2", f"Incident at row {since:,}")] if is_one_of_many else ()),
        element(
            "ol",
            *(
                element(
                    "li",
                    element("b", name),
                    element("span", when, class_="when"),
                    element("span", text, class_="small"),
                )
                for name, when, text in steps
            ),
            class_="steps",
        ),
    )


def _tiles(report: RunReport) -> ET.Element:
    totals = report.totals
    better = "higher is better" if report.higher_is_better else "lower is better"
    shown: list[tuple[str, str, str]] = [
        (f"{report.metric}, loop", format_value(totals.loop), better),
        (f"{report.metric}, static", format_value(totals.static), "first model, never retrained"),
        (f"{report.metric}, baseline", format_value(totals.baseline), _baseline(report)),
        ("records", f"{totals.records:,}", f"in {totals.seconds:.1f} s"),
        ("predictions", f"{totals.predictions:,}", "records that were scored"),
        ("outcomes", f"{totals.outcomes:,}", "predictions with their label"),
        ("dead letters", f"{totals.dead_letters:,}", "could not be processed"),
        ("lost", f"{totals.lost:,}", "neither prediction nor dead letter"),
        ("windows", f"{totals.windows:,}", "of data and of performance"),
        ("models", f"{totals.models:,}", "published, including the first"),
    ]
    return element(
        "dl",
        *(
            element(
                "div",
                element("dt", name),
                element("dd", value),
                element("dd", note, class_="small"),
                class_="bad" if name == "lost" and totals.lost else "tile",
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
    series = (
        Series("baseline", f"baseline: {_baseline(report)}", over.baseline),
        Series("static", "first model, never retrained", over.static),
        Series("loop", "Driftline's loop", over.loop),
    )
    return chart(
        rows=over.rows,
        block=over.block,
        series=series,
        marks=(
            *_change_marks(report.changes),
            *marks_of(report.events, over.rows[-1] if over.rows else 0),
        ),
        label=f"{report.stream}: {report.metric} of the loop, the first model and the baseline",
    )


def _change_marks(changes: Sequence[Change]) -> list[Mark]:
    return [
        Mark(
            row=change.row,
            until=change.row,
            lane="change of the data",
            style="change",
            text=f"row {change.row:,}: {change.text} {change.detail}",
            link="",
        )
        for change in changes
    ]


def marks_of(events: Sequence[RunEvent], last: int) -> tuple[Mark, ...]:
    """Return drift events as spans until they are resolved, or until `last`; others as points."""
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
                lane=f"{event.drift or 'data'} drift" if drift else event.what,
                style="drift" if drift else event.what,
                text=f"row {event.row:,}: {event.what}: {event.text}",
                link=f"#{event.id}",
            )
        )
    # Order of the lanes: drift, then requests, then their results.
    order = {"drift": 0, "retrain": 1, "swap": 2, "kept": 3, "refused": 4}
    return tuple(sorted(marks, key=lambda mark: (order[mark.style], mark.row)))


def events_table(events: Sequence[RunEvent]) -> ET.Element:
    """Return a table with one row per event."""
    seen: set[str] = set()
    rows = []
    for event in events:
        # The chart links to the first row of an event.
        anchor = {} if event.id in seen else {"id": event.id}
        seen.add(event.id)
        why: list[ET.Element | str] = [event.text]
        if event.report and _REPORT.fullmatch(event.report):
            why += [" ", element("a", "Evidently report", href=event.report)]
        name = event.what.replace("drift", f"{event.drift} drift") if event.drift else event.what
        rows.append(
            element(
                "tr",
                element("td", f"{event.row:,}", class_="number"),
                element(
                    "td",
                    element("i", class_=f"dot {event.what.split()[0]}"),
                    element("span", name, title=_MEANING[event.what]),
                    class_="what",
                ),
                element("td", *why, class_="why"),
                element("td", element("code", _short(event.id), title=event.id), class_="id"),
                **anchor,
            )
        )
    head = element("tr", *(element("th", name) for name in ("Row", "What", "Why", "Id")))
    return element("table", element("thead", head), element("tbody", *rows))


def _short(id: str) -> str:
    return id[:19] + "…" if id.startswith("sha256:") else id


def _count(report: RunReport, what: Happened) -> int:
    return sum(event.what == what for event in report.events)


def plural(count: int, noun: str) -> str:
    """Return a count with its noun.

    >>> plural(1, "model"), plural(4800, "record")
    ('1 model', '4,800 records')
    """
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
