"""Watermarks, late records and checkpoints depend only on the log of their partition."""

from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftline.broker.port import Committed
from driftline.config.stream import Stream
from monitor.panes import PANES, Arrivals, Grid, PartitionCheckpoint, PartitionWindowState
from tests.monitor.streams import small_stream

STREAM = small_stream(windows="records = 40\nlateness = 3")
GRID = "40/20"


def state(
    *,
    at: int = 0,
    metadata: str = "",
    stream: Stream = STREAM,
    unit: Literal["slide", "pane"] = "slide",
) -> PartitionWindowState[list[int]]:
    return PartitionWindowState(stream, Committed(at, metadata), list, unit=unit)


def read(
    of: PartitionWindowState[list[int]], *positions: int, sources: Sequence[int] | None = None
) -> list[int]:
    """Read positions at consecutive offsets; return those that are not late."""
    offsets = of.next_offset + np.arange(len(positions))
    arrivals = Arrivals(
        offsets,
        np.array(positions),
        sources=None if sources is None else np.array(sources),
    )
    of.next_offset += len(positions)
    buckets, counting = of.admit(arrivals)
    for place in np.flatnonzero(counting):
        of.open_buckets[int(buckets[place])].partial.append(positions[place])
    return [positions[place] for place in np.flatnonzero(counting)]


def mark(of: PartitionWindowState[list[int]], position: int) -> None:
    """Read a watermark record."""
    of.admit(Arrivals(np.array([of.next_offset]), np.array([position]), np.array([True])))
    of.next_offset += 1


@given(
    size=st.integers(20, 5000),
    position=st.integers(-(10**6), 10**6),
    pane=st.integers(1, 250),
    overlap=st.sampled_from([1, 2, 5, 20]),
)
def test_a_pane_is_inside_its_slide_and_contains_its_position(
    size: int, position: int, pane: int, overlap: int
) -> None:
    grid = Grid(size=size, pane=min(pane, size // 20), overlap=overlap)
    index = grid.pane_of(position)
    start, end = grid.bounds(index)
    slide = index // (PANES // overlap)
    assert slide * size <= start <= position < end <= (slide + 1) * size
    assert grid.window(slide) == (slide * size, (slide + overlap) * size)
    assert grid.panes_of(np.array([start, position, end - 1])).tolist() == [index] * 3
    assert grid.bounds(index + 1)[0] == end


def test_a_record_within_the_lateness_is_not_late() -> None:
    of = state()
    read(of, 39)  # the watermark is 39 + 1 - 3
    assert of.watermark == 37
    assert read(of, 37, 35) == [37]  # the pane from 34 to 36 is closed
    assert of.open_buckets[0].late == 1


def test_a_slide_closes_once_the_watermark_of_its_partition_has_reached_its_end() -> None:
    of = state()
    read(of, 20, 41, 50)
    closed = of.close()
    assert closed is not None
    assert closed[0] == 1
    assert [(index, bucket.partial) for index, bucket in closed[1]] == [(0, [20])]
    assert of.close() is None
    mark(of, 90)
    closed = of.close()
    assert closed is not None
    assert [(index, bucket.partial) for index, bucket in closed[1]] == [(1, [41, 50])]


def test_a_pane_closes_before_its_window() -> None:
    of = state(unit="pane")
    read(of, 0, 1, 2, 3, 7)
    closed = of.close()
    assert closed is not None
    assert (closed[0], [bucket.partial for _, bucket in closed[1]]) == (2, [[0, 1], [2, 3]])


def test_a_watermark_never_decreases() -> None:
    of = state()
    mark(of, 50)
    mark(of, 40)
    assert of.watermark == 50


def test_a_redelivered_record_counts_once() -> None:
    of = state()
    assert read(of, 10, 11, 10, 12, sources=[5, 6, 5, 7]) == [10, 11, 12]
    assert read(of, 11, 13, sources=[6, 8]) == [13]
    assert of.source == 8


@given(
    positions=st.lists(st.integers(0, 130), min_size=1, max_size=60),
    marks=st.sets(st.integers(0, 59)),
    cuts=st.lists(st.integers(1, 20), min_size=1),
)
def test_a_batch_gives_the_same_result_as_its_records_one_by_one(
    positions: list[int], marks: set[int], cuts: list[int]
) -> None:
    together, alone = state(), state()
    start = 0
    while start < len(positions):
        step = cuts[start % len(cuts)]
        places = range(start, min(start + step, len(positions)))
        buckets, counting = together.admit(
            Arrivals(
                np.array(places),
                np.array([positions[place] for place in places]),
                np.array([place in marks for place in places]),
            )
        )
        for place, index, counts in zip(places, buckets, counting, strict=True):
            one, does = alone.admit(
                Arrivals(
                    np.array([place]), np.array([positions[place]]), np.array([place in marks])
                )
            )
            assert bool(does[0]) == counts
            assert not counts or one[0] == index
        assert together.watermark == alone.watermark
        assert {c: (s.late, s.first) for c, s in together.open_buckets.items()} == {
            c: (s.late, s.first) for c, s in alone.open_buckets.items()
        }
        start += step


def test_the_checkpoint_is_at_the_first_record_of_the_oldest_open_slide() -> None:
    of = state(at=7)
    read(of, 38, 45, 39, 90, sources=[7, 8, 9, 10])
    assert of.checkpoint().offset == 7
    of.close()
    committed = of.checkpoint()
    assert committed.offset == 10
    resume = msgspec.json.decode(committed.metadata, type=PartitionCheckpoint)
    assert resume == PartitionCheckpoint(
        watermark=43, source=9, closed=2, published=11, grid=GRID, axis="row"
    )


def test_after_a_restart_late_records_stay_late_and_published_windows_closed() -> None:
    of = state(at=8, metadata='{"watermark":46,"source":3,"closed":1,"grid":"40/20"}')
    assert of.source == 3
    assert read(of, 42) == []  # its pane was closed before the restart
    assert of.open_buckets[1].late == 1
    other = state(at=8, metadata='{"watermark":30,"closed":1,"grid":"40/20"}')
    assert read(other, 38) == []  # its window was published
    assert not other.open_buckets


def test_the_checkpoint_of_a_partition_without_records_is_unchanged() -> None:
    assert state(at=12, metadata=f'{{"watermark":7,"grid":"{GRID}"}}').checkpoint() == Committed(
        12, f'{{"watermark":7,"grid":"{GRID}","axis":"row"}}'
    )


def test_after_a_change_of_windows_the_first_complete_slide_is_the_next() -> None:
    metadata = '{"watermark":46,"source":3,"closed":9,"grid":"5/20"}'
    of = state(at=8, metadata=metadata)
    assert read(of, 50, 79, 80) == [80]
    panes = state(at=8, metadata=metadata, unit="pane")
    assert read(panes, 46, 47, 48) == [48]
    fresh = state(metadata='{"closed":9,"grid":"5/20"}')  # its first slide is open
    assert read(fresh, 50) == [50]


@pytest.mark.parametrize("axis", ["row", "time"])
def test_only_on_the_time_axis_may_a_position_occur_again(axis: str) -> None:
    by_time = small_stream(
        windows='span = "40ms"',
        time='column = "at"\nformat = "unix_ms"',
    )
    of = state(stream=STREAM if axis == "row" else by_time)
    read(of, 50)
    assert of.watermark == (48 if axis == "row" else 50)


def test_a_record_far_ahead_counts_as_late_and_does_not_advance_the_watermark() -> None:
    of = state()
    positions = np.array([10, 10**12, 11])
    buckets, counting = of.admit(
        Arrivals(np.arange(3), positions, ahead=np.array([False, True, False]))
    )
    assert counting.tolist() == [True, False, True]
    assert buckets.tolist() == [0, 0, 0]
    assert of.open_buckets[0].late == 1
    assert of.watermark == 11 + 1 - 3
    assert of.close() is None or of.open_buckets


def test_a_first_record_that_is_far_ahead_is_in_no_window() -> None:
    of = state()
    _, counting = of.admit(Arrivals(np.arange(1), np.array([10**12]), ahead=np.array([True])))
    assert not counting.any()
    assert not of.open_buckets
    assert of.watermark is None
