"""Findings of data windows: which columns are evidence, since when, and what is reported once."""

import msgspec

from driftline.wire.events import DriftEvent
from driftline.wire.window_events import (
    ColumnResult,
    DataGroup,
    DataWindow,
    DependenceDrift,
    Limits,
    UnseenLevel,
)
from monitor.decisions.decider import Decider, DeciderState
from tests.monitor.streams import small_stream

STREAM = small_stream(windows="records = 1000")
LIMITS = Limits(1.0, 2.0)


def window(
    index: int,
    unseen: dict[str, int] | None = None,
    pair: float = 0.0,
    limits: Limits = LIMITS,
    **scores: float,
) -> DataWindow:
    """Return a window in which columns with a score of at least 1 drifted."""
    levels = tuple(UnseenLevel(level, count) for level, count in (unseen or {}).items())
    columns = [
        ColumnResult(name, "number", "ks", 0.0, score, drifted=score >= 1.0, score=score)
        for name, score in ({"x": 0.0, "y": 0.0} | scores).items()
    ]
    colour = ColumnResult(
        "colour",
        "category",
        "chisquare",
        1.0,
        0.0,
        drifted=False,
        unseen=sum(level.records for level in levels),
        unseen_levels=levels,
        quality=("unseen",) if levels else (),
    )
    group = DataGroup(
        "a",
        1000,
        1000,
        tested=True,
        columns=(*columns, colour),
        relations=(DependenceDrift(("x", "y"), 0.2, pair),) if pair else (),
        limits=limits,
    )
    start = index * 1000
    return DataWindow(f"w{index}", index, start, start + 1000, 1000, 0, start + 999, None, (group,))


def events(decider: Decider, *windows: DataWindow) -> list[DriftEvent]:
    read = [event for each in windows for event in decider.read(each)]
    return [event for event in read if isinstance(event, DriftEvent)]


def test_warnings_of_different_columns_do_not_confirm_each_other() -> None:
    decider = Decider(STREAM)
    assert events(decider, window(0, x=1.5), window(1, y=1.5)) == []
    (event,) = events(decider, window(2, y=1.5))
    assert event.columns == ("y",)


def test_the_onset_is_that_of_the_columns_that_the_event_names() -> None:
    decider = Decider(STREAM)
    (event,) = events(decider, window(0), window(1, x=1.5), window(2), window(3, y=3.0))
    assert (event.columns, event.onset) == (("y",), 3000)
    decider = Decider(STREAM)
    (event,) = events(decider, window(0), window(1, y=1.5), window(2), window(3, y=3.0))
    assert (event.columns, event.onset) == (("y",), 1000)


def test_a_chance_warning_is_not_named_by_another_columns_event() -> None:
    decider = Decider(STREAM)
    (event,) = events(decider, window(0, x=1.5, y=3.0))
    assert event.columns == ("y",)
    assert events(decider, window(1, x=1.5, y=3.0))[-1].columns == ("y", "x")


def test_a_warning_keeps_its_own_columns_event_open() -> None:
    decider = Decider(STREAM)
    opened = events(decider, window(0, x=3.0), *(window(n, x=1.5) for n in range(1, 6)))
    assert [event.action for event in opened] == ["opened"]
    resolved = events(decider, *(window(n, y=1.5 * (n == 7)) for n in range(6, 9)))
    assert [event.action for event in resolved] == ["resolved"]


def test_a_pair_confirms_only_itself() -> None:
    decider = Decider(STREAM)
    assert events(decider, window(0, x=1.5), window(1, pair=1.5)) == []
    (event,) = events(decider, window(2, pair=1.5))
    assert (event.columns, event.onset) == (("x", "y"), 1000)


def test_an_event_names_its_uncalibrated_columns() -> None:
    limits = Limits(1.0, 2.0, uncalibrated=("y", "z"))
    (event,) = events(Decider(STREAM), *(window(n, y=1.0, limits=limits) for n in range(2)))
    assert event.message.endswith("uncalibrated, because the reference is too short: y")


def test_an_unseen_category_is_reported_once() -> None:
    decider = Decider(STREAM)
    first = events(decider, *(window(n, {"s9": 100}) for n in range(6)))
    assert [event.action for event in first] == ["opened", "resolved"]
    assert first[0].message == "colour unseen (s9) 10.0%"
    second = events(decider, window(6, {"s9": 100, "s10": 50, "typo": 1}))
    assert [event.message for event in second] == ["colour unseen (s10, typo) 5.1%"]
    assert events(decider, window(7, {"s9": 100, "rare": 1})) == []


def test_reported_categories_survive_a_restart() -> None:
    decider = Decider(STREAM)
    events(decider, window(0, {"s9": 100}), window(1, x=1.5))
    saved = msgspec.msgpack.encode(decider.state())
    restored = Decider.restored(STREAM, msgspec.msgpack.decode(saved, type=DeciderState))
    later = [window(2, {"s9": 100}, x=1.5), window(3, {"s9": 90})]
    assert events(restored, *later) == events(decider, *later)
    assert msgspec.msgpack.encode(restored.state()) == msgspec.msgpack.encode(decider.state())
