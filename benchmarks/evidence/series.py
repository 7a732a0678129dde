"""Draw series of dependent values: runs, seasons, autoregression and sticky levels.

Input: a random generator and a number of rows. Output: NumPy arrays of length n. All series are
stationary, or periodic.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.evidence.drifting import Floats, Rng


def runs(rng: Rng, rows: int, low: int, high: int) -> NDArray[np.int64]:
    """Return the number of the run that each row (n,) belongs to.

    Lengths are uniform between `low` and `high`. The first row lies anywhere in its run.
    """
    lengths = rng.integers(low, high + 1, (rows + high) // low + 1)
    start = int(rng.integers(high))
    return np.repeat(np.arange(len(lengths)), lengths)[start : start + rows]


def in_runs(rng: Rng, rows: int, share: float, low: int, high: int) -> NDArray[np.bool_]:
    """Return a mask (n,) that is true in runs of `low` to `high` rows, in `share` of the rows.

    The gaps between runs are exponentially distributed.
    """
    gap = (low + high) / 2 * (1 - share) / share
    mask, at = np.zeros(rows + high, dtype=bool), int(rng.exponential(gap))
    while at < len(mask):
        length = int(rng.integers(low, high + 1))
        mask[at : at + length] = True
        at += length + max(1, round(rng.exponential(gap)))
    return mask[high:]


def levels(rng: Rng, rows: int, shares: tuple[float, ...]) -> NDArray[Any]:
    """Draw independent levels l0, l1, … (n,) with these shares."""
    names = np.array([f"l{place}" for place in range(len(shares))], dtype=object)
    found: NDArray[Any] = names[rng.choice(len(shares), rows, p=shares)]
    return found


def stations(numbers: NDArray[np.int64]) -> NDArray[Any]:
    """Return a name for each number (n,)."""
    names = np.array([f"station{place}" for place in range(int(numbers.max()) + 1)], dtype=object)
    found: NDArray[Any] = names[numbers]
    return found


def season(rows: int, period: int, *, first: int = 0) -> Floats:
    """Return a season (n,) with variance 1/2, which starts at row `first` of a period."""
    found: Floats = np.sin(2 * np.pi * (first + np.arange(rows)) / period)
    return found


def autoregressive(rng: Rng, rows: int, coefficient: float) -> Floats:
    """Return a stationary AR(1) series (n,) with variance 1."""
    from scipy.signal import lfilter

    noise = rng.normal(size=rows) * np.sqrt(1 - coefficient**2)
    noise[0] = rng.normal()
    found: Floats = lfilter([1.0], [1.0, -coefficient], noise)
    return found
