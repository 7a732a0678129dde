"""The report of a run: one self-contained page with all events."""

import itertools
import re
from pathlib import Path
from xml.etree import ElementTree as ET

import msgspec
import pytest

from driftline.config.measure import METRIC_KINDS, Metric, higher_is_better
from driftline_app.report.elements import title_of
from driftline_app.report.line_chart import LEFT, LINE, RIGHT, WIDTH, Mark, Series, chart, ticks
from driftline_app.report.page import write_report
from driftline_app.report.values import MetricOverTime, RunEvent, RunReport, Totals
from producers.rows import Change

DRIFT = RunEvent(
    row=700,
    what="drift opened",
    drift="data",
    text="petal <length> differs & so on",
    id="drift-1",
    report="reports/drift-1.html",
)
REPORT = RunReport(
    stream="iris",
    run="one",
    metric="accuracy",
    higher_is_better=True,
    baseline="prior",
    totals=Totals(
        records=12_000,
        predictions=11_998,
        outcomes=11_990,
        dead_letters=2,
        lost=0,
        windows=24,
        models=2,
        loop=0.9213,
        static=0.74,
        baseline=None,
        seconds=14.25,
    ),
    over_time=MetricOverTime(
        rows=(499, 999, 1499),
        loop=(0.95, 0.6, 0.94),
        static=(0.95, None, 0.6),
        baseline=(None, None, None),
        block=500,
    ),
    events=(
        DRIFT,
        RunEvent(row=701, what="retrain", text="data drift", id="retrain-1"),
        RunEvent(row=900, what="swap", text="0.94 against 0.6", id="sha256:" + "a" * 64),
        RunEvent(row=1200, what="drift resolved", drift="data", text="quiet", id="drift-1"),
    ),
)


@pytest.fixture
def page(tmp_path: Path) -> str:
    write_report(tmp_path / "report.html", REPORT)
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_page_shows_each_event_with_its_row_and_reason(page: str) -> None:
    assert "Driftline found drift at row 700, replaced the model at row 900, and" in page
    assert "Accuracy over the whole run is 0.921. With the first model, never retrained, it" in page
    for event in REPORT.events:
        assert f"{event.row:,}" in page
        assert event.id in page


@pytest.mark.parametrize("name", METRIC_KINDS)
def test_the_page_is_drawn_for_every_metric(name: Metric, tmp_path: Path) -> None:
    higher = higher_is_better(name)
    report = msgspec.structs.replace(REPORT, metric=name, higher_is_better=higher)
    write_report(tmp_path / "report.html", report)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert f"{title_of(name)} over time" in page
    assert ("higher is better" in page, "lower is better" in page) == (higher, not higher)


def test_text_from_the_data_is_escaped(page: str) -> None:
    assert "petal &lt;length&gt; differs &amp; so on" in page
    assert "<length>" not in page


def test_the_page_needs_no_script_and_no_network(page: str) -> None:
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert "default-src 'none'" in page
    assert "@import" not in page


def test_a_drift_event_links_to_its_evidently_report(page: str) -> None:
    assert 'href="reports/drift-1.html"' in page


def test_each_id_is_the_anchor_of_one_line_only(page: str) -> None:
    assert page.count('id="drift-1"') == 1
    assert page.count('href="#drift-1"') == 1


def test_a_run_without_events_has_a_sentence_about_it(tmp_path: Path) -> None:
    quiet = msgspec.structs.replace(REPORT, events=())
    write_report(tmp_path / "report.html", quiet)
    assert "the first model served all" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_drift_event_is_drawn_from_opened_to_resolved() -> None:
    mark = Mark(row=0, until=500, lane="data drift", style="drift", text="", link="#a")
    drawn = chart(
        rows=(499, 999),
        block=500,
        series=(Series("loop", "loop", (1.0, 2.0)),),
        marks=(mark,),
        label="",
    )
    (bar,) = drawn.iterfind(".//a/rect")
    (line,) = drawn.iterfind("polyline")
    last_x = float(line.attrib["points"].split()[-1].split(",")[0])
    assert float(bar.attrib["width"]) == pytest.approx((last_x - LEFT) * 500 / 999, rel=1e-3)


def test_a_line_breaks_where_there_is_no_value() -> None:
    series = Series("loop", "loop", (1.0, 2.0, None, 1.5, 1.0, None, 3.0))
    drawn = chart(rows=tuple(range(7)), block=1, series=(series,), marks=(), label="")
    assert len(drawn.findall("polyline")) == 2
    assert len(drawn.findall("circle")) == 1


def test_a_chart_of_nothing_is_still_a_chart() -> None:
    drawn = chart(rows=(), block=1, series=(Series("loop", "loop", ()),), marks=(), label="nothing")
    assert ET.tostring(drawn)


@pytest.mark.parametrize(("low", "high"), [(0, 0), (0.91, 0.93), (-3, 1e9), (5, 5), (1e-9, 2e-9)])
def test_ticks_cover_the_range_with_few_round_numbers(low: float, high: float) -> None:
    made = ticks(low, high, 5)
    assert made[0] <= low
    assert made[-1] >= high
    assert 2 <= len(made) <= 12
    assert made == sorted(set(made))


@pytest.mark.parametrize("baseline", ["prior", "previous_label"])
def test_the_legend_fits_above_the_chart(baseline: str, tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", msgspec.structs.replace(REPORT, baseline=baseline))
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    letter = 7.75  # width of one, about, in the text of a narrow screen
    legend = re.findall(
        r'<text x="([\d.]+)" y="([\d.]+)"[^>]*>(baseline:|first model|Driftline)([^<]+)', page
    )
    ends = [float(x) + letter * len(name + text) for x, _, name, text in legend]
    heights = sorted(float(y) for _, y, *_ in legend)
    assert len(ends) == 3
    assert min(b - a for a, b in itertools.pairwise(heights)) >= LINE, "no two in one line"
    assert max(ends) < WIDTH - RIGHT


def test_a_known_change_is_marked_in_the_chart(tmp_path: Path) -> None:
    changed = msgspec.structs.replace(REPORT, changes=(Change(600, "a <knock>", "too short"),))
    write_report(tmp_path / "report.html", changed)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "row 600: a &lt;knock&gt; too short" in page
    assert "a &lt;knock&gt;: too short" in page
