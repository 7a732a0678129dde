"""Estimate a window's metric, with a confidence interval, before the labels are known.

Input: held-out records from a model's package, then a window's sample. Output: an estimate with an
interval. The estimate depends only on inputs and scores. If the relation between inputs and labels
changes (concept drift), no estimate without labels can detect the change. The interval does not
account for such a change. Columns outside of the reference's support are listed, because the
estimate may be wrong by any amount for their records.
"""

import math
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from driftline.config.measure import Measure
from driftline.wire.window_events import MetricEstimate
from monitor.bottom_k_sample import Sample
from monitor.estimates.support import Support

# Minimum number of held-out records. With fewer records, an estimate would be mostly noise.
MIN_HELD: Final = 50
# Number of consecutive folds into which the held-out records are split. The metric of each fold is
# estimated from the other folds.
FOLDS: Final = 10
CONFIDENCE: Final = 0.95

Array = NDArray[np.float64]
Places = NDArray[np.intp]


class Guess(NamedTuple):
    """The expected metric of n records without labels. `value` is the metric. `means` and
    `variances`, both (n,), are the expected value and the variance of each record's contribution to
    n × metric while its label is unknown. The metric is linearised around `value`."""

    value: float
    means: Array
    variances: Array


Inputs = TypeVar("Inputs")
Fitted = TypeVar("Fitted")


class Approach(Protocol[Inputs, Fitted]):
    """An estimation method that learns from m held-out records."""

    def __len__(self) -> int:
        """Return m, the number of held-out records."""

    def fit(self, places: Places) -> Fitted:
        """Fit the method only to the held-out records at the indices `places`."""

    def held(self, places: Places) -> Inputs:
        """Return the held-out records at the indices `places`, without their labels."""

    def inputs(self, sample: Sample) -> Inputs | None:
        """Return the sample's records, or None if they lack a required field."""

    def guess(self, fitted: Fitted, inputs: Inputs) -> Guess:
        """Return the expected metric of the n ≥ 1 records in `inputs`."""

    def residuals(self, fitted: Fitted, places: Places) -> tuple[Array, Array]:
        """Return two arrays for the held-out records at the indices `places`: each record's
        actual contribution to the metric minus its expected contribution, and the contribution's
        expected variance."""


class Estimator(Protocol):
    """Estimates one model's metric."""

    def estimate(self, sample: Sample, records: int) -> MetricEstimate | None:
        """Return an estimate for a window, given a non-empty `sample` of the `records` records that
        the model scored. Return None if the sample lacks a required field. Raises ValueError if the
        estimate is not finite."""


class MetricEstimator(Generic[Inputs, Fitted]):
    """Estimates the metric with an `Approach`, and adds a confidence interval. The estimate's
    variance is the sum of four variances:

    - the labels' variance, given each record's expected contribution
    - the sampling variance, if the sample is not the whole window
    - the fitted approach's variance, from a jackknife over the held-out folds (Künsch, The
      jackknife and the bootstrap for general stationary observations, 1989)
    - the variance between parts of the held-out records, in excess of the variance expected by
      chance, from DerSimonian and Laird's moment estimator (Meta-analysis in clinical trials,
      1986). If a stream's error varies even without drift, this variance makes intervals wide.

    The last two variances are estimated from few folds, so the interval uses a quantile of
    Student's t-distribution with Satterthwaite's degrees of freedom.
    """

    def __init__(
        self,
        measure: Measure,
        approach: Approach[Inputs, Fitted],
        reference_value: float,
        *,
        support: Support,
        floor: float,
    ) -> None:
        """`floor` is the smallest error to which an increase is related, in the metric's unit."""
        self._support = support
        self._floor = floor
        self._measure = measure
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
        # Add the four variances listed in the class docstring. `uncertain` is the sum of the last
        # two variances.
        labels = float(guess.variances.mean()) / records
        unseen = max(0.0, 1.0 - len(sample) / records)
        drawn = unseen * float(guess.means.var()) / len(sample)
        others = np.array([self._approach.guess(f, inputs).value for f in self._without])
        learnt = (FOLDS - 1) * float(others.var())
        uncertain = learnt + self._between(records)
        spread = math.sqrt(labels + drawn + uncertain)
        reach = spread * _quantile(spread**2, uncertain)
        low, high = guess.value - reach, guess.value + reach
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError("the estimate is not finite")
        low = max(0.0, low)
        if self._measure.higher_is_better:
            high = min(1.0, high)
        return MetricEstimate(
            self._measure.name,
            guess.value,
            low,
            high,
            self._reference_value,
            unsupported=self._support.unsupported(sample.columns),
            floor=self._floor,
        )

    def _between(self, records: int) -> float:
        """Return the variance between parts of the held-out records, in excess of the variance
        expected by chance. Each part contains about `records` records."""
        found, expected = [], []
        for residuals, variances in self._residuals:
            pieces = max(1, len(residuals) // records)
            for piece in np.array_split(np.arange(len(residuals)), pieces):
                found.append(float(residuals[piece].mean()) ** 2)
                expected.append(float(variances[piece].mean()) / len(piece))
        # A fold's estimate is itself uncertain, because it uses only the other nine folds.
        by_chance = sum(expected) / len(expected) * FOLDS / (FOLDS - 1)
        return max(0.0, sum(found) / len(found) - by_chance)


def _quantile(total: float, uncertain: float) -> float:
    """Return the quantile of Student's t-distribution for an estimate with the variance `total`.
    The component `uncertain` of this variance was itself estimated from only `FOLDS` values."""
    from scipy.stats import norm, t

    tail = 0.5 + CONFIDENCE / 2.0
    if uncertain <= 1e-6 * total:
        return float(norm.ppf(tail))
    return float(t.ppf(tail, (FOLDS - 1) * (total / uncertain) ** 2))
