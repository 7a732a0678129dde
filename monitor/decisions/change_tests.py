"""Detect increases in the mean of a series of numbers, with sequential tests that River lacks.

Input: values from 0 to 1, one at a time. Output: `drift_detected`, and the increase's most likely
position. Each test stores only counts, sums and, for `Stepd`, one short window. To restart a test,
create a new object.
"""

import math
from collections import deque
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from monitor.decisions.autocorrelation_check import Autocorrelation
from monitor.decisions.plain_state import Count, State, put, take

Floats = NDArray[np.float64]


class Split(msgspec.Struct, frozen=True):
    """A change in the mean, `ago` values before the end of the series."""

    ago: int
    before: float
    after: float


class LikelihoodState(State, frozen=True, tag="glr"):
    """The state of a `LikelihoodRatio`. `levels` are the levels of the pieces, and `sums` are the
    pieces' counts, sums and sums of squares by phase, one list per piece. `pending` contains the
    values, with their phases, that do not fill a piece yet."""

    levels: list[Count]
    sums: list[list[float]]
    pending: list[tuple[float, Count]]
    waiting: Count
    split: Split | None
    drift_detected: bool
    warning_detected: bool


class StepdState(State, frozen=True, tag="stepd"):
    """The state of a `Stepd`."""

    recent: list[float]
    since: float
    count: Count
    total: float
    squares: float
    split: Split | None
    drift_detected: bool
    warning_detected: bool


TestState = LikelihoodState | StepdState

# A test warns if its statistic exceeds this fraction of the threshold.
WARNING: Final = 0.6
# Number of values per piece: the resolution of a recent change point, and the number of values
# between two evaluations. Shorter pieces would shorten the mean delay by at most ten values.
PIECE: Final = 20
# Number of pieces after which the test is evaluated even if the newest piece is below the mean.
# Detecting a decrease is not urgent.
WAIT: Final = 4
# Number of pieces of each size. Two neighbouring pieces are merged when there are more, so a change
# point that is n values old is known to about n / PIECES_PER_SIZE values.
PIECES_PER_SIZE: Final = 16
# Maximum number of pieces: enough for 20 × 2^20 values.
MAX_PIECES: Final = 320
# An increase must last for at least this many values, so that short bursts of errors are ignored.
# The same number of values is needed before it.
LEAST_VALUES: Final = 30
# Smallest mean and standard deviation of absolute errors, as a fraction of the level at which they
# are clipped. Changes far below it are rounding noise. It is a hundredth of the usual mean, 0.2.
TINY: Final = 0.002


class LikelihoodRatio:
    """A likelihood-ratio test for an increase in the mean. The means before and after the increase
    are unknown.

    The boundaries between pieces of the series are tested as possible change points. The pieces
    form an exponential histogram (Datar et al., "Maintaining stream statistics over sliding
    windows", 2002): old pieces are merged, so n values need about log n pieces.

    If values have phases, such as the hours of a day, then values after a possible change are
    compared only with earlier values of the same phase, as in the test of Cochran, Mantel and
    Haenszel (Mantel, "Chi-square tests with one degree of freedom", 1963). A phase without earlier
    values contributes nothing. Given n values with the sum O after the possible change, their
    expected sum E without a change, and the variance V of O - E, the statistic is the
    log-likelihood ratio of O to E, multiplied by the factor that makes it equal to
    (O - E)² / (2 V) for small changes. For `binary` values, the ratio is binomial. For other
    values, it is that of exponential values.

    The test also detects decreases, and then drops all values before the decrease. It ignores
    increases and decreases that `autocorrelation` explains.
    """

    def __init__(
        self, threshold: float, *, binary: bool, autocorrelation: Autocorrelation, phases: int = 1
    ) -> None:
        """`threshold` applies to independent values, and is multiplied by the variance inflation.
        `phases` is the number of phases of a season."""
        self._threshold = threshold * autocorrelation.variance_inflation
        self._autocorrelation = autocorrelation
        self._binary = binary
        # The pieces, oldest first. A piece of level l contains PIECE × 2^l values. `_table` holds
        # each piece's counts, sums and sums of squares by phase; only the first rows are in use.
        self._levels: list[int] = []
        self._table = np.zeros((MAX_PIECES + 1, 3, phases))
        self._pending: list[tuple[float, int]] = []
        self._waiting = 0  # number of pieces since the last evaluation
        self.split: Split | None = None
        self.drift_detected = False
        self.warning_detected = False

    def state(self) -> LikelihoodState:
        """Return the state as plain data."""
        sums = [piece.ravel().tolist() for piece in self._table[: len(self._levels)]]
        return take(LikelihoodState, self, sums=sums)

    def restore(self, state: LikelihoodState) -> None:
        """Restore a saved state. Raises ValueError if the state has other phases or is damaged."""
        if len(state.sums) != len(state.levels) or len(state.levels) > MAX_PIECES:
            raise ValueError("the pieces of a likelihood ratio are damaged")
        put(state, self, "sums")
        if state.sums:
            shape = -1, *self._table.shape[1:]
            self._table[: len(state.sums)] = np.array(state.sums).reshape(shape)

    def update(self, value: float, phase: int = 0) -> None:
        """Add a value of a phase, and update `drift_detected`, `warning_detected` and `split`."""
        self._autocorrelation.add(value, phase)
        self._pending.append((value, phase))
        self.drift_detected, self.split = False, None
        if len(self._pending) < PIECE:
            return
        self._add_piece()
        self._pending = []
        self._waiting += 1
        # A piece below the mean adds no evidence of an increase.
        last = self._table[len(self._levels) - 1]
        whole = self._table[: len(self._levels)].sum(axis=0)
        usual = (last[0] * whole[1] / np.maximum(whole[0], 1.0)).sum()
        if last[1].sum() > usual or self._waiting >= WAIT:
            self._waiting = 0
            self._evaluate(whole)

    def _add_piece(self) -> None:
        count = len(self._levels)
        piece = self._table[count]
        values = np.array([value for value, _ in self._pending])
        phases = [phase for _, phase in self._pending]
        for power in range(3):
            piece[power] = np.bincount(phases, values**power, self._table.shape[2])
        levels = self._levels
        levels.append(0)
        # Merge the two oldest pieces of each size that has too many. Older pieces are not smaller.
        level, end = 0, len(levels)
        while True:
            first = end
            while first and levels[first - 1] == level:
                first -= 1
            if end - first > PIECES_PER_SIZE:
                levels[first + 1] = level + 1
            elif len(levels) > MAX_PIECES:
                first = 0
                levels[1] = max(levels[:2]) + 1
            else:
                return
            self._table[first + 1] += self._table[first]
            self._table[first:count] = self._table[first + 1 : count + 1]
            del levels[first]
            count -= 1
            level, end = level + 1, first + 1

    def _evaluate(self, whole: Floats) -> None:
        # For each boundary: the counts and sums by phase of the values after it.
        after = np.cumsum(self._table[len(self._levels) - 1 : 0 : -1], axis=0)[::-1]
        changes = _changes(after, whole, binary=self._binary)
        is_rise = changes.after > changes.before
        rises = np.where(is_rise, changes.ratios, 0.0)
        lasting = np.where(changes.lasts, changes.ratios, 0.0)
        excess = float((lasting * is_rise).max(initial=0.0)) / self._threshold
        self.warning_detected = excess > WARNING
        if not self._autocorrelation.explains(excess):
            best = int(rises.argmax())
            ago = round(float(after[best, 0].sum()))
            self.split = Split(ago, float(changes.before[best]), float(changes.after[best]))
            self.drift_detected = True
            return
        falls = lasting * ~is_rise
        if not self._autocorrelation.explains(float(falls.max(initial=0.0)) / self._threshold):
            first = int(falls.argmax()) + 1
            kept = len(self._levels) - first
            self._table[:kept] = self._table[first : len(self._levels)].copy()
            self._levels = self._levels[first:]


class _Changes(msgspec.Struct, frozen=True):
    """For each boundary (b,): the statistic, whether there are at least `LEAST_VALUES` values on
    either side, and the means before and after in equal phases."""

    ratios: Floats
    lasts: NDArray[np.bool_]
    before: Floats
    after: Floats


def _changes(after: Floats, whole: Floats, *, binary: bool) -> _Changes:
    """Evaluate each boundary. `after` (b, 3, p) contains the counts, sums and sums of squares by
    phase of the values after each boundary, and `whole` (3, p) those of all values."""
    total = np.maximum(whole[0], 1.0)
    late, early = after[:, 0], whole[0] - after[:, 0]
    shared = np.minimum(early, late) > 0.5  # phases with values on both sides
    mean = whole[1] / total
    # The variance of the values of each phase, with the divisor of an unbiased estimate.
    variance = (whole[2] / total - mean * mean) * total / np.maximum(total - 1.0, 1.0)
    variance = np.maximum(variance, 0.0 if binary else TINY * TINY)
    late = late * shared
    count = late.sum(axis=1)
    lasts = np.minimum(count, (early * shared).sum(axis=1)) >= LEAST_VALUES
    spread = (late * early / total * variance).sum(axis=1)
    usable = spread > 1e-12 * count
    count, spread = np.maximum(count, 1.0), np.where(usable, spread, 1.0)
    observed = (after[:, 1] * shared).sum(axis=1) / count
    usual = (late * mean).sum(axis=1) / count
    statistic = _binomial if binary else _exponential
    ratios = np.where(usable, statistic(observed, usual, count, spread), 0.0)
    before = late * (whole[1] - after[:, 1]) / np.maximum(early, 1.0)
    return _Changes(ratios, lasts, before.sum(axis=1) / count, observed)


def _binomial(observed: Floats, usual: Floats, count: Floats, spread: Floats) -> Floats:
    usual, observed = np.clip(usual, 1e-9, 1.0 - 1e-9), np.clip(observed, 0.0, 1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        ones = np.where(observed > 0.0, observed * np.log(observed / usual), 0.0)
        rest = 1.0 - observed
        zeros = np.where(rest > 0.0, rest * np.log(rest / (1.0 - usual)), 0.0)
    ratios: Floats = count * count * usual * (1.0 - usual) / spread * (ones + zeros)
    return ratios


def _exponential(observed: Floats, usual: Floats, count: Floats, spread: Floats) -> Floats:
    usual, observed = usual + TINY, observed + TINY
    ratio = observed / usual
    ratios: Floats = (count * usual) ** 2 / spread * (ratio - 1.0 - np.log(ratio))
    return ratios


class Stepd:
    """Compares the last `window` values with all earlier values, using the test of equal
    proportions (K. Nishida and K. Yamauchi, "Detecting concept drift using statistical testing",
    2007)."""

    def __init__(self, *, window: int, sigmas: float) -> None:
        self._window = window
        self._sigmas = sigmas
        self._recent: deque[float] = deque()
        self._since = 0.0
        self._count, self._total = 0, 0.0  # number and sum of the values before `_recent`
        self._squares = 0.0  # sum of the squares of all values
        self.split: Split | None = None
        self.drift_detected = False
        self.warning_detected = False

    def state(self) -> StepdState:
        """Return the state as plain data."""
        return take(StepdState, self)

    def restore(self, state: StepdState) -> None:
        """Restore a saved state."""
        put(state, self)

    def update(self, value: float) -> None:
        """Add a value, and update `drift_detected`, `warning_detected` and `split`."""
        self._recent.append(value)
        self._since += value
        self._squares += value * value
        if len(self._recent) <= self._window:
            return
        first = self._recent.popleft()
        self._since -= first
        self._count += 1
        self._total += first
        if self._count < self._window:
            return
        before, after = self._total / self._count, self._since / self._window
        count = self._count + self._window
        pooled = (self._total + self._since) / count
        weight = 1.0 / self._count + 1.0 / self._window
        # For binary values, `squares / count` equals `pooled`, so the variance is
        # pooled * (1 - pooled).
        deviation = math.sqrt(max(0.0, self._squares / count - pooled * pooled) * weight)
        distance = after - before - weight / 2.0  # Yates' correction
        self.drift_detected = distance > self._sigmas * deviation
        self.warning_detected = distance > WARNING * self._sigmas * deviation
        self.split = Split(self._window, before, after) if self.drift_detected else None
