"""Sequential tests for a rise of the mean that River does not have.

In: values of 0…1, one at a time. Out: `drift_detected`, with the likeliest place of the rise. Each
keeps counts and sums, or one short window, and is begun anew by making another.
"""

import math
from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec

from monitor.decisions.keep import Count, Piece, State, put, take
from monitor.decisions.runs import Runs

# Constants are chosen on the tuning streams of `python -m benchmarks.evidence detectors --tune`.

# Pieces of the past that a test keeps: far more than there ever are, but for crafted values.
MAX_PIECES: Final = 200


class Split(msgspec.Struct, frozen=True):
    """A change of the mean `ago` values before the last one."""

    ago: int
    before: float
    after: float


class LikelihoodState(State, frozen=True, tag="glr"):
    """What a `LikelihoodRatio` has seen."""

    rising: list[Piece]
    falling: list[Piece]
    squares: float
    count: Count
    total: float
    seen: Count
    split: Split | None
    drift_detected: bool
    warning_detected: bool


class CusumState(State, frozen=True, tag="cusum"):
    """What a `Cusum` has seen."""

    count: Count
    total: float
    squares: float
    ago: Count
    since: float
    since_squares: float
    sum: float
    each: float
    slope: float
    split: Split | None
    drift_detected: bool
    warning_detected: bool


class StepdState(State, frozen=True, tag="stepd"):
    """What a `Stepd` has seen."""

    recent: list[float]
    since: float
    count: Count
    total: float
    squares: float
    split: Split | None
    drift_detected: bool
    warning_detected: bool


class SeedState(State, frozen=True, tag="seed"):
    """What a `Seed` has seen."""

    blocks: list[Piece]
    open: tuple[Count, float]
    closed: Count
    split: Split | None
    drift_detected: bool


TestState = LikelihoodState | CusumState | StepdState | SeedState

# A rise is as long as this or longer: a burst of errors is none.
LEAST_VALUES: Final = 30


class LikelihoodRatio:
    """The generalised likelihood-ratio test, both means unknown, of Bernoulli values.

    All places of the rise are tried: the likeliest is always a corner of the convex hull below the
    cumulative sum, that is a border of the isotonic regression, of which there are about log n
    (Romano et al., "Fast online changepoint detection via functional pruning CUSUM statistics",
    JMLR 2023; Ward et al., "A constant-per-iteration likelihood ratio test for online changepoint
    detection for exponential family models", 2024). Values between 0 and 1 are taken in as a
    quasi-likelihood: the ratio is divided by how much more they vary than 0 and 1 would. The same
    test of a fall forgets what was before it. Either believes what `runs` do not explain.
    """

    def __init__(self, threshold: float, *, binary: bool, runs: Runs) -> None:
        """`threshold`: of independent values."""
        self._threshold = threshold * runs.inflation
        self._runs = runs
        self._binary = binary
        self._of = _bernoulli if binary else _exponential
        self._rising = _Pieces(1.0)
        self._falling = _Pieces(-1.0)
        self._squares = 0.0
        self._count = 0
        self._total = 0.0
        self._seen = 0
        self.split: Split | None = None
        self.drift_detected = False
        self.warning_detected = False

    def state(self) -> LikelihoodState:
        """What it has seen, as data."""
        rising, falling = self._rising.pieces, self._falling.pieces
        return take(LikelihoodState, self, rising=rising, falling=falling)

    def restore(self, state: LikelihoodState) -> None:
        """Go on from there."""
        put(state, self, "rising", "falling")
        self._rising.pieces, self._falling.pieces = state.rising, state.falling

    def update(self, value: float) -> None:
        """Take in a value; sets `drift_detected`, `warning_detected` and `split`."""
        self._runs.add(value)
        self._seen += 1
        self._count += 1
        self._total += value
        self._squares += value * value
        self._rising.add(value)
        self._falling.add(value)
        if value * self._count > self._total:  # else the evidence of a rise has not grown
            ratio, split = self._rising.likeliest(self._of, self._count, self._total)
            excess = ratio * self._dispersion() / self._threshold
            self.drift_detected = not self._runs.explain(excess)
            self.warning_detected = excess > WARNING
            self.split = split if self.drift_detected else None
        if self._seen % FALL_EVERY == 0:
            self._forget()

    def _forget(self) -> None:
        ratio, split = self._falling.likeliest(self._of, self._count, self._total)
        if split is None or self._runs.explain(ratio * self._dispersion() / self._threshold):
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


# Share of the threshold from which a rise is called likely.
WARNING: Final = 0.6
# A fall is looked for once in so many values: it makes nobody wait.
FALL_EVERY: Final = 32


class _Pieces:
    """The isotonic regression of the values so far, by pooling adjacent violators."""

    def __init__(self, sign: float, count: int = 0, total: float = 0.0) -> None:
        self._sign = sign
        self.pieces: list[tuple[int, float]] = [(count, total)] if count else []

    def add(self, value: float) -> None:
        count, total, pieces, sign = 1, value, self.pieces, self._sign
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
        """The largest logarithm of a ratio of likelihoods `of` pieces, and its place.

        The ratio is of a change that has lasted, the place is the likeliest of all.
        """
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
    """Log likelihood of `count` values of 0 and 1 with this sum, at their own mean."""
    rest = count - total
    if total <= 0.0 or rest <= 0.0:
        return 0.0
    return total * math.log(total / count) + rest * math.log(rest / count)


def _exponential(count: int, total: float) -> float:
    """Log likelihood of `count` values with this sum, at their own mean, but for a constant."""
    return -count * math.log(max(total / count, TINY))


# Stands for a mean of nothing; a hundredth of what values are scaled to.
TINY: Final = 0.002


class Cusum:
    """Page's one-sided CUSUM for a mean that rises to `factor` times what it was.

    The mean before is that of all values up to the sum's last zero, so that a rise does not
    blur it (E. S. Page, "Continuous inspection schemes", Biometrika 1954; with the mean known, the
    mean time between false alarms is at least exp(threshold): G. Lorden, "Procedures for reacting
    to a change in distribution", 1971). Of 0 and 1, `binary`, it is the odds that rise; other
    values are taken for exponential ones, with the variance that they have. It believes what `runs`
    do not explain.
    """

    def __init__(
        self, threshold: float, *, factor: float, least_values: int, binary: bool, runs: Runs
    ) -> None:
        self._threshold = threshold * runs.inflation
        self._runs = runs
        self._factor = factor
        self._least_values = least_values
        self._binary = binary
        self._count, self._total, self._squares = 0, 0.0, 0.0  # up to the last zero
        self._ago, self._since, self._since_squares = 0, 0.0, 0.0  # since
        self._sum = 0.0
        self._each = self._slope = 0.0  # what a value adds: each, and by its size
        self.split: Split | None = None
        self.drift_detected = False
        self.warning_detected = False

    def state(self) -> CusumState:
        """What it has seen, as data."""
        return take(CusumState, self)

    def restore(self, state: CusumState) -> None:
        """Go on from there."""
        put(state, self)

    def update(self, value: float) -> None:
        """Take in a value; sets `drift_detected`, `warning_detected` and `split`."""
        self._runs.add(value)
        self._ago += 1
        self._since += value
        self._since_squares += value * value
        self._sum += self._each + self._slope * value
        excess = self._sum / self._threshold
        self.drift_detected = not self._runs.explain(excess)
        self.warning_detected = excess > WARNING
        self.split = (
            Split(self._ago, self._total / self._count, self._since / self._ago)
            if self.drift_detected
            else None
        )
        if self._sum <= 0.0:
            self._take()

    def _take(self) -> None:
        """There was no rise as yet: what was seen tells the mean before."""
        self._count += self._ago
        self._total += self._since
        self._squares += self._since_squares
        self._sum, self._ago, self._since, self._since_squares = 0.0, 0, 0.0, 0.0
        if self._count < self._least_values:
            return
        # Half an error more: the first ones would be beyond all likelihood if there was none.
        mean = (self._total + 0.5) / (self._count + 1.0)
        if self._binary:
            raised = self._factor * mean / (1.0 - mean + self._factor * mean)
            self._each = math.log((1.0 - raised) / (1.0 - mean))
            self._slope = math.log(raised / mean) - self._each
            return
        variance = self._squares / self._count - (self._total / self._count) ** 2
        dispersion = mean * mean / variance if variance > 0.0 else 1.0
        self._each = -math.log(self._factor) * dispersion
        self._slope = (1.0 - 1.0 / self._factor) / mean * dispersion


class Stepd:
    """The last `window` values against all before, by the test of equal proportions.

    K. Nishida and K. Yamauchi, "Detecting concept drift using statistical testing", 2007.
    """

    def __init__(self, *, window: int, sigmas: float) -> None:
        self._window = window
        self._sigmas = sigmas
        self._recent: deque[float] = deque()
        self._since = 0.0
        self._count, self._total = 0, 0.0  # before
        self._squares = 0.0  # of all
        self.split: Split | None = None
        self.drift_detected = False
        self.warning_detected = False

    def state(self) -> StepdState:
        """What it has seen, as data."""
        return take(StepdState, self)

    def restore(self, state: StepdState) -> None:
        """Go on from there."""
        put(state, self)

    def update(self, value: float) -> None:
        """Take in a value; sets `drift_detected`, `warning_detected` and `split`."""
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
        # Of 0 and 1 that is the variance of a proportion, mean * (1 - mean).
        deviation = math.sqrt(max(0.0, self._squares / count - pooled * pooled) * weight)
        distance = after - before - weight / 2.0  # Yates' correction
        self.drift_detected = distance > self._sigmas * deviation
        self.warning_detected = distance > WARNING * self._sigmas * deviation
        self.split = Split(self._window, before, after) if self.drift_detected else None


class Seed:
    """ADWIN's comparison of all ways to cut the past in two, at the borders of blocks.

    Neighbouring blocks of like means become one (D. T. J. Huang et al., "Detecting volatility
    shift in data streams", ICDM 2014). It reports falls, too: the older part is then forgotten.
    """

    def __init__(self, *, delta: float, block: int = 32, alike: float = 0.01) -> None:
        self._delta = delta
        self._block = block
        self._alike = alike
        self._blocks: list[tuple[int, float]] = []
        self._open = 0, 0.0
        self._closed = 0
        self.split: Split | None = None
        self.drift_detected = False

    def state(self) -> SeedState:
        """What it has seen, as data."""
        return take(SeedState, self)

    def restore(self, state: SeedState) -> None:
        """Go on from there."""
        put(state, self)

    def update(self, value: float) -> None:
        """Take in a value; sets `drift_detected` and `split`."""
        self.drift_detected, self.split = False, None
        count, total = self._open
        self._open = count + 1, total + value
        if count + 1 < self._block:
            return
        self._blocks.append(self._open)
        self._open = 0, 0.0
        self._closed += 1
        self._cut()
        if self._closed % COMPRESS_EVERY == 0 or len(self._blocks) > MAX_PIECES:
            self._compress()

    def _cut(self) -> None:
        count = sum(size for size, _ in self._blocks)
        total = sum(of_size for _, of_size in self._blocks)
        mean = total / count
        confidence = math.log(2.0 * math.log(count) / self._delta)
        before, of_before = 0, 0.0
        most, at = 1.0, 0
        for place, (size, of_size) in enumerate(self._blocks[:-1], 1):
            before += size
            of_before += of_size
            after, of_after = count - before, total - of_before
            weight = 1.0 / before + 1.0 / after
            bound = math.sqrt(2.0 * weight * mean * (1.0 - mean) * confidence)
            difference = of_after / after - of_before / before
            excess = abs(difference) / (bound + 2.0 / 3.0 * weight * confidence)
            if excess > most:
                most, at = excess, place
                self.split = Split(after, of_before / before, of_after / after)
        self.drift_detected = self.split is not None
        del self._blocks[:at]

    def _compress(self) -> None:
        merged = self._blocks[:1]
        for size, of_size in self._blocks[1:]:
            last, of_last = merged[-1]
            if abs(of_size / size - of_last / last) <= self._alike:
                merged[-1] = last + size, of_last + of_size
            else:
                merged.append((size, of_size))
        while len(merged) > MAX_PIECES // 2:
            merged[:2] = [(merged[0][0] + merged[1][0], merged[0][1] + merged[1][1])]
        self._blocks = merged


# Blocks between two looks for neighbours that are alike, as in the paper.
COMPRESS_EVERY: Final = 75
