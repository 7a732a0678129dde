"""Retrain policies: which requests follow from open events and from the outcomes so far."""

import msgspec
import pytest

from driftline.config.stream import Stream
from driftline.config.stream_sections import DriftKind
from driftline.wire.events import DriftEvent, RetrainRequest
from driftline.wire.values import format_time
from monitor.decisions.retraining import RetrainRule
from tests.monitor.decisions.test_decider import BAD, GOOD, pane
from tests.monitor.streams import small_stream

WINDOW = 1000
PANE = 50


def stream_with(policy: str, more: str = "") -> Stream:
    return small_stream(
        windows=f"records = {WINDOW}", retrain=f'min_outcomes = 100\npolicy = "{policy}"\n{more}'
    )


def event(
    kind: DriftKind, *, harm: float | None = None, position: int = 500, onset: int | None = 400
) -> DriftEvent:
    return DriftEvent(
        id=f"drift-{kind}",
        action="opened",
        kind=kind,
        columns=(),
        severity=1.0,
        message="is other",
        position=position,
        onset=onset,
        model="a",
        detector=None,
        windows=("w",),
        harm=harm,
    )


def requests(
    stream: Stream,
    *events: DriftEvent,
    panes: range = range(100),
    records: int = 50,
    trained_on: int | None = None,
    resolved: int | None = None,
    brings: int = 1_000,
) -> list[RetrainRequest]:
    """Return the requests for these panes of outcomes while the events are open.

    brings: how many requests bring a new model, which serves from the next pane on.

    resolved: the index of the pane at which the events resolve. trained_on: the number of records
    on which the model was trained.
    """
    rule = RetrainRule(stream)
    found: list[RetrainRequest] = []
    for index in panes:
        seen = pane(index, GOOD[:records], f"model-{min(len(found), brings)}")
        rule.update(msgspec.structs.replace(seen, trained_on=trained_on))
        is_open = resolved is None or index < resolved
        if (request := rule.request_if_due(events if is_open else ())) is not None:
            found.append(request)
    return found


def positions(found: list[RetrainRequest]) -> list[int | None]:
    return [request.position for request in found]


# ---- harm ---------------------------------------------------------------------------------------


def test_harm_requests_retraining_while_the_error_is_increased() -> None:
    first, *again = requests(stream_with("harm"), event("performance"))
    assert (first.cause, first.caused_by, first.since) == ("drift", ("drift-performance",), 400)
    assert first.reason == "performance drift: is other"
    assert first.position == 500
    assert positions(again) == [750, 1100, 1800, 2800, 3800, 4800], (
        "after the cooldown with twice as much, or a window later"
    )


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ("cooldown = 1000", [500, 1500, 2500, 3500, 4500]),
        ("cooldown = 1500", [500, 2000, 3500, 5000]),
        ("renew = 0", [500, 1500, 2500, 3500, 4500]),
        ("cooldown = 0", [500, 600, 800, 1200, 2000, 3000, 4000, 5000]),
    ],
)
def test_requests_are_repeated_within_the_limits_while_the_event_is_open(
    limits: str, expected: list[int]
) -> None:
    assert positions(requests(stream_with("harm", limits), event("performance"))) == expected


def test_a_request_with_a_new_cause_does_not_wait_for_a_window() -> None:
    rule = RetrainRule(stream_with("harm"))
    found: list[RetrainRequest] = []
    for index in range(30):
        rule.update(pane(index, GOOD, f"model-{len(found)}"))
        events = [event("performance"), event("data", harm=0.5)][: 1 if index < 16 else 2]
        if (request := rule.request_if_due(events)) is not None:
            found.append(request)
    assert positions(found)[:3] == [500, 750, 850]
    assert found[2].caused_by == ("drift-performance", "drift-data")


def test_an_event_that_resolves_is_no_new_cause() -> None:
    rule = RetrainRule(stream_with("harm", "renew = 0"))
    found: list[RetrainRequest] = []
    for index in range(100):
        rule.update(pane(index, GOOD, "model-0"))  # no request brings a new model
        both = [event("performance"), event("data", harm=0.5)]
        if (request := rule.request_if_due(both[: 1 if index % 20 < 10 else 2])) is not None:
            found.append(request)
    assert [request.caused_by for request in found] == [
        ("drift-performance",),
        ("drift-performance", "drift-data"),
    ]


@pytest.mark.parametrize("kind", ["data", "prediction", "quality"])
@pytest.mark.parametrize(("harm", "expected"), [(None, False), (0.05, False), (0.1, True)])
def test_harm_requests_retraining_for_other_drift_if_its_estimated_harm_is_large(
    kind: DriftKind, harm: float | None, expected: bool
) -> None:
    assert bool(requests(stream_with("harm"), event(kind, harm=harm))) == expected


def test_harm_lists_only_harmful_events_as_causes() -> None:
    first, *_ = requests(stream_with("harm"), event("data"), event("prediction", harm=2.0))
    assert first.caused_by == ("drift-prediction",)


def test_the_smallest_harm_is_set_by_the_stream_file() -> None:
    stream = stream_with("harm")
    strict = msgspec.structs.replace(
        stream, drift=msgspec.structs.replace(stream.drift, min_metric_loss=0.5)
    )
    assert requests(stream, event("data", harm=0.3))
    assert not requests(strict, event("data", harm=0.3))


# ---- drift, schedule, always, never --------------------------------------------------------------


def test_drift_requests_retraining_for_the_kinds_in_the_stream_file() -> None:
    everything = [event("data"), event("quality"), event("performance")]
    by_default, *_ = requests(stream_with("drift"), *everything)
    assert by_default.caused_by == ("drift-data", "drift-performance")
    named, *_ = requests(stream_with("drift", 'on = ["quality"]'), *everything)
    assert named.caused_by == ("drift-quality",)


def test_an_event_is_a_cause_only_once_outcomes_have_reached_it() -> None:
    found = requests(stream_with("drift"), event("data", position=2000))
    assert positions(found)[0] == 2000


def test_a_schedule_requests_retraining_periodically_with_or_without_drift() -> None:
    stream = stream_with("schedule", "every = 1500")
    found = requests(stream)
    assert positions(found) == [1500, 3000, 4500]
    assert {(r.cause, r.since, r.caused_by) for r in found} == {("schedule", None, ())}
    assert found == requests(stream, event("performance"))
    assert len({request.id for request in found}) == 3


def test_a_schedule_in_records_works_with_windows_in_time() -> None:
    stream = small_stream(
        windows='span = "10h"',
        time='column = "at"',
        retrain='min_outcomes = 10\npolicy = "schedule"\nevery = 1500\ncooldown = 0',
    )
    assert positions(requests(stream)) == [1500, 3000, 4500]


def test_a_schedule_by_time_counts_from_the_first_record() -> None:
    rule = RetrainRule(
        small_stream(
            windows='span = "1h"',
            time='column = "at"',
            retrain='min_outcomes = 10\npolicy = "schedule"\nevery = "2h"\ncooldown = 0',
        )
    )
    hour = 3_600_000_000
    found = []
    for index in range(20):
        start = index * hour // 2
        seen = msgspec.structs.replace(
            pane(index, GOOD),
            start=start,
            end=start + hour // 2,
            first_position=start,
            last_position=start + hour // 2,
            time=format_time(start + hour // 2),
        )
        rule.update(seen)
        found += [rule.request_if_due(())]
    asked = [request.position / hour for request in found if request and request.position]
    assert asked == [2, 4, 6, 8, 10]


def test_a_schedule_waits_for_new_outcomes() -> None:
    stream = stream_with("schedule", "every = 100\ncooldown = 0")
    ten_a_pane = requests(stream, panes=range(40), records=10)
    gaps = [b - a for a, b in zip(positions(ten_a_pane), positions(ten_a_pane)[1:], strict=False)]  # type: ignore[operator]
    assert gaps == [500] * len(gaps), "100 new outcomes are 10 panes of 50 rows"


def test_slow_outcomes_eventually_lead_to_a_request() -> None:
    stream = small_stream(
        windows=f"records = {WINDOW}",
        retrain='min_outcomes = 5000\npolicy = "schedule"\nevery = 100\ncooldown = 0',
    )
    found = requests(stream, panes=range(6_000), records=2)
    assert positions(found) == [2_500 * PANE, 5_000 * PANE]


def test_always_requests_retraining_after_each_window_of_outcomes() -> None:
    assert positions(requests(stream_with("always"))) == [1000, 2000, 3000, 4000, 5000]


def test_always_started_within_a_window_makes_its_first_request_at_its_end() -> None:
    found = requests(stream_with("always", "cooldown = 0"), panes=range(10, 50))
    assert positions(found) == [1000, 2000]


def test_never_makes_no_requests() -> None:
    assert requests(stream_with("never"), event("performance"), event("data", harm=9.0)) == []


# ---- more outcomes -------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["harm", "drift"])
def test_a_renewal_is_requested_each_time_the_number_of_outcomes_doubles(policy: str) -> None:
    found = requests(stream_with(policy), trained_on=1000)
    assert positions(found) == [1000, 3000], "the first model's rows count, too"
    assert {(request.cause, request.caused_by, request.since) for request in found} == {
        ("schedule", (), None)
    }
    assert found[1].reason == "2000 new outcomes; the last training could use 2000"
    half = requests(stream_with(policy, "renew = 0.5\ncooldown = 0"), trained_on=1000)
    assert positions(half) == [500, 1250, 2400, 4100], "by the half, at a pane's end"


def test_no_renewal_is_requested_if_it_is_turned_off() -> None:
    assert requests(stream_with("harm", "renew = 0"), trained_on=1000) == []
    assert requests(stream_with("never"), trained_on=1000) == []
    assert positions(requests(stream_with("schedule", "every = 2000"), trained_on=100)) == [
        2000, 4000
    ]  # fmt: skip


def test_no_renewal_is_requested_for_a_model_without_a_reference() -> None:
    assert requests(stream_with("harm"), trained_on=None) == []


def test_renewals_end_at_the_number_of_records_in_train_on() -> None:
    assert positions(requests(stream_with("harm", "train_on = 2500"), trained_on=1000)) == [1000]


def test_a_renewal_after_drift_has_the_same_cause_and_onset() -> None:
    first, *again = requests(stream_with("harm"), event("performance"), resolved=11)
    assert (first.position, first.since) == (500, 400)
    assert positions(again) == [750, 1100, 1800, 3200], "after the cooldown, then by doubling"
    assert {(r.cause, r.caused_by, r.since) for r in again} == {
        ("drift", ("drift-performance",), 400)
    }


def test_drift_does_not_wait_for_the_cooldown_of_a_renewal() -> None:
    found = requests(stream_with("harm"), event("performance", position=1050), trained_on=1000)
    assert positions(found)[:2] == [1000, 1050]
    assert [request.cause for request in found[:2]] == ["schedule", "drift"]


def test_renewals_end_when_one_brings_no_new_model() -> None:
    none = requests(stream_with("harm"), event("performance"), brings=0)
    assert positions(none) == [500, 750]
    one = requests(stream_with("harm"), event("performance"), brings=1)
    assert positions(one) == [500, 750]
    two = requests(stream_with("harm"), event("performance"), brings=2, resolved=20)
    assert positions(two) == [500, 750, 1100]
    assert positions(requests(stream_with("harm"), trained_on=1000, brings=0)) == [1000]


def test_a_new_cause_is_requested_after_renewals_have_ended() -> None:
    rule = RetrainRule(stream_with("harm"))
    found = []
    for index in range(40):
        rule.update(pane(index, GOOD))
        events = [event("performance"), event("data", harm=0.5)][: 1 if index < 30 else 2]
        if (request := rule.request_if_due(events)) is not None:
            found.append(request)
    assert positions(found) == [500, 750, 1550]


def test_a_request_states_the_error_that_a_new_model_may_undo() -> None:
    first, renewal, *_ = requests(
        stream_with("harm"), event("performance"), event("data", harm=0.5)
    )
    assert (first.expected_gain, renewal.expected_gain) == (1.0, None)
    data, *_ = requests(stream_with("harm"), event("data", harm=0.5))
    assert data.expected_gain == 0.5
    scheduled, *_ = requests(stream_with("always"))
    assert scheduled.expected_gain is None


def test_a_budget_also_limits_renewals() -> None:
    stream = stream_with("harm", "budget = { requests = 1, per = 2500 }")
    assert positions(requests(stream, trained_on=1000)) == [1000, 3500]


# ---- limits -------------------------------------------------------------------------------------


def test_a_budget_limits_the_requests_in_any_period() -> None:
    stream = stream_with("harm", "cooldown = 500\nbudget = { requests = 2, per = 2000 }")
    found = positions(requests(stream, event("performance")))
    assert found == [500, 1000, 2500, 3500, 4500]


def test_a_budget_may_be_in_time() -> None:
    stream = small_stream(
        windows=f"records = {WINDOW}",
        time='column = "at"',
        retrain='cooldown = 0\nmin_outcomes = 10\nbudget = { requests = 1, per = "2h" }',
    )
    found = positions(requests(stream, event("performance")))  # 1,000 rows are an hour
    assert found == [500, 2500, 4500]


def test_the_same_events_give_the_same_requests() -> None:
    stream = stream_with("harm")
    assert requests(stream, event("performance")) == requests(stream, event("performance"))


# ---- unknown harm -------------------------------------------------------------------------------


def labelled(errors: list[float], delay: int, *events: DriftEvent) -> list[RetrainRequest]:
    """Return the requests while the events are open and labels arrive `delay` records late."""
    rule = RetrainRule(stream_with("harm"))
    found = []
    for index in range(60):
        rule.update(pane(index, GOOD if index * PANE - delay < 400 else errors, delay=delay))
        if (request := rule.request_if_due(events)) is not None:
            found.append(request)
    return found


@pytest.mark.parametrize("delay", [0, 1000])
def test_unknown_harm_is_replaced_by_the_realised_harm_when_labels_arrive(delay: int) -> None:
    (request, *_) = labelled(BAD, delay, event("data", harm=None))
    assert request.position == 500 + delay  # 100 outcomes since the onset, at 400
    assert request.caused_by == ("drift-data",)
    assert request.since == 400


def test_unknown_harm_causes_no_request_if_the_labels_show_none() -> None:
    assert labelled(GOOD, 0, event("data", harm=None)) == []


def test_estimated_harm_of_zero_causes_no_request_whatever_the_labels_show() -> None:
    assert labelled(BAD, 0, event("data", harm=0.0)) == []


def test_unknown_harm_waits_if_no_held_out_error_is_known() -> None:
    rule = RetrainRule(stream_with("harm"))
    for index in range(40):
        rule.update(msgspec.structs.replace(pane(index, BAD), reference_error=None))
        assert rule.request_if_due([event("data", harm=None)]) is None
