"""Out-of-order and late input, idle partitions: the windows that a few lines of theory give."""

from collections import Counter
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from driftline.events import DataWindow, PerformancePane, PerformanceWindow
from monitor.progress import PANES
from tests.monitor.driver import Driver
from tests.monitor.streams import Log, Packages, small_stream

SIZE, LATENESS, PARTITIONS = 40, 3, 3
PANE = SIZE // PANES
STREAM = small_stream(
    windows=f"records = {SIZE}\nlateness = {LATENESS}\nmax_sample = 100",
    kafka=f"partitions = {PARTITIONS}",
)
# What one partition brings, in its order: rows, and the watermark records of its silence.
BROUGHT = st.lists(
    st.tuples(st.sampled_from(["row"] * 9 + ["watermark"]), st.integers(0, 200)), max_size=40
)


class Theory:
    """What a partition puts into windows, by the definition of late, record by record."""

    def __init__(self, brought: list[tuple[str, int]]) -> None:
        self.counted: Counter[int] = Counter()  # by row
        self.late: Counter[int] = Counter()  # by window
        self.watermark = -1
        for what, position in brought:
            if what == "watermark":
                self.watermark = max(self.watermark, position)
                continue
            if (position // PANE + 1) * PANE <= self.watermark:
                self.late[self.watermark // SIZE] += 1
            else:
                self.counted[position] += 1
            self.watermark = max(self.watermark, position + 1 - LATENESS)


@settings(max_examples=60, deadline=None)
@given(brought=st.lists(BROUGHT, min_size=PARTITIONS, max_size=PARTITIONS))
def test_windows_hold_what_their_partitions_had_not_passed(
    brought: list[list[tuple[str, int]]],
) -> None:
    log = Log(STREAM)
    for partition, own in enumerate(brought):
        for what, position in own:
            if what == "watermark":
                log.watermark(log.topics.predictions, position, partition=partition)
                log.watermark(log.topics.outcomes, position, partition=partition)
            else:
                log.prediction(position, partition=partition)
                log.outcome(position, partition=partition)
    driver = Driver(STREAM, Packages({}), log.messages, workers=2)
    driver.drain()
    windows = driver.windows()

    theories = [Theory(own) for own in brought]
    # A partition that has brought nothing, or only what is late from the start, holds all back.
    reached = min(theory.watermark for theory in theories)
    counted, late = sum((t.counted for t in theories), Counter()), Counter[int]()
    for theory in theories:
        late += theory.late
    expected = {
        window: (sum(n for row, n in counted.items() if row // SIZE == window), late[window])
        for window in range(6)
        if (window + 1) * SIZE <= reached
    }
    expected = {window: found for window, found in expected.items() if any(found)}
    for kind in (DataWindow, PerformanceWindow):
        of_kind = [event for event in windows if isinstance(event, kind)]
        assert {event.index: (event.records, event.late) for event in of_kind} == expected
        assert all(one.index < other.index for one, other in pairwise(of_kind))
    panes = [event for event in windows if isinstance(event, PerformancePane)]
    assert {event.index: event.records for event in panes} == {
        pane: n
        for pane in range(6 * PANES)
        if (n := sum(n for row, n in counted.items() if row // PANE == pane))
        and (pane + 1) * PANE <= reached
    }
    assert all(one.index < other.index for one, other in pairwise(panes))


def test_an_idle_partition_holds_windows_back_until_its_watermark_comes() -> None:
    log = Log(STREAM)
    for row in range(100):
        log.prediction(row, partition=row % 2)
    driver = Driver(STREAM, Packages({}), log.messages, workers=3)
    driver.drain()
    assert driver.windows() == []
    log.watermark(log.topics.predictions, 85, partition=2)
    driver = Driver(STREAM, Packages({}), log.messages, workers=3)
    driver.drain()
    assert [(event.start, event.end) for event in driver.windows()] == [(0, 40), (40, 80)]
