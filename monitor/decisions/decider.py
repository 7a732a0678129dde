"""Derive drift events and retrain requests from the events in the Kafka topic `windows`.

Input: events in the order of the topic's single partition. Output: the events to publish. Each
drift event depends either on data windows only, or on performance panes and windows only. It
therefore does not matter whether predictions or outcomes are read first.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from driftline.config.stream import Stream
from driftline.config.stream_sections import DriftKind
from driftline.wire.events import DriftEvent, RetrainRequest
from driftline.wire.window_events import (
    ColumnResult,
    DataGroup,
    DataWindow,
    DependenceDrift,
    PerformancePane,
    PerformanceWindow,
    WindowsEvent,
)
from monitor.decisions.error_watch import ErrorWatch, ErrorWatchState, degradation
from monitor.decisions.event_lifecycle import EventLifecycle, Finding, LifecycleState
from monitor.decisions.plain_state import State
from monitor.decisions.retraining import RetrainRule, RetrainState
from monitor.estimates.harm import describe_harm, harm_of, severity
from monitor.reference.quality import MIN_INCREASE
from monitor.reference.thresholds import IN_A_ROW

_KINDS: Final[tuple[DriftKind, ...]] = ("data", "prediction", "quality", "performance")


class DriftedState(State, frozen=True):
    """A model's newest windows: each window's end, and whether it had a finding of this kind."""

    kind: DriftKind
    model: str
    windows: list[tuple[int, bool]]


class DeciderState(State, frozen=True):
    """All state that depends on the events read so far and affects later decisions. A field that
    was renamed in the code keeps its old name in the snapshot file."""

    lifecycles: dict[DriftKind, LifecycleState] = msgspec.field(name="lanes")
    errors: ErrorWatchState
    rule: RetrainState
    drifted: list[DriftedState]
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
        # The newest windows by kind and model: each window's end, and whether it had a finding.
        # `_confirmed` adds windows, and `_data` removes models without records in the last window.
        self._drifted: dict[tuple[DriftKind, str], deque[tuple[int, bool]]] = {}

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
            drifted=[
                DriftedState(kind, model, list(windows))
                for (kind, model), windows in self._drifted.items()
            ],
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
        for drifted in state.drifted:
            decider._recent(drifted.kind, drifted.model).extend(drifted.windows)
        return decider

    def _recent(self, kind: DriftKind, model: str) -> deque[tuple[int, bool]]:
        kept = (IN_A_ROW - 1) * self._stream.overlap
        return self._drifted.setdefault((kind, model), deque(maxlen=kept))

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
        for kind, verdict in _VERDICTS.items():
            lifecycle = self._lifecycles[kind]
            findings = [self._confirmed(kind, window, group, verdict(group)) for group in tested]
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
        names = {group.model for group in window.groups}
        self._drifted = {key: seen for key, seen in self._drifted.items() if key[1] in names}
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

    def _confirmed(
        self, kind: DriftKind, window: DataWindow, group: DataGroup, finding: Finding | None
    ) -> Finding | None:
        """Return the finding with its onset, or None if it is unconfirmed. Alarms, quality findings
        and findings for an open event need no confirmation. A warning is confirmed by a finding in
        either of the two preceding non-overlapping windows (see `_in_disjoint`)."""
        size, slide = window.end - window.start, self._slide(window)
        recent = self._recent(kind, group.model)
        # `before` is true if a finding in an earlier window confirms a warning.
        before = _in_disjoint(recent, window.end, size)
        since = _first_drifted(recent, window.end, size + slide)
        recent.append((window.end, finding is not None))
        if finding is None:
            return None
        finding = msgspec.structs.replace(finding, onset=since - slide)
        limits = group.limits
        if kind == "quality" or limits is None or before or self._lifecycles[kind].open is not None:
            return finding
        columns = group.columns if kind == "data" else _prediction(group)
        scores = [column.score for column in columns if column.drifted]
        if kind == "data":
            scores += [pair.score for pair in group.relations]
        highest = max(scores)
        return finding if limits.alarm is not None and highest >= limits.alarm else None

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


def _in_disjoint(windows: Sequence[tuple[int, bool]], end: int, size: int) -> bool:
    """Return whether either of the two preceding non-overlapping windows had a finding. The two
    windows share no records with each other or with the current window, which ends at `end`.

    >>> _in_disjoint([(20, False), (30, True), (40, False), (50, True)], 60, 20)
    False
    >>> _in_disjoint([(20, True), (30, False), (40, False), (50, False)], 60, 20)
    True
    """
    found = 0
    for at, drifted in reversed(windows):
        if at <= end - size and found < IN_A_ROW - 1:
            if drifted:
                return True
            end, found = at, found + 1
    return False


def _first_drifted(windows: Sequence[tuple[int, bool]], end: int, reach: int) -> int:
    """Return the end of the first window in the current drift, or `end` if only the current window
    drifted. Consecutive findings belong to one drift if their windows end at most `reach` apart.

    >>> _first_drifted([(10, True), (20, False), (30, True), (40, False)], 50, 20)
    10
    >>> _first_drifted([(10, True), (20, False), (30, False), (40, True)], 50, 20)
    40
    """
    for at, drifted in reversed(windows):
        if end - at > reach:
            break
        if drifted:
            end = at
    return end


def _data_verdict(group: DataGroup) -> Finding | None:
    return _drifted(group, group.columns, group.relations)


def _prediction_verdict(group: DataGroup) -> Finding | None:
    return _drifted(group, _prediction(group), ())


def _prediction(group: DataGroup) -> tuple[ColumnResult, ...]:
    return () if group.prediction is None else (group.prediction,)


def _drifted(
    group: DataGroup,
    columns: Sequence[ColumnResult],
    pairs: Sequence[DependenceDrift],
) -> Finding | None:
    drifted = sorted((c for c in columns if c.drifted), key=lambda c: -c.effect)
    messages = []
    if drifted:
        shifts = [f"{column.column} ({column.effect:.2f})" for column in drifted]
        messages.append(f"{len(drifted)} of {len(columns)} shifted: {_listed(shifts)}")
    if pairs:
        changed = [f"{_joined(r.columns)} ({r.effect:.2f})" for r in pairs]
        messages.append(f"dependence changed: {_listed(changed)}")
    if not messages:
        return None
    harm = harm_of(group.estimate)
    if description := describe_harm(group.estimate):
        messages.append(description)
    if group.limits is not None and group.limits.alarm is None:
        messages.append("uncalibrated: the reference is too short")
    names = [c.column for c in drifted] + [name for r in pairs for name in r.columns]
    return Finding(
        columns=tuple(dict.fromkeys(names)),
        severity=severity(max([*(c.effect for c in drifted), *(r.effect for r in pairs)]), harm),
        message="; ".join(messages),
        onset=None,
        harm=harm,
    )


def _joined(names: Sequence[str]) -> str:
    """Join the names with commas and a final "and".

    >>> _joined(["x", "y"]), _joined(["x", "y", "z"])
    ('x and y', 'x, y and z')
    """
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _quality_verdict(group: DataGroup) -> Finding | None:
    increased = [
        (getattr(column, quality) / group.sampled, column.column, quality.replace("_", " "))
        for column in group.columns
        for quality in column.quality
    ]
    columns = [name for _, name, _ in sorted(increased, key=lambda item: -item[0])]
    repeated = group.repeated / max(1, group.sampled)
    # A model is never trained on the same id twice, so its reference has no repeated ids.
    if repeated >= MIN_INCREASE:
        increased.append((repeated, "ids", "repeated"))
    if not increased:
        return None
    increased.sort(key=lambda item: -item[0])
    harm = harm_of(group.estimate)
    messages = [_listed([f"{name} {what} {share:.1%}" for share, name, what in increased])]
    if harm is None and (unknown := describe_harm(group.estimate)):
        messages.append(unknown)
    return Finding(
        columns=tuple(dict.fromkeys(columns)),
        severity=increased[0][0],
        message="; ".join(messages),
        onset=None,
        harm=harm,
    )


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


_VERDICTS: Final[dict[DriftKind, Callable[[DataGroup], Finding | None]]] = {
    "data": _data_verdict,
    "prediction": _prediction_verdict,
    "quality": _quality_verdict,
}
