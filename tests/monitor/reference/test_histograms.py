"""Distances of binned counts equal those of the values themselves, for many samples at once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.distance import jensenshannon
from scipy.stats import ks_2samp

from monitor.reference.histograms import MAX_BINS, MAX_LEVELS, Histograms


def texts(values: list[str | None]) -> NDArray[np.object_]:
    found = np.empty(len(values), dtype=object)
    found[:] = values
    return found


def distance(old: NDArray[np.object_], new: NDArray[np.object_]) -> float:
    known = Histograms([old])
    return float(known.distances(known.count([new]), known.total)[0])


@given(
    old=st.lists(st.integers(-9, 9), min_size=1, max_size=60),
    new=st.lists(st.integers(-12, 12), min_size=1, max_size=60),
)
def test_numbers_with_few_values_have_the_kolmogorov_smirnov_distance(
    old: list[int], new: list[int]
) -> None:
    known = Histograms([np.array(old, dtype=np.float64)])
    found = known.distances(known.count([np.array(new, dtype=np.float64)]), known.total)[0]
    true = ks_2samp(old, new).statistic
    assert found == pytest.approx(true, abs=1e-6)


def test_numbers_with_many_values_have_that_distance_up_to_one_bin() -> None:
    rng = np.random.default_rng(0)
    old, new = rng.normal(size=5000), rng.normal(0.3, 1.5, size=3000)
    known = Histograms([old])
    found = known.distances(known.count([new]), known.total)[0]
    assert found == pytest.approx(ks_2samp(old, new).statistic, abs=1 / (MAX_BINS - 2))


def test_categories_have_the_jensen_shannon_distance() -> None:
    old, new = texts([*"aaabbc", None]), texts(list("abbbbd"))
    # Rare categories share a bin; here c has its own bin, and d is in the shared one.
    assert distance(old, new) == pytest.approx(
        jensenshannon([3 / 6, 2 / 6, 1 / 6, 0], [1 / 6, 4 / 6, 0, 1 / 6]), abs=1e-6
    )
    assert distance(old, old) == 0.0


def test_rare_categories_share_a_bin() -> None:
    many = texts([str(n) for n in range(1000)])
    assert Histograms([many]).total.shape == (MAX_LEVELS,)


def test_a_column_without_values_has_no_distance() -> None:
    known = Histograms([np.arange(5.0)])
    assert known.distances(known.count([np.full(3, np.nan)]), known.total).tolist() == [0.0]
    assert Histograms([np.full(3, np.nan)]).total.tolist() == [0.0]


@given(
    numbers=st.lists(st.none() | st.floats(-5, 5), min_size=1, max_size=40),
    cuts=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=1, max_size=10),
)
@settings(max_examples=50)
def test_counts_of_blocks_equal_those_of_their_rows(
    numbers: list[float | None], cuts: list[tuple[int, int]]
) -> None:
    values = np.array([np.nan if number is None else number for number in numbers])
    names = texts([None if number is None else f"{number:.0f}" for number in numbers])
    known = Histograms([values, names])
    ends = [tuple(sorted(min(at, len(values)) for at in cut)) for cut in cuts]
    starts, stops = (np.array(side) for side in zip(*ends, strict=True))
    found = known.counts(starts, stops)
    for (start, stop), counts in zip(ends, found.T, strict=True):
        assert counts.tolist() == known.count([values[start:stop], names[start:stop]]).tolist()
