"""Decide when to request a new model, based on drift events, outcomes and the retrain policy.

Input: the open drift events, and performance panes. The stream's progress is measured in these
panes, which contain only labelled records, because no model can be trained without labels. Output:
a `RetrainRequest` or None. The panes' model shows whether a request has led to a new model. If so,
and if the cause lasts, the module repeats the request after one window. It renews a request when
enough new outcomes have arrived, because a model trained soon after a change has learned from few
records. After a renewal that brought no new model, it waits for a new cause.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, Literal

import msgspec

from driftline.config.spans import Span
from driftline.config.stream import Stream
from driftline.config.stream_sections import Policy
from driftline.wire.events import DriftEvent, RetrainRequest, event_id
from driftline.wire.values import parse_time
from driftline.wire.window_events import PerformancePane
from monitor.decisions.plain_state import Count, State, put, take
from monitor.error_scale import floor_of, known_scale, relative_increase


class _StreamPoint(msgspec.Struct, frozen=True):
    """A point in the stream: its position on the window axis, its row and its time."""

    position: int
    row: int | None
    time_us: int | None

    def is_past(self, earlier: "_StreamPoint", span: Span) -> bool:
        """Return whether this point is at least `span` after `earlier`, in rows or in time."""
        if span.records is not None:
            now, then, least = self.row, earlier.row, span.records
        else:
            now, then, least = self.time_us, earlier.time_us, span.us or 0
        return now is not None and then is not None and now - then >= least


class _Situation(msgspec.Struct, frozen=True):
    """A policy's input. `last` is the point of the last request or, if there was no request, the
    stream's beginning. `events` contains only open events whose positions are not past `current`.
    `realised` returns the realised harm of the records since a position, or None if too few of
    their outcomes are known.
    """

    stream: Stream
    events: Sequence[DriftEvent]
    current: _StreamPoint
    last: _StreamPoint
    realised: Callable[[int | None], float | None]


class _Pane(msgspec.Struct, frozen=True):
    """A pane's first record position, its number of outcomes, and its sampled errors: their number,
    sum and sum of squares."""

    first: int
    records: Count
    sampled: Count
    errors: float
    squares: float


class _RetrainTrigger(msgspec.Struct, frozen=True):
    """The reason for a retrain request. Records before `onset` may follow another concept.

    `expected_gain` is explained in `RetrainRequest`.
    """

    cause: Literal["drift", "schedule"]
    reason: str
    caused_by: tuple[str, ...] = ()
    onset: int | None = None
    expected_gain: float | None = None


# A realised increase counts if it exceeds this many standard errors. A drift event is already open,
# so this is not the only evidence.
_SIGNIFICANT: Final = 2.0
# Minimum number of recent panes to store. More panes are stored if these panes contain fewer than
# `min_outcomes` outcomes. The onset of a drift event is hardly ever earlier than these panes.
_PANES: Final = 2_000


class RetrainState(State, frozen=True):
    """The state of a `RetrainRule`. A field that was renamed in the code keeps its old name in
    the snapshot file."""

    panes: list[_Pane]
    usual: float | None
    scale: float | None
    outcomes: Count
    began: _StreamPoint | None
    current: _StreamPoint | None = msgspec.field(name="reached")
    requests: list[_StreamPoint] = msgspec.field(name="asked")
    trigger: _RetrainTrigger = msgspec.field(name="wish")
    triggered_at: _StreamPoint | None = msgspec.field(name="wished")
    to_learn: Count
    since: Count
    trained_on: int | None = msgspec.field(name="learnt_from")
    model: str | None
    model_asked: str | None
    model_renewed: str | None


class RetrainRule:
    """Decides when to retrain, based on the `[retrain]` section of a stream file.

    Policies that request a model only when there is drift renew their requests. A renewal is due
    when the number of outcomes since the last request is at least `renew` times the number that was
    available for training at that request. Before the first request, the first model's training
    size is used instead. Errors fall as a power of the training size (Cortes et al., "Learning
    curves: asymptotic values and rate of convergence", 1993), so doubling the number of outcomes
    justifies a new model. If `train_on` is set, renewals end once this span has passed since the
    original request, because a later training would exclude the oldest outcomes. They also end when
    one of them brings no new model, because more outcomes of the same concept then hardly help.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._policy = _POLICIES[stream.retrain.policy]
        self._panes: deque[_Pane] = deque()  # recent panes; `update` adds and evicts panes
        self._outcomes = 0  # number of outcomes in `_panes`
        # The held-out error and the error scale of the last pane's model.
        self._usual: float | None = None
        self._scale: float | None = None
        self._began: _StreamPoint | None = None  # set by the first pane, never changed
        self._current: _StreamPoint | None = None  # advanced by `update`
        # The last requests: as many as the budget allows, but at least one.
        self._requests: deque[_StreamPoint] = deque(maxlen=_remembered(stream))
        # State for renewals. `_trigger` is the last trigger that was not a renewal, and
        # `_triggered_at` is the point at which `request_if_due` accepted it. `update` adds each
        # pane's number of outcomes to `_to_learn` and `_since`. A trigger with an onset sets
        # `_to_learn` to the number of outcomes since the onset, and each request resets `_since`
        # to 0. `_trained_on` is the value of `_to_learn` at the last request, or the first model's
        # training size.
        self._trigger = _RetrainTrigger("schedule", "")
        self._triggered_at: _StreamPoint | None = None
        self._to_learn = self._since = 0
        self._trained_on: int | None = None
        # The model of the newest pane, and what it was at the last request and at the last renewal.
        # A request for a new cause resets `_model_renewed`.
        self._model: str | None = None
        self._model_asked: str | None = None
        self._model_renewed: str | None = None

    def state(self) -> RetrainState:
        """Return the state as plain data."""
        return take(RetrainState, self)

    def restore(self, state: RetrainState) -> None:
        """Restore a saved state."""
        put(state, self)

    def update(self, event: PerformancePane) -> None:
        """Add a pane, and advance the current point in the stream."""
        time_us = None if event.time is None else parse_time(event.time)
        last = self._current
        if last is None:
            self._began = self._beginning(event, time_us)
            # The first model's rows are available for training, too.
            self._trained_on, self._to_learn = event.trained_on, event.trained_on or 0
            self._current = _StreamPoint(event.end, event.row, time_us)
        else:
            self._current = _StreamPoint(
                max(event.end, last.position),
                _later(event.row, last.row),
                _later(time_us, last.time_us),
            )
        self._model = event.model
        self._to_learn += event.records
        self._since += event.records
        self._usual = event.reference_error
        self._scale = known_scale(self._stream.judged_by, event.error_scale, event.reference_error)
        self._panes.append(
            _Pane(
                event.first_position,
                event.records,
                len(event.errors),
                math.fsum(event.errors),
                math.fsum(error * error for error in event.errors),
            )
        )
        self._outcomes += event.records
        while len(self._panes) > _PANES and self._outcomes - self._panes[0].records >= self._least:
            self._outcomes -= self._panes.popleft().records

    def _beginning(self, event: PerformancePane, time_us: int | None) -> _StreamPoint:
        """Return the point at which the first pane starts. The point's row is one less than
        the first record's row."""
        if self._stream.axis == "row":
            return _StreamPoint(event.start, event.first_position - 1, time_us)
        # The first record's row is unknown. Subtract one row for each outcome, which is exact if
        # every record has a label.
        row = None if event.row is None else event.row - event.records
        return _StreamPoint(event.start, row, event.first_position)

    def request_if_due(self, open_events: Sequence[DriftEvent]) -> RetrainRequest | None:
        """Return a retrain request if one is due, otherwise None."""
        current, began = self._current, self._began
        if current is None or began is None or not self._within_budget(current):
            return None
        # Ignore events at positions that the outcomes have not reached yet. Otherwise, the request
        # would depend on whether predictions or outcomes were read first.
        events = [event for event in open_events if event.position <= current.position]
        last = self._requests[-1] if self._requests else began
        # After the cooldown, apply the policy. If there is no new trigger, check whether a renewal
        # is due.
        trigger = None
        if self._is_cool(self._triggered_at, current):
            situation = _Situation(self._stream, events, current, last, self._realised)
            trigger = self._policy(situation)
        if trigger is None or self._is_repeated(trigger, current):
            trigger = self._renewal(current)
            if trigger is None:
                return None
            self._model_renewed = self._model
        else:
            # Require enough outcomes since the onset or, with a schedule, since the last request.
            new_since = self._requests[-1].position if self._requests else None
            if self._known(trigger.onset if trigger.cause == "drift" else new_since) < self._least:
                return None
            self._trigger, self._triggered_at, self._model_renewed = trigger, current, None
            if trigger.onset is not None:
                self._to_learn = self._known(trigger.onset)
        self._requests.append(current)
        self._trained_on, self._since = self._to_learn, 0
        self._model_asked = self._model
        return RetrainRequest(
            id=event_id("retrain", self._stream.name, *trigger.caused_by, current.position),
            cause=trigger.cause,
            caused_by=trigger.caused_by,
            reason=trigger.reason,
            position=current.position,
            since=trigger.onset,
            expected_gain=trigger.expected_gain,
        )

    def _is_repeated(self, trigger: _RetrainTrigger, current: _StreamPoint) -> bool:
        """Return whether the last request had the same events as causes, or more of them, less than
        one window ago or without a new model since then."""
        if (
            not self._requests
            or not trigger.caused_by
            or not set(trigger.caused_by) <= set(self._trigger.caused_by)
        ):
            return False
        is_recent = current.position - self._requests[-1].position < self._stream.window_size
        return is_recent or self._model == self._model_asked

    def _renewal(self, current: _StreamPoint) -> _RetrainTrigger | None:
        """Return the last trigger again if enough new outcomes have arrived. A renewal does not
        delay a request for new drift, because the policy's cooldown starts at `_triggered_at`."""
        how, trained_on = self._stream.retrain, self._trained_on
        if how.policy not in _RENEWED or not how.renew or trained_on is None:
            return None
        if self._model_renewed is not None and self._model_renewed == self._model:
            return None  # the last renewal has brought no new model
        least = max(how.renew * trained_on, self._least)
        last = self._requests[-1] if self._requests else None
        if self._since < least or not self._is_cool(last, current):
            return None
        began = self._triggered_at or self._began
        if began and how.train_on and current.is_past(began, how.train_on):
            return None
        reason = f"{self._since} new outcomes; the last training could use {trained_on}"
        # More outcomes of a known concept are worth an unknown part of the error.
        return msgspec.structs.replace(self._trigger, reason=reason, expected_gain=None)

    def _known(self, onset: int | None) -> int:
        """Return the number of outcomes in panes whose records start at `onset` or later. If
        `onset` is None, count all panes."""
        return sum(pane.records for pane in self._since_position(onset))

    def _since_position(self, onset: int | None) -> list[_Pane]:
        return [pane for pane in self._panes if onset is None or pane.first >= onset]

    def _realised(self, onset: int | None) -> float | None:
        """Return the increase in the error of the records since `onset`, as a fraction of the
        held-out error. The result is 0 if the increase is not significant, and None if fewer than
        `min_outcomes` outcomes or no held-out error are known."""
        panes, usual = self._since_position(onset), self._usual
        count = sum(pane.sampled for pane in panes)
        if usual is None or not count or self._known(onset) < self._least:
            return None
        mean = math.fsum(pane.errors for pane in panes) / count
        variance = max(0.0, math.fsum(pane.squares for pane in panes) / count - mean * mean)
        if mean - usual <= _SIGNIFICANT * math.sqrt(variance / count):
            return 0.0
        return relative_increase(usual, mean, floor_of(self._scale))

    @property
    def _least(self) -> int:
        return self._stream.retrain.min_outcomes

    def _is_cool(self, last: _StreamPoint | None, current: _StreamPoint) -> bool:
        """Return whether the cooldown that started at `last` is over."""
        cooldown = self._stream.retrain.cooldown
        return last is None or cooldown is None or current.is_past(last, cooldown)

    def _within_budget(self, current: _StreamPoint) -> bool:
        budget = self._stream.retrain.budget
        if budget is None or len(self._requests) < budget.requests:
            return True
        # `_requests[0]` is the oldest of the last `budget.requests` requests.
        return current.is_past(self._requests[0], budget.per)


# ---- policies -----------------------------------------------------------------------------------


def _harm(now: _Situation) -> _RetrainTrigger | None:
    """Return a trigger if the realised error has increased, or if an event's harm is at least
    `min_metric_loss`. If the estimated harm is unknown, the realised harm of the records since the
    event's onset is used as soon as enough of their outcomes are known."""
    least = now.stream.drift.min_metric_loss

    def is_harmful(event: DriftEvent) -> bool:
        increase = _increase(now, event)
        return event.kind == "performance" or (increase is not None and increase >= least)

    return _for_events(now, filter(is_harmful, now.events))


def _drift(now: _Situation) -> _RetrainTrigger | None:
    return _for_events(now, (e for e in now.events if e.kind in now.stream.retrain.on))


def _schedule(now: _Situation) -> _RetrainTrigger | None:
    every = now.stream.retrain.every
    if every is None or not now.current.is_past(now.last, every):
        return None
    return _RetrainTrigger("schedule", f"{every} since the last request")


def _always(now: _Situation) -> _RetrainTrigger | None:
    size = now.stream.window_size
    if now.current.position // size <= now.last.position // size:
        return None
    return _RetrainTrigger("schedule", "a window of outcomes is complete")


def _never(now: _Situation) -> _RetrainTrigger | None:
    return None


# The policies that request a model only when there is drift, and therefore renew their requests.
_RENEWED: Final[frozenset[Policy]] = frozenset({"harm", "drift"})
_POLICIES: Final[Mapping[Policy, Callable[[_Situation], _RetrainTrigger | None]]] = {
    "harm": _harm,
    "drift": _drift,
    "schedule": _schedule,
    "always": _always,
    "never": _never,
}


def _for_events(now: _Situation, found: Iterable[DriftEvent]) -> _RetrainTrigger | None:
    causes = list(found)
    if not causes:
        return None
    reason = "; ".join(f"{event.kind} drift: {event.message}" for event in causes)
    ids = tuple(event.id for event in causes)
    # A new model may at best undo the largest increase in the error.
    increases = [_increase(now, event) for event in causes]
    gain = max((found for found in increases if found is not None), default=None)
    return _RetrainTrigger("drift", reason, ids, _onset(causes), gain)


def _increase(now: _Situation, event: DriftEvent) -> float | None:
    """Return the increase in the error that an event has caused: realised, estimated or, if the
    harm is unknown, realised since the event's onset. The result is None if it is still unknown."""
    if event.kind == "performance":
        return event.severity
    return event.harm if event.harm is not None else now.realised(event.onset)


def _onset(causes: Sequence[DriftEvent]) -> int | None:
    """Return the performance event's onset or, without such an event, the latest onset of all
    events."""
    chosen = [event for event in causes if event.kind == "performance"] or causes
    return max((event.onset for event in chosen if event.onset is not None), default=None)


def _remembered(stream: Stream) -> int:
    return stream.retrain.budget.requests if stream.retrain.budget else 1


def _later(new: int | None, old: int | None) -> int | None:
    return max((value for value in (new, old) if value is not None), default=None)
