"""Reports are drawn for any columns, in the background or not, and never stop the monitor."""

from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

from driftline.config.stream import loads
from driftline.models.package_reference import Reference
from driftline.wire.columns import Columns
from monitor.bottom_k_sample import Sample
from monitor.evidently_reports import MAX_WAITING, Reports
from tests.monitor.driver import Driver
from tests.monitor.streams import Log, Packages, columns, reference, small_stream

ODD = loads(
    """
    version = 1
    name = "odd"
    task = "regression"
    target = "0"
    features = { "1" = "number", "a b/ö.%" = "category", "constant" = "number", "gone" = "number" }
    """
)


def odd(size: int) -> tuple[Columns, list[float]]:
    rng = np.random.default_rng(size)
    text = np.empty(size, dtype=object)
    text[:] = [None, *rng.choice(["<b>", "x y"], size - 1)]
    made = Columns(
        {
            "1": rng.normal(size=size),
            "constant": np.ones(size),
            "gone": np.full(size, np.nan),
        },
        {"a b/ö.%": text},
    )
    return made, rng.normal(size=size).tolist()


def parts() -> tuple[Sample, Reference]:
    current, said = odd(150)
    old, old_said = odd(300)
    return Sample(current, np.array(said)), reference(old, old_said)


@pytest.mark.filterwarnings("ignore")
def test_a_report_is_drawn_for_columns_of_any_name_and_content(tmp_path: Path) -> None:
    reports = Reports(ODD, tmp_path / "reports", synchronous=True)
    reports.draw("window-1.html", *parts())
    text = (tmp_path / "reports" / "window-1.html").read_text(encoding="utf-8")
    assert "a b/" in text
    assert "0 (predicted)" in text
    assert [path.name for path in (tmp_path / "reports").iterdir()] == ["window-1.html"]


def test_a_background_process_draws_reports_and_skips_those_above_the_limit(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reports = Reports(ODD, tmp_path, synchronous=False)
    for number in range(MAX_WAITING + 2):
        reports.draw(f"{number}.html", *parts())
    assert "skipping report" in caplog.text
    reports.wait()
    assert (tmp_path / "0.html").exists()
    reports.close()
    reports.close()


@pytest.mark.filterwarnings("ignore")
def test_a_report_is_drawn_once_for_the_window_that_opened_an_event(tmp_path: Path) -> None:
    stream = small_stream()
    rng = np.random.default_rng(0)
    old = reference(columns(rng.normal(size=300).tolist(), ["red"] * 300), ["yes", "no"] * 150)
    log = Log(stream)
    for row in range(120):
        log.prediction(row, partition=row % 2, x=rng.normal(3.0 if row >= 40 else 0.0))
    packages = Packages({"a": old})
    driver = Driver(stream, packages, log.messages, reports=tmp_path)
    driver.drain()
    opened = [event for event in driver.drift() if event.action == "opened"]
    drawn = {path.name for path in tmp_path.iterdir()}
    assert drawn == {event.report for event in opened}
    assert any(event.kind == "data" for event in opened)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("what", ["relation", "ids"])
def test_a_report_is_drawn_for_an_event_without_a_drifted_column(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    stream = small_stream(windows="records = 200\nmin_records = 10")
    rng = np.random.default_rng(0)
    x = rng.normal(size=2000)
    colours = ["red" if value > 0 else "blue" for value in x]
    old = reference(columns(x.tolist(), colours), ["yes", "no"] * 1000)
    log = Log(stream)
    turned = -1 if what == "relation" else 1
    for row, value in enumerate(rng.normal(size=900).tolist()):
        colour = "red" if turned * value > 0 else "blue"
        own = row - 2 if what == "ids" and row % 10 == 2 else row  # every tenth id occurs twice
        said = "yes" if row % 4 < 2 else "no"
        log.prediction(own, partition=row % 2, said=said, x=value, colour=colour)
    driver = Driver(stream, Packages({"a": old}), log.messages, reports=tmp_path)
    driver.drain()
    opened = [event for event in driver.drift() if event.action == "opened"]
    assert [event.kind for event in opened] == ["data" if what == "relation" else "quality"]
    assert {path.name for path in tmp_path.iterdir()} == {event.report for event in opened}
    assert "skipping report" not in caplog.text


def test_a_report_that_cannot_be_drawn_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "taken").write_text("a file where the folder should be")
    reports = Reports(ODD, tmp_path / "taken", synchronous=True)
    reports.draw("drift-1.html", *parts())
    assert "could not be drawn" in caplog.text


def test_a_reference_that_lacks_a_column_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sample, old = parts()
    old.columns.numbers.pop("constant")
    for synchronous in (True, False):
        Reports(ODD, tmp_path, synchronous=synchronous).draw("drift-1.html", sample, old)
    assert caplog.text.count("drift-1.html could not be drawn") == 2


def test_after_the_process_was_killed_another_one_draws_the_next_reports(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Killed(ProcessPoolExecutor):
        def submit(self, *_: object, **__: object) -> NoReturn:
            raise BrokenProcessPool("terminated abruptly")

    reports = Reports(ODD, tmp_path, synchronous=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("monitor.evidently_reports.ProcessPoolExecutor", Killed)
        reports.draw("1.html", *parts())
    assert "1.html could not be drawn" in caplog.text
    reports.draw("2.html", *parts())
    reports.wait()
    assert [path.name for path in tmp_path.iterdir()] == ["2.html"]
    reports.close()
