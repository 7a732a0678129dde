"""One open drift event per kind: opened, updated, resolved, each time with the same id.

In: what each window (or pane) found, or nothing. Out: `DriftEvent`s. It never looks at data.
"""

from typing import Final, Literal

import msgspec

from driftline.events import DriftEvent, event_id
from driftline.stream import DriftKind, Stream
from monitor.decisions.keep import Count, State, put, take

# An open event is told again when it is half as bad again as last told, not at every window.
WORSENED: Final = 1.5


class Finding(msgspec.Struct, frozen=True):
    """What speaks for a drift event."""

    columns: tuple[str, ...]
    severity: float
    message: str
    onset: int | None
    detector: str | None = None
    harm: float | None = None
    is_drawn: bool = True  # there is a sample of records to draw a report of
    notable: bool = False  # of its own, even if not worse: told again after a window's length


class LaneState(State, frozen=True):
    """What a `Lane` remembers."""

    quiet: Count
    open: DriftEvent | None


class Lane:
    """The drift events of one kind, of which at most one is open."""

    def __init__(self, stream: Stream, kind: DriftKind) -> None:
        self._stream = stream
        self._kind = kind
        self._quiet = 0  # quiet windows in a row
        self.open: DriftEvent | None = None

    def state(self) -> LaneState:
        """What it remembers, as data."""
        return take(LaneState, self)

    def restore(self, state: LaneState) -> None:
        """Go on from there."""
        put(state, self)

    def observe(
        self, finding: Finding | None, *, model: str | None, window: str, position: int
    ) -> DriftEvent | None:
        """Take in the verdict on a window, or a finding in a pane; returns what to publish.

        `model` is None where nothing could be scored.
        """
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
        more = set(finding.columns) - set(event.columns)
        is_worse = finding.severity >= WORSENED * event.severity
        is_new = finding.notable and position - event.position >= self._stream.window_size
        if not (is_new or more or is_worse):
            return None
        columns = (*event.columns, *(name for name in finding.columns if name in more))
        # A further rise of the error has an onset of its own; shifted data go on being so.
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
            "quiet again with a new model"
            if succeeded
            else "quiet again for enough windows in a row"
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
