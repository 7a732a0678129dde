"""Drift detectors on a model's errors, by name and under one contract.

In: errors in order: 0 or 1, or absolute errors of any scale. Out: whether the error has grown, and
how many values ago that began. An error that falls is never drift. Memory is bounded.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, cast

import msgspec
import numpy as np
from msgspec import structs

from driftline.errors import StreamFileError
from driftline.stream import Stream, Task
from monitor.decisions import river_detectors as river
from monitor.decisions.change_tests import (
    Cusum,
    LikelihoodRatio,
    Seed,
    Split,
    Stepd,
    TestState,
)
from monitor.decisions.keep import State, put, take
from monitor.decisions.runs import Runs, RunsState

# Absolute errors are brought to 0…1 by their own mean over so many values, and cut at five times
# that mean: the detectors are made for bounded values, and one wild error is no drift.
SCALE_VALUES: Final = 100
SCALE_CUT: Final = 5.0
# DDM and EDDM count failures: an absolute error of more than twice the mean is taken as one.
FAILURE: Final = 2.0 / SCALE_CUT
# Values remembered to say when a rise began, where the detector itself does not.
REMEMBERED: Final = 2_000


class Rise(msgspec.Struct, frozen=True):
    """The error has grown: it began `ago` values before the end of the values last given."""

    ago: int
    before: float  # mean error up to then, wild ones cut
    after: float


class DetectorState(State, frozen=True):
    """What an `ErrorDetector` remembers."""

    name: str
    runs: RunsState
    test: TestState
    recent: list[float]
    first: list[float]
    scale: float | None


class _Kind(msgspec.Struct, frozen=True):
    make: Callable[[Task, Runs], river.RiverDetector]
    failures: bool = False  # takes only 0 and 1


# Chosen on the tuning seeds of `python -m benchmarks.evidence detectors --tune`; what comes of it
# on others is in the table that it prints without. A likelihood ratio of e^t is reached by chance
# about once in e^t values (Lorden, 1971): errors of 1 to 40% that never change reached e^11 once
# in 60,000 values, or less often, bursts included, which are not counted; absolute ones likewise.
GLR_THRESHOLD: Final = 11.0
CUSUM_THRESHOLD: Final = 11.0
CUSUM_FACTOR: Final = 1.5
CUSUM_VALUES: Final = 200  # fewer do not tell the mean before
STEPD_WINDOW: Final = 100  # 30 in the paper, with an alarm by chance every few hundred values
STEPD_SIGMAS: Final = 4.5
SEED_DELTA: Final = 0.002


def _glr(task: Task, runs: Runs) -> LikelihoodRatio:
    return LikelihoodRatio(GLR_THRESHOLD, binary=task == "classification", runs=runs)


def _cusum(task: Task, runs: Runs) -> Cusum:
    return Cusum(
        CUSUM_THRESHOLD,
        factor=CUSUM_FACTOR,
        least_values=CUSUM_VALUES,
        binary=task == "classification",
        runs=runs,
    )


DETECTORS: Final[dict[str, _Kind]] = {
    "glr": _Kind(_glr),
    "cusum": _Kind(_cusum),
    "stepd": _Kind(lambda *_: Stepd(window=STEPD_WINDOW, sigmas=STEPD_SIGMAS)),
    "seed": _Kind(lambda *_: Seed(delta=SEED_DELTA)),
    "adwin": _Kind(lambda *_: river.adwin()),
    "page_hinkley": _Kind(lambda *_: river.page_hinkley()),
    "ddm": _Kind(lambda *_: river.ddm(), failures=True),
    "eddm": _Kind(lambda *_: river.eddm(), failures=True),
    "hddm_a": _Kind(lambda *_: river.hddm_a()),
    "hddm_w": _Kind(lambda *_: river.hddm_w()),
    "kswin": _Kind(lambda *_: river.kswin()),
}


# Those whose state is data.
_OWN: Final = (LikelihoodRatio, Cusum, Stepd, Seed)


class ErrorDetector:
    """A detector, made to report only rises of the error.

    `update` takes errors, `rises` then has those found among them, the same ones however the
    errors are cut into calls. `warning` is true while a detector that has a warning zone is in it.
    After a rise, and at `reset` (a new model), it starts anew. Its memory is bounded. glr and cusum
    take into account that errors come in runs; the others do not.
    """

    def __init__(self, name: str, task: Task, inflation: float = 1.0) -> None:
        self.name = name
        self._task = task
        self.reset(inflation)

    def reset(self, inflation: float = 1.0) -> None:
        """Forget all errors: those to come are another model's. `inflation`: by how much the mean
        of its errors varies more than that of as many independent ones."""
        self._runs = Runs(inflation)
        self._test = self._new_test()
        self._recent: deque[float] = deque(maxlen=REMEMBERED)
        self._first: list[float] = []
        self._scale: float | None = 1.0 if self._task == "classification" else None
        self.rises: tuple[Rise, ...] = ()

    def state(self) -> DetectorState | None:
        """What it remembers, as data; None if that is within an object of River's."""
        if not isinstance(self._test, _OWN):
            return None
        return take(DetectorState, self, runs=self._runs.state(), test=self._test.state())

    def restore(self, state: DetectorState) -> None:
        """Go on from there. Raises ValueError for the state of another detector."""
        self.reset()
        self._runs.restore(state.runs)
        self._test = test = self._new_test()  # its threshold depends on the runs
        if state.name != self.name or not isinstance(test, _OWN):
            raise ValueError(f"the state of {state.name} is none of {self.name}")
        if type(state.test) is not type(test.state()):
            raise ValueError(f"{self.name} has no state of this kind")
        test.restore(state.test)  # type: ignore[arg-type]  # as has been checked
        put(state, self, "name", "runs", "test")

    @property
    def drift(self) -> bool:
        """Whether the last `update` found a rise."""
        return bool(self.rises)

    @property
    def warning(self) -> bool:
        """Whether a rise is likely; never for detectors that give no warning."""
        return bool(getattr(self._test, "warning_detected", False))

    def update(self, errors: Sequence[float]) -> None:
        """Take in errors in order."""
        rises: list[Rise] = []
        kind = DETECTORS[self.name]
        left = len(errors)
        for error in errors:
            left -= 1
            known = self._known(error)
            for place, raw in enumerate(known, 1):
                self._recent.append(raw)
                value = min(raw / cast(float, self._scale), 1.0)
                self._test.update(value > FAILURE if kind.failures else value)
                if self._test.drift_detected and (rise := self._found()) is not None:
                    rises.append(structs.replace(rise, ago=rise.ago + len(known) - place + left))
        self.rises = tuple(rises)

    def _new_test(self) -> river.RiverDetector:
        return DETECTORS[self.name].make(self._task, self._runs)

    def _known(self, error: float) -> Sequence[float]:
        """The errors to go on with: none as long as their scale is unknown."""
        if self._scale is not None:
            return (error,)
        self._first.append(error)
        if len(self._first) < SCALE_VALUES:
            return ()
        # A model that made no error yet has no scale: its next errors have.
        first, mean = self._first, sum(self._first) / SCALE_VALUES
        if mean <= 0.0:
            del first[0]
            return ()
        self._scale, self._first = SCALE_CUT * mean, []
        return first

    def _found(self) -> Rise | None:
        """The rise, or None if it was a fall."""
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
        if self._task == "regression":  # cut at what is now usual
            self._scale = max(scale, SCALE_CUT * sum(since) / len(since))
        return Rise(split.ago, split.before * scale, split.after * scale)


def check(stream: Stream) -> None:
    """Raise StreamFileError for a detector that does not exist."""
    for name in stream.drift.detectors:
        if name not in DETECTORS:
            raise StreamFileError(
                f"stream {stream.name}: [drift.detectors] no such detector: {name!r}",
                hint="expected some of " + ", ".join(DETECTORS),
            )


def _locate(values: Sequence[float]) -> Split:
    """The likeliest place of one change of the mean, by least squares."""
    data = np.asarray(values, dtype=np.float64)
    count = len(data)
    if count < 2:
        return Split(count, 0.0, float(data.sum()))
    sums = np.cumsum(data)[:-1]
    sizes = np.arange(1, count)
    before = sums / sizes
    after = (data.sum() - sums) / (count - sizes)
    # Between-group sum of squares: the split that explains most of the variance.
    best = int(np.argmax((before - after) ** 2 * sizes * (count - sizes)))
    return Split(count - best - 1, float(before[best]), float(after[best]))
