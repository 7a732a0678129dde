"""Write the report of a run: one HTML file without scripts and external resources.

In: a `RunReport` with the metric over time and the events. Out: the file. It reads no topic and
computes nothing; `driftline run` fills the `RunReport`.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree as ET

import msgspec

from driftline.cli.chart import Mark, Series, chart, element, format_value
from driftline.stream import DriftKind

Happened = Literal[
    "drift opened", "drift updated", "drift resolved", "retrain", "swap", "kept", "refused"
]

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


class RunEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event of a run."""

    row: int  # row of the data, from 0, at which it was observed
    what: Happened
    text: str  # the reason, in a sentence
    id: str  # of the drift event, the retrain request or the decision; a digest for a swap
    drift: DriftKind | None = None  # for the three values of `what` about drift
    report: str | None = None  # Evidently's HTML, relative to the run's report


class MetricOverTime(msgspec.Struct, frozen=True, kw_only=True):
    """The metric in blocks of equal length; None where a block had no outcome.

    `rows[i]` is the last row of block i; the other three have one value for each block.
    """

    rows: tuple[int, ...]
    loop: tuple[float | None, ...]
    static: tuple[float | None, ...]
    baseline: tuple[float | None, ...]
    block: int  # rows in a block


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """The counts and metrics of a run."""

    records: int
    predictions: int
    outcomes: int
    dead_letters: int
    lost: int
    windows: int
    models: int  # published, the first one included
    loop: float | None
    static: float | None
    baseline: float | None
    seconds: float


class RunReport(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the page shows."""

    stream: str
    run: str  # name of the run's folder
    metric: str
    higher_is_better: bool
    baseline: str  # the kind of baseline: "prior" or "previous_label"
    totals: Totals
    over_time: MetricOverTime
    events: tuple[RunEvent, ...]  # in order of row
    notes: tuple[str, ...] = ()  # sentences for the end of the page


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
    parts = [
        element("p", "Driftline run ", element("code", report.run), class_="over"),
        element("h1", report.stream),
        element("p", _summary(report), class_="lead"),
        _tiles(report),
        element("h2", f"{title_of(report.metric)} over time"),
        element("div", _chart(report), class_="scroll", tabindex="0"),
        element("h2", "What happened"),
    ]
    if report.events:
        parts.append(element("div", events_table(report.events), class_="scroll", tabindex="0"))
    else:
        parts.append(
            element("p", "No drift and no retraining: the first model served all records.")
        )
    parts.extend(element("p", note, class_="note") for note in report.notes)
    return parts


def _summary(report: RunReport) -> str:
    totals = report.totals
    opened = _count(report, "drift opened")
    sentence = (
        f"{_plural(totals.records, 'record')} streamed; {_plural(opened, 'drift event')}, "
        f"{_plural(_count(report, 'retrain'), 'retraining')}, "
        f"{_plural(_count(report, 'swap'), 'swap')} of the model."
    )
    if totals.loop is None or totals.static is None:
        return sentence
    return (
        f"{sentence} {title_of(report.metric)} {format_value(totals.loop)}; with the first "
        f"model only it would have been {format_value(totals.static)}."
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
        Series("baseline", f"baseline ({_baseline(report)})", over.baseline),
        Series("static", "static (the first model, never retrained)", over.static),
        Series("loop", "loop (the model in use)", over.loop),
    )
    return chart(
        rows=over.rows,
        block=over.block,
        series=series,
        marks=marks_of(report.events, over.rows[-1] if over.rows else 0),
        label=f"{report.stream}: {report.metric} of loop, static model and baseline",
    )


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


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def title_of(metric: str) -> str:
    """Return a metric's name as it is written at the beginning of a heading."""
    return metric.upper() if len(metric) <= 4 else metric.replace("_", " ").capitalize()
