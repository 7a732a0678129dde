"""Run drift detectors, from River or this package, on a sequence of one model's errors.

Input: errors in order: 0 or 1 for classification, absolute errors of any scale for regression.
Output: whether the error has increased, and how many values ago. All detectors have the same
interface. Decreases are not reported. Memory use is bounded.
"""

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, cast

import msgspec
import numpy as np
from msgspec import structs

from driftline.config.stream import Stream
from driftline.config.stream_sections import Task
from driftline.errors import StreamFileError
from monitor.decisions import river_detectors as river
from monitor.decisions.autocorrelation_check import Autocorrelation, AutocorrelationState
from monitor.decisions.change_tests import (
    LikelihoodRatio,
    Split,
    Stepd,
    TestState,
)
from monitor.decisions.plain_state import Count, State, put, take
from monitor.error_scale import clipping_level

# Absolute errors are divided by the model's error scale (see `monitor.error_scale`), and clipped at
# 1. Detectors need bounded values, and a single extreme error is not drift. If the scale is
# unknown, it is computed from the first `SCALE_VALUES` errors.
SCALE_VALUES: Final = 100
# DDM counts failures. An absolute error of more than 40% of the scale is a failure, which is about
# twice the mean error if errors are exponential.
FAILURE: Final = 0.4
# Number of recent errors to store. `_locate` uses them if the detector does not locate an increase.
REMEMBERED: Final = 2_000


class Increase(msgspec.Struct, frozen=True):
    """An increase in the error. It started `ago` values before the end of the last update."""

    ago: int
    before: float  # mean error before the increase, with extreme errors clipped
    after: float


class DetectorState(State, frozen=True):
    """The state of an `ErrorDetector`. A field that was renamed in the code keeps its old name in
    the snapshot file."""

    name: str
    autocorrelation: AutocorrelationState = msgspec.field(name="runs")
    test: TestState
    recent: list[float]
    first: list[tuple[float, Count]]
    scale: float | None


class _Setting(msgspec.Struct, frozen=True):
    """What a detector may depend on. `run_length` is the accepted average number of errors between
    two false alarms. `phases` is the number of phases of a season, or 1."""

    task: Task
    autocorrelation: Autocorrelation
    run_length: float
    phases: int


class _Kind(msgspec.Struct, frozen=True):
    make: Callable[[_Setting], river.RiverDetector]
    failures: bool = False  # True if the detector accepts only 0 and 1


# By chance, a likelihood ratio reaches e^t about once in e^t values (Lorden, 1971). `glr` is
# evaluated only once per piece and ignores short bursts, so its threshold may be lower than the
# logarithm of the run length. A threshold of 10 was exceeded once in e^12.9 errors at an error rate
# of 50%, in e^13.4 at 30%, in e^13.8 at 10% and in e^14.7 at 2%; with exponential errors, a
# threshold of 9 once in e^13.
GLR_OFFSET: Final = 2.7
# The run length of a detector on its own, outside of a stream's windows.
RUN_LENGTH: Final = 1e6
# The authors of STEPD use 30, which causes a false alarm every few hundred values.
STEPD_WINDOW: Final = 100
STEPD_SIGMAS: Final = 4.5


def _glr(setting: _Setting) -> LikelihoodRatio:
    return LikelihoodRatio(
        math.log(setting.run_length) - GLR_OFFSET,
        binary=setting.task == "classification",
        autocorrelation=setting.autocorrelation,
        phases=setting.phases,
    )


DETECTORS: Final[dict[str, _Kind]] = {
    "glr": _Kind(_glr),
    "stepd": _Kind(lambda _: Stepd(window=STEPD_WINDOW, sigmas=STEPD_SIGMAS)),
    "adwin": _Kind(lambda _: river.adwin()),
    "page_hinkley": _Kind(lambda _: river.page_hinkley()),
    "ddm": _Kind(lambda _: river.ddm(), failures=True),
    "hddm_a": _Kind(lambda _: river.hddm_a()),
    "hddm_w": _Kind(lambda _: river.hddm_w()),
}


# Tests whose state can be saved in a snapshot file.
_OWN: Final = (LikelihoodRatio, Stepd)


class ErrorDetector:
    """A detector that reports only increases in the error.

    After a call to `update`, `increases` contains the increases found in that call's errors. How
    errors are divided into calls does not affect which increases are found. `warning` is true while
    the detector is in its warning zone. Some detectors have no warning zone. The detector restarts
    after each increase, and `reset` restarts it for a new model. Memory use is bounded. Only the
    detector `glr` takes autocorrelation, seasons and the run length into account.
    """

    def __init__(
        self,
        name: str,
        task: Task,
        variance_inflation: float = 1.0,
        *,
        run_length: float = RUN_LENGTH,
        phases: int = 1,
    ) -> None:
        """`run_length` is the accepted average number of errors between two false alarms. `phases`
        is the number of phases of a season, or 1 if the errors have no season."""
        self.name = name
        self._task = task
        self._run_length = run_length
        self._phases = phases
        self.reset(variance_inflation)

    def reset(self, variance_inflation: float = 1.0, scale: float | None = None) -> None:
        """Prepare for a new model's errors by discarding all state. `variance_inflation` is the
        variance inflation of the new model's mean held-out error. `scale` is the level at which its
        absolute errors are clipped, or None if it is unknown."""
        self._autocorrelation = Autocorrelation(variance_inflation)
        self._test = self._new_test()
        self._recent: deque[float] = deque(maxlen=REMEMBERED)  # raw errors since the last change
        self._first: list[tuple[float, int]] = []  # errors buffered until the scale is known
        self._scale: float | None = 1.0 if self._task == "classification" else scale
        self.increases: tuple[Increase, ...] = ()  # increases that the last `update` found

    def state(self) -> DetectorState | None:
        """Return the state as plain data, or None if the detector is from River."""
        if not isinstance(self._test, _OWN):
            return None
        return take(
            DetectorState,
            self,
            autocorrelation=self._autocorrelation.state(),
            test=self._test.state(),
        )

    def restore(self, state: DetectorState) -> None:
        """Restore a saved state. Raises ValueError if the state belongs to another detector."""
        self.reset()
        self._autocorrelation.restore(state.autocorrelation)
        # Create the test again, because its threshold depends on the restored autocorrelation.
        self._test = test = self._new_test()
        if state.name != self.name or not isinstance(test, _OWN):
            raise ValueError(f"this is the state of detector {state.name}, not of {self.name}")
        if type(state.test) is not type(test.state()):
            raise ValueError(f"this is not a state of detector {self.name}")
        test.restore(state.test)  # type: ignore[arg-type]  # the types were checked above
        put(state, self, "name", "autocorrelation", "test")

    @property
    def drift(self) -> bool:
        """Return whether the last `update` found an increase."""
        return bool(self.increases)

    @property
    def warning(self) -> bool:
        """Return whether an increase is likely. The result is always False for a detector without
        a warning zone."""
        return bool(getattr(self._test, "warning_detected", False))

    def update(self, errors: Sequence[float], phases: Sequence[int] | None = None) -> None:
        """Add errors in order. `phases` contains each error's phase in the season, if any."""
        increases: list[Increase] = []
        kind = DETECTORS[self.name]
        left = len(errors)
        for error, phase in zip(errors, phases or [0] * left, strict=True):
            left -= 1
            known = self._known(error, phase)
            for place, (raw, own_phase) in enumerate(known, 1):
                self._recent.append(raw)
                value = min(raw / cast(float, self._scale), 1.0)
                if isinstance(self._test, LikelihoodRatio):
                    self._test.update(value, own_phase)
                else:
                    self._test.update(value > FAILURE if kind.failures else value)
                if self._test.drift_detected and (increase := self._found()) is not None:
                    increases.append(
                        structs.replace(increase, ago=increase.ago + len(known) - place + left)
                    )
        self.increases = tuple(increases)

    def _new_test(self) -> river.RiverDetector | LikelihoodRatio:
        setting = _Setting(self._task, self._autocorrelation, self._run_length, self._phases)
        return DETECTORS[self.name].make(setting)

    def _known(self, error: float, phase: int) -> Sequence[tuple[float, int]]:
        """Return the errors to test, with their phases. Until the scale is known, errors are
        buffered and the result is empty. Once it is known, return all buffered errors, and from
        then on only the new error."""
        if self._scale is not None:
            return ((error, phase),)
        self._first.append((error, phase))
        if len(self._first) < SCALE_VALUES:
            return ()
        # Until enough of the buffered errors differ from 0, the scale is undefined. Drop the oldest
        # error and wait for the next error.
        first, scale = self._first, clipping_level([error for error, _ in self._first])
        if scale <= 0.0:
            del first[0]
            return ()
        self._scale, self._first = scale, []
        return first

    def _found(self) -> Increase | None:
        """Return the increase that the test detected, or None if the change is a decrease."""
        scale = cast(float, self._scale)
        split = getattr(self._test, "split", None)
        if split is None:
            split = _locate([min(raw / scale, 1.0) for raw in self._recent])
        if split.after <= split.before:
            self._recent.clear()
            return None
        since = list(self._recent)[-split.ago :]
        self._recent.clear()
        self._test = self._new_test()
        if self._task == "regression":  # adapt the scale to the larger errors
            self._scale = max(scale, clipping_level(since))
        return Increase(split.ago, split.before * scale, split.after * scale)


def check(stream: Stream) -> None:
    """Raise StreamFileError if the stream file lists an unknown detector."""
    for name in stream.drift.detectors:
        if name not in DETECTORS:
            raise StreamFileError(
                f"stream {stream.name}: [drift.detectors] no such detector: {name!r}",
                hint="expected one or more of " + ", ".join(DETECTORS),
            )


def _locate(values: Sequence[float]) -> Split:
    """Return the most likely single change in the mean, located by least squares."""
    data = np.asarray(values, dtype=np.float64)
    count = len(data)
    if count < 2:
        return Split(count, 0.0, float(data.sum()))
    sums = np.cumsum(data)[:-1]
    sizes = np.arange(1, count)
    before = sums / sizes
    after = (data.sum() - sums) / (count - sizes)
    # Maximise the between-group sum of squares, which selects the split that explains the most
    # variance.
    best = int(np.argmax((before - after) ** 2 * sizes * (count - sizes)))
    return Split(count - best - 1, float(before[best]), float(after[best]))
