"""Drift events open once, are updated, and resolve; they lead to retrain requests."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from driftline.config.stream import Stream
from driftline.wire.events import DriftEvent, RetrainRequest
from driftline.wire.values import format_time
from driftline.wire.window_events import (
    ColumnResult,
    DataGroup,
    DataWindow,
    Limits,
    PerformanceGroup,
    PerformancePane,
    PerformanceWindow,
)
from monitor.decisions.decider import Decider
from monitor.reference.quality import QUALITIES
from tests.monitor.streams import small_stream

STREAM = small_stream(
    windows="records = 1000",
    retrain='min_outcomes = 100\ncooldown = 2000\npolicy = "drift"\non = ["data"]',
)


def group(model: str = "a", effect: float = 0.0, records: int = 1000, **quality: int) -> DataGroup:
    column = ColumnResult(
        "x",
        "number",
        "ks",
        0.0,
        effect,
        drifted=effect >= 0.1,
        quality=tuple(name for name in QUALITIES if quality.get(name)),
        score=10 * effect,
        **quality,  # type: ignore[arg-type]  # all other fields have other names
    )
    return DataGroup(
        model=model,
        records=records,
        sampled=min(records, 1000),
        tested=records >= 100,
        columns=(column,),
    )


def window(index: int, *groups: DataGroup) -> DataWindow:
    return DataWindow(
        id=f"w{index}",
        index=index,
        start=index * 1000,
        end=(index + 1) * 1000,
        records=1000,
        late=0,
        row=(index + 1) * 1000 - 1,
        time=format_time((index + 1) * 3_600_000_000),
        groups=groups,
    )


def pane(
    index: int, errors: Sequence[float], model: str = "a", delay: int = 0, trained: float = 0.1
) -> PerformancePane:
    start = index * 50
    return PerformancePane(
        id=f"p{index}-{model}",
        index=index,
        start=start,
        end=start + 50,
        model=model,
        records=len(errors),
        errors=tuple(errors),
        reference_error=trained,
        first_position=start - delay,
        last_position=start + 49 - delay,
        row=start + 49 - delay,
        time=format_time((start + 50 - delay) * 3_600_000),  # 1,000 rows are an hour
    )


def performance(index: int, *groups: tuple[str, float, bool]) -> PerformanceWindow:
    return PerformanceWindow(
        id=f"v{index}",
        index=index,
        start=index * 1000,
        end=(index + 1) * 1000,
        records=1000,
        late=0,
        revised=0,
        row=(index + 1) * 1000 - 1,
        time=None,
        metric="accuracy",
        value=0.9,
        groups=tuple(
            PerformanceGroup(model, 1000, 1 - error, error, 0.1, 0.0 if worse else 1.0, worse)
            for model, error, worse in groups
        ),
    )


GOOD = [0.0] * 9 + [1.0] + [0.0] * 40
BAD = [0.0, 1.0] * 25


def drift(
    decider: Decider, *events: DataWindow | PerformancePane | PerformanceWindow
) -> list[tuple[str, str, int]]:
    """Return (kind, action, position) of the drift events that these events cause."""
    return [
        (event.kind, event.action, event.position)
        for read in events
        for event in decider.read(read)
        if isinstance(event, DriftEvent)
    ]


def requests(decider: Decider, *events: DataWindow | PerformancePane) -> list[RetrainRequest]:
    return [
        event
        for read in events
        for event in decider.read(read)
        if isinstance(event, RetrainRequest)
    ]


def stretch(index: int) -> list[DataWindow | PerformancePane]:
    """Return a window of shifted data and its outcomes, by a new model in each window; the last
    pane comes after the window."""
    panes = [pane(index * 20 + i, GOOD, model=f"m{index}") for i in range(20)]
    return [*panes[:-1], window(index, group(effect=0.3)), panes[-1]]


# ---- data ---------------------------------------------------------------------------------------


def test_an_event_opens_once_and_resolves_after_quiet_windows() -> None:
    decider = Decider(STREAM)
    effects = [0.0, 0.3, 0.3, 0.0, 0.3, 0.0, 0.0, 0.0]
    found = drift(decider, *(window(i, group(effect=effect)) for i, effect in enumerate(effects)))
    assert found == [("data", "opened", 2000), ("data", "resolved", 7000)]


def test_an_event_keeps_its_id_and_its_onset() -> None:
    decider = Decider(STREAM)
    events = [
        event
        for i, effect in enumerate([0.3, 0.7, 0.0, 0.0])
        for event in decider.read(window(i, group(effect=effect)))
        if isinstance(event, DriftEvent)
    ]
    assert [event.action for event in events] == ["opened", "updated", "resolved"]
    assert len({event.id for event in events}) == 1
    assert {event.onset for event in events} == {0}
    assert [event.windows for event in events] == [("w0",), ("w1",), ("w3",)]
    assert events[0].columns == ("x",)
    assert events[0].report == "w0.html"


def test_untested_windows_are_neither_quiet_nor_drifted() -> None:
    decider = Decider(STREAM)
    few = group(effect=0.9, records=50)
    found = drift(decider, window(0, group(effect=0.3)), window(1, few), window(2, few))
    assert found == [("data", "opened", 1000)]


def test_an_event_resolves_at_once_with_a_model_that_was_trained_on_the_new_data() -> None:
    decider = Decider(STREAM)
    found = drift(decider, window(0, group(effect=0.3)), window(1, group("b")))
    assert found == [("data", "opened", 1000), ("data", "resolved", 2000)]


@pytest.mark.parametrize("shifted", [{"effect": 0.3}, {"missing": 150}])
def test_no_event_opens_if_a_newer_model_was_trained_on_the_drifted_data(
    shifted: dict[str, Any],
) -> None:
    assert drift(Decider(STREAM), window(0, group(**shifted), group("b"))) == []


def test_an_event_opens_if_the_newer_model_has_too_few_records_to_judge() -> None:
    found = drift(Decider(STREAM), window(0, group(effect=0.3), group("b", records=50)))
    assert found == [("data", "opened", 1000)]


def test_records_of_the_old_model_do_not_resolve_an_event_of_the_new_one() -> None:
    decider = Decider(STREAM)
    found = drift(
        decider,
        window(0, group("b", effect=0.3)),
        window(1, group("a"), group("b", records=10)),
    )
    assert found == [("data", "opened", 1000)]


def test_missing_and_unseen_values_are_a_quality_event() -> None:
    decider = Decider(STREAM)
    (event,) = decider.read(window(0, group(missing=150, unseen=20)))
    assert isinstance(event, DriftEvent)
    assert (event.kind, event.columns, event.severity) == ("quality", ("x",), 0.15)
    assert event.message == "x missing 15.0%, x unseen 2.0%"


def test_quality_is_measured_as_a_share_of_the_sample() -> None:
    (event,) = Decider(STREAM).read(window(0, group(records=50_000, missing=150)))
    assert isinstance(event, DriftEvent)
    assert (event.severity, event.message) == (0.15, "x missing 15.0%")


def limited(index: int, score: float, *, size: int = 1000, slide: int = 1000) -> DataWindow:
    """Return a window with a limit of 1 for a warning and 2 for an alarm."""
    found = msgspec.structs.replace(group(effect=score / 10), limits=Limits(1.0, 2.0))
    return msgspec.structs.replace(
        window(index, found), start=index * slide, end=index * slide + size
    )


def test_a_warning_opens_an_event_only_if_one_of_the_next_two_windows_confirms_it() -> None:
    alone = [1.5, 0.0, 0.0, 1.5, 0.0, 0.0]
    assert drift(Decider(STREAM), *(limited(i, score) for i, score in enumerate(alone))) == []
    again = [1.5, 0.0, 1.5]
    found = drift(Decider(STREAM), *(limited(i, score) for i, score in enumerate(again)))
    assert found == [("data", "opened", 3000)]


def test_an_alarm_opens_an_event_at_once() -> None:
    assert drift(Decider(STREAM), limited(0, 2.0)) == [("data", "opened", 1000)]


def test_overlapping_windows_neither_confirm_a_warning_nor_resolve_an_event_early() -> None:
    sliding = small_stream(windows="records = 1000\nslide = 250")
    # The first warning covers 0 to 1,000; the first window without these records begins at 1,000.
    scores = [1.5, 1.5, 1.5, 1.5, 1.5, *[0.0] * 8]
    found = drift(
        Decider(sliding), *(limited(i, score, slide=250) for i, score in enumerate(scores))
    )
    # Two whole windows without drift after the last warning, which covers 1,000 to 2,000.
    assert found == [("data", "opened", 2000), ("data", "resolved", 4000)]


def test_the_onset_is_the_start_of_the_first_window_with_a_warning() -> None:
    def onset(stream: Stream, windows: Sequence[DataWindow]) -> int | None:
        decider = Decider(stream)
        events = [event for window in windows for event in decider.read(window)]
        (event,) = [e for e in events if isinstance(e, DriftEvent) and e.action == "opened"]
        return event.onset

    scores = [0.0, 1.5, 0.0, 1.5]
    assert onset(STREAM, [limited(i, score) for i, score in enumerate(scores)]) == 1000
    idle = [limited(i, score) for i, score in ((1, 1.5), (7, 1.5), (8, 1.5))]
    assert onset(STREAM, idle) == 7000, "what was long ago has nothing to do with it"
    sliding = small_stream(windows="records = 1000\nslide = 250")
    scores = [0.0, 0.0, 2.5]  # the first two end at 1,000 and at 1,250
    windows = [limited(i, score, slide=250) for i, score in enumerate(scores)]
    assert onset(sliding, windows) == 1250


# ---- performance --------------------------------------------------------------------------------


def test_an_increase_of_the_error_is_found_within_the_window_with_its_onset() -> None:
    decider = Decider(STREAM)
    events = [pane(i, BAD if i >= 30 else GOOD) for i in range(40)]
    found = [event for read in events for event in decider.read(read)]
    event = found[0]
    assert isinstance(event, DriftEvent)
    assert (event.kind, event.action, event.detector) == ("performance", "opened", "glr")
    assert 1500 < event.position <= 1600
    assert event.onset is not None
    assert abs(event.onset - 1500) <= 5


def test_the_onset_is_a_position_of_records_and_not_of_their_labels() -> None:
    decider = Decider(STREAM)
    events = [pane(i, BAD if i >= 30 else GOOD, delay=400) for i in range(40)]
    found = [event for read in events for event in decider.read(read)]
    assert isinstance(found[0], DriftEvent)
    assert found[0].onset is not None
    assert abs(found[0].onset - 1100) <= 5


def test_the_detector_starts_again_for_a_new_model() -> None:
    decider = Decider(STREAM)
    assert drift(decider, *(pane(i, GOOD) for i in range(30))) == []
    assert drift(decider, *(pane(i, BAD, model="b") for i in range(30, 60))) == []


def test_late_labels_of_the_old_model_do_not_disturb_the_new_one() -> None:
    decider = Decider(STREAM)
    events = []
    for i in range(30):
        events.append(pane(i, GOOD, model="b"))
        events.append(pane(i, BAD, model="a", delay=400))
    assert drift(decider, *events) == []
    assert drift(decider, *(pane(i, BAD, model="b") for i in range(30, 40))) != []


def test_an_error_no_higher_than_in_training_is_not_drift() -> None:
    decider = Decider(STREAM)
    assert (
        drift(decider, *(pane(i, BAD if i >= 30 else GOOD, trained=0.5) for i in range(60))) == []
    )


def test_a_degraded_window_opens_an_event_without_a_detector() -> None:
    decider = Decider(STREAM)
    found = drift(
        decider,
        performance(0, ("a", 0.1, False)),
        performance(1, ("a", 0.2, True)),
        performance(2, ("a", 0.1, False)),
        performance(3, ("a", 0.1, False)),
    )
    assert found == [("performance", "opened", 2000), ("performance", "resolved", 4000)]


def test_a_window_with_an_alarm_of_a_detector_does_not_count_as_quiet() -> None:
    decider = Decider(STREAM)
    found = drift(decider, *(pane(i, BAD if i >= 30 else GOOD) for i in range(40)))
    assert [action for _, action, _ in found] == ["opened"]
    assert drift(decider, performance(1, ("a", 0.1, False))) == []
    assert drift(decider, performance(2, ("a", 0.1, False))) == []
    assert drift(decider, performance(3, ("a", 0.1, False))) == [("performance", "resolved", 4000)]


def test_outcomes_of_the_old_model_do_not_resolve_an_event_of_the_new_one() -> None:
    decider = Decider(STREAM)
    drift(decider, performance(0, ("b", 0.2, True)))
    mixed = performance(1, ("a", 0.1, False), ("b", 0.1, False))
    untested = mixed.groups[1]
    without = PerformanceGroup("b", 10, untested.metric, untested.error)
    replaced = PerformanceWindow(
        **{name: getattr(mixed, name) for name in mixed.__struct_fields__}
        | {"groups": (mixed.groups[0], without)}
    )
    assert drift(decider, replaced) == []


# ---- retraining ---------------------------------------------------------------------------------


def test_a_request_waits_for_labelled_records_from_after_the_onset() -> None:
    decider = Decider(STREAM)
    assert requests(decider, window(1, group(effect=0.3))) == []  # from 1,000 on
    assert requests(decider, *(pane(i, GOOD, delay=1000) for i in range(41))) == []
    (request,) = requests(decider, pane(41, GOOD, delay=1000))
    assert request.since == 1000
    assert request.position == 2100
    assert request.reason == "data drift: 1 of 1 shifted: x (0.30)"


def test_a_request_waits_until_outcomes_reach_the_position_of_the_event() -> None:
    decider = Decider(STREAM)
    assert requests(decider, window(1, group(effect=0.3))) == []
    assert requests(decider, *(pane(i, GOOD) for i in range(20, 39))) == []
    assert [request.position for request in requests(decider, pane(39, GOOD))] == [2000]


def test_a_request_is_repeated_after_the_cooldown_while_new_models_do_not_end_its_event() -> None:
    decider = Decider(STREAM)
    events: list[DataWindow | PerformancePane] = []
    for index in range(8):
        events += stretch(index)
    assert [request.position for request in requests(decider, *events)] == [1000, 3000, 5000, 7000]


def test_a_request_with_few_new_outcomes_is_repeated_when_there_are_more() -> None:
    stream = small_stream(windows="records = 1000", retrain="min_outcomes = 100\ncooldown = 500")
    decider = Decider(stream)
    early = [pane(i, BAD if i >= 30 else GOOD) for i in range(40)]
    (first,) = requests(decider, *early)
    assert first.position == 1600
    # A new model serves after each request.
    late = [pane(i, GOOD, model="b" if i < 43 else "c" if i < 55 else "d") for i in range(40, 80)]
    decider.read(
        performance(1, ("b", 0.1, False))
    )  # the event resolves, because the new model is quiet
    again = requests(decider, *late)
    assert [request.position for request in again] == [2100, 2700, 3900], "by doubling"
    assert {request.caused_by for request in again} == {first.caused_by}
    assert len({request.id for request in (first, *again)}) == 4


def test_kinds_of_drift_that_the_policy_does_not_name_cause_no_request() -> None:
    decider = Decider(STREAM)  # on = ["data"]
    assert requests(decider, *(pane(i, BAD if i >= 30 else GOOD) for i in range(60))) == []


@pytest.mark.parametrize(("cooldown", "expected"), [('"2h"', [1000, 3000]), ("3000", [1000, 4000])])
def test_a_cooldown_may_be_in_records_or_in_time(cooldown: str, expected: list[int]) -> None:
    stream: Stream = small_stream(
        windows="records = 1000",
        time='column = "at"',
        retrain=f'policy = "drift"\nmin_outcomes = 10\ncooldown = {cooldown}',
    )
    decider = Decider(stream)
    events: list[DataWindow | PerformancePane] = []
    for index in range(4):
        events += stretch(index)
    assert [request.position for request in requests(decider, *events)] == expected


@pytest.mark.parametrize(("repeated", "opened"), [(4, 0), (5, 1)])
def test_repeated_ids_are_a_quality_event(repeated: int, opened: int) -> None:
    found = msgspec.structs.replace(group(), repeated=repeated)
    events = Decider(STREAM).read(window(0, found))
    assert len(events) == opened
    for event in events:
        assert isinstance(event, DriftEvent)
        assert (event.kind, event.columns, event.message) == ("quality", (), "ids repeated 0.5%")


# ---- dead letters -------------------------------------------------------------------------------


def broken(index: int, share: float, *groups: DataGroup) -> DataWindow:
    """Return a window in which this share of the records became dead letters."""
    letters = round(1000 * share)
    return msgspec.structs.replace(
        window(index, *groups),
        records=1000 - letters,
        dead_letters=letters,
        quality=("dead_letters",) if letters else (),
    )


def test_many_dead_letters_are_a_quality_event_that_resolves_when_they_are_few() -> None:
    decider = Decider(STREAM)
    quiet = [window(index, group()) for index in range(3, 7)]
    found = drift(decider, window(0, group()), broken(1, 0.1, group()), broken(2, 0.1, group()))
    assert found == [("quality", "opened", 2000)]
    assert [(kind, action) for kind, action, _ in drift(decider, *quiet)] == [
        ("quality", "resolved")
    ]


def test_a_window_in_which_nothing_was_scored_opens_an_event() -> None:
    decider = Decider(STREAM)
    found = [event for n in range(1, 4) for event in decider.read(broken(n, 1.0))]
    (event,) = found
    assert isinstance(event, DriftEvent)
    assert (event.kind, event.action, event.severity) == ("quality", "opened", 1.0)
    assert (event.model, event.onset, event.report) == (None, 1000, None)
    assert event.message == "100.0% of the records became dead letters"
    # A single good window does not resolve the event, whichever model scored it.
    assert drift(decider, window(4, group())) == []
    assert drift(decider, *(window(n, group()) for n in range(5, 9)))[0][:2] == (
        "quality",
        "resolved",
    )


def rejected(index: int, labels: int, dead_letters: int) -> PerformanceWindow:
    """Return a window with outcomes, and labels that became dead letters."""
    return msgspec.structs.replace(
        performance(index),
        records=labels - dead_letters,
        dead_letters=dead_letters,
        quality=("dead_letters",) if dead_letters and labels >= 1000 else (),
    )


def test_many_rejected_labels_are_a_quality_event_that_resolves_when_they_are_few() -> None:
    decider = Decider(STREAM)
    (event,) = decider.read(rejected(1, 1000, 980))
    assert isinstance(event, DriftEvent)
    assert (event.kind, event.model, event.severity) == ("quality", None, 0.98)
    assert event.message == "98.0% of the labels became dead letters"
    few = STREAM.windows.min_records - 1
    assert drift(decider, *(rejected(n, few, few) for n in range(2, 12))) == []
    found = drift(decider, *(rejected(n, 1000, 0) for n in range(12, 17)))
    assert [(kind, action) for kind, action, _ in found] == [("quality", "resolved")]


def test_an_event_is_updated_when_many_more_records_become_dead_letters() -> None:
    decider = Decider(STREAM)
    found = drift(decider, broken(1, 0.1, group()), broken(2, 0.12, group()), broken(3, 1.0))
    assert found == [("quality", "opened", 2000), ("quality", "updated", 4000)]


def test_dead_letters_and_poor_quality_of_a_column_are_one_event() -> None:
    decider = Decider(STREAM)
    (event,) = decider.read(broken(1, 0.1, group(missing=300)))
    assert isinstance(event, DriftEvent)
    assert (event.columns, event.severity) == (("x",), 0.3)
    assert "dead letters" in event.message
    assert "missing" in event.message
