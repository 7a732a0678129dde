"""A single record cannot advance a partition's clock far, but a stream can resume after a pause."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftline.runtime.partition_clock import AGREEING, ClockState, PartitionClock

MAX_AHEAD = 100


def clock(*positions: int) -> PartitionClock:
    made = PartitionClock(MAX_AHEAD)
    made.take(positions)
    return made


@pytest.mark.parametrize("bad", range(1, AGREEING))
@pytest.mark.parametrize("far", [1_101, 10**4, 2**60])
def test_too_few_consecutive_bad_records_do_not_advance_the_clock(bad: int, far: int) -> None:
    of = clock(*range(1_000))
    assert of.take([far + place for place in range(bad)]) == [*range(bad)]
    assert of.max_position == 999
    assert of.take([*range(1_000, 1_200)]) == []
    assert of.max_position == 1_199


def test_a_single_record_within_the_limit_advances_the_clock() -> None:
    of = clock(*range(1_000))
    assert of.take([999 + MAX_AHEAD]) == []
    assert of.max_position == 999 + MAX_AHEAD


def test_after_a_pause_enough_consecutive_records_advance_the_clock() -> None:
    of = clock(*range(1_000))
    assert of.take([*range(90_000, 90_100)]) == [*range(AGREEING - 1)]
    assert of.max_position == 90_099


@pytest.mark.parametrize("wrong", range(AGREEING))
def test_a_bad_record_among_those_after_a_pause_does_not_advance_the_clock(wrong: int) -> None:
    of = clock(*range(1_000))
    after = [*range(90_000, 90_100)]
    after[wrong] = 2**60
    ahead = of.take(after)
    assert wrong in ahead
    assert len(ahead) <= AGREEING + 1
    assert of.max_position == 90_099


def test_a_producer_with_a_wrong_clock_among_others_does_not_advance_the_clock() -> None:
    of = clock(0)
    mixed = [place if place % 3 else place + 10**6 for place in range(1, 5_000)]
    assert of.take(mixed) == [place for place, position in enumerate(mixed) if position >= 10**6]
    assert of.max_position == 4_999


def test_in_a_sparse_partition_long_steps_become_plausible() -> None:
    of = clock(0)
    steps = [250 + 300 * (place % 7) for place in range(200)]
    ahead = of.take([sum(steps[: place + 1]) for place in range(200)])
    assert len(ahead) < 2 * AGREEING
    assert of.max_position == sum(steps)


def test_if_times_are_dates_the_next_day_becomes_plausible() -> None:
    of = clock(0)
    ahead = of.take([1_000 * (place // 50) for place in range(5_000)])
    assert len(ahead) < AGREEING


@pytest.mark.parametrize("bad", range(1, AGREEING))
def test_the_first_records_do_not_start_the_clock_beyond_the_latest_start(bad: int) -> None:
    of = PartitionClock(MAX_AHEAD)
    of.latest_start = 500
    assert of.take([2**53 - 1] * bad) == [*range(bad)]
    assert of.max_position is None
    assert of.take([3, 1, 2**53 - 1, 4]) == [2]
    assert of.max_position == 4


def test_a_stream_that_starts_later_than_expected_is_accepted_after_enough_records() -> None:
    of = PartitionClock(MAX_AHEAD)
    of.latest_start = 500
    assert of.take([*range(90_000, 90_100)]) == [*range(AGREEING - 1)]
    assert of.max_position == 90_099
    assert of.take([90_100 + MAX_AHEAD]) == [0]


@given(
    latest_start=st.none() | st.sampled_from([0, 900, 10**4]),
    positions=st.lists(
        st.one_of(st.integers(0, 1_000), st.sampled_from([10**4, 10**4 + 1, 10**9, -5]))
        | st.integers(10**4, 10**4 + 500),
        max_size=80,
    ),
    cuts=st.lists(st.integers(1, 15), min_size=1),
)
def test_batches_and_restarts_make_no_difference(
    latest_start: int | None, positions: list[int], cuts: list[int]
) -> None:
    def make(state: ClockState | None = None) -> PartitionClock:
        made = PartitionClock(MAX_AHEAD, state)
        made.latest_start = latest_start
        return made

    whole, alone = make(), make()
    expected = whole.take(positions)
    assert [n for n, p in enumerate(positions) if not alone.believes(p)] == expected
    found: list[int] = []
    start, turn, state = 0, 0, ClockState()
    while start < len(positions):
        end = start + cuts[turn % len(cuts)]
        of = make(state)
        found += [start + place for place in of.take(positions[start:end])]
        state = msgspec.json.decode(msgspec.json.encode(of.state), type=ClockState)
        start, turn = end, turn + 1
    assert found == expected
    assert state == whole.state == alone.state
