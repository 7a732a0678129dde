"""A classifier that tells a window's records from the reference's: it sees what no column and no
pair of columns shows, such as a sign that has become the product of two others.

In: columns as codes, of the reference in the order of time and of a window. Out: how well the two
can be told apart, beside what chance brings, and by which columns.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from monitor.reference.histograms import Histograms
from monitor.reference.thresholds import MIN_BLOCKS, rounded

# An interaction of three columns is found in 2,000 rows, in a third of a second.
ROUNDS: Final = 30
FOLDS: Final = 3
# Rows of the reference for each of the window; more of them tell little more and take longer.
REFERENCE_ROWS: Final = 4
# Windows of the reference itself, by which chance is known.
NULLS: Final = 60
# The columns that tell most; those behind them tell what these do, or next to nothing.
NAMED: Final = 3
_SEED: Final = 0

Table = NDArray[np.float32]  # (n, columns)
Places = NDArray[np.intp]


class Told(NamedTuple):
    """`effect`: how much more often a record of the window is taken for one than a record of the
    reference is (Gini's coefficient, twice the area under the curve less 1). `score`: that, over
    what one window of some hundred reaches by chance. `places`: the columns it goes by."""

    effect: float
    score: float
    places: tuple[int, ...]


class DomainClassifier:
    """Gradient-boosted trees, and the area under their curve of records that they were not fitted
    on (Lopez-Paz and Oquab, "Revisiting classifier two-sample tests", 2017)."""

    def __init__(self, histograms: Histograms, *, columns: int, block: int) -> None:
        """For the first so many columns. `block`: records of the reference that hang together."""
        self._histograms = histograms
        self._columns = columns
        self._block = block
        self._reference = self._table(None)
        self._scales: dict[int, float] = {}

    def tell(self, columns: Sequence[NDArray[Any]]) -> Told | None:
        """Of a window's columns (m,) each; None where the reference is too short to know chance."""
        if len(self._reference) < MIN_BLOCKS * self._block:
            return None
        window = self._table(columns)
        size = rounded(len(window))
        if size not in self._scales:
            self._scales[size] = self._scale(size)
        rows = _some(np.arange(len(self._reference)), len(window), np.random.default_rng(_SEED))
        effect, places = _told_apart(self._reference[rows], window)
        return Told(max(0.0, effect), effect / self._scales[size], places)

    def _table(self, columns: Sequence[NDArray[Any]] | None) -> Table:
        return np.stack(self._histograms.codes(columns)[: self._columns], axis=1).astype(np.float32)

    def _scale(self, size: int) -> float:
        """Three standard deviations above the mean of what windows of the reference reach against
        the rest of it; the area under a curve is nearly normal. Rows near the window are left out
        of the rest: what comes after the reference has no neighbours there."""
        rng = np.random.default_rng(_SEED)
        total = len(self._reference)
        size = min(size, total // 4)
        length = min(self._block, size)
        found = []
        for _ in range(NULLS):
            starts = rng.integers(total - length + 1, size=round(size / length))[:, None]
            window = (starts + np.arange(length)).ravel()
            near = (starts + np.arange(-self._block, length + self._block)).ravel()
            rest = np.setdiff1d(np.arange(total), near if self._block > 1 else window)
            rows = _some(rest, size, rng)
            found.append(_told_apart(self._reference[rows], self._reference[window], named=0)[0])
        return float(np.mean(found) + 3.0 * np.std(found, ddof=1))


def _some(rows: Places, size: int, rng: np.random.Generator) -> Places:
    """Of the reference's rows those for a window of this size, in their order."""
    count = min(len(rows), REFERENCE_ROWS * size)
    return np.sort(rng.choice(rows, count, replace=False))


def _told_apart(
    reference: Table, window: Table, *, named: int = NAMED
) -> tuple[float, tuple[int, ...]]:
    """Gini's coefficient, and the columns without which it falls most."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # of sklearn

    rows = np.concatenate((reference, window))
    is_new = np.arange(len(rows)) >= len(reference)
    rng = np.random.default_rng(_SEED)
    folds = np.concatenate([rng.permutation(len(side)) % FOLDS for side in (reference, window)])
    said = np.empty(len(rows))
    without = np.empty((rows.shape[1] if named else 0, len(rows)))
    with threadpool_limits(1):  # sums in the same order each time
        for fold in range(FOLDS):
            held = folds == fold
            trees = HistGradientBoostingClassifier(
                max_iter=ROUNDS, early_stopping=False, random_state=_SEED
            ).fit(rows[~held], is_new[~held])
            said[held] = trees.decision_function(rows[held])
            for place in range(len(without)):
                mixed = rows[held]
                mixed[:, place] = rng.permutation(mixed[:, place])
                without[place, held] = trees.decision_function(mixed)
    gini = _gini(said, is_new)
    falls = np.array([gini - _gini(values, is_new) for values in without])
    most = [place for place in np.argsort(-falls, kind="stable")[:named] if falls[place] > 0.0]
    return gini, tuple(int(place) for place in most)


def _gini(said: NDArray[np.float64], is_new: NDArray[np.bool_]) -> float:
    """Twice the area under the curve, less 1: of all pairs of a new and an old record."""
    from scipy.stats import rankdata

    new = int(is_new.sum())
    above = float(rankdata(said)[is_new].sum()) - new * (new + 1) / 2
    return 2.0 * above / (new * (len(said) - new)) - 1.0
