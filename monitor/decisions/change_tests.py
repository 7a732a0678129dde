"""Detect increases in the mean of a series of numbers, with sequential tests that River lacks.

Input: values from 0 to 1, one at a time. Output: `drift_detected`, and the increase's most likely
position. Each test stores only counts, sums and, for `Stepd`, one short window. To restart a test,
create a new object.
"""

import math
from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec

from monitor.decisions.autocorrelation_check import Autocorrelation
from monitor.decisions.plain_state import Count, Piece, State, put, take

# The constants in this module were chosen with `python -m benchmarks.evidence detectors --tune`.

# Maximum number of segments that a test stores. Only contrived input reaches this limit.
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

# An increase must last for at least this many values, so that short bursts of errors are ignored.
LEAST_VALUES: Final = 30


class LikelihoodRatio:
    """A generalised likelihood-ratio test for an increase in the mean. The means before and after
    the increase are unknown.

    Every position is tested as a possible change point. The most likely position is a vertex of the
    cumulative sum's greatest convex minorant, and therefore a boundary between two segments of the
    isotonic regression. For n values, there are about log n boundaries (Romano et al., "Fast online
    changepoint detection via functional pruning CUSUM statistics", JMLR 2023; Ward et al., "A
    constant-per-iteration likelihood ratio test for online changepoint detection for exponential
    family models", 2024). For `binary` values, the test uses the Bernoulli likelihood. For other
    values, it uses an exponential quasi-likelihood, and multiplies the ratio by mean² / variance.

    The test also detects decreases, and then drops all values before the decrease. It ignores
    increases and decreases that `autocorrelation` explains.
    """

    def __init__(self, threshold: float, *, binary: bool, autocorrelation: Autocorrelation) -> None:
        """`threshold` applies to independent values, and is multiplied by the variance
        inflation."""
        self._threshold = threshold * autocorrelation.variance_inflation
        self._autocorrelation = autocorrelation
        self._binary = binary
        self._of = _bernoulli if binary else _exponential
        # Segments and sums of the values since the last decrease. `_forget` drops earlier values.
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
        """Return the state as plain data."""
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


# A test warns if its statistic exceeds this fraction of the threshold.
WARNING: Final = 0.6
# Number of values between two tests for a decrease. Detecting a decrease is not urgent.
FALL_EVERY: Final = 32


class _Pieces:
    """The isotonic regression of the values so far, computed by pooling adjacent violators. Each
    segment is stored as the number and the sum of its values."""

    def __init__(self, sign: float, count: int = 0, total: float = 0.0) -> None:
        self._sign = sign
        self.pieces: list[tuple[int, float]] = [(count, total)] if count else []

    def add(self, value: float) -> None:
        count, total, pieces, sign = 1, value, self.pieces, self._sign
        # Merge the new segment with its predecessor until the predecessor's mean is lower (for
        # sign -1, higher).
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
        """Return the largest log-likelihood ratio among changes that are at least `LEAST_VALUES`
        values old, and the most likely change of any age."""
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
    """Return the log-likelihood of `count` values, each 0 or 1, whose sum is `total`. The values'
    mean is used as the Bernoulli probability."""
    rest = count - total
    if total <= 0.0 or rest <= 0.0:
        return 0.0
    return total * math.log(total / count) + rest * math.log(rest / count)


def _exponential(count: int, total: float) -> float:
    """Return the exponential log-likelihood, up to a constant, of `count` values whose sum is
    `total`."""
    return -count * math.log(max(total / count, TINY))


# Lower limit for a mean, because the logarithm of 0 is not finite. The limit is a hundredth of 0.2,
# the mean to which absolute errors are scaled.
TINY: Final = 0.002


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
