"""Reports of hostile data in a real browser: none of the data run, and all are displayed."""

import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from driftline_app.report.column_charts import Cell, heat_map, histogram
from driftline_app.report.page import write_page, write_report
from driftline_app.report.values import MetricOverTime, RunEvent, RunReport, Totals
from monitor.evidently_reports import Task, draw
from tests.browser import Opened
from tests.hostile import HOSTILE, RUN

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("ignore")]

Open = Callable[[Path], Opened]

_PLOTS = "least => document.querySelectorAll('.js-plotly-plot .nsewdrag').length >= least"
# The only link in Evidently's report with a target is that of Plotly in the bar of each plot.
_OWN_LINKS = {"href=https://plotly.com/"}


def _texts(values: tuple[str, ...], size: int, seed: int) -> NDArray[np.object_]:
    found = np.empty(size, dtype=object)
    found[:] = [values[i] for i in np.random.default_rng(seed).integers(0, len(values), size)]
    return found


def _drift_report(path: Path, names: tuple[str, ...], values: tuple[str, ...]) -> None:
    """Draw a report of two numbers, and of categories and predictions with these values."""
    rng = np.random.default_rng(0)
    numbers = tuple(f"number {name}" for name in names[:2])
    categories = (*names, "y (predicted)")

    def data(seed: int) -> dict[str, NDArray[np.float64] | NDArray[np.object_]]:
        return {name: rng.normal(seed, size=80) for name in numbers} | {
            name: _texts(values, 80, seed + place) for place, name in enumerate(categories)
        }

    draw(Task(path, data(0), data(1), numbers, categories))


def test_a_drift_report_executes_no_hostile_data(tmp_path: Path, open_file: Open) -> None:
    path = tmp_path / "window-1.html"
    _drift_report(path, HOSTILE, HOSTILE)
    opened = open_file(path)
    assert opened.ran == 0
    plots = opened.page.locator(".js-plotly-plot .nsewdrag")
    opened.page.wait_for_function(_PLOTS, arg=len(HOSTILE))
    drawn = plots.count()
    rows = opened.page.get_by_label("Detail panel visibility toggle").all()
    assert rows
    for row in rows:  # each opens a row with plots that have the name as their title
        row.click()
    opened.page.wait_for_function(_PLOTS, arg=drawn + 1)
    for plot in plots.all()[-5:]:
        plot.hover(force=True)
    assert opened.ran == 0
    assert opened.troubles == []
    assert {link for link in opened.attributes() if not link.startswith("href=#")} <= _OWN_LINKS
    assert "Dataset Drift" in opened.text


def test_the_policy_of_the_page_blocks_injected_scripts(tmp_path: Path, open_file: Open) -> None:
    drift, run = tmp_path / "window-1.html", tmp_path / "run.html"
    _drift_report(drift, ("x",), ("a", "b"))
    write_page(run, "title", [])
    for path in (drift, run):
        with socket.create_server(("127.0.0.1", 0)) as server:
            opened = open_file(path)
            refused = opened.page.evaluate(_INSERT, [RUN, server.getsockname()[1]])
            assert sorted(refused) == sorted(
                ["script-src-attr", "script-src-elem", "script-src-elem", "img-src"]
            )
            assert opened.ran == 0
            server.setblocking(False)
            with pytest.raises(BlockingIOError):
                server.accept()


# The blocked content: an event handler, a script in a frame, a script and an image.
_INSERT = """
([code, port]) => new Promise(done => {
  const refused = [];
  setTimeout(done, 5000, refused);
  const note = event => {
    refused.push(event.effectiveDirective);
    if (refused.length == 4) done(refused);
  };
  document.addEventListener("securitypolicyviolation", note);
  document.body.insertAdjacentHTML("beforeend",
    `<iframe></iframe><button onclick="${code}"></button>`
    + `<img src="http://127.0.0.1:${port}/image">`);
  document.querySelector("button[onclick]").click();
  const frame = document.querySelector("iframe").contentDocument;
  frame.addEventListener("securitypolicyviolation", note);
  for (const where of [document, frame]) {
    const script = where.createElement("script");
    script.textContent = where == frame ? "parent." + code : code;
    where.body.append(script);
  }
})
"""


def test_a_drift_report_of_ordinary_data_displays_them_unchanged(
    tmp_path: Path, open_file: Open
) -> None:
    path = tmp_path / "window-1.html"
    names = ("Größe in °C", "x_1", "a/b (c) [d]", "日本")
    _drift_report(path, names, ("grün", "R&B", "3.5", "it's"))
    opened = open_file(path)
    opened.page.wait_for_function(_PLOTS, arg=len(names) + 1)
    assert opened.troubles == []
    for name in (*names, "y (predicted)", "grün"):
        assert name in opened.text


def _event(text: str, row: int) -> RunEvent:
    return RunEvent(
        row=row, what="drift opened", text=text, id=text, drift="data", report=f"reports/{text}"
    )


def test_the_report_of_a_run_executes_no_hostile_data(tmp_path: Path, open_file: Open) -> None:
    path = tmp_path / "report.html"
    nothing = (None, None)
    write_report(
        path,
        RunReport(
            stream=HOSTILE[0],
            run=HOSTILE[2],
            metric=HOSTILE[4],
            higher_is_better=True,
            baseline=HOSTILE[0],
            totals=Totals(
                records=1, predictions=1, outcomes=1, dead_letters=0, lost=0, windows=1, models=1,
                loop=0.5, static=0.5, baseline=0.5, seconds=1.0,
            ),
            over_time=MetricOverTime(
                rows=(49, 99), loop=(0.5, 0.4), static=nothing, baseline=nothing, block=50
            ),
            events=tuple(_event(text, row) for row, text in enumerate(HOSTILE)),
            notes=HOSTILE,
        ),
    )  # fmt: skip
    opened = open_file(path)
    for link in opened.page.locator("svg a").all():
        link.dispatch_event("click")
    assert opened.ran == 0
    assert opened.troubles == []
    assert all(link.startswith("href=#") for link in opened.attributes())
    for text in HOSTILE[:4]:
        assert text in opened.text


def test_the_plots_of_a_backtest_execute_no_hostile_data(tmp_path: Path, open_file: Open) -> None:
    path = tmp_path / "report.html"
    cells = [Cell(row, 0.2, drifted=True) for row in (9, 19)]
    values = _texts(HOSTILE, 60, 0)
    plots = [heat_map([(name, cells) for name in HOSTILE])]
    plots += [histogram(name, values, values) for name in HOSTILE]
    write_page(path, HOSTILE[0], plots)
    opened = open_file(path)
    assert opened.ran == 0
    assert opened.troubles == []
    assert opened.attributes() == []
