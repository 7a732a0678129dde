"""The default tests give the same numbers as Evidently, on all kinds of data."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from driftline.config.stream_sections import Kind
from monitor.reference.column_tests import evidently
from monitor.reference.default_tests import OF_CATEGORIES, OF_NUMBERS, ks

Pair = tuple[NDArray[np.float64], NDArray[np.float64]]


def numbers(min_size: int, max_size: int) -> st.SearchStrategy[NDArray[np.float64]]:
    values = st.lists(
        st.integers(-5, 5) | st.floats(-1e6, 1e6), min_size=min_size, max_size=max_size
    )
    return values.map(lambda drawn: np.array(drawn, dtype=np.float64))


NUMBERS = numbers(1, 40)
PAIRS_OF_ONE_SIZE = st.integers(1, 40).flatmap(lambda n: st.tuples(numbers(n, n), numbers(n, n)))
CODES = st.lists(st.integers(0, 6), min_size=1, max_size=40).map(
    lambda values: np.array(values, dtype=np.int64)
)
slow = settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])


def drawn(
    kind: Kind, sizes: tuple[int, int], shift: float
) -> tuple[NDArray[np.float64] | NDArray[np.int64], NDArray[np.float64] | NDArray[np.int64]]:
    random = np.random.default_rng(sizes)
    if kind == "number":
        # Rounded to one digit, many values are equal.
        old, new = random.normal(0, 3, sizes[0]), random.normal(shift, 3, sizes[1])
        return old.round(1), new.round(1)
    return random.integers(0, 5, sizes[0]), random.binomial(4, 0.5 + shift / 10, sizes[1])


@pytest.mark.parametrize("shift", [0.0, 0.1, 2.0])
@pytest.mark.parametrize(
    "sizes", [(5000, 10_000), (10_000, 10_000), (900, 400), (400, 900), (7, 100_003), (1, 1)]
)
@pytest.mark.parametrize(
    ("kind", "test"),
    [*(("number", test) for test in OF_NUMBERS), *(("category", test) for test in OF_CATEGORIES)],
)
def test_results_equal_evidentlys_on_samples_of_all_sizes(
    kind: Kind, test: str, sizes: tuple[int, int], shift: float
) -> None:
    old, new = drawn(kind, sizes, shift)
    own = (OF_NUMBERS if kind == "number" else OF_CATEGORIES)[test]
    with np.errstate(all="ignore"):
        expected = evidently(kind, test)(old, new)
        for _ in range(2):  # the second result may come from the cache
            assert own(old, new) == pytest.approx(expected, rel=1e-9, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("size", range(1, 60))
def test_results_equal_evidentlys_on_samples_that_hardly_differ(size: int) -> None:
    old, new = np.zeros(size), np.zeros(size)
    for ones in range(3):
        new[:ones] = 1.0
        expected = evidently("number", "ks")(old, new)
        assert ks(old, new) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@slow
@given(old=NUMBERS, new=NUMBERS, test=st.sampled_from(sorted(OF_NUMBERS)))
def test_results_equal_evidentlys_on_any_numbers(
    old: NDArray[np.float64], new: NDArray[np.float64], test: str
) -> None:
    expected = evidently("number", test)(old, new)
    assert OF_NUMBERS[test](old, new) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@slow
@given(old=CODES, new=CODES, test=st.sampled_from(sorted(OF_CATEGORIES)))
def test_results_equal_evidentlys_on_any_categories(
    old: NDArray[np.int64], new: NDArray[np.int64], test: str
) -> None:
    with np.errstate(all="ignore"):
        expected = evidently("category", test)(old, new)
        found = OF_CATEGORIES[test](old, new)
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-7, nan_ok=True)


@slow
@given(old=NUMBERS, pair=PAIRS_OF_ONE_SIZE)
def test_a_cached_p_value_is_used_only_for_the_same_sizes_and_statistic(
    old: NDArray[np.float64], pair: Pair
) -> None:
    new, other = pair
    ks(old, other)
    assert ks(old, new) == pytest.approx(evidently("number", "ks")(old, new), rel=1e-9, abs=1e-12)
