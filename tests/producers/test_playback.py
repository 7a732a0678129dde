"""Playback gives a fixed order of records and labels, with each label in time and only once."""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftline.clock import ManualClock
from driftline.config.stream import Stream, loads
from driftline.errors import DataError, SettingsError
from driftline.wire.events import MAX_ROW
from driftline.wire.feature_records import RecordCodec
from driftline.wire.labels import LabelCodec
from driftline.wire.values import format_time
from producers.pacing import paced
from producers.playback import Play, Playback
from producers.rows import Row


class Rows:
    """A source that returns the given rows."""

    name = "rows"
    textual = False

    def __init__(self, rows: Sequence[Row], count: bool = True) -> None:
        self._rows = rows
        self._count = count

    def count(self) -> int | None:
        return len(self._rows) if self._count else None

    def rows(self) -> Iterator[Row]:
        return iter(self._rows)


def stream(
    simulate: str, *, windows: str = "records = 100", time: bool = True, id: str = "id"
) -> Stream:
    event_time = '[time]\ncolumn = "t"\nformat = "unix_s"\n' if time else ""
    return loads(
        'version = 1\nname = "s"\ntask = "classification"\ntarget = "y"\n'
        f'features = {{ a = "number" }}\nrecord = {{ id = "{id}" }}\n{event_time}'
        f"[windows]\n{windows}\n[simulate]\n{simulate}\n"
    )


def rows(times: Sequence[Any], labels: Sequence[str | None] | None = None) -> list[Row]:
    return [
        {"id": f"r{i}", "t": t, "a": i, "y": f"label of {i}" if labels is None else labels[i]}
        for i, t in enumerate(times)
    ]


def order(plays: Sequence[Play]) -> list[str]:
    return [f"{play.kind[0]}{(play.record_id or '?')[1:]}" for play in plays]


def test_delays_in_records_and_in_time_give_the_same_order() -> None:
    data = rows([0, 60, 120, 180])
    for delay in ("label_delay = 2", 'label_delay = "2m"'):
        plays = list(Playback(stream(delay), Rows(data)).play())
        assert order(plays) == ["r0", "r1", "l0", "r2", "l1", "r3", "l2", "l3"]
        labels = [LabelCodec(stream(delay)).decode(p.value) for p in plays if p.kind == "label"]
        assert [label.at for label in labels][:2] == [2, 3]
        assert [play.row for play in plays if play.kind == "label"] == [2, 3, 3, 3]


def test_a_label_without_delay_follows_its_record() -> None:
    plays = list(Playback(stream("label_delay = 0"), Rows(rows([5, 3, 9]))).play())
    assert order(plays) == ["r0", "l0", "r1", "l1", "r2", "l2"]
    assert [play.position for play in plays] == [0, 0, 1, 1, 2, 2]


spans = st.sampled_from(
    [
        "label_delay = 0",
        "label_delay = 3",
        'label_delay = "20s"',
        'label_delay = { distribution = "exponential", mean = "30s" }',
        'label_delay = { distribution = "uniform", low = 1, high = 9 }',
    ]
)


@given(
    times=st.lists(st.integers(0, 300), max_size=40),
    delay=spans,
    windows=st.sampled_from(["records = 100", 'span = "1h"']),
    missing=st.sampled_from([0.0, 0.3]),
    seed=st.integers(0, 5),
)
def test_playback_keeps_its_guarantees_for_any_delays(
    times: list[int], delay: str, windows: str, missing: float, seed: int
) -> None:
    told = stream(f"{delay}\nlabel_missing = {missing}", windows=windows)
    playback = Playback(told, Rows(rows(times)), seed=seed)
    plays = list(playback.play())
    # each record is played once, in the order of the data, with its number
    records = [play for play in plays if play.kind == "record"]
    assert [play.record_id for play in records] == [f"r{i}" for i in range(len(times))]
    if told.needs_row:
        numbers = RecordCodec(told).decode([play.value for play in records]).rows
        assert numbers == list(range(len(times)))
    # each record has at most one label, which never comes before it
    labelled = [play.record_id for play in plays if play.kind == "label"]
    assert len(set(labelled)) == len(labelled)
    assert len(labelled) + playback.counts.labels_withheld == len(times)
    seen: set[str | None] = set()
    newest = -1
    codec = LabelCodec(told)
    for play in plays:
        if play.kind == "record":
            seen.add(play.record_id)
            newest = max(newest, play.position or 0)
        else:
            assert play.record_id in seen
            assert codec.decode(play.value).at == play.position
    # A label at position p precedes every later record at position p or more. If the delay is a
    # number of records but the position is a time, the last of these records may have time p too.
    other_axis = told.axis == "time" and delay.endswith(("3", "9 }"))
    for place, label in enumerate(plays):
        if label.kind == "label":
            own = next(i for i, play in enumerate(plays) if play.record_id == label.record_id)
            between = [play for play in plays[own + 1 : place] if play.kind == "record"]
            at = label.position or 0
            assert all((play.position or 0) < at + other_axis for play in between)
    # the same seed gives the same playback
    assert plays == list(Playback(told, Rows(rows(times)), seed=seed).play())


def test_on_the_row_axis_a_delay_in_time_ends_at_the_first_record_after_it() -> None:
    plays = list(Playback(stream('label_delay = "90s"'), Rows(rows([0, 60, 120, 180]))).play())
    assert order(plays) == ["r0", "r1", "l0", "r2", "l1", "r3", "l2", "l3"]
    assert [play.position for play in plays if play.kind == "label"] == [2, 3, 4, 4]


def test_on_the_time_axis_a_delay_in_records_ends_at_the_time_of_the_last_one() -> None:
    told = stream("label_delay = 2", windows='span = "1h"')
    plays = list(Playback(told, Rows(rows([0, 60, 120]))).play())
    assert order(plays) == ["r0", "r1", "l0", "r2", "l1", "l2"]
    label = LabelCodec(told).decode(plays[2].value)
    assert label.at == 120_000_000
    assert msgspec.json.decode(plays[2].value)["@at"] == format_time(120_000_000)


def test_an_unreadable_row_is_sent_unchanged() -> None:
    data: list[Row] = [*rows([0, "noon"]), b"1,2,3", {"a": 1, "y": "x"}]
    playback = Playback(stream('label_delay = "1s"'), Rows(data))
    plays = list(playback.play())
    records = [play.value for play in plays if play.kind == "record"]
    batch = RecordCodec(stream("label_delay = 0")).decode(records)
    assert batch.kept == [0]
    assert [item.index for item in batch.rejected] == [1, 2, 3]
    assert playback.counts.records == 4
    assert playback.counts.unlabelled == 2  # the line, and the row without an id


OWN: list[Row] = [
    {"id": "a", "t": 0, "a": 1, "y": None},
    {"id": "b", "t": 1, "a": 2, "y": None},
    {"id": "a", "t": 2, "a": 1, "y": "A"},
    {"id": "c", "t": 3, "a": 3, "y": "C"},  # its label is known at once
    {"id": "d", "t": 4, "a": 4, "y": None},
    {"id": "b", "t": 5, "a": 2, "y": "B"},
    {"id": "d", "t": 6, "a": 4, "y": "D"},
    {"id": "d", "t": 7, "a": 4, "y": "E"},  # its label changes later
]


def test_later_rows_of_the_data_contain_the_labels() -> None:
    plays = list(Playback(stream('label_delay = "data"'), Rows(OWN)).play())
    said = [(play.kind[0], play.record_id, play.row, play.position) for play in plays]
    assert said == [
        ("r", "a", 0, 0),
        ("r", "b", 1, 1),
        ("l", "a", 2, 2),  # known before record number 2
        ("r", "c", 3, 2),  # @row counts only feature records
        ("l", "c", 3, 2),
        ("r", "d", 4, 3),
        ("l", "b", 5, 4),
        ("l", "d", 6, 4),
        ("l", "d", 7, 4),
    ]
    by_time = stream('label_delay = "data"', windows='span = "1h"')
    plays = list(Playback(by_time, Rows(OWN)).play())
    assert [play.position for play in plays if play.kind == "label"] == [
        2_000_000,
        3_000_000,
        5_000_000,
        6_000_000,
        7_000_000,
    ]


def test_later_labels_of_warm_up_records_are_counted_but_not_sent() -> None:
    playback = Playback(stream('label_delay = "data"'), Rows(OWN))
    first = playback.warm_up(0.5)
    assert first.labels == ("A", "C")
    assert (first.rows, first.unlabelled) == (4, 1)
    plays = list(playback.play())
    assert order(plays) == ["r", "l", "l"]
    assert {play.record_id for play in plays} == {"d"}
    assert playback.counts.labels_of_skipped == 1
    assert plays[0].position == 3


@pytest.mark.parametrize("delay", ["0", '"data"', '"@at"'])
@pytest.mark.parametrize("absent", ["y", "id"])
def test_an_error_names_a_target_or_id_that_is_in_no_row(delay: str, absent: str) -> None:
    names = {name: name for name in ("id", "t", "a", "y")} | {absent: f"{absent}2"}
    data = [{names["id"]: f"r{i}", "t": i, "a": i, names["y"]: "A"} for i in range(40)]
    key = "target" if absent == "y" else r"\[record\] id"
    with pytest.raises(DataError, match=f"column '{absent}' .`{key}` .* is in no row") as caught:
        Playback(stream(f"label_delay = {delay}"), Rows(data)).warm_up(0.5)
    assert f"did you mean '{absent}2'?" in caught.value.hint


def test_an_absent_column_without_a_similar_name_is_reported_with_the_columns() -> None:
    data = [{"id": f"r{i}", "t": i, "a": i} for i in range(40)]
    with pytest.raises(DataError, match="column 'y'") as caught:
        Playback(stream("label_delay = 0"), Rows(data)).warm_up(0.5)
    assert "the columns are 'a', 'id', 't'" in caught.value.hint


def test_a_target_that_only_later_rows_have_is_no_error() -> None:
    data = rows(range(40))
    early: list[Row] = [{"id": f"e{i}", "t": i, "a": i} for i in range(30)]
    playback = Playback(stream("label_delay = 0"), Rows([*early, *data[30:]]))
    assert len(playback.warm_up(0.9).labels) == 6


@given(st.floats(0.05, 0.95), st.integers(2, 60))
def test_play_continues_the_rows_and_numbers_after_the_warm_up(share: float, count: int) -> None:
    told = stream("label_delay = 1", id="@row")
    playback = Playback(told, Rows(rows(range(count))))
    first = playback.warm_up(share)
    plays = [play for play in playback.play() if play.kind == "record"]
    taken = RecordCodec(told).decode(first.records)
    rest = RecordCodec(told).decode([play.value for play in plays])
    assert [*taken.rows, *rest.rows] == list(range(count))
    assert len(first.records) == len(first.labels) == first.rows == int(count * share)
    assert first.labels == tuple(f"label of {i}" for i in range(first.rows))


def test_skipped_rows_are_numbered_and_numbers_may_start_higher() -> None:
    playback = Playback(stream("label_delay = 0"), Rows(rows(range(5))))
    playback.skip(2)
    assert playback.next_row == 2
    playback.number_from(100)
    assert [p.position for p in playback.play() if p.kind == "record"] == [100, 101, 102]


def recorded(count: int, field: str, place: int, odd: object) -> list[Row]:
    """Return rows with `@row` and `@at`; the field of the row at `place` is odd."""
    told: list[Row] = []
    for row, data in enumerate(rows(range(count))):
        assert isinstance(data, dict)
        own = {"@row": row, "@at": row + 2}
        told.append({**data, **own, **({field: odd} if row == place else {})})
    return told


ODD = [-5, 10**20, 1e300, "abc", "7", [1], {"a": 1}, True, 3.7, MAX_ROW + 1, float("inf")]


@pytest.mark.parametrize("odd", ODD)
def test_a_record_with_an_unusable_row_number_becomes_a_dead_letter(odd: object) -> None:
    told = stream('label_delay = "@at"')
    plain = list(Playback(told, Rows(recorded(9, "@row", 4, 4))).play())
    plays = list(Playback(told, Rows(recorded(9, "@row", 4, odd))).play())
    assert order(plays) == order(plain)
    records = [play.value for play in plays if play.kind == "record"]
    batch = RecordCodec(told).decode(records)
    assert [item.index for item in batch.rejected] == [4]
    assert batch.rows == [0, 1, 2, 3, 5, 6, 7, 8]


@pytest.mark.parametrize("odd", ODD)
def test_a_label_with_an_unusable_position_becomes_a_dead_letter(odd: object) -> None:
    told = stream('label_delay = "@at"')
    plays = list(Playback(told, Rows(recorded(9, "@at", 4, odd))).play())
    without = [name for name in order(plays) if name != "l4"]
    plain = order(list(Playback(told, Rows(recorded(9, "@at", 4, 4))).play()))
    assert without == [name for name in plain if name != "l4"]
    assert order(plays)[order(plays).index("r4") + 1] == "l4"
    labels = LabelCodec(told).decode_all([play.value for play in plays if play.kind == "label"])
    assert len(labels.rejected) == 1
    assert "'@at'" in labels.rejected[0].reason


@pytest.mark.parametrize(
    "odd", ["2025-03-01T00:00:00+24:00", "noon", 5, 10**20, True, [1], "9999-12-31T23:59:59-01:00"]
)
def test_a_label_with_an_unusable_time_becomes_a_dead_letter(odd: object) -> None:
    told = stream('label_delay = "@at"', windows='span = "1h"')
    data: list[Row] = [
        {"id": "r0", "t": 0, "a": 1, "y": "A", "@at": "1970-01-01T00:00:01Z"},
        {"id": "r1", "t": 0, "a": 1, "y": "A", "@at": odd},
        {"id": "r2", "t": 2, "a": 1, "y": "A", "@at": None},
    ]
    plays = list(Playback(told, Rows(data)).play())
    assert order(plays) == ["r0", "r1", "l1", "l0", "r2", "l2"]
    labels = LabelCodec(told).decode_all([play.value for play in plays if play.kind == "label"])
    assert [item.index for item in labels.rejected] == [0]


def test_an_implausible_row_number_makes_no_label_due() -> None:
    told = stream('label_delay = "@at"')
    plain = order(list(Playback(told, Rows(recorded(9, "@row", 4, 4))).play()))
    plays = list(Playback(told, Rows(recorded(9, "@row", 4, MAX_ROW))).play())
    assert order(plays) == plain


def test_recorded_fields_may_be_text_or_whole_floats() -> None:
    told = stream('label_delay = "@at"')
    source = Rows([{"id": "r0", "t": 0, "a": 1, "y": "A", "@row": 7.0, "@at": 9.0}])
    plays = list(Playback(told, source).play())
    assert RecordCodec(told).decode([plays[0].value]).rows == [7]
    assert LabelCodec(told).decode(plays[1].value).at == 9
    source = Rows([{"id": "r0", "t": "0", "a": "1", "y": "A", "@row": "7", "@at": "NA"}])
    source.textual = True
    plays = list(Playback(told, source).play())
    assert RecordCodec(told).decode([plays[0].value]).rows == [7]
    assert LabelCodec(told).decode(plays[1].value).at == 7


def test_rows_with_the_same_number_and_label_position_are_played() -> None:
    told = stream('label_delay = "@at"')
    data: list[Row] = [{"id": f"r{i}", "t": 0, "a": 1, "@row": 3, "@at": 9, "y": "A"} for i in "ab"]
    assert order(list(Playback(told, Rows(data)).play())) == ["ra", "rb", "la", "lb"]


@pytest.mark.parametrize("windows", ["records = 100", 'span = "1h"'])
def test_a_label_is_due_before_the_end_of_time(windows: str) -> None:
    told = stream('label_delay = "5m"', windows=windows)
    plays = list(Playback(told, Rows(rows([253_402_300_799]))).play())
    assert order(plays) == ["r0", "l0"]
    assert LabelCodec(told).decode(plays[1].value).record_id == "r0"


@pytest.mark.parametrize("share", [0.0, 1.0, -1.0])
def test_a_warm_up_must_be_a_share_between_0_and_1(share: float) -> None:
    with pytest.raises(DataError, match="share between 0 and 1"):
        Playback(stream("label_delay = 0"), Rows(rows([1]))).warm_up(share)


def test_a_warm_up_needs_a_source_of_known_length() -> None:
    with pytest.raises(DataError, match="the number of rows is unknown"):
        Playback(stream("label_delay = 0"), Rows(rows([1]), count=False)).warm_up(0.5)


@pytest.mark.parametrize(
    ("simulate", "time", "problem"),
    [
        ('label_delay = "1h"', False, "no event time"),
        ('label_delay = { distribution = "exponential" }', True, "needs `mean`"),
        ('label_delay = { distribution = "uniform", low = 1 }', True, "needs `low` and `high`"),
        (
            'label_delay = { distribution = "uniform", low = 1, high = "1h" }',
            True,
            "two durations or two numbers",
        ),
    ],
)
def test_an_unusable_delay_is_rejected_with_the_reason(
    simulate: str, time: bool, problem: str
) -> None:
    with pytest.raises(DataError, match=problem):
        Playback(stream(simulate, time=time), Rows([]))


def test_pacing_keeps_the_rate_by_the_given_clock() -> None:
    clock = ManualClock()
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock.advance(seconds)

    plays = list(Playback(stream("label_delay = 0"), Rows(rows(range(11)))).play())
    assert list(paced(plays, 10.0, clock=clock, sleep=sleep)) == plays
    assert clock.monotonic() == pytest.approx(1.0)
    assert len(slept) == 10
    assert list(paced(plays, None, clock=clock, sleep=sleep)) == plays
    assert len(slept) == 10
    with pytest.raises(SettingsError):
        list(paced(plays, 0.0, clock=clock, sleep=sleep))
