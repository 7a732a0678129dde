"""Derive findings from one model's data windows: drift of columns and predictions, and quality.

Input: tested groups of data windows, in order. Output: findings for the event lifecycles. The state
consists of the newest windows' signs, and of the unseen categories that have been reported.
"""

from collections import deque
from collections.abc import Sequence, Set
from math import inf
from typing import Final

import msgspec

from driftline.config.stream import Stream
from driftline.config.stream_sections import DriftKind
from driftline.wire.events import DriftEvent
from driftline.wire.window_events import ColumnResult, DataGroup, DataWindow
from monitor.decisions.event_lifecycle import Finding
from monitor.decisions.plain_state import State
from monitor.estimates.harm import describe_harm, harm_of, severity
from monitor.reference.quality import MIN_INCREASE
from monitor.reference.thresholds import IN_A_ROW

WINDOW_KINDS: Final[tuple[DriftKind, ...]] = ("data", "prediction", "quality")
# Maximum number of reported categories to remember, by model and column. If there are more, the
# oldest is forgotten, and reported again if it is still unseen.
MAX_LEVELS: Final = 1_000

# A sign of drift: a column, or the columns of a pair; for quality, a column and its problem.
Sign = tuple[str, ...]
Window = tuple[int, list[Sign]]  # a window's end and its signs


class SignsState(State, frozen=True):
    """A model's newest windows: each window's end and its signs of this kind."""

    kind: DriftKind
    model: str
    windows: list[Window]


class LevelsState(State, frozen=True):
    """The unseen categories of a model's column that have been reported."""

    model: str
    column: str
    levels: list[str]


class WindowFindingsState(State, frozen=True):
    """The state of `WindowFindings`."""

    signs: list[SignsState]
    levels: list[LevelsState]


class WindowFindings:
    """Finds drift and quality problems in data windows.

    A column or pair is evidence if its score is an alarm. It is also evidence if its score is a
    warning and it had a warning in either of the two preceding non-overlapping windows (see
    `_in_disjoint`), or if the open event names it. A finding consists of evidence only, and its
    onset is the first window in which the same columns or pairs drifted.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        # The newest windows by kind and model. `find` adds windows, and `forget_others` removes
        # models without records in the last window.
        self._recent: dict[tuple[DriftKind, str], deque[Window]] = {}
        # Reported unseen categories by model and column, the oldest first. Added and removed like
        # `_recent`.
        self._levels: dict[tuple[str, str], list[str]] = {}

    def state(self) -> WindowFindingsState:
        """Return the state as plain data."""
        return WindowFindingsState(
            [SignsState(*key, list(windows)) for key, windows in self._recent.items()],
            [LevelsState(*key, levels) for key, levels in self._levels.items()],
        )

    def restore(self, state: WindowFindingsState) -> None:
        """Restore a saved state."""
        for own in state.signs:
            self._windows(own.kind, own.model).extend(own.windows)
        self._levels = {(own.model, own.column): own.levels for own in state.levels}

    def forget_others(self, models: Set[str]) -> None:
        """Remove the state of all models except `models`."""
        self._recent = {key: own for key, own in self._recent.items() if key[1] in models}
        self._levels = {key: own for key, own in self._levels.items() if key[0] in models}

    def find(
        self, kind: DriftKind, window: DataWindow, group: DataGroup, event: DriftEvent | None
    ) -> Finding | None:
        """Return a tested group's finding, or None. Call this once per kind, window and group.
        `event` is the open event of this kind."""
        size = window.end - window.start
        slide = size // self._stream.overlap
        recent = self._windows(kind, group.model)
        if kind == "quality":
            group = self._without_reported(group)
        scores = _scores(kind, group)
        confirmed = _in_disjoint(recent, window.end, size)
        if event is not None:
            confirmed.update(sign for sign in scores if set(sign) <= set(event.columns))
        alarm = inf if group.limits is None or kind == "quality" else group.limits.alarm
        evidence = {
            sign
            for sign, score in scores.items()
            if sign in confirmed or (alarm is not None and score >= alarm)
        }
        since = _first(recent, evidence, window.end, size + slide)
        recent.append((window.end, list(scores)))
        if not evidence:
            return None
        verdict = _quality if kind == "quality" else _drift
        return msgspec.structs.replace(verdict(kind, group, evidence), onset=since - slide)

    def _windows(self, kind: DriftKind, model: str) -> deque[Window]:
        kept = (IN_A_ROW - 1) * self._stream.overlap
        return self._recent.setdefault((kind, model), deque(maxlen=kept))

    def _without_reported(self, group: DataGroup) -> DataGroup:
        """Return the group without the unseen categories that have been reported, and remember the
        others as reported.

        A new station is one event, not one that stays open until the next training. Whether its
        share changes is tested like that of any other category.
        """
        columns = tuple(self._without_levels(group, column) for column in group.columns)
        return msgspec.structs.replace(group, columns=columns)

    def _without_levels(self, group: DataGroup, column: ColumnResult) -> ColumnResult:
        if "unseen" not in column.quality or not column.unseen_levels:
            return column
        reported = self._levels.setdefault((group.model, column.column), [])
        new = tuple(level for level in column.unseen_levels if level.level not in reported)
        records = sum(level.records for level in new)
        if records < MIN_INCREASE * group.sampled:
            quality = tuple(each for each in column.quality if each != "unseen")
            return msgspec.structs.replace(column, quality=quality)
        reported.extend(level.level for level in new)
        del reported[:-MAX_LEVELS]
        return msgspec.structs.replace(column, unseen=records, unseen_levels=new)


def _in_disjoint(windows: Sequence[Window], end: int, size: int) -> set[Sign]:
    """Return the signs of the two preceding non-overlapping windows. The two windows share no
    records with each other or with the current window, which ends at `end`.

    >>> x, y = ("x",), ("y",)
    >>> _in_disjoint([(20, []), (30, [x]), (40, []), (50, [y])], 60, 20)
    set()
    >>> _in_disjoint([(20, [x]), (30, []), (40, []), (50, [y])], 60, 20)
    {('x',)}
    """
    signs: set[Sign] = set()
    found = 0
    for at, own in reversed(windows):
        if at <= end - size and found < IN_A_ROW - 1:
            signs.update(own)
            end, found = at, found + 1
    return signs


def _first(windows: Sequence[Window], signs: Set[Sign], end: int, reach: int) -> int:
    """Return the end of the first window in the current drift, or `end` if only the current window
    drifted. Consecutive windows with any of the `signs` belong to one drift if they end at most
    `reach` apart.

    >>> x, y = ("x",), ("y",)
    >>> _first([(10, [x]), (20, []), (30, [x, y]), (40, [])], {x}, 50, 20)
    10
    >>> _first([(10, [x]), (20, []), (30, [y]), (40, [x])], {x}, 50, 20)
    40
    """
    for at, own in reversed(windows):
        if end - at > reach:
            break
        if not signs.isdisjoint(own):
            end = at
    return end


def _scores(kind: DriftKind, group: DataGroup) -> dict[Sign, float]:
    """Return the scores of the columns and pairs that drifted, by sign. Quality problems need no
    confirmation, so their score is infinite, as if there are no limits."""
    if kind == "quality":
        found: dict[Sign, float] = {
            (column.column, quality): inf for column in group.columns for quality in column.quality
        }
        # A model is never trained on the same id twice, so its reference has no repeated ids.
        if group.repeated >= MIN_INCREASE * max(1, group.sampled):
            found["", "repeated"] = inf
        return found
    found = {(column.column,): column.score for column in _columns(kind, group) if column.drifted}
    if kind == "data":
        found |= {pair.columns: pair.score for pair in group.relations}
    return found if group.limits is not None else dict.fromkeys(found, inf)


def _columns(kind: DriftKind, group: DataGroup) -> tuple[ColumnResult, ...]:
    if kind == "data":
        return group.columns
    return () if group.prediction is None else (group.prediction,)


def _drift(kind: DriftKind, group: DataGroup, evidence: Set[Sign]) -> Finding:
    columns = _columns(kind, group)
    drifted = sorted((c for c in columns if (c.column,) in evidence), key=lambda c: -c.effect)
    pairs = [r for r in group.relations if kind == "data" and r.columns in evidence]
    messages = []
    if drifted:
        shifts = [f"{column.column} ({column.effect:.2f})" for column in drifted]
        messages.append(f"{len(drifted)} of {len(columns)} shifted: {_listed(shifts)}")
    if pairs:
        changed = [f"{_joined(r.columns)} ({r.effect:.2f})" for r in pairs]
        messages.append(f"dependence changed: {_listed(changed)}")
    if description := describe_harm(group.estimate):
        messages.append(description)
    names = [c.column for c in drifted] + [name for r in pairs for name in r.columns]
    harm = harm_of(group.estimate)
    unsure = [] if group.limits is None else list(group.limits.uncalibrated)
    if unsure := [name for name in dict.fromkeys(names) if name in unsure]:
        messages.append(f"uncalibrated, because the reference is too short: {_listed(unsure)}")
    return Finding(
        columns=tuple(dict.fromkeys(names)),
        severity=severity(max([*(c.effect for c in drifted), *(r.effect for r in pairs)]), harm),
        message="; ".join(messages),
        onset=None,
        harm=harm,
    )


def _quality(kind: DriftKind, group: DataGroup, evidence: Set[Sign]) -> Finding:
    increased = []
    for column in group.columns:
        for quality in column.quality:
            what = quality.replace("_", " ")
            if quality == "unseen" and column.unseen_levels:
                what += f" ({_listed([level.level for level in column.unseen_levels])})"
            increased.append((getattr(column, quality) / group.sampled, column.column, what))
    increased.sort(key=lambda item: -item[0])
    columns = tuple(dict.fromkeys(name for _, name, _ in increased))
    if ("", "repeated") in evidence:
        increased.append((group.repeated / group.sampled, "ids", "repeated"))
        increased.sort(key=lambda item: -item[0])
    harm = harm_of(group.estimate)
    messages = [_listed([f"{name} {what} {share:.1%}" for share, name, what in increased])]
    if harm is None and (unknown := describe_harm(group.estimate)):
        messages.append(unknown)
    return Finding(
        columns=columns,
        severity=increased[0][0],
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
