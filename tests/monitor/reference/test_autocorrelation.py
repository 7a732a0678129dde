"""Block lengths of autocorrelated records."""

import numpy as np
import pytest
from numpy.typing import NDArray

from monitor.reference.autocorrelation import politis_white


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
