"""Estimates are compared with outcomes of the same records, whenever their labels arrived."""

import pytest

from driftline.wire.envelope import outcomes_decoder
from driftline.wire.events import Outcome
from driftline.wire.window_events import DataGroup, DataWindow, MetricEstimate
from monitor.estimates.coverage import Truth, coverage
from tests.monitor.streams import Log, small_stream

STREAM = small_stream()  # windows of 40 rows


def window(index: int, *groups: DataGroup, slide: int = 40) -> DataWindow:
    return DataWindow(
        id=f"w{index}", index=index, start=slide * index, end=slide * index + 40, records=40,
        late=0, row=slide * index + 39, time=None, groups=groups,
    )  # fmt: skip


def group(model: str, value: float | None) -> DataGroup:
    estimate = None if value is None else MetricEstimate("accuracy", value, value, value, 0.5)
    return DataGroup(model, 40, 40, tested=True, estimate=estimate)


def test_an_outcome_counts_in_the_window_of_its_record_with_its_first_label() -> None:
    log = Log(STREAM)
    for row in range(40):
        log.outcome(row, label="yes" if row % 4 else "no", at=row + 1000)
    log.outcome(3, label="no", at=2000, revision=1)
    for row in (40, 41):
        log.outcome(row, model="b", at=row)
    outcomes = [
        event
        for own in log.messages.values()
        for message in own
        for event in [outcomes_decoder.decode(message.value or b"")]
        if isinstance(event, Outcome)
    ]
    windows = [window(0, group("a", 0.75)), window(1, group("a", 0.9), group("b", 0.5)),
               window(2, group("b", 0.5)), window(3, group("b", None))]  # fmt: skip
    truth = Truth(STREAM)
    for start in range(0, len(outcomes), 7):  # in the order of arrival
        truth.add(outcomes[start : start + 7])
    pairs = truth.compare(windows)
    assert [(p.estimate.value, p.realised, p.outcomes) for p in pairs] == [
        (0.75, 0.75, 40), (0.5, 1.0, 2)
    ]  # fmt: skip
    found = coverage(pairs)
    assert found is not None
    assert (found.windows, found.mean_absolute_error, found.covered) == (2, 0.25, 0.5)
    assert found.held_out_error == pytest.approx(0.375)
    assert coverage([]) is None


def test_an_outcome_counts_in_each_window_that_contains_its_record() -> None:
    sliding = small_stream(windows="records = 40\nslide = 20")
    log = Log(sliding)
    log.outcome(45, label="no")
    (message,) = [message for own in log.messages.values() for message in own]
    outcome = outcomes_decoder.decode(message.value or b"")
    assert isinstance(outcome, Outcome)
    truth = Truth(sliding)
    truth.add([outcome])
    found = truth.compare(window(index, group("a", 0.5), slide=20) for index in range(4))
    assert [(p.end, p.realised, p.outcomes) for p in found] == [(60, 0.0, 1), (80, 0.0, 1)]
    before = truth.compare([window(1, group("a", 0.5))])
    assert before == [], "a window of the size that the stream file had before"
