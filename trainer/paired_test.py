"""Compare two models on new labelled rows, sequentially (decision 26).

Input: each row's gain, which is positive if the challenger did better than the champion. Output:
`won`, `lost` or `open`. The test looks at fixed numbers of rows, so its result does not depend on
when it is asked. This module performs no I/O.
"""

from typing import Any, Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtr

from driftline.config.measure import Measure
from driftline.learning.metrics import Answers, evaluate, losses, scores_of
from driftline.learning.ranking import Ranking, grouped, ranking_metric, ranking_slopes

State = Literal["won", "lost", "open"]
Values = NDArray[Any]

# The test looks after 50 rows, and then each time the number of rows has grown by a fifth. Fewer
# rows cannot show a gain at this limit unless almost every row is one.
FIRST_LOOK: Final = 50
GROWTH: Final = 1.2
# After so many rows, a gain that has not shown is too small to matter.
MAX_ROWS: Final = 20_000
# The challenger wins if its total gain exceeds this many standard errors at any look. Measured with
# `benchmarks.evidence gate`: equal models win less than 1% of comparisons over all looks together.
LIMIT: Final = 3.4
# A standard error needs at least this many blocks of rows.
MIN_BLOCKS: Final = 12
# Gains that stay similar for longer than this are taken for a lasting difference between the
# models, not for autocorrelation.
MAX_BLOCK: Final = 512
# An autocorrelation of this many standard errors makes the test use longer blocks.
_CORRELATED: Final = 2.0
# Fewer runs of equal gains than this may be blocks, even if most rows have the same gain.
_MIN_RUNS: Final = 8
# Chance explains up to this inflation if there are fewer runs. It suffices if the models differ on
# up to a fifth of the rows in each direction.
_FEW_RUNS_BY_CHANCE: Final = 1.5
# An error that has not occurred in n rows may, at 95% confidence, occur in up to 3 of the next n
# (the rule of three). The test therefore subtracts this many of the largest losses.
_UNSEEN: Final = 3.0


class Gains(msgspec.Struct, frozen=True):
    """Each row's gain, float64 (n,), and the largest loss that a single row can cause.

    The mean of `values` is the gain in the metric; for `rmse` and `rmsle`, in the mean of the
    squared errors.
    """

    values: NDArray[np.float64]
    largest_loss: float

    @property
    def allowance(self) -> float:
        """Return how much losses that have not occurred yet may reduce the total gain.

        The allowance is 0 if all gains and losses are of equal size, as they are for accuracy.
        """
        informative = self.values[self.values != 0]
        if not len(informative):
            return 0.0
        typical = float(np.sqrt(np.mean(informative**2)))
        return _UNSEEN * max(0.0, self.largest_loss - typical)


def looks() -> list[int]:
    """Return the numbers of rows at which the test looks.

    >>> looks()[:6], looks()[-1]
    ([50, 60, 72, 86, 103, 124], 20000)
    """
    found, rows = [], float(FIRST_LOOK)
    while rows < MAX_ROWS:
        found.append(int(rows))
        rows *= GROWTH
    return [*found, MAX_ROWS]


def row_gains(
    measure: Measure,
    labels: Values,
    challenger: Answers,
    champion: Answers,
    *,
    largest_loss: float = 0.0,
    classes: tuple[str, ...] = (),
) -> Gains:
    """Return each row's contribution to the difference between two models' metrics.

    A metric that is not a mean over rows is linearised: a row contributes the change that one more
    row with the same label and answer would cause (the empirical influence function; Hampel, "The
    influence curve and its role in robust estimation", 1974). The metric must be defined for both
    models. `largest_loss` is the largest loss known from earlier rows. `classes` are the labels
    known from earlier rows.
    """
    if measure.is_mean:
        theirs, ours = losses(measure, labels, champion), losses(measure, labels, challenger)
        if measure.is_root:
            theirs, ours = theirs**2, ours**2
        values = _finite(theirs - ours)
        return Gains(values, max(largest_loss, float(np.abs(values).max(initial=0.0))))
    # In all other metrics, a higher value is better.
    if measure.is_ranking:
        positive = np.array([label == measure.positive for label in labels])
        ours, theirs = (_rank_influence(measure, positive, each) for each in (challenger, champion))
        return Gains(ours - theirs, _largest_rank_loss(positive, ours - theirs))
    ours, theirs = (_influence(measure, labels, each) for each in (challenger, champion))
    return Gains(ours - theirs, _largest_loss(measure, labels, challenger, champion, classes))


def decide(gains: Gains, dependence: int = 1) -> State:
    """Return the result after exactly these rows, in order.

    `dependence` is the number of neighbouring rows whose gains are related, as known from earlier
    rows. The test never uses shorter blocks, and uses longer ones if the gains are autocorrelated.

    Two standard errors must agree. The first is computed from single rows, around a mean of 0. With
    it, the ratio is bounded for symmetric gains whatever their distribution and number (Efron,
    "Student's t-test under symmetry conditions", 1969), so a few informative rows cannot win. The
    second is computed from the sums of blocks of rows, and accounts for autocorrelation.
    """
    values, count = gains.values, len(gains.values)
    total = float(values.sum()) - gains.allowance
    if count >= MAX_ROWS and total <= 0:
        return "lost"
    power = float(np.sum(values**2))
    if not power:
        return "lost" if count >= MAX_ROWS else "open"
    size = block_size(values, dependence)
    blocks = count // size
    if blocks < MIN_BLOCKS:
        return "lost" if count >= MAX_ROWS else "open"
    sums = _sums(values, size)
    spread = max(power, float(np.sum(sums**2)))
    if total / np.sqrt(_power_of_runs(values)) >= LIMIT and _normal_score(gains, sums) >= LIMIT:
        return "won"
    # The challenger has lost if even two standard errors more per row would not win by the end.
    hoped = (float(values.sum()) + 2.5 * np.sqrt(spread)) / count
    least = LIMIT * np.sqrt(spread / count * MAX_ROWS) + gains.allowance
    possible = float(values.sum()) + hoped * (MAX_ROWS - count) >= least
    return "open" if possible and count < MAX_ROWS else "lost"


def block_size(values: NDArray[np.float64], least: int = 1) -> int:
    """Return the number of rows per block at which the sums of blocks are uncorrelated.

    Sizes are doubled from `least` on. The result is twice the largest size at which neighbouring
    blocks are significantly correlated, or `least`. The search ends after two sizes without a
    significant correlation, because chance hardly ever produces a longer series of sizes.
    """
    chosen = size = max(1, least)
    while size <= min(MAX_BLOCK, 4 * chosen, len(values) // MIN_BLOCKS):
        if _correlation(_sums(values, size)) > _CORRELATED / np.sqrt(len(values) // size):
            chosen = 2 * size
        size *= 2
    return chosen


def dependence_of(values: NDArray[np.float64]) -> int:
    """Return the block size of earlier errors, as `decide` uses it."""
    return min(block_size(values), 2 * MAX_BLOCK)


def _correlation(sums: NDArray[np.float64]) -> float:
    """Return the correlation of neighbouring sums. It is 1 for equal sums other than 0."""
    centred = sums - sums.mean()
    power = float(np.sum(centred**2))
    if power <= 1e-12 * float(np.sum(sums**2)):
        return float(sums.any())
    return float(np.sum(centred[1:] * centred[:-1])) / power


def _power_of_runs(values: NDArray[np.float64]) -> float:
    """Return the sum of squares of `values`, with each run of equal values counted as one value.

    Models that err in blocks of rows produce long runs. Runs also occur by chance: if a share p of
    independent rows has one value, the sum grows by (1 + p) / (1 - p). The result is divided by
    this factor, which is limited if there are too few runs to see that they occur by chance.
    """
    power = float(np.sum(values**2))
    first = np.flatnonzero(np.append(True, values[1:] != values[:-1]))
    runs = np.add.reduceat(values, first)
    distinct, counts = np.unique(values[values != 0], return_counts=True)
    share = counts / len(values)
    if not len(distinct) or share.max() == 1:
        return float(np.sum(runs**2))
    chance = float(np.sum(distinct**2 * counts * (1 + share) / (1 - share))) / power
    if len(runs) < _MIN_RUNS:
        chance = min(chance, _FEW_RUNS_BY_CHANCE)
    return max(power, float(np.sum(runs**2)) / chance)


def _sums(values: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    blocks = len(values) // size
    found: NDArray[np.float64] = values[: blocks * size].reshape(blocks, size).sum(axis=1)
    return found


def _normal_score(gains: Gains, sums: NDArray[np.float64]) -> float:
    """Return the quantile of the normal distribution that is as likely as the sums' t-statistic.

    The newest rows, which do not fill a block, are left out.
    """
    total = float(sums.sum()) - gains.allowance
    blocks = len(sums)
    related = 1 + 2 * max(0.0, _correlation(sums))  # of neighbouring blocks
    ratio = total / np.sqrt(float(np.sum(sums**2)) * related)
    if ratio**2 >= blocks * (1 - 1e-12):
        return float(np.copysign(np.inf, ratio))
    t = ratio * np.sqrt((blocks - 1) / (blocks - ratio**2))
    return float(-ndtri(stdtr(blocks - 1, -t)))


def _finite(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Replace gains over predictions that are not finite by the largest finite gain."""
    finite = np.isfinite(values)
    if finite.all():
        return values
    return np.where(finite, values, np.abs(values[finite]).max(initial=0.0) or 1.0)


def _rank_influence(
    measure: Measure, positive: NDArray[np.bool_], answers: Answers
) -> NDArray[np.float64]:
    """Return each row's influence on a ranking metric, float64 (n,). Its mean is the metric."""
    ranking, at = grouped(scores_of(measure, answers), positive.astype(np.float64))
    count = len(positive)
    shares = Ranking(ranking.positives / count, ranking.negatives / count)
    of_positives, of_negatives = ranking_slopes(measure.name, shares)
    value = ranking_metric(measure.name, ranking)
    found: NDArray[np.float64] = value + np.where(positive, of_positives[at], of_negatives[at])
    return found


def _largest_rank_loss(positive: NDArray[np.bool_], gains: NDArray[np.float64]) -> float:
    """Return the largest loss of one more row: of a positive that only the champion ranks above all
    negatives, or of a negative that only the champion ranks below all positives.

    The loss is large for a class with few rows, so the test waits for more rows of that class.
    """
    rarer = min(int(positive.sum()), len(positive) - int(positive.sum()))
    return max(len(positive) / max(1, rarer), float(np.abs(gains).max()))


def _influence(measure: Measure, labels: Values, answers: Answers) -> NDArray[np.float64]:
    """Return each row's influence on a metric of classes, float64 (n,). Its mean is the metric."""
    predictions = np.asarray(answers.predictions, dtype=object)
    count, base = len(labels), evaluate(measure, labels, answers)
    values = np.empty(count)
    for label, prediction in sorted(set(zip(labels.tolist(), predictions.tolist(), strict=True))):
        at = (labels == label) & (predictions == prediction)
        values[at] = _with(measure, labels, answers, label, prediction) - base
    values = values * (count + 1)
    found: NDArray[np.float64] = values - values.mean() + base
    return found


def _largest_loss(
    measure: Measure, labels: Values, challenger: Answers, champion: Answers, known: tuple[str, ...]
) -> float:
    """Return the largest loss of one more row that only the champion gets right.

    The loss is large for a class with few rows, so the test waits for more rows of that class.
    """
    names = sorted({*labels.tolist(), *known})
    before = evaluate(measure, labels, challenger) - evaluate(measure, labels, champion)
    found = [0.0]
    for name in names:
        wrong = next((other for other in names if other != name), f"not {name}")
        after = _with(measure, labels, challenger, name, wrong)
        after -= _with(measure, labels, champion, name, name)
        found.append((before - after) * (len(labels) + 1))
    return max(found)


def _with(measure: Measure, labels: Values, answers: Answers, label: str, prediction: str) -> float:
    """Return a metric of classes with one more row."""
    more = Answers([*list(answers.predictions), prediction])
    return evaluate(measure, [*labels.tolist(), label], more)
