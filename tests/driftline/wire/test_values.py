"""Any number that may occur as a time is displayed without an error."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftline.audit.trace import trace
from driftline.config.stream import loads
from driftline.wire.values import moment_of, parse_time, publish_time, shown_time, time_reader
from driftline_app.message_lines import moment
from tests.world import World

POSITIONS = st.integers(-(2**60), 2**60)  # the range that `events.Position` accepts
TIMESTAMPS = st.integers(-(2**63), 2**63 - 1)  # a Kafka record may have any timestamp


@given(POSITIONS | TIMESTAMPS)
def test_any_position_is_shown_as_a_time_or_as_its_number(us: int) -> None:
    shown = shown_time(us)
    assert shown.endswith("Z") if moment_of(us) is not None else shown == f"{us} µs"


@given(TIMESTAMPS)
def test_any_timestamp_of_a_message_is_shown(timestamp_ms: int) -> None:
    assert publish_time(timestamp_ms)
    assert moment(timestamp_ms)


@pytest.mark.parametrize("timestamp_ms", [-1, -(2**63), 2**63 - 1, 253_402_300_800_000])
def test_a_timestamp_that_is_not_a_valid_time_is_shown_as_a_number(timestamp_ms: int) -> None:
    assert moment(timestamp_ms) == publish_time(timestamp_ms) == f"{timestamp_ms} ms"


def test_a_time_is_shown_to_the_second() -> None:
    assert moment(253_402_300_799_999) == "9999-12-31 23:59:59"
    assert publish_time(1_500) == "1970-01-01T00:00:01+00:00"


def test_a_record_with_an_impossible_timestamp_is_traced() -> None:
    world = World()
    world.clock.advance(9e15)
    world.feature("odd")
    (node,) = trace(world.broker, world.stream, "odd")
    assert node.text == f"published {int(world.clock.time() * 1000)} ms"


@pytest.mark.parametrize("time", ["2025-03-01t08:00:00z", "2025-03-01T08:00:00z"])
def test_a_time_may_have_lower_case_letters(time: str) -> None:
    assert parse_time(time) == parse_time("2025-03-01T08:00:00Z")


STREAM = 'version=1\nname="s"\ntask="classification"\ntarget="y"\nfeatures={a="number"}\n'


@pytest.mark.parametrize(
    ("time", "values", "expected"),
    [
        (
            "",
            ["2025-03-01T00:00:00+24:00", "2025-13-01T00:00:00Z", "noon", "2025-03-01", "x" * 999],
            "Expected an RFC 3339 time such as 2025-03-01T08:00:00Z, got '",
        ),
        ('format="%Y-%m-%d"', ["2025-02-30", "noon", "2025-03-01T"], "in the format '%Y-%m-%d'"),
        ('format="unix_s"', ["noon", "nan", True, float("inf")], "Expected a number, got "),
    ],
)
def test_the_reason_for_an_unreadable_time_names_what_is_expected(
    time: str, values: list[object], expected: str
) -> None:
    read = time_reader(loads(f"{STREAM}[time]\ncolumn='t'\n{time}"))
    for value in values:
        with pytest.raises(ValueError) as caught:
            read(value)
        assert expected in str(caught.value)
        assert len(str(caught.value)) < 400
