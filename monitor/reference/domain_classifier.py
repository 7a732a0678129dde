"""Train a classifier on arrays to distinguish a window's records from the reference's records.

Input: the columns of a window and of the reference as bin codes, rows in time order. Output: how
much better than chance the classifier performs, and which columns it relies on. The classifier
detects changes that neither a single column nor a column pair shows, such as a column whose sign
has become the product of two other columns' signs.
"""

from collections.abc import Sequence
from math import sqrt
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from monitor.reference.histograms import Codes, Histograms
from monitor.reference.thresholds import MIN_BLOCKS, rounded

# With this number of boosting rounds, the classifier detects an interaction between three columns
# in 2,000 rows within a third of a second.
ROUNDS: Final = 30
FOLDS: Final = 3
# Windows with fewer than `MIN_ROWS` rows get no result. Windows with more than `MAX_ROWS` rows are
# sampled, to save time.
MIN_ROWS: Final = 100
MAX_ROWS: Final = 2_000
# Number of reference rows per window row. More rows would take longer without improving the result
# noticeably.
REFERENCE_ROWS: Final = 4
# `NULLS` windows are drawn from the reference to estimate the effects that occur by chance. Window
# sizes are rounded down to powers of `STEP`, so that few limits must be computed.
NULLS: Final = 60
STEP: Final = 1.25
# Maximum number of columns to report. Further columns add little or no information.
NAMED: Final = 3
_SEED: Final = 0

Table = NDArray[np.float32]  # (n, columns)
Places = NDArray[np.intp]


class ClassifierResult(NamedTuple):
    """`effect` is the Gini coefficient, twice the area under the ROC curve minus 1: 0 if the window
    and the reference cannot be distinguished, 1 if they can be distinguished perfectly. `excess` is
    the effect divided by its limit. `places` are the indices of the columns that the classifier
    relies on."""

    effect: float
    excess: float
    places: tuple[int, ...]


class DomainClassifier:
    """Gradient-boosted trees, evaluated by the area under the ROC curve on records outside their
    training folds (Lopez-Paz and Oquab, "Revisiting classifier two-sample tests", 2017)."""

    def __init__(self, histograms: Histograms, *, columns: int, rate: float, block: int) -> None:
        """Use the first `columns` columns. `rate` is the share of windows that exceed the limit by
        chance, and `block` is the reference's block length in records."""
        self._histograms = histograms
        self._columns = columns
        self._rate = rate
        self._block = block
        self._reference = self._table(histograms.own)
        self._limits: dict[int, float] = {}  # rounded window size → limit

    def test(
        self, columns: Sequence[NDArray[Any]], positions: NDArray[np.int64] | None = None
    ) -> ClassifierResult | None:
        """Test a window's columns, each (m,). Return None if the window is too small, or if the
        reference is too short to compute a limit. `positions` (m,) are needed if a column has a
        season."""
        if len(columns[0]) < MIN_ROWS or len(self._reference) < MIN_BLOCKS * self._block:
            return None
        window = self._table(self._histograms.codes(columns, positions))
        size = rounded(len(window), STEP)
        if size not in self._limits:
            self._limits[size] = self._limit(size)
        rng = np.random.default_rng(_SEED)
        window = window[_some(np.arange(len(window)), MAX_ROWS, rng)]
        rows = _some(np.arange(len(self._reference)), REFERENCE_ROWS * len(window), rng)
        effect, places = _separability(self._reference[rows], window)
        return ClassifierResult(max(0.0, effect), effect / self._limits[size], places)

    def _table(self, codes: Sequence[Codes]) -> Table:
        return np.stack(codes[: self._columns], axis=1).astype(np.float32)

    def _limit(self, size: int) -> float:
        """Return the limit for a window size. A window drawn from the reference and compared with
        the rest of the reference has an effect above the limit with probability `rate`.

        The area under the curve is approximately normally distributed, so the effect of one more
        window follows Student's t-distribution. Rows near the drawn window are excluded from the
        rest of the reference, because a real window has no neighbours in the reference.
        """
        from scipy.stats import t

        rng = np.random.default_rng(_SEED)
        total = len(self._reference)
        size = min(size, total // 4)
        length = min(self._block, size)
        found = []
        for _ in range(NULLS):
            # Never draw a row twice, because trees would recognise the duplicate.
            blocks = rng.choice(total // length, round(size / length), replace=False)
            starts = (rng.integers(total % length + 1) + blocks * length)[:, None]
            drawn = (starts + np.arange(length)).ravel()
            near = (starts + np.arange(-self._block, length + self._block)).ravel()
            rest = np.setdiff1d(np.arange(total), near if self._block > 1 else drawn)
            window = _some(drawn, MAX_ROWS, rng)
            rows = _some(rest, REFERENCE_ROWS * len(window), rng)
            found.append(_separability(self._reference[rows], self._reference[window], named=0)[0])
        deviations = t.isf(self._rate, NULLS - 1) * sqrt(1.0 + 1.0 / NULLS)
        limit = np.mean(found) + deviations * np.std(found, ddof=1)
        # The limit is at least the effect of a single record. Otherwise, it would be 0 for a
        # reference whose columns are all constant.
        return float(max(limit, 1.0 / size))


def _some(rows: Places, count: int, rng: np.random.Generator) -> Places:
    """Return `count` random rows in their original order, or all rows if there are fewer."""
    return np.sort(rng.choice(rows, min(len(rows), count), replace=False))


def _separability(
    reference: Table, window: Table, *, named: int = NAMED
) -> tuple[float, tuple[int, ...]]:
    """Return the Gini coefficient, and the columns whose permutation decreases it most."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # via sklearn

    rows = np.concatenate((reference, window))
    is_new = np.arange(len(rows)) >= len(reference)
    rng = np.random.default_rng(_SEED)
    folds = np.concatenate([rng.permutation(len(side)) % FOLDS for side in (reference, window)])
    scores = np.empty(len(rows))
    without = np.empty((rows.shape[1] if named else 0, len(rows)))
    with threadpool_limits(1):  # a single thread makes the result reproducible
        for fold in range(FOLDS):
            held = folds == fold
            trees = HistGradientBoostingClassifier(
                max_iter=ROUNDS, early_stopping=False, random_state=_SEED
            ).fit(rows[~held], is_new[~held])
            scores[held] = trees.decision_function(rows[held])
            for place in range(len(without)):
                mixed = rows[held]
                mixed[:, place] = rng.permutation(mixed[:, place])
                without[place, held] = trees.decision_function(mixed)
    gini = _gini(scores, is_new)
    falls = np.array([gini - _gini(values, is_new) for values in without])
    most = np.argsort(-falls, kind="stable")[:named]
    return gini, tuple(int(p) for p in most if p == most[0] or falls[p] > 0.0)


def _gini(scores: NDArray[np.float64], is_new: NDArray[np.bool_]) -> float:
    """Return the Gini coefficient of `scores` (n,): twice the area under the ROC curve minus
    1."""
    from scipy.stats import rankdata

    new = int(is_new.sum())
    above = float(rankdata(scores)[is_new].sum()) - new * (new + 1) / 2
    return 2.0 * above / (new * (len(scores) - new)) - 1.0
