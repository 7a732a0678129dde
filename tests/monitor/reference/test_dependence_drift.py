"""The table of a column pair shows only their dependence, not the distribution of each column."""

import numpy as np
import pytest
from numpy.typing import NDArray

from monitor.reference.dependence_drift import MAX_PAIRS, dependence
from monitor.reference.histograms import Histograms

RNG = np.random.default_rng(0)


def correlated(size: int, correlation: float) -> list[NDArray[np.float64]]:
    x, noise = RNG.normal(size=(2, size))
    return [x, correlation * x + np.sqrt(1 - correlation**2) * noise]


def pair_distance(old: list[NDArray[np.float64]], new: list[NDArray[np.float64]]) -> float:
    known = Histograms(old, paired=2)
    return float(known.distances(known.count(new), known.total)[2])


def test_a_reversed_correlation_gives_a_distance() -> None:
    same = pair_distance(correlated(20_000, 0.5), correlated(20_000, 0.5))
    gone = pair_distance(correlated(20_000, 0.5), correlated(20_000, 0.0))
    turned = pair_distance(correlated(20_000, 0.5), correlated(20_000, -0.5))
    assert same < 0.02
    assert 0.14 < gone < 0.19
    assert turned > 1.4 * gone


def test_shifts_of_single_columns_give_no_distance() -> None:
    old, new = correlated(20_000, 0.0), correlated(20_000, 0.0)
    assert pair_distance(old, [new[0] + 1.0, new[1] * 2.0]) < 0.02


def test_a_table_of_independent_columns_is_zero() -> None:
    table = np.outer([0.2, 0.3, 0.5], [0.1, 0.1, 0.8]).ravel()
    assert dependence(table) == pytest.approx(np.zeros(9), abs=1e-12)


def test_missing_values_are_not_counted_in_the_table() -> None:
    x, y = correlated(1000, 0.5)
    x[:300], y[200:400] = np.nan, np.nan
    known = Histograms([x, y], paired=2)
    assert known.total[-9:].sum() == 600


def test_the_most_dependent_pairs_are_watched() -> None:
    columns = [*correlated(500, 0.9), *RNG.normal(size=(28, 500))]
    pairs = Histograms(columns, paired=30).pairs
    assert len(pairs) == MAX_PAIRS
    assert (0, 1) in [pair.places for pair in pairs]
    assert len(Histograms(columns, paired=5).pairs) == 10
