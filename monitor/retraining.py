"""When to ask for a new model: what the policy wants, within cooldown, budget and enough outcomes.

In: the open events, and panes of outcomes, which say how far the stream has come: without labels
nothing can be trained. Out: a `RetrainRequest`, or nothing. What became of a request is not asked:
as long as its cause lasts, it is made again after the cooldown.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, Literal

import msgspec

from driftline.codec.records import parse_time
from driftline.events import DriftEvent, PerformancePane, RetrainRequest, event_id
from driftline.stream import Policy, Span, Stream


class _Reached(msgspec.Struct, frozen=True):
    """How far the stream had come: position on the windows' axis, row, time."""

    position: int
    row: int | None
    time_us: int | None

    def is_past(self, earlier: "_Reached", span: Span) -> bool:
        """Whether the whole span lies between the two, by rows or by time as it is given."""
        if span.records is not None:
            now, then, least = self.row, earlier.row, span.records
        else:
            now, then, least = self.time_us, earlier.time_us, span.us or 0
        return now is not None and then is not None and now - then >= least


class _Situation(msgspec.Struct, frozen=True):
    """What a policy judges by. `last` is where the last request was made, or the stream began;
    an event that the outcomes have not come up to is not among `events`."""

    stream: Stream
    events: Sequence[DriftEvent]
    reached: _Reached
    last: _Reached


class _Wish(msgspec.Struct, frozen=True):
    """A reason to train. `onset`: from where on data are new."""

    cause: Literal["drift", "schedule"]
    reason: str
    caused_by: tuple[str, ...] = ()
    onset: int | None = None


class RetrainRule:
    """Decides by the `[retrain]` section of a stream file."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._policy = _POLICIES[stream.retrain.policy]
        self._panes: deque[tuple[int, int]] = deque()  # first position, records; the newest
        self._outcomes = 0  # in those
        self._began: _Reached | None = None
        self._reached: _Reached | None = None
        self._asked: deque[_Reached] = deque(maxlen=_remembered(stream))
        self._again: _Wish | None = None  # had little new data; made once more when there is more

    def see(self, event: PerformancePane) -> None:
        """Follow the stream's progress."""
        time_us = None if event.time is None else parse_time(event.time)
        last = self._reached
        if last is None:
            self._began = self._beginning(event, time_us)
            self._reached = _Reached(event.end, event.row, time_us)
        else:
            self._reached = _Reached(
                max(event.end, last.position),
                _later(event.row, last.row),
                _later(time_us, last.time_us),
            )
        self._panes.append((event.first_position, event.records))
        self._outcomes += event.records
        # No more than it takes to know that there are enough.
        while self._outcomes - self._panes[0][1] >= self._stream.retrain.min_outcomes:
            self._outcomes -= self._panes.popleft()[1]

    def _beginning(self, event: PerformancePane, time_us: int | None) -> _Reached:
        """Where the first pane begins: the row before its first record, and that one's time."""
        if self._stream.axis == "row":
            return _Reached(event.start, event.first_position - 1, time_us)
        # The first record's row is not told; so many rows back, where none is without a label.
        row = None if event.row is None else event.row - event.records
        return _Reached(event.start, row, event.first_position)

    def ask(self, open_events: Sequence[DriftEvent]) -> RetrainRequest | None:
        """A request, if one is due."""
        reached, began = self._reached, self._began
        if reached is None or began is None or not self._allowed(reached):
            return None
        # An event that the outcomes have not come up to yet waits for them: what is asked for must
        # not depend on whether predictions or outcomes were read first.
        events = [event for event in open_events if event.position <= reached.position]
        last = self._asked[-1] if self._asked else began
        wish = self._policy(_Situation(self._stream, events, reached, last))
        if wish is not None:
            # A schedule trains on all there is, if enough of it is new since the last time.
            new_since = self._asked[-1].position if self._asked else None
            if not self._enough(wish.onset if wish.cause == "drift" else new_since):
                return None
            return self._request(wish, reached)
        if (again := self._again) is None or not self._is_window_past(again.onset, reached):
            return None
        reason = f"a whole window of outcomes since {again.onset}, fewer at the last request"
        return self._request(msgspec.structs.replace(again, reason=reason), reached)

    def _request(self, wish: _Wish, reached: _Reached) -> RetrainRequest:
        self._asked.append(reached)
        self._again = None
        if wish.onset is not None and not self._is_window_past(wish.onset, reached):
            self._again = wish
        return RetrainRequest(
            id=event_id("retrain", self._stream.name, *wish.caused_by, reached.position),
            cause=wish.cause,
            caused_by=wish.caused_by,
            reason=wish.reason,
            position=reached.position,
            since=wish.onset,
        )

    def _is_window_past(self, onset: int | None, reached: _Reached) -> bool:
        return onset is not None and reached.position >= onset + self._stream.window_size

    def _enough(self, onset: int | None) -> bool:
        """Whether enough labelled records are known to be from after the onset."""
        records = sum(count for first, count in self._panes if onset is None or first >= onset)
        return records >= self._stream.retrain.min_outcomes

    def _allowed(self, reached: _Reached) -> bool:
        """Whether cooldown and budget leave room for a request."""
        cooldown, budget = self._stream.retrain.cooldown, self._stream.retrain.budget
        if not self._asked:
            return True
        if cooldown is not None and not reached.is_past(self._asked[-1], cooldown):
            return False
        if budget is None or len(self._asked) < budget.requests:
            return True
        return reached.is_past(self._asked[0], budget.per)  # as many as the budget are remembered


# ---- policies -----------------------------------------------------------------------------------


def _harm(now: _Situation) -> _Wish | None:
    """While the realised error is worse, or the estimate of what drift costs says that it is."""
    least = now.stream.drift.min_metric_loss
    return _for_events(
        event
        for event in now.events
        if event.kind == "performance" or (event.harm is not None and event.harm >= least)
    )


def _drift(now: _Situation) -> _Wish | None:
    return _for_events(event for event in now.events if event.kind in now.stream.retrain.on)


def _schedule(now: _Situation) -> _Wish | None:
    every = now.stream.retrain.every
    if every is None or not now.reached.is_past(now.last, every):
        return None
    return _Wish("schedule", f"{every} since the last request")


def _always(now: _Situation) -> _Wish | None:
    size = now.stream.window_size
    if now.reached.position // size <= now.last.position // size:
        return None
    return _Wish("schedule", "a window of outcomes is complete")


def _never(now: _Situation) -> _Wish | None:
    return None


_POLICIES: Final[Mapping[Policy, Callable[[_Situation], _Wish | None]]] = {
    "harm": _harm,
    "drift": _drift,
    "schedule": _schedule,
    "always": _always,
    "never": _never,
}


def _for_events(found: Iterable[DriftEvent]) -> _Wish | None:
    causes = list(found)
    if not causes:
        return None
    reason = "; ".join(f"{event.kind} drift: {event.message}" for event in causes)
    return _Wish("drift", reason, tuple(event.id for event in causes), _onset(causes))


def _onset(causes: Sequence[DriftEvent]) -> int | None:
    """From where on data are new: of the performance event, else of the newest event."""
    chosen = [event for event in causes if event.kind == "performance"] or causes
    return max((event.onset for event in chosen if event.onset is not None), default=None)


def _remembered(stream: Stream) -> int:
    return stream.retrain.budget.requests if stream.retrain.budget else 1


def _later(new: int | None, old: int | None) -> int | None:
    return max((value for value in (new, old) if value is not None), default=None)
