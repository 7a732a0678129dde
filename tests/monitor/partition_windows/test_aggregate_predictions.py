"""The sample of a window does not depend on which workers read the partitions in what order."""

import random
from collections import defaultdict
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from driftline.broker.port import Committed, Message
from driftline.config.stream import Stream
from driftline.wire.envelope import parts_decoder
from driftline.wire.partial_aggregates import DataAggregates
from driftline.wire.window_events import DataGroup
from monitor.bottom_k_sample import hashes_of
from monitor.merged_windows.data_windows import DataWindows
from monitor.partition_windows.aggregate_predictions import PredictionAggregator
from monitor.reference.references import Profiles, References
from tests.monitor.streams import Log, Packages, columns, reference, small_stream

LIMIT = 12

pytestmark = pytest.mark.usefixtures("few_resamples")


def stream_of(limit: int) -> Stream:
    """Return a stream with windows of 100 rows, 3 partitions and an especially small sample."""
    stream = small_stream(windows="records = 100\nlateness = 2000", kafka="partitions = 3")
    windows = msgspec.structs.replace(stream.windows, max_sample=limit, min_records=1)
    return msgspec.structs.replace(stream, windows=windows)


STREAM = stream_of(LIMIT)
REFERENCE = msgspec.structs.replace(
    reference(columns([0.0, 1.0] * 50, ["red"] * 100), ["yes", "no"] * 50),
    held_labels=np.array(["yes", "no"] * 50, dtype=object),
    held_predictions=np.array(["yes", "yes", "yes", "no"] * 25, dtype=object),
    held_scores=np.column_stack([np.linspace(0, 1, 100), np.linspace(1, 0, 100)]),
    classes=("no", "yes"),
)
Events = dict[int, list[Message]]


def history(rng: random.Random) -> tuple[Events, dict[tuple[int, str], list[tuple[int, bool]]]]:
    """Return the messages of each partition, and (row, readable) by window and model."""
    log = Log(STREAM)
    expected: dict[tuple[int, str], list[tuple[int, bool]]] = defaultdict(list)
    for row in rng.sample(range(300), 300):
        model, readable = rng.choice("aab"), rng.random() < 0.8
        x: Any = float(row) if readable else "wide"
        scores = {"yes": row / 300, "no": 1 - row / 300}
        log.prediction(row, partition=rng.randrange(3), model=model, x=x, scores=scores)
        expected[row // 100, model].append((row, readable))
    for partition in range(3):
        log.watermark(log.topics.predictions, 300, partition=partition)
    return {partition: own for (_, partition), own in log.messages.items()}, expected


def gathered(
    events: Events, rng: random.Random, *, workers: int, calm: bool
) -> list[DataAggregates]:
    """Return the output of workers that read random batches and pass partitions to each other."""
    owner = {partition: rng.randrange(workers) for partition in events}
    all_workers = [PredictionAggregator(STREAM) for _ in range(workers)]
    committed = dict.fromkeys(events, Committed(0))
    position = dict.fromkeys(events, 0)
    for partition, number in owner.items():
        all_workers[number].resume(partition, committed[partition])
    found = []
    while left := [p for p, own in events.items() if position[p] < len(own)]:
        partition = rng.choice(left)
        begin = position[partition]
        batch = events[partition][begin : begin + rng.randint(1, 60)]
        worker = all_workers[owner[partition]]
        published = worker.read(partition, batch)
        position[partition] += len(batch)
        if published or (not calm and rng.random() < 0.2):
            found.extend(published)
            committed[partition] = worker.offsets_to_commit()[partition]
        if not calm and rng.random() < 0.2:
            lost = rng.choice(list(events))
            if rng.random() < 0.7:  # otherwise it is assigned again without a revocation
                all_workers[owner[lost]].drop(lost)
                owner[lost] = rng.randrange(workers)
            all_workers[owner[lost]].resume(lost, committed[lost])
            position[lost] = committed[lost].offset
    decoded = [parts_decoder.decode(record.value or b"") for record in found]
    return [event for event in decoded if isinstance(event, DataAggregates)]


def sampled(parts: list[DataAggregates]) -> dict[int, tuple[DataGroup, ...]]:
    """Return the verdicts on all windows."""
    profiles = Profiles(
        STREAM, References(Packages({"a": REFERENCE, "b": REFERENCE}), STREAM.judged_by)
    )
    windows = DataWindows(STREAM, profiles)
    for offset, event in enumerate(parts):
        windows.add(offset, event, closed=None)
    found = {}
    closed = None
    while closed != 3:
        closed, window = windows.close(closed, 3)
        if window is not None:
            found[window.index] = window.groups
    return found


def samples(parts: list[DataAggregates], model: str, window: int) -> list[float]:
    """Return the sample of a window, merged in the test."""
    rows = [
        value
        for event in parts
        for partial in event.slices
        for group in partial.groups
        if (partial.index, group.model) == (window, model) and group.sample is not None
        for x in [group.sample.columns["x"]]
        for value in np.frombuffer(x if isinstance(x, bytes) else b"", "<f8").tolist()
    ]
    return sorted(sorted(rows, key=hash_of)[:LIMIT])


def hash_of(row: float) -> int:
    return int(hashes_of([str(int(row))])[0])


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32), workers=st.integers(1, 3))
def test_a_sample_is_the_readable_records_with_the_smallest_hashes(seed: int, workers: int) -> None:
    rng = random.Random(seed)
    events, expected = history(rng)
    parts = gathered(events, rng, workers=workers, calm=False)
    groups = sampled(parts)
    for (window, model), rows in expected.items():
        (group,) = [group for group in groups[window] if group.model == model]
        readable = [row for row, can_be_read in rows if can_be_read]
        smallest = sorted(sorted(readable, key=hash_of)[:LIMIT])
        assert (group.records, group.sampled) == (len(rows), len(smallest))
        assert group.estimate is not None  # compared below with the result of a single worker
        assert samples(parts, model, window) == [float(row) for row in smallest]
    again = gathered(events, rng, workers=1, calm=True)
    assert sampled(again) == groups


def test_partitions_of_one_worker_publish_little_more_than_one_sample() -> None:
    rng = random.Random(0)
    events, expected = history(rng)
    parts = gathered(events, rng, workers=1, calm=True)
    sent = sum(
        len(group.sample.hashes) // 4
        for event in parts for partial in event.slices for group in partial.groups
        if group.sample is not None
    )  # fmt: skip
    assert len(expected) * LIMIT <= sent < 2 * len(expected) * LIMIT


def test_unreadable_records_are_counted_and_not_tested() -> None:
    log = Log(STREAM)
    for row in range(50):
        log.prediction(row, partition=0, x="wide")
    for partition in range(3):
        log.watermark(log.topics.predictions, 300, partition=partition)
    events = {partition: own for (_, partition), own in log.messages.items()}
    parts = gathered(events, random.Random(0), workers=1, calm=True)
    ((group,),) = sampled(parts).values()
    assert group == DataGroup(model="a", records=50, sampled=0, tested=False)
