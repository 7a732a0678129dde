"""The output of the monitor depends only on the contents of its topics.

Batches, the order in which partitions are read, restarts and kills make no difference."""

import random
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from driftline.broker.port import Committed, TopicPartition
from driftline.config.stream import Stream
from driftline.errors import StreamFileError
from driftline.wire.events import DriftEvent, RetrainRequest
from driftline.wire.window_events import DataWindow, PerformancePane, PerformanceWindow
from monitor.decisions import snapshot
from monitor.decisions.decider import Decider
from monitor.service import MonitorHandler
from tests.monitor.driver import Driver, play
from tests.monitor.streams import Log, Packages, columns, reference, small_stream


def stream(slide: int) -> Stream:
    return small_stream(
        windows=f"records = 40\nslide = {slide}\nmin_records = 10\nlateness = 3\nmax_sample = 100"
    )


STREAM = stream(40)


# Every restart computes the thresholds again.
pytestmark = pytest.mark.usefixtures("few_resamples")


def history(seed: int, rows: int = 260) -> tuple[Packages, Log]:
    """Return rows out of order, late or repeated, delayed labels, a change of model, two drifts."""
    rng = random.Random(seed)
    numbers = np.random.default_rng(seed)
    old = reference(
        columns(numbers.normal(size=300).tolist(), ["red", "blue"] * 150),
        ["yes", "no"] * 150,
        [0, 0, 0, 0, 1] * 40,
    )
    new = reference(
        columns((numbers.normal(size=300) + 2).tolist(), ["red", "blue"] * 150),
        ["yes", "no"] * 150,
        [0, 0, 0, 0, 1] * 40,
    )
    log = Log(STREAM)
    order = sorted(range(rows), key=lambda row: row + rng.choice([0, 0, 0, 2, 30]))
    sources: defaultdict[int, int] = defaultdict(int)
    for row in order:
        partition = hash_partition(row)
        shifted = row >= 80
        model = "b" if row >= 170 else "a"
        said = rng.choice(["yes", "no"])
        record: dict[str, Any] = {
            "x": rng.gauss(2.0 if shifted else 0.0, 1.0),
            "colour": rng.choice("rgb"),
        }
        source = sources[partition]
        sources[partition] += 1
        log.prediction(row, partition=partition, model=model, said=said, source=source, **record)
        if rng.random() < 0.1:  # published twice
            log.prediction(row, partition=partition, model=model, said="no", source=source)
    for row in sorted(range(rows), key=lambda row: row + rng.choice([0, 5, 10, 40])):
        wrong = rng.random() < (0.7 if row >= 120 and row < 170 else 0.2)
        log.outcome(
            row,
            partition=hash_partition(row),
            model="b" if row >= 170 else "a",
            said="yes",
            label="no" if wrong else "yes",
            at=row + rng.choice([5, 5, 5, 1]),
            revision=rng.choice([0] * 9 + [1]),
        )
    for partition in range(2):
        for topic in (log.topics.predictions, log.topics.outcomes):
            log.watermark(topic, rows + 40, partition=partition)
    return Packages({"a": old, "b": new}), log


def hash_partition(row: int) -> int:
    return row * 7 % 5 % 2


def facts(driver: Driver) -> tuple[object, ...]:
    """Return the output that must always be the same, by kind, as kinds may interleave."""
    windows = driver.published[driver.topics.windows]
    decoded = driver.windows()
    data = [r for r, e in zip(windows, decoded, strict=True) if isinstance(e, DataWindow)]
    performance = [
        r for r, e in zip(windows, decoded, strict=True) if not isinstance(e, DataWindow)
    ]
    by_kind = defaultdict(list)
    for record, event in zip(driver.published[driver.topics.drift], driver.drift(), strict=True):
        by_kind[event.kind].append(record)
    return data, performance, dict(by_kind)


def decided_again(
    driver: Driver, stream: Stream = STREAM
) -> tuple[list[DriftEvent], list[RetrainRequest]]:
    """Return the decisions that follow from the windows: exactly these must be published."""
    decider = Decider(stream)
    events = [event for window in driver.windows() for event in decider.read(window)]
    return (
        [event for event in events if isinstance(event, DriftEvent)],
        [event for event in events if isinstance(event, RetrainRequest)],
    )


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 5),
    schedule=st.integers(0, 2**32),
    largest_batch=st.sampled_from([3, 20, 100]),
    slide=st.sampled_from([40, 40, 20, 4]),
)
def test_batches_interleaving_and_kills_do_not_change_the_output(
    seed: int, schedule: int, largest_batch: int, slide: int
) -> None:
    packages, log = history(seed)
    expected = play(stream(slide), packages, log.messages)
    driver = Driver(stream(slide), packages, log.messages)
    rng = random.Random(schedule)
    for _ in range(2000 // largest_batch):
        driver.deliver(rng.choice(driver.partitions), rng.randint(1, largest_batch))
        if rng.random() < 0.3:
            driver.commit()
        if rng.random() < 0.05:
            driver.kill()
    driver.drain()
    assert facts(driver) == facts(expected)
    assert decided_again(driver, stream(slide)) == (driver.drift(), driver.requests())


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 5),
    schedule=st.integers(0, 2**32),
    workers=st.integers(1, 4),
    largest_batch=st.sampled_from([3, 20, 100]),
    slide=st.sampled_from([40, 40, 20, 4]),
    kept=st.booleans(),
)
def test_several_workers_publish_the_same_as_one_despite_failures(
    seed: int, schedule: int, workers: int, largest_batch: int, slide: int, kept: bool
) -> None:
    packages, log = history(seed)
    expected = play(stream(slide), packages, log.messages)
    with tempfile.TemporaryDirectory() as state, pytest.MonkeyPatch.context() as patch:
        patch.setattr(snapshot, "EVERY", 3)
        driver = Driver(
            stream(slide),
            packages,
            log.messages,
            workers=workers,
            state=Path(state) if kept else None,
        )
        suffer(driver, random.Random(schedule), workers, largest_batch)
        driver.drain()
    assert facts(driver) == facts(expected)
    assert decided_again(driver, stream(slide)) == (driver.drift(), driver.requests())


def suffer(driver: Driver, rng: random.Random, workers: int, largest_batch: int) -> None:
    """Do random batches, commits, kills, aborts and rebalances."""
    for _ in range(2000 // largest_batch):
        counts = [(rng.choice(driver.partitions), rng.randint(1, largest_batch)) for _ in "ab"]
        driver.deliver_together(dict(counts).items())
        number = rng.randrange(workers)
        if rng.random() < 0.3:
            driver.commit(number)
        if rng.random() < 0.05:
            driver.kill(number)
        if rng.random() < 0.05:
            driver.abort(number)
        if rng.random() < 0.05:  # including the partitions of `parts` and `windows`
            driver.assign({p: rng.randrange(workers) for p in driver.partitions})


def test_a_history_contains_all_kinds_of_events() -> None:
    packages, log = history(0)
    driver = play(STREAM, packages, log.messages)
    windows = driver.windows()
    assert sum(isinstance(event, DataWindow) for event in windows) >= 6
    assert sum(e.late for e in windows if isinstance(e, DataWindow)) > 0
    assert sum(e.late for e in windows if isinstance(e, PerformanceWindow)) > 0
    assert sum(e.revised for e in windows if isinstance(e, PerformanceWindow)) > 0
    assert {event.kind for event in driver.drift()} >= {"data", "performance", "quality"}
    assert {event.action for event in driver.drift()} >= {"opened", "resolved"}
    assert driver.requests()


def test_batches_of_all_partitions_give_the_same_as_single_partitions() -> None:
    packages, log = history(1)
    expected = play(STREAM, packages, log.messages)
    driver = Driver(STREAM, packages, log.messages)
    while driver.deliver_together([(partition, 7) for partition in driver.partitions]):
        driver.commit()
    assert facts(driver) == facts(expected)


def test_the_same_monitor_repeats_an_aborted_transaction() -> None:
    packages, log = history(2)
    expected = play(STREAM, packages, log.messages)
    driver = Driver(STREAM, packages, log.messages)
    for partition in driver.partitions:
        driver.deliver(partition, 60)
    driver.commit()
    for partition in driver.partitions:
        driver.deliver(partition, 30)
    driver.abort()
    driver.drain()
    assert facts(driver) == facts(expected)


def test_many_complete_windows_are_tested_over_several_iterations(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    packages, log = history(0)
    expected = play(STREAM, packages, log.messages)
    monkeypatch.setattr("monitor.service.MAX_TESTED", 1)
    driver = Driver(STREAM, packages, log.messages)
    for partition in driver.partitions:
        driver.deliver(partition, 1000)
    driver.commit()
    parts = TopicPartition(driver.topics.parts, 0)
    assert driver.deliver(parts, 1000)
    assigned = frozenset(driver.partitions)
    assert driver.monitor.paused_partitions(assigned) == assigned  # no records are read meanwhile
    turns = 1
    while driver.monitor.paused_partitions(assigned):
        driver.commit()
        turns += 1
        if turns == 5:
            driver.kill()
            driver.deliver(parts, 1000)
        assert driver.turn()
    assert turns > 6  # the number of data windows
    driver.drain()
    assert facts(driver) == facts(expected)


def test_a_window_waits_for_records_or_a_watermark_of_each_partition() -> None:
    log = Log(STREAM)
    for row in range(100):
        log.prediction(row, partition=0)
    driver = play(STREAM, Packages({}), log.messages)
    assert driver.windows() == []
    log.watermark(log.topics.predictions, 60, partition=1)
    driver = play(STREAM, Packages({}), log.messages)
    assert [(event.start, event.end) for event in driver.windows()] == [(0, 40)]


def test_windows_without_records_are_not_published_and_block_no_others() -> None:
    log = Log(STREAM)
    for row in (*range(30), *range(200, 230)):
        log.prediction(row, partition=row % 2)
    for partition in range(2):
        log.watermark(log.topics.predictions, 1000, partition=partition)
    driver = play(STREAM, Packages({}), log.messages)
    assert [event.start for event in driver.windows()] == [0, 200]


@pytest.mark.parametrize(
    ("before", "after", "slide"), [(40, 120, 120), (120, 40, 40), (40, 40, 20), (40, 80, 20)]
)
def test_windows_of_another_size_begin_where_the_old_ones_ended(
    before: int, after: int, slide: int
) -> None:
    log = Log(STREAM)
    for row in range(600):
        log.prediction(row, partition=row % 2)
        log.outcome(row, partition=row % 2)
    for topic, partition in list(log.messages):
        log.watermark(topic, 1000, partition=partition)
    driver = Driver(
        small_stream(windows=f"records = {before}"), Packages({}), log.messages, workers=2
    )
    own = (driver.topics.parts, driver.topics.windows)
    for at in driver.partitions:
        if at.topic not in own:
            driver.deliver(at, 170)  # up to row 340
    for _ in range(3):
        driver.commit(0)
        driver.commit(1)
        driver.deliver_together((TopicPartition(t, 0), 1000) for t in own)
    old = len(driver.windows())
    driver.restart(small_stream(windows=f"records = {after}\nslide = {slide}"))
    driver.drain()
    for kind in (DataWindow, PerformanceWindow):
        ended = [event.end for event in driver.windows()[:old] if isinstance(event, kind)]
        assert max(ended) == 340 // before * before
        new = [event for event in driver.windows()[old:] if isinstance(event, kind)]
        assert {event.end - event.start for event in new} == {after}
        whole = [event for event in new if event.records == after]
        assert whole[0].start < 340 + 2 * slide
        assert [event.start for event in whole] == [*range(whole[0].start, 600 - after + 1, slide)]
    assert len({event.id for event in driver.windows()}) == len(driver.windows())


@pytest.mark.parametrize(
    "features",
    [
        'x = "number"\ncolour = "category"\nheight = "number"',
        'x = "number"',
        'x = "category"\ncolour = "category"',
    ],
)
def test_a_window_that_is_open_when_columns_change_counts_all_its_records(features: str) -> None:
    log = Log(STREAM)
    for row in range(600):
        log.prediction(row, partition=row % 2, x=0.5, colour="red")
    for partition in range(2):
        log.watermark(log.topics.predictions, 1000, partition=partition)
    windows = "records = 200\nslide = 40"
    data = columns([0.0, 1.0] * 150, ["red", "blue"] * 150)
    packages = Packages({"a": reference(data, ["yes", "no"] * 150)})
    driver = Driver(small_stream(windows=windows), packages, log.messages)
    for partition in range(2):
        driver.deliver(TopicPartition(driver.topics.predictions, partition), 150)
    driver.commit()
    driver.deliver(TopicPartition(driver.topics.parts, 0), 1000)
    driver.commit()
    driver.restart(small_stream(windows=windows, features=features))
    driver.drain()
    counted = [(event.start, event.records) for event in driver.windows()]
    assert counted[-1] == (560, 40)
    assert {records for start, records in counted if 0 <= start <= 400} == {200}


def test_a_late_record_is_counted_in_the_current_window_of_its_partition() -> None:
    log = Log(STREAM)
    for row in (0, 1, 50, 2, 3):  # with a lateness of 3, row 50 closes all panes up to 48
        log.prediction(row, partition=0)
    log.prediction(51, partition=1)
    for partition in range(2):
        log.watermark(log.topics.predictions, 80, partition=partition)
    driver = play(STREAM, Packages({}), log.messages)
    counted = [(e.start, e.records, e.late) for e in driver.windows() if isinstance(e, DataWindow)]
    assert counted == [(0, 2, 0), (40, 2, 2)]


def test_a_redelivered_prediction_counts_once() -> None:
    log = Log(STREAM)
    for row in range(20):
        log.prediction(row, partition=0)
    for row in range(10, 30):  # inference was restarted and continued
        log.prediction(row, partition=0, source=row)
    for partition in range(2):
        log.watermark(log.topics.predictions, 40, partition=partition)
    (window,) = play(STREAM, Packages({}), log.messages).windows()
    assert isinstance(window, DataWindow)
    assert window.records == 30


def test_only_the_first_label_of_a_record_counts() -> None:
    log = Log(STREAM)
    for row in range(20):
        log.outcome(row, label="yes" if row % 2 else "no")
    log.outcome(4, at=20, label="yes", revision=1)
    for partition in range(2):
        log.watermark(log.topics.outcomes, 40, partition=partition)
    windows = play(STREAM, Packages({}), log.messages).windows()
    (window,) = [event for event in windows if isinstance(event, PerformanceWindow)]
    assert (window.records, window.revised, window.value) == (20, 1, 0.5)


def test_outcomes_count_at_the_position_of_their_label() -> None:
    log = Log(STREAM)
    for row in range(10):
        log.outcome(row, at=row + 45)
    for partition in range(2):
        log.watermark(log.topics.outcomes, 80, partition=partition)
    windows = play(STREAM, Packages({}), log.messages).windows()
    assert {event.start for event in windows if isinstance(event, PerformanceWindow)} == {40}
    panes = [event for event in windows if isinstance(event, PerformancePane)]
    assert panes[0].start == 44
    assert (panes[0].first_position, panes[-1].last_position) == (0, 9)


def test_an_unreadable_record_is_skipped() -> None:
    log = Log(STREAM)
    log.prediction(0)
    broken = log.messages[log.topics.predictions, 0]
    broken[0] = type(broken[0])(log.topics.predictions, 0, 0, None, b"no json")
    log.prediction(1, source=1)
    for partition in range(2):
        log.watermark(log.topics.predictions, 40, partition=partition)
    (window,) = play(STREAM, Packages({}), log.messages).windows()
    assert isinstance(window, DataWindow)
    assert window.records == 1


def test_metadata_is_small_and_offsets_are_at_the_end_without_open_windows() -> None:
    packages, log = history(3)
    driver = play(STREAM, packages, log.messages)
    holds = driver.monitor.offsets_to_commit()
    assert max(len(committed.metadata) for committed in holds.values()) < 200
    predictions = TopicPartition(driver.topics.predictions, 0)
    assert holds[predictions].offset == len(log.messages[predictions])
    assert holds[TopicPartition(driver.topics.windows, 0)].offset == 0


def test_a_rebalance_drops_the_state_of_revoked_partitions() -> None:
    packages, log = history(4)
    expected = play(STREAM, packages, log.messages)
    driver = Driver(STREAM, packages, log.messages)
    for partition in driver.partitions:
        driver.deliver(partition, 50)
    driver.commit()
    lost = [partition for partition in driver.partitions if partition.partition == 1]
    driver.rebalance(lost)
    driver.drain()
    assert facts(driver) == facts(expected)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ('number_test = "kz"', r"drift.number_test\] no such test: 'kz'"),
        ('category_test = "ks"', r"drift.category_test\] no such test: 'ks'"),
        ('detectors = ["adwind"]', r"drift.detectors\] no such detector: 'adwind'"),
    ],
)
def test_an_unknown_test_or_detector_is_rejected_at_the_start(section: str, message: str) -> None:
    with pytest.raises(StreamFileError, match=message):
        MonitorHandler(small_stream(drift=section), Packages({}))


def test_the_first_monitor_of_a_stream_starts_at_the_beginning() -> None:
    monitor = MonitorHandler(STREAM, Packages({}))
    partition = TopicPartition("small.predictions", 0)
    monitor.on_assigned({partition: Committed(0)})
    assert monitor.offsets_to_commit()[partition].offset == 0
