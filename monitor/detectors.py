"""River's drift detectors on a model's errors, by name and under one contract.

In: errors in order: 0 or 1, or absolute errors of any scale. Out: whether the error has grown, and
how many values ago that began. An error that falls is never drift. Memory is bounded.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, cast

import msgspec

from driftline.errors import StreamFileError
from driftline.stream import Stream, Task

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
    before: float  # mean error up to then; 0…1
    after: float


class _River(Protocol):
    drift_detected: bool

    def update(self, x: Any) -> Any: ...


class _Kind(msgspec.Struct, frozen=True):
    make: Callable[[], _River]
    failures: bool = False  # takes only 0 and 1


# Chosen among a few tried on the changes of `sea` (the error rises from about 11% to 16% and more;
# 3 changes, 2 models) and on shuffled sets. Changes found of 6, false alarms in 1,078,000 records,
# µs an update:
#   adwin 6, 0, 1    page_hinkley 6, 7, 1    ddm 5, 9, 1    eddm 4, 16, 1
#   hddm_a 5, 3, 7   hddm_w 3, 6, 6          kswin 0, not counted, 500
# KSWIN sees only large changes (from 10% to 40%) at this setting, and is slow at any.


def _adwin() -> _River:
    from river.drift import ADWIN

    return cast(_River, ADWIN(delta=0.002))


def _page_hinkley() -> _River:
    from river.drift import PageHinkley

    return cast(
        _River, PageHinkley(min_instances=100, delta=0.02, threshold=25.0, alpha=1.0, mode="up")
    )


def _ddm() -> _River:
    from river.drift.binary import DDM

    return cast(_River, DDM(warm_start=200))


def _eddm() -> _River:
    from river.drift.binary import EDDM

    return cast(_River, EDDM(warm_start=200, alpha=0.9, beta=0.8))


def _hddm_a() -> _River:
    from river.drift.binary import HDDMA

    return cast(_River, HDDMA(drift_confidence=0.001))


def _hddm_w() -> _River:
    from river.drift.binary import HDDMW

    return cast(_River, HDDMW(drift_confidence=0.0001, lambda_val=0.01))


def _kswin() -> _River:
    from river.drift import KSWIN

    return cast(_River, KSWIN(alpha=1e-4, window_size=300, stat_size=100, seed=0))


DETECTORS: Final[dict[str, _Kind]] = {
    "adwin": _Kind(_adwin),
    "page_hinkley": _Kind(_page_hinkley),
    "ddm": _Kind(_ddm, failures=True),
    "eddm": _Kind(_eddm, failures=True),
    "hddm_a": _Kind(_hddm_a),
    "hddm_w": _Kind(_hddm_w),
    "kswin": _Kind(_kswin),
}


class ErrorDetector:
    """One of River's detectors, made to report only a rise of the error.

    `update` takes a pane's errors; `rise` then says whether one was found in it. `warning` is true
    while a detector that has a warning zone is in it. After a find, and at `reset` (a new model),
    it starts anew. It can be pickled.
    """

    def __init__(self, name: str, task: Task) -> None:
        self.name = name
        self._task = task
        self.reset()

    def reset(self) -> None:
        """Forget all errors: those to come are another model's, or after a change."""
        self._kind = DETECTORS[self.name]
        self._river = self._kind.make()
        self._recent: deque[float] = deque(maxlen=REMEMBERED)
        self._first: list[float] = []
        self._scale: float | None = 1.0 if self._task == "classification" else None
        self.rise: Rise | None = None

    @property
    def drift(self) -> bool:
        """Whether the last `update` found a rise."""
        return self.rise is not None

    @property
    def warning(self) -> bool:
        """Whether a rise is likely; never for detectors that give no warning."""
        return bool(getattr(self._river, "warning_detected", False))

    def update(self, errors: Sequence[float]) -> None:
        """Take in errors in order. Of several rises among them, the last one counts."""
        self.rise = None
        for place, error in enumerate(errors):
            for value in self._scaled(error):
                self._recent.append(value)
                self._river.update(value > FAILURE if self._kind.failures else value)
                if self._river.drift_detected:
                    self._found(len(errors) - place - 1)

    def _found(self, remaining: int) -> None:
        rise = _locate(self._recent)
        self._recent.clear()
        if rise.after > rise.before:
            self.rise = Rise(rise.ago + remaining, rise.before, rise.after)
        elif self.rise is not None:
            self.rise = None  # it has fallen again

    def _scaled(self, error: float) -> Sequence[float]:
        if self._scale is None:
            self._first.append(error)
            if len(self._first) < SCALE_VALUES:
                return ()
            self._scale = SCALE_CUT * sum(self._first) / len(self._first) or 1.0
            first, self._first = self._first, []
            return [min(value / self._scale, 1.0) for value in first]
        return (min(error / self._scale, 1.0),)


def check(stream: Stream) -> None:
    """Raise StreamFileError for a detector that does not exist."""
    for name in stream.drift.detectors:
        if name not in DETECTORS:
            raise StreamFileError(
                f"stream {stream.name}: [drift.detectors] no such detector: {name!r}",
                hint="expected some of " + ", ".join(DETECTORS),
            )


def _locate(values: Sequence[float]) -> Rise:
    """The likeliest place of one change of the mean, by least squares."""
    import numpy as np

    data = np.asarray(values, dtype=np.float64)
    count = len(data)
    if count < 2:
        return Rise(count, 0.0, float(data.sum()))
    sums = np.cumsum(data)[:-1]
    sizes = np.arange(1, count)
    before = sums / sizes
    after = (data.sum() - sums) / (count - sizes)
    # Between-group sum of squares: the split that explains most of the variance.
    best = int(np.argmax((before - after) ** 2 * sizes * (count - sizes)))
    return Rise(count - best - 1, float(before[best]), float(after[best]))
