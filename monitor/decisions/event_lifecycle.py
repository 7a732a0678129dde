"""Manage the lifecycle of drift events: open, update and resolve each event under a single id.

Input: each window's or pane's finding, or None. Output: the `DriftEvent`s to publish. This module
never uses record data.
"""

from typing import Final, Literal

import msgspec

from driftline.config.stream import Stream
from driftline.config.stream_sections import DriftKind
from driftline.wire.events import DriftEvent, event_id
from monitor.decisions.plain_state import Count, State, put, take

# Republish an open event when its severity has grown by 50% since it was last published.
REPUBLISH_GROWTH: Final = 1.5


class Finding(msgspec.Struct, frozen=True):
    """The evidence for a drift event."""

    columns: tuple[str, ...]
    severity: float
    message: str
    onset: int | None
    detector: str | None = None
    harm: float | None = None
    is_drawn: bool = True  # False if no sample is available for a report
    # True if a detector made the finding. Its event is then republished after one window length
    # even if the severity has not grown.
    notable: bool = False


class LifecycleState(State, frozen=True):
    """The state of an `EventLifecycle`."""

    quiet: Count
    open: DriftEvent | None


class EventLifecycle:
    """The lifecycle of one kind of drift event. At most one event is open at a time."""

    def __init__(self, stream: Stream, kind: DriftKind) -> None:
        self._stream = stream
        self._kind = kind
        # Number of consecutive windows without a finding. Reset when a window has a finding, and
        # when the event is resolved.
        self._quiet = 0
        self.open: DriftEvent | None = None  # the open event as last published, or None

    def state(self) -> LifecycleState:
        """Return the state as plain data."""
        return take(LifecycleState, self)

    def restore(self, state: LifecycleState) -> None:
        """Restore a saved state."""
        put(state, self)

    def observe(
        self, finding: Finding | None, *, model: str | None, window: str, position: int
    ) -> DriftEvent | None:
        """Process a window's or pane's finding, or None if there is no finding. Return the event to
        publish, if any. `model` is None if the event does not concern a model."""
        if finding is not None:
            return self._found(finding, model, window, position)
        return self._nothing(model, window, position)

    def _found(
        self, finding: Finding, model: str | None, window: str, position: int
    ) -> DriftEvent | None:
        self._quiet = 0
        event = self.open
        if event is None:
            identity = event_id("drift", self._stream.name, self._kind, window)
            return self._publish("opened", identity, finding, model, window, position)
        # Republish the event if it affects new columns or its severity has grown, or after one
        # window length if the finding is notable.
        new_columns = set(finding.columns) - set(event.columns)
        has_grown = finding.severity >= REPUBLISH_GROWTH * event.severity
        is_due = finding.notable and position - event.position >= self._stream.window_size
        if not (is_due or new_columns or has_grown):
            return None
        columns = (*event.columns, *(name for name in finding.columns if name in new_columns))
        # A further increase in the error has its own onset. Other findings do not change the
        # event's onset.
        onset = finding.onset if finding.notable else event.onset
        finding = msgspec.structs.replace(finding, columns=columns, onset=onset)
        return self._publish("updated", event.id, finding, model, window, position)

    def _nothing(self, model: str | None, window: str, position: int) -> DriftEvent | None:
        event = self.open
        if event is None:
            return None
        self._quiet += 1
        succeeded = event.model is not None and event.model != model
        if not succeeded and self._quiet < self._stream.drift.resolve_after * self._stream.overlap:
            return None
        self.open = None
        self._quiet = 0
        message = (
            "no drift with the new model" if succeeded else "no drift in enough consecutive windows"
        )
        return msgspec.structs.replace(
            event,
            action="resolved",
            message=message,
            position=position,
            model=model,
            windows=(window,),
            report=None,
        )

    def _publish(
        self,
        action: Literal["opened", "updated"],
        identity: str,
        finding: Finding,
        model: str | None,
        window: str,
        position: int,
    ) -> DriftEvent:
        drawn = action == "opened" and self._kind != "performance" and finding.is_drawn
        self.open = DriftEvent(
            id=identity,
            action=action,
            kind=self._kind,
            columns=finding.columns,
            severity=finding.severity,
            message=finding.message,
            position=position,
            onset=finding.onset,
            model=model,
            detector=finding.detector,
            windows=(window,),
            report=f"{window}.html" if drawn else None,
            harm=finding.harm,
        )
        return self.open
