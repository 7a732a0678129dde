"""Run drift detectors, from River or this package, on a sequence of one model's errors.

Input: errors in order: 0 or 1 for classification, absolute errors of any scale for regression.
Output: whether the error has increased, and how many values ago. All detectors have the same
interface. Decreases are not reported. Memory use is bounded.
"""

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
from monitor.decisions.plain_state import State, put, take

# Absolute errors are divided by `SCALE_CUT` times the mean of the first `SCALE_VALUES` errors, and
# clipped at 1. Detectors need bounded values, and a single extreme error is not drift.
SCALE_VALUES: Final = 100
SCALE_CUT: Final = 5.0
# DDM counts failures. An absolute error of more than twice the mean is a failure.
FAILURE: Final = 2.0 / SCALE_CUT
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
    first: list[float]
    scale: float | None


class _Kind(msgspec.Struct, frozen=True):
    make: Callable[[Task, Autocorrelation], river.RiverDetector]
    failures: bool = False  # True if the detector accepts only 0 and 1


# The thresholds were chosen with `python -m benchmarks.evidence detectors --tune`. The same command
# without `--tune` prints the results for other seeds. By chance, a likelihood ratio reaches e^t
# about once in e^t values (Lorden, 1971). With constant error rates of 1% to 40%, the ratio reached
# e^11 at most once in 60,000 values, even counting the bursts that a detector ignores. The same was
# true for absolute errors.
GLR_THRESHOLD: Final = 11.0
# The authors of STEPD use 30, which causes a false alarm every few hundred values.
STEPD_WINDOW: Final = 100
STEPD_SIGMAS: Final = 4.5


def _glr(task: Task, autocorrelation: Autocorrelation) -> LikelihoodRatio:
    return LikelihoodRatio(
        GLR_THRESHOLD, binary=task == "classification", autocorrelation=autocorrelation
    )


DETECTORS: Final[dict[str, _Kind]] = {
    "glr": _Kind(_glr),
    "stepd": _Kind(lambda *_: Stepd(window=STEPD_WINDOW, sigmas=STEPD_SIGMAS)),
    "adwin": _Kind(lambda *_: river.adwin()),
    "page_hinkley": _Kind(lambda *_: river.page_hinkley()),
    "ddm": _Kind(lambda *_: river.ddm(), failures=True),
    "hddm_a": _Kind(lambda *_: river.hddm_a()),
    "hddm_w": _Kind(lambda *_: river.hddm_w()),
}


# Tests whose state can be saved in a snapshot file.
_OWN: Final = (LikelihoodRatio, Stepd)


class ErrorDetector:
    """A detector that reports only increases in the error.

    After a call to `update`, `increases` contains the increases found in that call's errors. How
    errors are divided into calls does not affect which increases are found. `warning` is true while
    the detector is in its warning zone. Some detectors have no warning zone. The detector restarts
    after each increase, and `reset` restarts it for a new model. Memory use is bounded. Only the
    detector `glr` takes autocorrelation into account.
    """

    def __init__(self, name: str, task: Task, variance_inflation: float = 1.0) -> None:
        self.name = name
        self._task = task
        self.reset(variance_inflation)

    def reset(self, variance_inflation: float = 1.0) -> None:
        """Prepare for a new model's errors by discarding all state. `variance_inflation` is the
        variance inflation of the new model's mean held-out error."""
        self._autocorrelation = Autocorrelation(variance_inflation)
        self._test = self._new_test()
        self._recent: deque[float] = deque(maxlen=REMEMBERED)  # raw errors since the last change
        self._first: list[float] = []  # errors buffered until the scale is known
        self._scale: float | None = 1.0 if self._task == "classification" else None
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

    def update(self, errors: Sequence[float]) -> None:
        """Add errors in order."""
        increases: list[Increase] = []
        kind = DETECTORS[self.name]
        left = len(errors)
        for error in errors:
            left -= 1
            known = self._known(error)
            for place, raw in enumerate(known, 1):
                self._recent.append(raw)
                value = min(raw / cast(float, self._scale), 1.0)
                self._test.update(value > FAILURE if kind.failures else value)
                if self._test.drift_detected and (increase := self._found()) is not None:
                    increases.append(
                        structs.replace(increase, ago=increase.ago + len(known) - place + left)
                    )
        self.increases = tuple(increases)

    def _new_test(self) -> river.RiverDetector:
        return DETECTORS[self.name].make(self._task, self._autocorrelation)

    def _known(self, error: float) -> Sequence[float]:
        """Return the errors to test. Until the scale is known, errors are buffered and the result
        is empty. Once it is known, return all buffered errors, and from then on only the new
        error."""
        if self._scale is not None:
            return (error,)
        self._first.append(error)
        if len(self._first) < SCALE_VALUES:
            return ()
        # If all buffered errors are 0, the scale is undefined. Drop the oldest error and wait for
        # the next error.
        first, mean = self._first, sum(self._first) / SCALE_VALUES
        if mean <= 0.0:
            del first[0]
            return ()
        self._scale, self._first = SCALE_CUT * mean, []
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
            self._scale = max(scale, SCALE_CUT * sum(since) / len(since))
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
