"""The story of a run: which events make an incident, and the sentence that sums the run up."""

import msgspec
import pytest

from driftline_app.report.incidents import conclusion, extra_errors, incidents, levels_of
from driftline_app.report.values import Happened, MetricOverTime, RunEvent, RunReport
from producers.rows import Change
from tests.app.report.test_page import REPORT

KNOCK = Change(500, "the camera was knocked", "lengths are too short")


def event(row: int, what: Happened, id: str = "a") -> RunEvent:
    return RunEvent(row=row, what=what, text=f"{what} {id}", id=id, drift="data")


EVENTS = (
    event(300, "swap"),
    event(610, "drift opened", "a"),
    event(650, "drift opened", "b"),
    event(700, "swap"),
    event(720, "drift resolved", "a"),
    event(750, "swap"),
    event(800, "drift resolved", "b"),
    event(900, "swap"),
)


def run(events: tuple[RunEvent, ...] = EVENTS, changes: tuple[Change, ...] = (KNOCK,)) -> RunReport:
    rows = tuple(range(99, 1000, 100))
    loop = (0.9,) * 5 + (0.5, 0.6, 0.8, 0.9, 0.9)
    return msgspec.structs.replace(
        REPORT,
        events=events,
        changes=changes,
        over_time=MetricOverTime(rows=rows, loop=loop, static=loop, baseline=loop, block=100),
    )


def test_an_incident_lasts_from_the_first_event_until_none_is_open() -> None:
    (found,) = incidents(EVENTS, [KNOCK])
    assert (found.change, found.detected, found.resolved) == (KNOCK, 610, 800)
    assert found.findings == ("drift opened a", "drift opened b")
    assert found.swaps == (700, 750)


def test_an_event_that_stays_open_leaves_the_incident_open() -> None:
    (found,) = incidents(EVENTS[:-2], [])
    assert (found.change, found.resolved) == (None, None)
    assert "the incident is still open" in conclusion(run(EVENTS[:-2]))


@pytest.mark.parametrize(("row", "place"), [(100, 0), (610, 0), (611, 1), (2000, 1), (2001, None)])
def test_a_change_belongs_to_the_first_incident_found_after_it(row: int, place: int | None) -> None:
    later = (event(2000, "drift opened", "c"), event(2100, "drift resolved", "c"))
    found = incidents((*EVENTS, *later), [Change(row, "it changed")])
    assert [incident.change is not None for incident in found] == [place == 0, place == 1]


def test_levels_are_those_before_the_change_until_the_swap_and_after_the_end() -> None:
    report = run()
    (found,) = incidents(report.events, report.changes)
    levels = levels_of(found, report.over_time)
    assert levels.before == pytest.approx(0.9)
    assert levels.meanwhile == pytest.approx(0.55)
    assert levels.after == pytest.approx(0.9)


def test_the_cost_is_counted_in_predictions_where_the_metric_is_accuracy() -> None:
    report = run()
    (found,) = incidents(report.events, report.changes)
    assert extra_errors(found, report) == 40 + 30 + 10
    assert extra_errors(found, msgspec.structs.replace(report, metric="f1_macro")) is None


def test_the_conclusion_tells_change_detection_replacement_and_recovery() -> None:
    assert conclusion(run()) == (
        "Accuracy went from 0.900 to 0.550 when the camera was knocked at row 500; Driftline found "
        "the drift after 110 records, replaced the model after 200, and accuracy has been 0.900 "
        "since row 800."
    )


def test_without_a_known_change_the_conclusion_begins_with_the_detection() -> None:
    assert conclusion(run(changes=())).startswith(
        "Driftline found drift at row 610, replaced the model at row 700, and "
    )


def test_without_drift_the_conclusion_says_so() -> None:
    assert conclusion(run(events=EVENTS[:1])) == "No drift was found in 12,000 records."
