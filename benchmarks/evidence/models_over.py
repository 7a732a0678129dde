"""Simulate a model on an in-memory drifting stream, and retrain it after each alarm.

Input: a stream, and a watcher that raises alarms from error detectors or from drift events. Output:
the rows at which alarms were raised, and how many rows the best possible test would need to detect
each change. Each new model is trained on the rows since the drift's onset.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.evidence.drifting import Drifting, bound, bound_of_errors
from driftline.config.measure import default_measure
from driftline.config.stream import Stream, loads
from driftline.config.stream_sections import Task
from driftline.learning.metrics import Answers
from driftline.wire.events import DriftEvent
from driftline.wire.window_events import PerformanceGroup, PerformancePane, PerformanceWindow
from monitor.decisions.decider import Decider
from monitor.decisions.error_watch import ErrorWatch
from monitor.error_scale import error_scale
from monitor.merged_windows.performance_windows import WINDOWS_SHARE, inflation_within_block
from monitor.metric_sums import HeldErrors, Tally, compare_error
from monitor.tallies import new_tally
from monitor.variance_inflation import variance_inflation

Floats = NDArray[np.float64]

WINDOW: Final = 1_000
PANES: Final = 20  # number of panes per window
# A new model is trained on at least this many rows since the onset. Fewer rows give a poor model.
RETRAIN_ROWS: Final = 1_000
HELD_OUT: Final = 5  # every fifth row is held out to measure the model's error


class Alarm(msgspec.Struct, frozen=True):
    """An alarm raised at `row`, for a change estimated to have begun at `onset`."""

    row: int
    onset: int | None


class WatcherResult(msgspec.Struct, frozen=True):
    """The alarms, and how many rows the best possible test would need to detect each change."""

    alarms: tuple[Alarm, ...]
    bounds: tuple[float, ...]


class Watch(Protocol):
    """A watcher that receives panes and windows, and returns an alarm or None for each."""

    def pane(self, pane: PerformancePane) -> Alarm | None: ...
    def window(self, window: PerformanceWindow) -> Alarm | None: ...


class DetectorWatch:
    """A watcher that raises alarms from error detectors alone."""

    def __init__(self, stream: Stream) -> None:
        self._errors = ErrorWatch(stream)

    def pane(self, pane: PerformancePane) -> Alarm | None:
        finding = self._errors.update(pane)
        return None if finding is None else Alarm(pane.end, finding.onset)

    def window(self, window: PerformanceWindow) -> Alarm | None:
        return None


class EventWatch:
    """A watcher that raises an alarm when the decider opens or updates a drift event."""

    def __init__(self, stream: Stream) -> None:
        self._decider = Decider(stream)

    def pane(self, pane: PerformancePane) -> Alarm | None:
        return self._alarm_of(pane)

    def window(self, window: PerformanceWindow) -> Alarm | None:
        return self._alarm_of(window)

    def _alarm_of(self, event: PerformancePane | PerformanceWindow) -> Alarm | None:
        for decided in self._decider.read(event):
            if isinstance(decided, DriftEvent) and decided.action != "resolved":
                return Alarm(decided.position, decided.onset)
        return None


def stream_with(
    detectors: Sequence[str], *, regression: bool = False, window: int = WINDOW
) -> Stream:
    """Return a stream with these detectors, and with defaults for all other settings."""
    names = ", ".join(f'"{name}"' for name in detectors)
    task = "regression" if regression else "classification"
    return loads(
        f'version = 1\nname = "evidence"\ntask = "{task}"\ntarget = "y"\n'
        f'[features]\nx = "number"\n[windows]\nrecords = {window}\n[drift]\ndetectors = [{names}]\n'
    )


class WatchedModel(msgspec.Struct, frozen=True):
    """What panes and windows contain about a model. `reference` (m,) are its held-out errors."""

    name: str
    reference: Floats
    variance_inflation: float
    error_scale: float | None

    @classmethod
    def of(cls, name: str, task: Task, reference: Floats, labels: NDArray[Any]) -> "WatchedModel":
        """Return a model with held-out errors and their labels, both (m,)."""
        scale = error_scale(default_measure(task), reference, labels)
        return cls(name, reference, variance_inflation(reference), scale)


class _Model:
    """A decision tree with its held-out errors and its errors on the whole stream."""

    def __init__(self, stream: Drifting, rows: slice, name: str) -> None:
        from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

        kind = DecisionTreeRegressor if stream.regression else DecisionTreeClassifier
        self._stream = stream
        x, y = stream.x[rows], stream.y[rows]
        held = np.arange(len(x)) % HELD_OUT == 0
        self._tree: Any = kind(max_depth=8, min_samples_leaf=10, random_state=0)
        self._tree.fit(x[~held], y[~held])
        task: Task = "regression" if stream.regression else "classification"
        self.watched = WatchedModel.of(name, task, self.errors_of(x[held], y[held]), y[held])
        self.errors = self.errors_of(stream.x, stream.y)

    def errors_of(self, x: Floats, y: Floats) -> Floats:
        predictions = self._tree.predict(x)
        errors: Floats = (
            np.abs(predictions - y)
            if self._stream.regression
            else (predictions != y).astype(np.float64)
        )
        return errors


def run(stream: Drifting, make: Callable[[Stream], Watch], config: Stream) -> WatcherResult:
    """Watch a stream pane by pane. A new model serves from the first pane after its training."""
    watch = make(config)
    window = config.window_size
    size = window // PANES
    model = _Model(stream, slice(0, stream.training), "0")
    alarms: list[Alarm] = []
    bounds: list[float] = []
    fresh = [stream.fresh(concept) for concept in range(len(stream.changes) + 1)]
    since: int | None = None
    tallies: Tallies = {}
    for start in range(stream.training, len(stream.y) - size + 1, size):
        end = start + size
        while len(bounds) < len(stream.changes) and start >= stream.changes[len(bounds)].row:
            bounds.append(_bound(stream, model, fresh[len(bounds)], fresh[len(bounds) + 1]))
        errors = model.errors[start:end]
        alarm = watch.pane(pane_event(model.watched, start, errors))
        add(tallies, config, model.watched, errors)
        if end % window == 0:
            alarm = watch.window(window_event(config, end, tallies)) or alarm
            tallies = {}
        if alarm is not None:
            alarms.append(alarm)
            since = alarm.onset if alarm.onset is not None else end
        if since is not None and end - since >= RETRAIN_ROWS:
            model = _Model(stream, slice(since, end), str(end))
            since = None
    return WatcherResult(tuple(alarms), tuple(bounds))


def _bound(
    stream: Drifting, model: _Model, old: tuple[Floats, Floats], new: tuple[Floats, Floats]
) -> float:
    before, after = model.errors_of(*old), model.errors_of(*new)
    if stream.regression:
        return bound_of_errors(before, after)
    return bound(float(before.mean()), float(after.mean()))


# The tallies of the models that served in a window, by name.
Tallies = dict[str, tuple[Tally, WatchedModel]]


def add(tallies: Tallies, config: Stream, model: WatchedModel, errors: Floats) -> None:
    """Add a model's errors to the tallies of a window."""
    tally, _ = tallies.setdefault(model.name, (new_tally(config.judged_by), model))
    tally.add(errors.tolist(), Answers([0.0] * len(errors)))


def pane_event(model: WatchedModel, start: int, errors: Floats) -> PerformancePane:
    """Return the event of a pane that starts at the row `start`."""
    return PerformancePane(
        id=f"p{start}",
        index=start // len(errors),
        start=start,
        end=start + len(errors),
        model=model.name,
        records=len(errors),
        errors=tuple(errors.tolist()),
        reference_error=float(model.reference.mean()),
        first_position=start,
        last_position=start + len(errors) - 1,
        row=start + len(errors) - 1,
        time=None,
        error_inflation=model.variance_inflation,
        error_scale=model.error_scale,
    )


def window_event(config: Stream, end: int, tallies: Tallies) -> PerformanceWindow:
    """Return the event of a window that ends before the row `end`."""
    groups = []
    for name, (tally, model) in tallies.items():
        found = None
        if tally.records >= config.windows.min_records:
            found = compare_error(
                tally,
                HeldErrors.of(model.reference),
                variance_inflation=inflation_within_block(
                    model.variance_inflation, tally.records, len(model.reference), config.block
                ),
                level=WINDOWS_SHARE * config.drift.false_alarm_rate,
                min_loss=config.drift.min_metric_loss,
            )
        groups.append(
            PerformanceGroup(
                model=name,
                records=tally.records,
                metric=None,
                error=tally.error(),
                reference_error=None if found is None else found.reference_error,
                p_value=None if found is None else found.p_value,
                worse=found is not None and found.is_degraded,
                error_scale=model.error_scale,
            )
        )
    return PerformanceWindow(
        id=f"w{end}",
        index=end // config.window_size - 1,
        start=end - config.window_size,
        end=end,
        records=config.window_size,
        late=0,
        revised=0,
        row=end - 1,
        time=None,
        metric="accuracy",
        value=None,
        groups=tuple(groups),
    )
