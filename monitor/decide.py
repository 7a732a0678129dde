"""Decisions: from the `windows` topic to drift events and retrain requests.

In: its events, in the order of its one partition. Out: what to publish. Each kind of event follows
from its own kind of window alone, so drift events do not depend on whether predictions or outcomes
were read first.
"""

from collections.abc import Callable, Sequence
from typing import Final

from driftline.events import (
    ColumnResult,
    DataGroup,
    DataWindow,
    DriftEvent,
    PerformanceGroup,
    PerformancePane,
    PerformanceWindow,
    RetrainRequest,
    WindowsEvent,
)
from driftline.stream import DriftKind, Stream
from monitor.error_watch import ErrorWatch, loss
from monitor.lanes import Finding, Lane
from monitor.retraining import RetrainRule

_KINDS: Final[tuple[DriftKind, ...]] = ("data", "prediction", "quality", "performance")


class Decider:
    """The state of all decisions of one stream; a function of the events read so far."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._lanes = {kind: Lane(stream, kind) for kind in _KINDS}
        self._errors = ErrorWatch(stream)
        self._rule = RetrainRule(stream)

    def read(self, event: WindowsEvent) -> list[DriftEvent | RetrainRequest]:
        """Take in one event; returns what follows from it, in order."""
        if isinstance(event, DataWindow):
            events = self._data(event)
        elif isinstance(event, PerformancePane):
            events = self._pane(event)
        else:
            events = self._performance(event)
        if not isinstance(event, PerformancePane):
            return [*events]
        self._rule.see(event)
        request = self._rule.ask([lane.open for lane in self._lanes.values() if lane.open])
        return [*events, *([request] if request is not None else [])]

    # ---- data, predictions, quality -------------------------------------------------------------

    def _data(self, window: DataWindow) -> list[DriftEvent]:
        # Too few records say neither that there is drift nor that there is none.
        tested = [group for group in window.groups if group.tested]
        if not tested:
            return []
        events: list[DriftEvent | None] = []
        for kind, verdict in _VERDICTS.items():
            lane = self._lanes[kind]
            # What is new in the data is an event even where a newer model knows it already; what
            # is new in the predictions of a model that no longer answers is of no consequence.
            for group in tested[:-1] if kind != "prediction" else ():
                if lane.open is None and (finding := verdict(group, window.start)) is not None:
                    events.append(
                        lane.observe(
                            finding, model=group.model, window=window.id, position=window.end
                        )
                    )
            if not _is_newer(lane.open, tested[-1].model, window):
                events.append(
                    lane.observe(
                        verdict(tested[-1], window.start),
                        model=tested[-1].model,
                        window=window.id,
                        position=window.end,
                    )
                )
        return [event for event in events if event is not None]

    # ---- performance ----------------------------------------------------------------------------

    def _pane(self, pane: PerformancePane) -> list[DriftEvent]:
        finding = self._errors.update(pane)
        if finding is None:
            return []
        event = self._lanes["performance"].observe(
            finding, model=pane.model, window=pane.id, position=pane.end
        )
        return [] if event is None else [event]

    def _performance(self, window: PerformanceWindow) -> list[DriftEvent]:
        found_in, self._errors.found_in = self._errors.found_in, None
        lane = self._lanes["performance"]
        tested = [group for group in window.groups if group.p_value is not None]
        if not tested or _is_newer(lane.open, tested[-1].model, window):
            return []
        group = tested[-1]
        if not group.worse and group.model == found_in:
            return []  # not worse than in training over the whole window, yet not quiet
        event = lane.observe(
            _worse(group, window.start) if group.worse else None,
            model=group.model,
            window=window.id,
            position=window.end,
        )
        return [] if event is None else [event]


def _data_verdict(group: DataGroup, onset: int) -> Finding | None:
    return _drifted(group.columns, onset)


def _prediction_verdict(group: DataGroup, onset: int) -> Finding | None:
    return _drifted((group.prediction,) if group.prediction is not None else (), onset)


def _drifted(columns: Sequence[ColumnResult], onset: int) -> Finding | None:
    drifted = sorted((c for c in columns if c.drifted), key=lambda c: -c.effect)
    if not drifted:
        return None
    listed = ", ".join(f"{column.column} ({column.effect:.2f})" for column in drifted[:5])
    more = f" and {len(drifted) - 5} more" if len(drifted) > 5 else ""
    return Finding(
        columns=tuple(column.column for column in drifted),
        severity=drifted[0].effect,
        message=f"{len(drifted)} of {len(columns)} shifted: {listed}{more}",
        onset=onset,
    )


def _quality_verdict(group: DataGroup, onset: int) -> Finding | None:
    shares = [
        (getattr(column, quality) / group.sampled, column.column, quality)
        for column in group.columns
        for quality in column.quality
    ]
    if not shares:
        return None
    shares.sort(key=lambda item: -item[0])
    listed = ", ".join(
        f"{column} {quality.replace('_', ' ')} {share:.1%}" for share, column, quality in shares[:5]
    )
    more = f" and {len(shares) - 5} more" if len(shares) > 5 else ""
    return Finding(
        columns=tuple(dict.fromkeys(column for _, column, _ in shares)),
        severity=shares[0][0],
        message=listed + more,
        onset=onset,
    )


def _worse(group: PerformanceGroup, onset: int) -> Finding:
    before = group.reference_error or 0.0
    return Finding(
        columns=(),
        severity=loss(before, group.error),
        message=f"error {group.error:.4g} in the window, {before:.4g} when the model was trained",
        onset=onset,
    )


def _is_newer(event: DriftEvent | None, model: str, window: DataWindow | PerformanceWindow) -> bool:
    """Whether the open event is of a model that answered after `model`: it says nothing of it."""
    names = [group.model for group in window.groups]
    return event is not None and event.model in names[names.index(model) + 1 :]


_VERDICTS: Final[dict[DriftKind, Callable[[DataGroup, int], Finding | None]]] = {
    "data": _data_verdict,
    "prediction": _prediction_verdict,
    "quality": _quality_verdict,
}
