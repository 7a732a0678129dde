"""Derive drift events and retrain requests from the events in the Kafka topic `windows`.

Input: events in the order of the topic's single partition. Output: the events to publish. Each
drift event depends either on data windows only, or on performance panes and windows only. It
therefore does not matter whether predictions or outcomes are read first.
"""

from typing import Final

import msgspec

from driftline.config.stream import Stream
from driftline.config.stream_sections import DriftKind
from driftline.wire.events import DriftEvent, RetrainRequest
from driftline.wire.window_events import (
    DataWindow,
    PerformancePane,
    PerformanceWindow,
    WindowsEvent,
)
from monitor.decisions.error_watch import ErrorWatch, ErrorWatchState, degradation
from monitor.decisions.event_lifecycle import EventLifecycle, Finding, LifecycleState
from monitor.decisions.plain_state import State
from monitor.decisions.retraining import RetrainRule, RetrainState
from monitor.decisions.window_findings import WINDOW_KINDS, WindowFindings, WindowFindingsState

_KINDS: Final[tuple[DriftKind, ...]] = (*WINDOW_KINDS, "performance")


class DeciderState(State, frozen=True):
    """All state that depends on the events read so far and affects later decisions. A field that
    was renamed in the code keeps its old name in the snapshot file."""

    lifecycles: dict[DriftKind, LifecycleState] = msgspec.field(name="lanes")
    errors: ErrorWatchState
    rule: RetrainState
    windows: WindowFindingsState
    lost: LifecycleState


class Decider:
    """Makes one stream's decisions. Its state depends only on the events read so far."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._lifecycles = {kind: EventLifecycle(stream, kind) for kind in _KINDS}
        # The lifecycle of quality events about labels that became dead letters, and about lost
        # records. These events come from performance windows, which have no fixed order relative to
        # data windows. The events therefore have their own lifecycle, and never cause retraining.
        self._lost = EventLifecycle(stream, "quality")
        self._errors = ErrorWatch(stream)
        self._rule = RetrainRule(stream)
        self._windows = WindowFindings(stream)

    def state(self) -> DeciderState | None:
        """Return the state, or None if a detector is from River. The state shares lists with this
        object, so encode it before reading more events."""
        errors = self._errors.state()
        if errors is None:
            return None
        return DeciderState(
            lifecycles={kind: lifecycle.state() for kind, lifecycle in self._lifecycles.items()},
            errors=errors,
            rule=self._rule.state(),
            windows=self._windows.state(),
            lost=self._lost.state(),
        )

    @classmethod
    def restored(cls, stream: Stream, state: DeciderState) -> "Decider":
        """Restore a decider. Raises ValueError or LookupError if `state` does not fit `stream`."""
        decider = cls(stream)
        for kind, lifecycle in decider._lifecycles.items():
            lifecycle.restore(state.lifecycles[kind])
        decider._errors.restore(state.errors)
        decider._rule.restore(state.rule)
        decider._lost.restore(state.lost)
        decider._windows.restore(state.windows)
        return decider

    def read(self, event: WindowsEvent) -> list[DriftEvent | RetrainRequest]:
        """Process one event. Return the events to publish, in order."""
        if isinstance(event, DataWindow):
            events = self._data(event)
        elif isinstance(event, PerformancePane):
            events = self._pane(event)
        else:
            events = [*self._unread(event), *self._performance(event)]
        if not isinstance(event, PerformancePane):
            return [*events]
        self._rule.update(event)
        request = self._rule.request_if_due(
            [lifecycle.open for lifecycle in self._lifecycles.values() if lifecycle.open]
        )
        return [*events, *([request] if request is not None else [])]

    # ---- data, predictions, quality -------------------------------------------------------------

    def _data(self, window: DataWindow) -> list[DriftEvent]:
        # Groups that were not tested neither open nor resolve an event.
        tested = [group for group in window.groups if group.tested]
        if not tested:
            return self._untested(window)
        events: list[DriftEvent | None] = []
        for kind in WINDOW_KINDS:
            lifecycle = self._lifecycles[kind]
            findings = [self._windows.find(kind, window, group, lifecycle.open) for group in tested]
            if kind == "quality":
                findings[-1] = _with_window(findings[-1], window)
            # Use the newest tested model's finding, unless the open event's model is even newer.
            if not _is_newer(lifecycle.open, tested[-1].model, window):
                events.append(
                    lifecycle.observe(
                        findings[-1],
                        model=tested[-1].model,
                        window=window.id,
                        position=window.end,
                    )
                )
        self._windows.forget_others({group.model for group in window.groups})
        return [event for event in events if event is not None]

    def _untested(self, window: DataWindow) -> list[DriftEvent]:
        """Check a window without tested groups for dead letters and lost records only."""
        finding = _with_window(None, window)
        if finding is None:
            return []
        lifecycle = self._lifecycles["quality"]
        model = window.groups[-1].model if window.groups else None
        event = lifecycle.observe(finding, model=model, window=window.id, position=window.end)
        return [] if event is None else [event]

    def _slide(self, window: DataWindow | PerformanceWindow) -> int:
        return (window.end - window.start) // self._stream.overlap

    def _newest_part(self, window: DataWindow | PerformanceWindow) -> int:
        """Return the start of the window's last slide, the part that no earlier window covers."""
        return window.end - self._slide(window)

    # ---- performance ----------------------------------------------------------------------------

    def _pane(self, pane: PerformancePane) -> list[DriftEvent]:
        finding = self._errors.update(pane)
        if finding is None:
            return []
        event = self._lifecycles["performance"].observe(
            finding, model=pane.model, window=pane.id, position=pane.end
        )
        return [] if event is None else [event]

    def _unread(self, window: PerformanceWindow) -> list[DriftEvent]:
        labels = window.records + window.revised + window.dead_letters
        share, messages = 0.0, []
        if window.lost:
            share = window.lost / (window.records + window.lost)
            messages.append(_deleted(window.lost))
        if "dead_letters" in window.quality:
            rejected = window.dead_letters / labels
            share = max(share, rejected)
            messages.append(f"{rejected:.1%} of the labels became dead letters")
        elif window.dead_letters and labels < self._stream.windows.min_records and not messages:
            return []  # too few labels to open or resolve an event
        finding = None
        if messages:
            finding = Finding((), share, "; ".join(messages), window.start, is_drawn=False)
        event = self._lost.observe(finding, model=None, window=window.id, position=window.end)
        return [] if event is None else [event]

    def _performance(self, window: PerformanceWindow) -> list[DriftEvent]:
        found_in, self._errors.found_in = self._errors.found_in, None
        lifecycle = self._lifecycles["performance"]
        tested = [group for group in window.groups if group.p_value is not None]
        if not tested or _is_newer(lifecycle.open, tested[-1].model, window):
            return []
        group = tested[-1]
        if not group.worse and group.model == found_in:
            # A detector found an increase within this window, although the window as a whole shows
            # no degradation. Such a window must not help to resolve the event.
            return []
        event = lifecycle.observe(
            degradation(self._stream.judged_by, group, self._newest_part(window))
            if group.worse
            else None,
            model=group.model,
            window=window.id,
            position=window.end,
        )
        return [] if event is None else [event]


def _with_window(finding: Finding | None, window: DataWindow) -> Finding | None:
    """Add the dead letters and lost records that `window.quality` reports to the finding."""
    if not window.quality:
        return finding
    scored_or_rejected = window.records + window.dead_letters
    severity, messages = 0.0, []
    if "gaps" in window.quality:
        severity = window.lost / (scored_or_rejected + window.lost)
        messages.append(_deleted(window.lost))
    if "dead_letters" in window.quality:
        share = window.dead_letters / scored_or_rejected
        severity = max(severity, share)
        messages.append(f"{share:.1%} of the records became dead letters")
    if finding is None:
        return Finding((), severity, "; ".join(messages), window.start, is_drawn=False)
    return msgspec.structs.replace(
        finding,
        severity=max(severity, finding.severity),
        message="; ".join([*messages, finding.message]),
    )


def _deleted(lost: int) -> str:
    return f"at least {lost:,} records were deleted before they were read"


def _is_newer(event: DriftEvent | None, model: str, window: DataWindow | PerformanceWindow) -> bool:
    """Return whether `event` belongs to a model that served after `model`."""
    names = [group.model for group in window.groups]
    return event is not None and event.model in names[names.index(model) + 1 :]
