"""Detect increases in the serving model's error, and estimate when they started.

Input: performance panes and windows, in the order of the topic `windows`. Output: a finding for
each increase that is large enough to matter.
"""

from collections import deque
from typing import Final

from driftline.config.measure import Measure
from driftline.config.stream import Stream
from driftline.config.stream_sections import Task
from driftline.wire.window_events import PerformanceGroup, PerformancePane
from monitor.decisions.detectors import REMEMBERED, DetectorState, ErrorDetector, Increase
from monitor.decisions.event_lifecycle import Finding
from monitor.decisions.plain_state import Count, State, put, take
from monitor.error_scale import describe_increase, floor_of, known_scale, relative_increase

# Share of `[drift] false_alarm_rate` that the error detectors may spend. The default rate of one
# false event in 200 windows then allows them one false alarm in 1,000 windows.
DETECTORS_SHARE: Final = 0.2
# Number of errors per window that is assumed for windows in event time, whose number of records is
# unknown. The threshold depends on its logarithm only.
USUAL_ERRORS: Final = 1_000
# Number of phases into which `[drift] block` is divided: an hour of a two-day season, for example.
# Fewer phases would blur the season, more would need more errors per phase.
PHASES: Final = 48


class ErrorWatchState(State, frozen=True):
    """The state of an `ErrorWatch`."""

    detectors: list[DetectorState]
    model: str | None
    newest: int | None
    panes: list[tuple[int, int, Count]]
    recent: list[float]
    early: dict[str, Increase]
    found_in: str | None


class ErrorWatch:
    """The detectors that watch the serving model's errors."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._phases = _phase_count(stream)
        # Only 0/1 errors are counts. Detectors scale all other losses, as in regression.
        task: Task = "classification" if stream.judged_by.is_binary else "regression"
        self._detectors = [
            ErrorDetector(name, task, run_length=_run_length(stream), phases=self._phases)
            for name in dict.fromkeys(stream.drift.detectors)
        ]
        # The serving model. At a new model's first pane, `update` sets this attribute, and resets
        # the detectors, `_panes`, `_recent` and `_early`.
        self._model: str | None = None
        self._newest: int | None = None  # largest record position so far, across all models
        # Each recent pane's first position, last position and number of errors.
        self._panes: deque[tuple[int, int, int]] = deque()
        self._recent: deque[float] = deque(maxlen=REMEMBERED)
        self._early: dict[str, Increase] = {}  # increases that are still too small, by detector
        # The model with a finding since the last performance window, or None.
        # `Decider._performance` resets it to None at each performance window.
        self.found_in: str | None = None

    def state(self) -> ErrorWatchState | None:
        """Return the state as plain data, or None if any detector is from River."""
        detectors = [detector.state() for detector in self._detectors]
        return None if None in detectors else take(ErrorWatchState, self, detectors=detectors)

    def restore(self, state: ErrorWatchState) -> None:
        """Restore a saved state. Raises ValueError if the state belongs to other detectors."""
        for detector, kept in zip(self._detectors, state.detectors, strict=True):
            detector.restore(kept)
        put(state, self, "detectors")

    def update(self, pane: PerformancePane) -> Finding | None:
        """Add a pane. Return a finding if a detector finds a large enough increase in the error."""
        newest = self._newest
        if pane.loss != self._stream.judged_by.loss:
            return None  # published before the metric in the stream file changed
        if pane.model != self._model:
            if newest is not None and pane.last_position <= newest:
                return None  # late labels for a model that no longer serves
            self._model = pane.model
            self._restart(pane)
        self._newest = pane.last_position if newest is None else max(newest, pane.last_position)
        self._recent.extend(pane.errors)
        self._panes.append((pane.first_position, pane.last_position, len(pane.errors)))
        while sum(count for _, _, count in self._panes) - self._panes[0][2] > REMEMBERED:
            self._panes.popleft()
        found = [
            (detector.name, increase)
            for detector in self._detectors
            if (increase := self._large_increase(detector, pane)) is not None
        ]
        if not found:
            return None
        self.found_in = pane.model
        name, increase = found[0]
        scale = known_scale(self._stream.judged_by, pane.error_scale, pane.reference_error)
        rise = increase.before, increase.after, floor_of(scale)
        return Finding(
            columns=(),
            severity=relative_increase(*rise),
            message=describe_increase(*rise),
            onset=self._onset(increase.ago),
            detector=name,
            notable=True,
        )

    def _large_increase(self, detector: ErrorDetector, pane: PerformancePane) -> Increase | None:
        """Return a large enough increase that `detector` found in `pane` or shortly before, if any.
        A gradual increase is found while it is still small, so it is kept in `_early` until it has
        grown."""
        detector.update(pane.errors, self._phases_of(pane))
        increases = list(detector.increases)
        if (early := self._early.pop(detector.name, None)) is not None:
            ago = early.ago + len(pane.errors)
            increases.insert(0, Increase(ago, early.before, self._mean_of_last(ago)))
        for increase in reversed(increases):
            if self._is_large_enough(increase, pane):
                return increase
        if increases and increases[0].ago <= REMEMBERED:
            self._early[detector.name] = increases[0]
        return None

    def _is_large_enough(self, increase: Increase, pane: PerformancePane) -> bool:
        """Return whether the new error exceeds both the earlier error and the held-out error by at
        least `min_metric_loss`. With a season, the held-out errors may cover only a part of it, so
        they are not compared."""
        least = 1.0 + self._stream.drift.min_metric_loss
        if increase.after < increase.before * least:
            return False
        known = None if self._phases > 1 else pane.reference_error
        return known is None or self._mean_of_last(increase.ago) >= known * least

    def _mean_of_last(self, count: int) -> float:
        recent = list(self._recent)[-count:]
        return sum(recent) / max(1, len(recent))

    def _restart(self, pane: PerformancePane) -> None:
        """Prepare for the model of `pane`, its first."""
        self._panes.clear()
        self._recent.clear()
        self._early.clear()
        scale = known_scale(self._stream.judged_by, pane.error_scale, pane.reference_error)
        # Held-out errors that cover only a part of a season seem autocorrelated. With a season, the
        # detectors use only the autocorrelation that remains in the stream's own errors.
        inflation = 1.0 if self._phases > 1 else pane.error_inflation
        for detector in self._detectors:
            detector.reset(inflation, scale)

    def _phases_of(self, pane: PerformancePane) -> list[int] | None:
        """Return the phase of each error of `pane`. Errors are ordered by the positions at which
        their labels became known; these positions are assumed to be evenly spaced."""
        season, count = self._stream.block, len(pane.errors)
        if self._phases == 1 or season is None:
            return None
        length = pane.end - pane.start
        places = (pane.start + (2 * i + 1) * length // (2 * count) for i in range(count))
        return [place % season * self._phases // season for place in places]

    def _onset(self, ago: int) -> int:
        """Estimate the position of the record whose error came `ago` errors before the end of the
        last pane."""
        for first, last, count in reversed(self._panes):
            if ago <= count:
                return first + (last - first) * (count - ago) // max(1, count - 1)
            ago -= count
        return self._panes[0][0]


def degradation(measure: Measure, group: PerformanceGroup, onset: int) -> Finding:
    """Return the finding for a window whose error is higher than the held-out error."""
    before, error = group.reference_error or 0.0, group.error or 0.0
    scale = known_scale(measure, group.error_scale, group.reference_error)
    return Finding(
        columns=(),
        severity=relative_increase(before, error, floor_of(scale)),
        message=f"error {error:.4g} in the window, {before:.4g} when the model was trained",
        onset=onset,
    )


def _run_length(stream: Stream) -> float:
    """Return the accepted average number of errors between two false alarms of the detectors."""
    errors = USUAL_ERRORS if stream.axis == "time" else stream.window_size
    windows = 1.0 / (DETECTORS_SHARE * stream.drift.false_alarm_rate)
    return windows * min(errors, stream.windows.max_sample)


def _phase_count(stream: Stream) -> int:
    """Return the number of phases of the season that `[drift] block` states, or 1. A season that is
    not longer than two panes needs no phases, because every pane contains most of it."""
    season = stream.block
    if season is None or season <= 2 * stream.pane_size:
        return 1
    return min(PHASES, season)
