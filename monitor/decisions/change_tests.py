"""Test a series of numbers sequentially for an increase in its mean, with tests that River lacks.

Input: values in 0…1, one at a time. Output: `drift_detected`, and the increase's likeliest
position. Each test stores only counts and sums, or one short window. To restart a test, create a
new object.
"""

import math
from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec

from monitor.decisions.autocorrelation_check import Autocorrelation
from monitor.decisions.plain_state import Count, Piece, State, put, take

# The constants were chosen on the tuning streams of `python -m benchmarks.evidence detectors
# --tune`.

# Maximum number of segments that a test stores. Only crafted values reach this limit.
MAX_PIECES: Final = 200


class Split(msgspec.Struct, frozen=True):
    """A change in the mean, `ago` values before the end of the series."""

    ago: int
    before: float
    after: float


class LikelihoodState(State, frozen=True, tag="glr"):
    """The state of a `LikelihoodRatio`."""

    rising: list[Piece]
    falling: list[Piece]
    squares: float
    count: Count
    total: float
    seen: Count
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

# An increase must last this many values, so that a burst of errors is ignored.
LEAST_VALUES: Final = 30


class LikelihoodRatio:
    """The generalised likelihood-ratio test for an increase in the mean, with both means unknown.

    Every position is tested as a possible change point. The likeliest position is a corner of the
    convex hull below the cumulative sum, that is, a boundary between segments of the isotonic
    regression. There are about log n boundaries (Romano et al., "Fast online changepoint detection
    via functional pruning CUSUM statistics", JMLR 2023; Ward et al., "A constant-per-iteration
    likelihood ratio test for online changepoint detection for exponential family models", 2024).
    `binary` values use the Bernoulli likelihood. Other values use an exponential quasi-likelihood,
    whose ratio is multiplied by mean² / variance.

    The test also finds decreases, and drops the values before a decrease. Increases and decreases
    that `autocorrelation` explains are ignored.
    """

    def __init__(self, threshold: float, *, binary: bool, autocorrelation: Autocorrelation) -> None:
        """`threshold` is for independent values. It is multiplied by the variance inflation."""
        self._threshold = threshold * autocorrelation.variance_inflation
        self._autocorrelation = autocorrelation
        self._binary = binary
        self._of = _bernoulli if binary else _exponential
        # Sums of the values since the last decrease. `_forget` drops the values before a decrease.
        self._rising = _Pieces(1.0)
        self._falling = _Pieces(-1.0)
        self._squares = 0.0
        self._count = 0
        self._total = 0.0
        self._seen = 0  # number of values so far; `_forget` runs once every `FALL_EVERY` values
        self.split: Split | None = None
        self.drift_detected = False
        self.warning_detected = False

    def state(self) -> LikelihoodState:
        """Return the state as data."""
        rising, falling = self._rising.pieces, self._falling.pieces
        return take(LikelihoodState, self, rising=rising, falling=falling)

    def restore(self, state: LikelihoodState) -> None:
        """Restore a saved state."""
        put(state, self, "rising", "falling")
        self._rising.pieces, self._falling.pieces = state.rising, state.falling

    def update(self, value: float) -> None:
        """Add a value, and update `drift_detected`, `warning_detected` and `split`."""
        self._autocorrelation.add(value)
        self._seen += 1
        self._count += 1
        self._total += value
        self._squares += value * value
        self._rising.add(value)
        self._falling.add(value)
        # A value below the mean adds no evidence of an increase.
        if value * self._count > self._total:
            ratio, split = self._rising.likeliest(self._of, self._count, self._total)
            excess = ratio * self._dispersion() / self._threshold
            self.drift_detected = not self._autocorrelation.explains(excess)
            self.warning_detected = excess > WARNING
            self.split = split if self.drift_detected else None
        if self._seen % FALL_EVERY == 0:
            self._forget()

    def _forget(self) -> None:
        ratio, split = self._falling.likeliest(self._of, self._count, self._total)
        if split is None or self._autocorrelation.explains(
            ratio * self._dispersion() / self._threshold
        ):
            return
        self._squares *= split.ago / self._count
        self._count, self._total = split.ago, split.after * split.ago
        self._rising = _Pieces(1.0, self._count, self._total)
        self._falling = _Pieces(-1.0, self._count, self._total)

    def _dispersion(self) -> float:
        if self._binary:
            return 1.0
        mean = self._total / self._count
        variance = self._squares / self._count - mean * mean
        return mean * mean / variance if variance > 0.0 else 1.0


# Above this fraction of the threshold, an increase is likely.
WARNING: Final = 0.6
# Number of values between two tests for a decrease, whose detection is not urgent.
FALL_EVERY: Final = 32


class _Pieces:
    """The isotonic regression of the values so far, computed by pooling adjacent violators. Each
    segment is stored as its values' number and sum."""

    def __init__(self, sign: float, count: int = 0, total: float = 0.0) -> None:
        self._sign = sign
        self.pieces: list[tuple[int, float]] = [(count, total)] if count else []

    def add(self, value: float) -> None:
        count, total, pieces, sign = 1, value, self.pieces, self._sign
        # Pool with the previous segment unless its mean is lower (for sign -1, higher).
        while pieces and sign * pieces[-1][1] * count >= sign * total * pieces[-1][0]:
            more, of_more = pieces.pop()
            count += more
            total += of_more
        pieces.append((count, total))
        if len(pieces) > MAX_PIECES:
            (count, total), (more, of_more) = pieces[:2]
            pieces[:2] = [(count + more, total + of_more)]

    def likeliest(
        self, of: Callable[[int, float], float], count: int, total: float
    ) -> tuple[float, Split | None]:
        """Return the largest log-likelihood ratio, and the likeliest position of a change. The
        ratio considers only changes that lasted `LEAST_VALUES` values. The position considers all
        changes."""
        whole = of(count, total)
        best, lasting, place = 0.0, 0.0, None
        after, of_after = 0, 0.0
        for size, of_size in reversed(self.pieces[1:]):
            after += size
            of_after += of_size
            before, of_before = count - after, total - of_after
            ratio = of(before, of_before) + of(after, of_after) - whole
            if ratio > best:
                best, place = ratio, Split(after, of_before / before, of_after / after)
            if ratio > lasting and after >= LEAST_VALUES:
                lasting = ratio
        return lasting, place


def _bernoulli(count: int, total: float) -> float:
    """Return the log-likelihood of `count` values, each 0 or 1, with the sum `total`, at their own
    mean."""
    rest = count - total
    if total <= 0.0 or rest <= 0.0:
        return 0.0
    return total * math.log(total / count) + rest * math.log(rest / count)


def _exponential(count: int, total: float) -> float:
    """Return the log-likelihood of `count` values with the sum `total`, up to a constant."""
    return -count * math.log(max(total / count, TINY))


# Lower limit of a mean, because a mean of 0 has no finite logarithm. It is a hundredth of the mean
# to which values are scaled.
TINY: Final = 0.002


class Stepd:
    """Compare the last `window` values with all earlier values, by the test of equal proportions
    (K. Nishida and K. Yamauchi, "Detecting concept drift using statistical testing", 2007)."""

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
        """Return the state as data."""
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
        # For values of 0 and 1, this is the variance of a proportion, mean * (1 - mean).
        deviation = math.sqrt(max(0.0, self._squares / count - pooled * pooled) * weight)
        distance = after - before - weight / 2.0  # Yates' correction
        self.drift_detected = distance > self._sigmas * deviation
        self.warning_detected = distance > WARNING * self._sigmas * deviation
        self.split = Split(self._window, before, after) if self.drift_detected else None
