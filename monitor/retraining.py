"""When to ask for a new model: open drift events, cooldown, and enough outcomes since the onset.

In: the open events, and panes of outcomes, which say how far the stream has come: without labels
nothing can be trained. Out: a `RetrainRequest`, or nothing. What became of a request is not asked:
as long as an event is open, it is made again after the cooldown.
"""

from collections import deque
from collections.abc import Sequence

import msgspec

from driftline.codec.records import parse_time
from driftline.events import DriftEvent, PerformancePane, RetrainRequest, event_id
from driftline.stream import Stream


class _Reached(msgspec.Struct, frozen=True):
    """How far the stream had come: position on the windows' axis, row, time."""

    position: int
    row: int | None
    time_us: int | None


class _Again(msgspec.Struct, frozen=True):
    """A request that had little new data to train on; it is made once more when there is more."""

    caused_by: tuple[str, ...]
    onset: int


class RetrainRule:
    """Decides by the `[retrain]` section of a stream file."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._panes: deque[tuple[int, int]] = deque()  # first position, records; the newest
        self._outcomes = 0  # in those
        self._reached: _Reached | None = None
        self._asked: _Reached | None = None
        self._again: _Again | None = None

    def see(self, event: PerformancePane) -> None:
        """Follow the stream's progress."""
        time_us = None if event.time is None else parse_time(event.time)
        last = self._reached
        if last is None:
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

    def ask(self, open_events: Sequence[DriftEvent]) -> RetrainRequest | None:
        """A request, if one is due."""
        reached = self._reached
        if reached is None or not self._cooled(reached):
            return None
        # An event that the outcomes have not come up to yet waits for them: what is asked for must
        # not depend on whether predictions or outcomes were read first.
        causes = [
            event
            for event in open_events
            if event.kind in self._stream.retrain.on and event.position <= reached.position
        ]
        if causes:
            onset = _onset(causes)
            if not self._enough(onset):
                return None
            reason = "; ".join(f"{event.kind} drift: {event.message}" for event in causes)
            return self._request(tuple(event.id for event in causes), reason, onset, reached)
        if (again := self._again) is None or not self._is_window_past(again.onset, reached):
            return None
        reason = f"a whole window of outcomes since {again.onset}, fewer at the last request"
        return self._request(again.caused_by, reason, again.onset, reached)

    def _request(
        self, caused_by: tuple[str, ...], reason: str, onset: int | None, reached: _Reached
    ) -> RetrainRequest:
        self._asked = reached
        self._again = None
        if onset is not None and not self._is_window_past(onset, reached):
            self._again = _Again(caused_by, onset)
        return RetrainRequest(
            id=event_id("retrain", self._stream.name, *caused_by, reached.position),
            cause="drift",
            caused_by=caused_by,
            reason=reason,
            position=reached.position,
            since=onset,
        )

    def _is_window_past(self, onset: int, reached: _Reached) -> bool:
        return reached.position >= onset + self._stream.window_size

    def _enough(self, onset: int | None) -> bool:
        """Whether enough labelled records are known to be from after the onset."""
        records = sum(count for first, count in self._panes if onset is None or first >= onset)
        return records >= self._stream.retrain.min_outcomes

    def _cooled(self, reached: _Reached) -> bool:
        cooldown, asked = self._stream.retrain.cooldown, self._asked
        if asked is None or cooldown is None:
            return True
        if cooldown.records is not None:
            now, then, span = reached.row, asked.row, cooldown.records
        else:
            now, then, span = reached.time_us, asked.time_us, cooldown.us or 0
        return now is not None and then is not None and now - then >= span


def _onset(causes: Sequence[DriftEvent]) -> int | None:
    """From where on data are new: of the performance event, else of the newest event."""
    chosen = [event for event in causes if event.kind == "performance"] or causes
    return max((event.onset for event in chosen if event.onset is not None), default=None)


def _later(new: int | None, old: int | None) -> int | None:
    return max((value for value in (new, old) if value is not None), default=None)
