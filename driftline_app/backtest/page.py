"""Build a backtest's report: the elements of one HTML page with plots and without scripts.

Input: a `Backtest`. Output: the page's elements. This module reads the data set again to draw the
histograms.
"""

from collections.abc import Sequence
from itertools import islice
from typing import Any, Final
from xml.etree import ElementTree as ET

import msgspec
import numpy as np
from numpy.typing import NDArray

from driftline.config.measure import higher_is_better
from driftline.config.stream import Stream
from driftline.wire.feature_records import RecordCodec
from driftline.wire.window_events import ColumnResult, DataWindow
from driftline_app.backtest.policy_runs import Job, Played, playback
from driftline_app.backtest.result import Backtest, ComparisonRow, comparison
from driftline_app.estimate_errors import error_sentence
from driftline_app.replay.run_report import report_event
from driftline_app.report.column_charts import Cell, heat_map, histogram
from driftline_app.report.elements import element, format_value, table, title_of
from driftline_app.report.line_chart import Series, chart
from driftline_app.report.page import events_table, marks_of
from producers.playback import Playback

# Number of blocks in the chart of the metric over time, as in a run's report.
_BLOCKS: Final = 100
# The heat map and the histograms show at most this many columns: the columns that shift most.
_COLUMNS: Final = 40
_DISTRIBUTIONS: Final = 6
# Order of events observed at the same row: causes before effects.
_ORDER: Final = {"retrain": 1, "swap": 2, "kept": 2, "drift resolved": 3}
# Number of records to decode at once for the histograms.
_CHUNK: Final = 5000


def backtest_page(found: Backtest, title: str) -> list[ET.Element]:
    """Return the page's elements. `title` is the name of the data set.

    Raises DriftlineError, OSError.
    """
    stream, first = found.job.stream, next(iter(found.policies.values()))
    body = [
        element("p", "Driftline backtest of ", element("code", title), class_="over"),
        element("h1", stream.name),
        element("p", _summary(found), class_="lead"),
        _results(found),
    ]
    for play in found.policies.values():
        body += _policy(stream, play, found)
    shifting = _shifting(first.windows)
    body.append(element("h2", "Column drift"))
    if shifting:
        note = (
            f"Each column's shift in each window with policy {first.name}, compared with the "
            "reference data of the model in use. If the model changed within a window, the largest "
            "shift is shown. A frame marks drift. The numbers below are the windows' last rows."
        )
        body += [
            element("p", note, class_="note"),
            element(
                "div",
                heat_map([(name, _cells(name, first.windows)) for name in shifting]),
                class_="scroll",
                tabindex="0",
            ),
            *_distributions(found.job, first.windows, shifting),
        ]
    else:
        body.append(element("p", "No window had enough records for a test."))
    return body


def _summary(found: Backtest) -> str:
    result = found.result
    better = "higher" if higher_is_better(result.metric) else "lower"
    parts = [
        f"{name}: {result.metric} {format_value(policy.metric)} with "
        f"{len(policy.retrains)} retrainings"
        for name, policy in result.policies.items()
    ]
    never = format_value(result.baselines.never)
    return f"{'; '.join(parts)}; never retrained {never}. {better.capitalize()} is better."


def _results(found: Backtest) -> ET.Element:
    rate = found.result.false_alarm_rate
    alarms = "–" if rate is None else f"{rate:.3f} per window"
    rows = [*comparison(found), ComparisonRow("rows in random order", "", events=alarms)]
    names = (
        "Policy",
        title_of(found.result.metric),
        "Gain over never",
        "Gain over periodic",
        "Drift events",
        "Retrainings",
        "Training time (CPU s)",
    )
    cells = (
        [element("td", text, class_="what") for text in msgspec.structs.astuple(row)]
        for row in rows
    )
    return table(names, (element("tr", *each) for each in cells))


def _policy(stream: Stream, play: Played, found: Backtest) -> list[ET.Element]:
    """Return a chart of one policy's metric over time, and a table of the policy's events."""
    rows = play.compared.rows
    block = max(1, (max(rows) - min(rows) + 1) // _BLOCKS) if rows else 1
    ends, values = play.compared.over_time(block)
    every = found.every_window.compared.over_time(block)[1]["loop"]
    every = [*every, *[None] * len(ends)][: len(ends)]
    events = [
        # Event ids become HTML anchors, which must be unique, but several policies can produce an
        # event with the same id.
        msgspec.structs.replace(event, id=f"{play.name}-{event.id}", report=None)
        for observed in play.events
        if (event := report_event(observed)) is not None
    ]
    events.sort(key=lambda event: (event.row, _ORDER.get(event.what, 0)))
    drawn = chart(
        rows=tuple(ends),
        block=block,
        series=(
            Series("baseline", "every window (retrained after each)", tuple(every)),
            Series("static", "never (the first model)", tuple(values["static"])),
            Series("loop", play.name, tuple(values["loop"])),
        ),
        marks=marks_of(events, ends[-1] if ends else 0),
        label=f"{stream.name}: {stream.judged_by.name} with policy {play.name}",
    )
    estimates = [] if play.estimates is None else [error_sentence(play.estimates)]
    listed = events_table(events) if events else element("p", "No drift and no retraining.")
    return [
        element("h2", f"{title_of(stream.judged_by.name)} over time: {play.name}"),
        element("div", drawn, class_="plot"),
        *(element("p", sentence, class_="note") for sentence in estimates),
        listed,
    ]


# ---- column drift -------------------------------------------------------------------------------


def _shifts(window: DataWindow) -> list[ColumnResult]:
    """Return each column's largest shift in a window.

    If the model changed within the window, each model's records form a separate group. A shift that
    was detected as drift takes precedence over a larger shift that was not.
    """
    most: dict[str, ColumnResult] = {}
    for group in window.groups:
        for column in group.columns if group.tested else ():
            known = most.setdefault(column.column, column)
            if (column.drifted, column.effect) > (known.drifted, known.effect):
                most[column.column] = column
    return list(most.values())


def _shifting(windows: Sequence[DataWindow]) -> list[str]:
    """Return the names of the columns that shift most, largest shift first."""
    largest: dict[str, float] = {}
    for window in windows:
        for column in _shifts(window):
            largest[column.column] = max(largest.get(column.column, 0.0), column.effect)
    return sorted(largest, key=lambda name: -largest[name])[:_COLUMNS]


def _cells(name: str, windows: Sequence[DataWindow]) -> list[Cell]:
    cells = []
    for window in windows:
        found = next((c for c in _shifts(window) if c.column == name), None)
        row = window.row if window.row is not None else window.end - 1
        if found is None:
            cells.append(Cell(row, None, drifted=False))
        else:
            cells.append(Cell(row, found.effect, drifted=found.drifted))
    return cells


def _distributions(
    job: Job, windows: Sequence[DataWindow], shifting: Sequence[str]
) -> list[ET.Element]:
    """Return histograms of the columns that shift most.

    Each histogram compares the warm-up rows with the window in which the column's shift is largest.
    """
    chosen: dict[str, DataWindow] = {}
    for name in shifting[:_DISTRIBUTIONS]:
        effects = [
            max((c.effect for c in _shifts(window) if c.column == name), default=-1.0)
            for window in windows
        ]
        chosen[name] = windows[int(np.argmax(effects))]
    rows = playback(job)
    warm = RecordCodec(job.stream).decode(rows.warm_up(job.warmup).records).columns
    samples = _samples(job.stream, rows, chosen)
    drawn = [
        element(
            "div",
            element("p", element("b", name), _where(window), class_="small"),
            element("div", histogram(name, warm[name], samples[name]), class_="plot"),
        )
        for name, window in chosen.items()
    ]
    return [
        element("h2", "Reference and window"),
        element(
            "p",
            "Distributions in the warm-up rows, and in the window with the largest shift.",
            class_="note",
        ),
        element("div", *drawn, class_="plots"),
    ]


def _where(window: DataWindow) -> str:
    return f" in the window up to row {window.row:,}" if window.row is not None else ""


def _samples(
    stream: Stream, rows: Playback, chosen: dict[str, DataWindow]
) -> dict[str, NDArray[Any]]:
    """For each column in `chosen`, return the column's values in its window."""
    codec = RecordCodec(stream)
    parts: dict[str, list[NDArray[Any]]] = {name: [] for name in chosen}
    records = (play.value for play in rows.play() if play.kind == "record")
    while chunk := list(islice(records, _CHUNK)):
        batch = codec.decode(chunk)
        positions = np.array(batch.positions(stream.axis), dtype=np.int64)
        for name, window in chosen.items():
            inside = (positions >= window.start) & (positions < window.end)
            parts[name].append(batch.columns[name][inside])
    return {name: np.concatenate(found) for name, found in parts.items()}
