"""With late records and idle partitions, windows are those of a short reference implementation."""

from collections import Counter
from itertools import pairwise
from typing import Literal, get_args

from hypothesis import given, settings
from hypothesis import strategies as st

from driftline.config.stream import Stream
from driftline.wire.window_events import DataWindow, PerformancePane, PerformanceWindow
from monitor.panes import PANES
from tests.monitor.driver import Driver
from tests.monitor.streams import Log, Packages, small_stream

SIZE, LATENESS, PARTITIONS = 40, 3, 3
PANE = SIZE // PANES
OVERLAPS = (1, 2, 5, 20)
Axis = Literal["row", "time"]


def stream(overlap: int = 1, axis: Axis = "row") -> Stream:
    if axis == "time":
        return small_stream(
            windows=f'span = "{SIZE}ms"\nslide = "{SIZE // overlap}ms"\n'
            f'lateness = "{LATENESS}ms"\nmax_sample = 100',
            time='column = "at"\nformat = "unix_ms"',
            kafka=f"partitions = {PARTITIONS}",
        )
    return small_stream(
        windows=f"records = {SIZE}\nslide = {SIZE // overlap}\nlateness = {LATENESS}\n"
        "max_sample = 100",
        kafka=f"partitions = {PARTITIONS}",
    )


# The records of one partition in order: rows, and watermark records while it is idle.
BROUGHT = st.lists(
    st.tuples(st.sampled_from(["row"] * 9 + ["watermark"]), st.integers(0, 200)), max_size=40
)


class Theory:
    """The expected records of one partition in windows, by the definition of late."""

    def __init__(self, brought: list[tuple[str, int]], slide: int, axis: Axis) -> None:
        self.counted: Counter[int] = Counter()  # by row
        self.late: Counter[int] = Counter()  # by slide
        self.watermark = -1
        # After row 4, the next row is 5; a time may occur again.
        ahead = 1 if axis == "row" else 0
        for what, position in brought:
            if what == "watermark":
                self.watermark = max(self.watermark, position)
                continue
            if (position // PANE + 1) * PANE <= self.watermark:
                self.late[self.watermark // slide] += 1
            else:
                self.counted[position] += 1
            self.watermark = max(self.watermark, position + ahead - LATENESS)


@settings(max_examples=60)
@given(
    brought=st.lists(BROUGHT, min_size=PARTITIONS, max_size=PARTITIONS),
    overlap=st.sampled_from(OVERLAPS),
    axis=st.sampled_from(get_args(Axis)),
)
def test_windows_contain_the_records_that_are_not_late(
    brought: list[list[tuple[str, int]]], overlap: int, axis: Axis
) -> None:
    slide, unit = SIZE // overlap, 1000 if axis == "time" else 1  # microseconds
    log = Log(stream(axis=axis))
    for partition, own in enumerate(brought):
        for what, position in own:
            if what == "watermark":
                log.watermark(log.topics.predictions, position, partition=partition)
                log.watermark(log.topics.outcomes, position, partition=partition)
            else:
                log.prediction(position, partition=partition)
                log.outcome(position, partition=partition)
    driver = Driver(stream(overlap, axis), Packages({}), log.messages, workers=2)
    driver.drain()
    windows = driver.windows()

    theories = [Theory(own, slide, axis) for own in brought]
    # A partition without records, or with only late ones, keeps all windows open.
    reached = min(theory.watermark for theory in theories)
    counted, late = sum((t.counted for t in theories), Counter()), Counter[int]()
    for theory in theories:
        late += theory.late
    expected = {
        window: (
            sum(n for row, n in counted.items() if window <= row // slide < window + overlap),
            sum(late[window + place] for place in range(overlap)),
        )
        for window in range(1 - overlap if axis == "time" else 0, 6 * overlap)
        if (window + overlap) * slide <= reached
    }
    expected = {window: found for window, found in expected.items() if any(found)}
    for kind in (DataWindow, PerformanceWindow):
        of_kind = [event for event in windows if isinstance(event, kind)]
        assert {event.index: (event.records, event.late) for event in of_kind} == expected
        assert all(event.start == event.index * slide * unit for event in of_kind)
        assert all(event.end == event.start + SIZE * unit for event in of_kind)
        assert all(one.index < other.index for one, other in pairwise(of_kind))
    panes = [event for event in windows if isinstance(event, PerformancePane)]
    assert {event.index: event.records for event in panes} == {
        pane: n
        for pane in range(6 * PANES)
        if (n := sum(n for row, n in counted.items() if row // PANE == pane))
        and (pane + 1) * PANE <= reached
    }
    assert all(one.index < other.index for one, other in pairwise(panes))


def test_an_idle_partition_keeps_windows_open_until_its_watermark_arrives() -> None:
    log = Log(stream())
    for row in range(100):
        log.prediction(row, partition=row % 2)
    driver = Driver(stream(), Packages({}), log.messages, workers=3)
    driver.drain()
    assert driver.windows() == []
    log.watermark(log.topics.predictions, 85, partition=2)
    driver = Driver(stream(), Packages({}), log.messages, workers=3)
    driver.drain()
    assert [(event.start, event.end) for event in driver.windows()] == [(0, 40), (40, 80)]
