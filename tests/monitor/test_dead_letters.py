"""Dead letters are counted once, in the right data window, whichever worker reads them."""

from collections import Counter
from typing import Literal, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driftline.broker.port import TopicPartition
from driftline.config.stream import Stream
from driftline.runtime.handler import LogChange
from driftline.wire.envelope import outcomes_decoder
from driftline.wire.events import Gap, Watermark
from driftline.wire.topics import Topics
from driftline.wire.window_events import DataWindow, PerformanceWindow
from monitor.service import MonitorHandler
from tests.monitor.driver import Driver
from tests.monitor.streams import Log, Packages, small_stream

SIZE, PANE, PARTITIONS = 40, 2, 2
Axis = Literal["row", "time"]


def stream(axis: Axis = "row") -> Stream:
    if axis == "row":
        return small_stream(windows=f"records = {SIZE}\nmin_records = 10")
    return small_stream(
        windows=f'span = "{SIZE}ms"\nmin_records = 10', time='column = "at"\nformat = "unix_ms"'
    )


def windows_of(driver: Driver) -> dict[int, tuple[int, int, bool]]:
    """Return records, dead letters and verdict of each data window, by index."""
    return {
        event.index: (event.records, event.dead_letters, bool(event.quality))
        for event in driver.windows()
        if isinstance(event, DataWindow)
    }


def played(log: Log, axis: Axis = "row", workers: int = 1) -> dict[int, tuple[int, int, bool]]:
    driver = Driver(stream(axis), Packages({}), log.messages, workers=workers)
    driver.drain()
    return windows_of(driver)


# A record, a dead letter with a readable position, and one without.
BROUGHT = st.lists(
    st.tuples(st.sampled_from(["record", "letter", "unreadable"]), st.integers(0, 150)),
    max_size=60,
)


class Theory:
    """The expected counts of one partition in windows, computed record by record."""

    def __init__(self, log: Log, partition: int, brought: list[tuple[str, int]], ahead: int):
        self.records: Counter[int] = Counter()
        self.letters: Counter[int] = Counter()
        self.watermark: int | None = None
        for what, position in brought:
            before = -1 if self.watermark is None else self.watermark
            if what != "unreadable":
                self.watermark = max(before, position + ahead)
            is_late = (position // PANE + 1) * PANE <= before
            if what == "record":
                log.prediction(position, partition=partition)
                if not is_late:
                    self.records[position // SIZE] += 1
                continue
            row = position if what == "letter" else None
            log.dead_letter(row, partition=partition, watermark=self.watermark)
            if self.watermark is not None:
                at = self.watermark if row is None else before if is_late else row
                self.letters[at // SIZE] += 1


@settings(max_examples=60)
@given(
    brought=st.lists(BROUGHT, min_size=PARTITIONS, max_size=PARTITIONS),
    axis=st.sampled_from(get_args(Axis)),
    again=st.integers(0, 60),
    data=st.data(),
)
def test_windows_count_each_dead_letter_once(
    brought: list[list[tuple[str, int]]], axis: Axis, again: int, data: st.DataObject
) -> None:
    log = Log(stream(axis))
    ahead = 1 if axis == "row" else 0
    theories = [Theory(log, number, own, ahead) for number, own in enumerate(brought)]
    if brought[0]:
        log.redeliver(0, again)
    driver = Driver(stream(axis), Packages({}), log.messages, workers=2)
    for _ in range(data.draw(st.integers(0, 6))):
        driver.deliver(data.draw(st.sampled_from(driver.partitions)), data.draw(st.integers(1, 20)))
        number = data.draw(st.integers(0, 1))
        (driver.commit if data.draw(st.booleans()) else driver.kill)(number)
    driver.drain()

    records = sum((theory.records for theory in theories), Counter[int]())
    letters = sum((theory.letters for theory in theories), Counter[int]())
    reached = min(-1 if theory.watermark is None else theory.watermark for theory in theories)
    found = {index: counts[:2] for index, counts in windows_of(driver).items()}
    # A window with only late records is published too, with counts of 0.
    assert {index: counts for index, counts in found.items() if any(counts)} == {
        index: (records[index], letters[index])
        for index in range(reached // SIZE)
        if records[index] or letters[index]
    }


def test_windows_close_and_are_judged_even_if_no_record_can_be_scored() -> None:
    log = Log(stream())
    for row in range(200):
        if row < 80:
            log.prediction(row, partition=row % 2)
        else:
            log.dead_letter(row, partition=row % 2, watermark=row + 1)
    assert played(log) == {
        0: (40, 0, False),
        1: (40, 0, False),
        2: (0, 40, True),
        3: (0, 40, True),
    }


def test_a_single_dead_letter_among_many_records_is_no_finding() -> None:
    log = Log(stream())
    for row in range(200):
        if row % 100 == 50:
            log.dead_letter(row, partition=row % 2, watermark=row + 1)
        else:
            log.prediction(row, partition=row % 2)
    assert played(log) == {
        0: (40, 0, False),
        1: (39, 1, False),
        2: (40, 0, False),
        3: (39, 1, False),
    }


def test_dead_letters_without_a_position_count_at_the_watermark_of_their_partition() -> None:
    log = Log(stream())
    for row in range(200):
        log.prediction(row, partition=0)
        if row % 10 == 0:  # inference advances the watermark of the partition
            log.watermark(log.topics.predictions, row, partition=1)
            log.dead_letter(None, partition=1, watermark=row)
    assert played(log) == dict.fromkeys(range(4), (40, 4, True))


def test_the_largest_position_of_a_window_may_be_that_of_a_dead_letter() -> None:
    log = Log(stream())
    for row in range(90):
        log.dead_letter(row, partition=row % 2, watermark=row + 1)
    driver = Driver(stream(), Packages({}), log.messages)
    driver.drain()
    assert [event.row for event in driver.windows()] == [39, 79]


def test_lost_records_count_once_at_the_watermark_of_their_partition() -> None:
    log = Log(stream())
    for row in range(130):
        if row == 50:
            log.gap(start=25, end=1825, watermark=50)
            log.gap(start=25, end=1825, watermark=50)  # reported again after a kill
        log.prediction(row, partition=row % 2)
    driver = Driver(stream(), Packages({}), log.messages)
    driver.drain()
    found = [event for event in driver.windows() if isinstance(event, DataWindow)]
    assert [(event.records, event.lost, event.quality) for event in found] == [
        (40, 0, ()),
        (40, 1800, ("gaps",)),
        (40, 0, ()),
    ]


def test_records_of_a_recreated_topic_count_although_their_offsets_repeat() -> None:
    log = Log(stream())
    for row in range(200):
        if row == 100:
            for partition in range(2):
                log.new_topic("second", partition=partition, unread=50)
        log.prediction(row, partition=row % 2)
    for killed in (False, True):
        driver = Driver(stream(), Packages({}), log.messages, workers=2)
        for partition in driver.partitions:  # type: ignore[assignment]
            driver.deliver(partition, 55)  # type: ignore[arg-type]
        driver.commit(0)
        driver.commit(1)
        if killed:
            driver.kill(0)
            driver.kill(1)
        driver.drain()
        found = [event for event in driver.windows() if isinstance(event, DataWindow)]
        assert [(event.records, event.lost) for event in found] == [
            (40, 0),
            (40, 0),
            (40, 2),
            (40, 0),
        ]


def test_lost_labels_count_in_the_current_performance_window_of_their_partition() -> None:
    log = Log(stream())
    for row in range(130):
        if row == 50:
            log.lost(log.topics.labels, start=25, end=125)
        log.outcome(row, partition=row % 2)
    for killed in (False, True):
        driver = Driver(stream(), Packages({}), log.messages)
        driver.deliver(TopicPartition(log.topics.outcomes, 0), 28)
        driver.commit()
        if killed:
            driver.kill()
        driver.drain()
        assert lost_in_windows(driver) == [(40, 0), (40, 100), (40, 0)]
        (opened,) = driver.drift()
        assert (opened.kind, opened.action, opened.position) == ("quality", "opened", 80)
        assert opened.message == "at least 100 records were deleted before they were read"


@pytest.mark.parametrize("batch", [1, 3, 100])
def test_losses_before_the_first_outcome_count_in_the_window_of_that_outcome(batch: int) -> None:
    log = Log(stream())
    log.lost(log.topics.labels, start=0, end=7)
    log.lost(log.topics.predictions, start=5, end=10)
    for row in range(40, 130):
        log.outcome(row, partition=row % 2)
    driver = Driver(stream(), Packages({}), log.messages)
    driver.deliver(TopicPartition(log.topics.outcomes, 0), 2)
    driver.commit()
    driver.kill()
    while driver.deliver(TopicPartition(log.topics.outcomes, 0), batch):
        pass
    driver.drain()
    assert lost_in_windows(driver) == [(40, 12), (40, 0)]


def test_the_monitor_publishes_gaps_of_records_deleted_before_it_read_them() -> None:
    monitor = MonitorHandler(stream(), Packages({}))
    topics = Topics(stream())
    found = [
        record
        for topic in monitor.inputs
        for record in monitor.on_log_change(LogChange(TopicPartition(topic, 0), "id", 9, unread=4))
    ]
    assert {record.topic for record in found} == {topics.outcomes}
    events = [outcomes_decoder.decode(record.value or b"") for record in found]
    assert events == [Watermark(None, gaps=(Gap(0, 4, 9, topic),)) for topic in monitor.inputs]
    first = LogChange(TopicPartition(topics.outcomes, 0), "id", 9, is_new_topic=True)
    assert not monitor.on_log_change(first)


@pytest.mark.parametrize("batch", [1, 7, 100])
@pytest.mark.parametrize("killed", [False, True])
def test_windows_close_and_are_judged_even_if_every_label_is_rejected(
    batch: int, killed: bool
) -> None:
    log = Log(stream())
    for row in range(200):
        if row < 80:
            log.outcome(row, partition=row % 2)
        else:
            log.rejected_label(row, partition=row % 2, watermark=row + 1)
    driver = Driver(stream(), Packages({}), log.messages, workers=2)
    for turn in range(40):
        driver.deliver(TopicPartition(log.topics.outcomes, turn % 2), batch)
        if turn % 5 == 4:
            for number in range(2):
                driver.kill(number) if killed and turn % 10 == 9 else driver.commit(number)
    driver.drain()
    assert label_windows(driver) == [
        (40, 0, ()),
        (40, 0, ()),
        (0, 40, ("dead_letters",)),
        (0, 40, ("dead_letters",)),
    ]
    (opened,) = driver.drift()
    assert (opened.kind, opened.action, opened.position) == ("quality", "opened", 120)
    assert opened.message == "100.0% of the labels became dead letters"


def test_a_single_rejected_label_among_many_is_no_finding() -> None:
    log = Log(stream())
    for row in range(100):
        log.outcome(row, partition=row % 2)
    log.rejected_label(60, partition=0, watermark=50)
    for row in range(100, 130):
        log.outcome(row, partition=row % 2)
    driver = Driver(stream(), Packages({}), log.messages)
    driver.drain()
    assert label_windows(driver) == [(40, 0, ()), (40, 0, ()), (40, 1, ())]
    assert not driver.drift()


def test_rejected_labels_without_a_position_count_at_the_watermark_of_their_partition() -> None:
    log = Log(stream())
    for row in range(130):
        log.outcome(row, partition=row % 2)
        if 40 <= row < 80:
            log.rejected_label(None, partition=row % 2)
    driver = Driver(stream(), Packages({}), log.messages)
    driver.drain()
    # The letter after row 79, the last of its window, counts in the next window.
    assert label_windows(driver) == [(40, 0, ()), (40, 39, ("dead_letters",)), (40, 1, ())]


def label_windows(driver: Driver) -> list[tuple[int, int, tuple[str, ...]]]:
    """Return records, dead letters and verdict of each performance window."""
    windows = [event for event in driver.windows() if isinstance(event, PerformanceWindow)]
    return [(event.records, event.dead_letters, event.quality) for event in windows]


def lost_in_windows(driver: Driver) -> list[tuple[int, int]]:
    windows = [event for event in driver.windows() if isinstance(event, PerformanceWindow)]
    return [(event.records, event.lost) for event in windows]
