"""Watermarks, lateness, holds: what a partition's own log says, and nothing else."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftline.broker.port import Committed
from monitor.progress import Grid, Progress, Resume, Track
from tests.monitor.streams import small_stream

STREAM = small_stream(windows="records = 40\nlateness = 3")


def progress() -> Progress[list[int]]:
    return Progress(STREAM, list)


def read(
    of: Progress[list[int]], track: Track[list[int]], offset: int, position: int
) -> list[int] | None:
    track.next_offset = offset + 1
    slot = of.admit(track, offset, position)
    if slot is None:
        return None
    slot.part.append(position)
    return slot.part


@given(size=st.integers(20, 5000), position=st.integers(-(10**6), 10**6), pane=st.integers(1, 250))
def test_a_pane_lies_in_its_window_and_holds_its_position(
    size: int, position: int, pane: int
) -> None:
    grid = Grid(size=size, pane=min(pane, size // 20))
    start, end = grid.pane_of(position)
    window = grid.window_of(position)
    assert window * size <= start <= position < end <= (window + 1) * size
    assert grid.pane_of(start) == grid.pane_of(end - 1) == (start, end)


def test_a_record_within_the_lateness_is_not_late() -> None:
    of = progress()
    track = of.track(0)
    read(of, track, 0, 39)  # the watermark is 39 + 1 - 3
    assert track.watermark == 37
    assert read(of, track, 1, 37) is not None
    assert read(of, track, 2, 35) is None  # the pane from 34 to 36 has been passed
    assert track.slots[0].late == 1


def test_a_window_closes_when_all_partitions_have_passed_it() -> None:
    of = progress()
    read(of, of.track(0), 0, 100)
    assert of.close() is None
    read(of, of.track(1), 0, 50)
    assert of.close() == (None, 48)
    assert of.close() is None
    of.track(1).advance(90)
    assert of.close() == (48, 90)


def test_a_watermark_never_goes_back() -> None:
    of = progress()
    track = of.track(0)
    track.advance(50)
    track.advance(40)
    assert track.watermark == 50


def test_held_is_the_first_record_of_the_oldest_open_window_and_the_state_before_it() -> None:
    of = progress()
    track = of.track(0)
    track.source = 6
    read(of, track, 7, 38)
    read(of, track, 8, 45)
    track.source = 8
    read(of, track, 9, 39)
    read(of, track, 10, 90)
    of.track(1).advance(60)
    assert of.close() == (None, 60)
    of.forget(0)
    committed = of.holds()[0]
    assert committed.offset == 8
    resume = msgspec.json.decode(committed.metadata, type=Resume)
    assert resume == Resume(watermark=36, source=6, closed=60)


def test_after_a_restart_late_records_are_late_and_published_windows_stay_so() -> None:
    of = progress()
    of.resume(0, Committed(8, '{"watermark":46,"source":3,"closed":40}'))
    track = of.track(0)
    assert track.source == 3
    assert read(of, track, 8, 42) is None  # its pane was passed before the restart
    assert track.slots[1].late == 1
    other = progress()
    other.resume(0, Committed(8, '{"watermark":30,"closed":40}'))
    assert read(other, other.track(0), 8, 38) is None  # its window was published
    assert not other.track(0).slots


def test_a_partition_without_records_holds_its_position() -> None:
    of = progress()
    of.resume(1, Committed(12, '{"watermark":7}'))
    assert of.holds()[1] == Committed(12, '{"watermark":7}')


@pytest.mark.parametrize("axis", ["row", "time"])
def test_on_the_time_axis_an_instant_may_come_again(axis: str) -> None:
    by_time = small_stream(
        windows='span = "40ms"',
        time='column = "at"\nformat = "unix_ms"',
    )
    of: Progress[list[int]] = Progress(STREAM if axis == "row" else by_time, list)
    track = of.track(0)
    read(of, track, 0, 50)
    assert track.watermark == (48 if axis == "row" else 50)
