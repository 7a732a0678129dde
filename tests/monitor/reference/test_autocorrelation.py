"""Block lengths and variance inflation of autocorrelated records."""

import numpy as np
import pytest
from numpy.typing import NDArray

from monitor.reference.autocorrelation import (
    politis_white,
    variance_inflation,
    variance_inflation_between_changes,
)


def remembering(memory: float, count: int) -> NDArray[np.float64]:
    """Return a series in which each value contains a share of the one before."""
    values = np.random.default_rng(1).normal(size=count)
    for row in range(1, count):
        values[row] += memory * values[row - 1]
    return values


@pytest.mark.parametrize("memory", [0.0, 0.5, 0.9, 0.98])
def test_blocks_are_as_long_as_the_autocorrelation(memory: float) -> None:
    length = politis_white(remembering(memory, 8000))
    lasts = (
        1 if memory == 0.0 else np.log(0.1) / np.log(memory)
    )  # until the autocorrelation is a tenth
    assert 0.5 * lasts <= length <= 10 * lasts + 1


def test_alternating_values_have_no_variance_inflation() -> None:
    assert politis_white(np.resize([0.0, 1.0], 1000)) == 1
    assert politis_white(np.zeros(1000)) == 1
    assert politis_white(np.arange(5.0)) == 1


def test_the_block_length_is_the_period_of_a_season() -> None:
    season = np.sin(np.arange(4000) * 2 * np.pi / 48) + np.random.default_rng(0).normal(size=4000)
    assert politis_white(season) >= 48


@pytest.mark.parametrize("memory", [0.0, 0.5, 0.9])
def test_the_variance_inflation_equals_that_of_theory(memory: float) -> None:
    known = (1 + memory) / (1 - memory)
    assert variance_inflation(remembering(memory, 20_000)) == pytest.approx(known, rel=0.3)


def test_slow_changes_of_level_are_detected_despite_weak_autocorrelation() -> None:
    rng = np.random.default_rng(3)
    levels = np.repeat(rng.uniform(0.2, 0.4, 20), 200)  # each level lasts for 200 values
    drawn = (rng.random(4_000) < levels).astype(np.float64)
    of_levels = 1 + levels.var() * 200 / drawn.var()
    assert 0.3 * of_levels < variance_inflation_between_changes(drawn) < 2 * of_levels
    assert variance_inflation_between_changes(rng.permutation(drawn)) < 1.3


def test_one_or_two_changes_do_not_count_as_autocorrelation() -> None:
    rng = np.random.default_rng(4)
    drawn = (rng.random(4_000) < np.repeat([0.1, 0.5, 0.2], [1500, 700, 1800])).astype(np.float64)
    assert variance_inflation_between_changes(drawn) < 1.5


def test_independent_constant_or_few_values_have_no_variance_inflation() -> None:
    assert variance_inflation(np.resize([0.0, 1.0], 1000)) == 1.0
    assert variance_inflation(np.zeros(1000)) == 1.0
    assert variance_inflation(np.empty(0)) == 1.0
