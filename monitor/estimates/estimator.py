"""What the stream's metric of a window is likely to be, where its labels are not known yet.

In: a model's held-out records, out of its package; then the sample of a window. Out: an estimate
with an interval. It follows what inputs and scores tell. Where the truth about the same inputs
changes (concept drift) no label-free estimate can see it, and the interval has no room for it.
"""

import math
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from driftline.events import MetricEstimate
from driftline.stream import Metric
from monitor.sample import Sample

# Fewer held-out records say too little: an estimate would be their noise.
MIN_HELD: Final = 50
# Stretches of the held-out records, each of which is estimated from the others.
FOLDS: Final = 10
CONFIDENCE: Final = 0.95

Array = NDArray[np.float64]
Places = NDArray[np.intp]


class Guess(NamedTuple):
    """What is expected of n records without their labels.

    `value` of the metric; `means` (n,) and `variances` (n,) of what each record, once its label is
    known, adds to n times the metric, which is taken as linear about `value`.
    """

    value: float
    means: Array
    variances: Array


Inputs = TypeVar("Inputs")
Fitted = TypeVar("Fitted")


class Approach(Protocol[Inputs, Fitted]):
    """A way to guess, which learns from m held-out records."""

    def __len__(self) -> int:
        """m."""

    def fit(self, places: Places) -> Fitted:
        """Learn from these held-out records alone."""

    def held(self, places: Places) -> Inputs:
        """These held-out records, without their labels."""

    def inputs(self, sample: Sample) -> Inputs | None:
        """A window's records; None where they lack what is needed."""

    def guess(self, fitted: Fitted, inputs: Inputs) -> Guess:
        """The metric of these records, n ≥ 1."""

    def residuals(self, fitted: Fitted, places: Places) -> tuple[Array, Array]:
        """Of each of these held-out records what it adds to the metric less what was expected, and
        the variance that was expected."""


class Estimator(Protocol):
    """Made for one model."""

    def estimate(self, sample: Sample, records: int) -> MetricEstimate | None:
        """Of a window of so many records of the model, of which `sample` (n ≥ 1) is a part; None
        where that lacks what is needed."""


class MetricEstimator(Generic[Inputs, Fitted]):
    """An approach with its interval, which adds up four variances:

    - of the labels themselves, given what is expected of each record;
    - of the sample, where it is not the whole window;
    - of what was learnt, by a jackknife over stretches of the held-out records (Künsch, The
      jackknife and the bootstrap for general stationary observations, 1989);
    - between stretches of the held-out records, as far as their metric differs from what the others
      would have it by more than chance: the moment estimator of DerSimonian and Laird
      (Meta-analysis in clinical trials, 1986). A stream whose error goes up and down by itself has
      wide intervals.

    The last two are known from few stretches: the quantile is Student's, with Satterthwaite's
    degrees of freedom.
    """

    def __init__(
        self, metric: Metric, approach: Approach[Inputs, Fitted], reference_value: float
    ) -> None:
        self._metric: Metric = metric
        self._approach = approach
        self._reference_value = reference_value
        everything = np.arange(len(approach))
        self._fitted = approach.fit(everything)
        self._folds = np.array_split(everything, FOLDS)
        self._without = [approach.fit(np.setdiff1d(everything, fold)) for fold in self._folds]
        self._residuals = [
            approach.residuals(fitted, fold)
            for fitted, fold in zip(self._without, self._folds, strict=True)
        ]

    def estimate(self, sample: Sample, records: int) -> MetricEstimate | None:
        """See `Estimator`."""
        inputs = self._approach.inputs(sample)
        if inputs is None:
            return None
        guess = self._approach.guess(self._fitted, inputs)
        labels = float(guess.variances.mean()) / records
        unseen = max(0.0, 1.0 - len(sample) / records)
        drawn = unseen * float(guess.means.var()) / len(sample)
        others = np.array([self._approach.guess(f, inputs).value for f in self._without])
        learnt = (FOLDS - 1) * float(others.var())
        uncertain = learnt + self._between(records)
        spread = math.sqrt(labels + drawn + uncertain)
        reach = spread * _quantile(spread**2, uncertain)
        low, high = guess.value - reach, guess.value + reach
        if self._metric in ("mae", "rmse"):
            low = max(0.0, low)
        else:
            low, high = max(0.0, low), min(1.0, high)
        return MetricEstimate(self._metric, guess.value, low, high, self._reference_value)

    def _between(self, records: int) -> float:
        """Variance between stretches of about so many held-out records, beyond chance."""
        found, expected = [], []
        for residuals, variances in self._residuals:
            pieces = max(1, len(residuals) // records)
            for piece in np.array_split(np.arange(len(residuals)), pieces):
                found.append(float(residuals[piece].mean()) ** 2)
                expected.append(float(variances[piece].mean()) / len(piece))
        # What a stretch is compared with is itself known from the other nine alone.
        by_chance = sum(expected) / len(expected) * FOLDS / (FOLDS - 1)
        return max(0.0, sum(found) / len(found) - by_chance)


def _quantile(total: float, uncertain: float) -> float:
    """Of Student's distribution, where a part of the variance is known from `FOLDS` values."""
    from scipy.stats import norm, t

    tail = 0.5 + CONFIDENCE / 2.0
    if uncertain <= 1e-6 * total:
        return float(norm.ppf(tail))
    return float(t.ppf(tail, (FOLDS - 1) * (total / uncertain) ** 2))
