"""The variance inflation of errors: 1 for independent errors, and as in theory for others."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from monitor.variance_inflation import variance_inflation
from tests.monitor.reference.test_autocorrelation import remembering

Floats = NDArray[np.float64]


def drawn(seed: int, rates: Floats) -> Floats:
    """Return errors of 0 and 1 with these rates."""
    return (np.random.default_rng(seed).random(len(rates)) < rates).astype(np.float64)


@pytest.mark.parametrize("count", [400, 4_000])
@pytest.mark.parametrize("rate", [0.01, 0.02, 0.05, 0.2, 0.4])
def test_independent_errors_of_any_rate_are_not_inflated(rate: float, count: int) -> None:
    found = [variance_inflation(drawn(seed, np.full(count, rate))) for seed in range(20)]
    assert np.median(found) == 1.0
    assert np.mean(found) < 1.15


def test_independent_errors_that_are_mostly_zero_are_not_inflated() -> None:
    rng = np.random.default_rng(5)
    found = [
        variance_inflation(rng.lognormal(size=2_000) * (rng.random(2_000) < 0.05))
        for _ in range(20)
    ]
    assert np.mean(found) < 1.15


@pytest.mark.parametrize("memory", [0.5, 0.9])
def test_the_inflation_of_autoregressive_errors_equals_that_of_theory(memory: float) -> None:
    known = (1 + memory) / (1 - memory)
    assert variance_inflation(remembering(memory, 20_000)) == pytest.approx(known, rel=0.3)


@pytest.mark.parametrize("changing", [False, True])
@pytest.mark.parametrize("block", [50, 200])
def test_the_inflation_of_errors_in_blocks_equals_that_of_theory(
    block: int, changing: bool
) -> None:
    known = 1 + (block - 1) * 0.1**2 / (0.2 * 0.8)
    found = []
    for seed in range(10):
        rates = np.random.default_rng(seed).beta(3.0, 12.0, 4_000 // block)  # sd 0.1
        errors = drawn(seed, np.repeat(rates, block))
        found.append(variance_inflation(errors, changing=changing))
    assert np.median(found) == pytest.approx(known, rel=0.35)


def test_one_or_two_changes_do_not_count_as_autocorrelation() -> None:
    rates = np.repeat([0.1, 0.5, 0.2], [1500, 700, 1800])
    assert variance_inflation(drawn(4, rates), changing=True) < 1.6


def test_a_season_is_no_autocorrelation_if_its_phases_are_known() -> None:
    hours = np.arange(4_000) // 25 % 24
    errors = drawn(6, np.where(hours < 8, 0.05, 0.4))
    assert variance_inflation(errors) > 5
    assert variance_inflation(errors, hours) < 1.5


def test_alternating_constant_or_few_values_have_no_inflation() -> None:
    assert variance_inflation(np.resize([0.0, 1.0], 1000)) == 1.0
    assert variance_inflation(np.zeros(1000)) == 1.0
    assert variance_inflation(np.empty(0)) == 1.0


@settings(max_examples=25)
@given(st.lists(st.floats(0, 1e6), max_size=300), st.sampled_from([2.0**-40, 2.0**900]))
def test_the_inflation_does_not_depend_on_the_unit(values: list[float], unit: float) -> None:
    errors = np.array(values)
    assert variance_inflation(errors * unit) == pytest.approx(variance_inflation(errors), rel=1e-6)
