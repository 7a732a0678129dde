"""Estimate which rows of a reference to resample together, for each of its columns.

Input: a column's bin codes as an array, rows in time order. Output: its block length. Blocks of a
column whose values come in runs, such as a station or a batch number, begin and end with a run.
"""

from math import ceil, log, sqrt
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from monitor.reference.autocorrelation import politis_white, resampled_variance

# A column comes in runs if its runs of equal values are, on average, at least this many times as
# long as those of independent values.
_STICKY: Final = 2.0
_STEP: Final = sqrt(2.0)
# Maximum number of block starts: more starts take longer without improving the resamples.
MAX_STARTS: Final = 500

Codes = NDArray[np.int64]  # -1 stands for a missing value
Places = NDArray[np.int64]


class Blocks(NamedTuple):
    """The blocks of rows that may be drawn: from `starts` (m,) to `ends` (m,), exclusive."""

    starts: Places
    ends: Places

    @property
    def length(self) -> float:
        """The mean number of rows in a block."""
        return float((self.ends - self.starts).mean())


class Dependence(NamedTuple):
    """How a column's rows depend on each other.

    `block` is the number of rows after which they are nearly independent: the block length, or the
    mean length of a block of runs. `runs` (r,) are the first rows of the column's runs, or None if
    it does not come in runs. A block then has `together` runs. `variance` is the variance of a
    resampled mean, as a share of its true variance.
    """

    block: int
    runs: Places | None = None
    together: int = 1
    variance: float = 1.0

    @property
    def group(self) -> int:
        """The block length, rounded up to a power of `_STEP`. Columns of the same group are
        resampled together, so that the dependence between them is kept."""
        return ceil(_STEP ** ceil(log(self.block, _STEP) - 1e-9) - 1e-9)


def dependence_of(codes: Codes, ranks: NDArray[np.float64], block: int | None) -> Dependence:
    """Return the dependence of a column with these bin codes (n,) and ranks (n,). `block` is the
    block length that the stream file states, in records, or None."""
    count = len(codes)
    runs = np.flatnonzero(np.concatenate(([True], codes[1:] != codes[:-1])))
    shares = np.bincount(codes + 1) / count
    independent = 1.0 / max(1.0 - float((shares**2).sum()), 1.0 / count)
    mean = count / len(runs)
    if mean < _STICKY * independent or len(runs) < 3:
        block = block or politis_white(ranks)
        return Dependence(block, variance=resampled_variance(ranks, block))
    together = max(1, round(block / mean)) if block else politis_white(ranks[runs])
    return Dependence(max(1, round(together * mean)), runs, together)


def blocks_of(dependence: Dependence, records: int) -> Blocks:
    """Return the blocks of a reference with `records` rows. They overlap (moving blocks, Künsch
    1989)."""
    # Blocks of several rows save time, and do no harm even if rows are independent.
    least = -(-records // MAX_STARTS)
    if dependence.runs is None:
        block = min(records, max(least, dependence.group))
        starts = evenly(records - block)
        return Blocks(starts, starts + block)
    # Blocks that cut runs would give windows with more, shorter runs than real windows have, and
    # hence with more of the column's values.
    bounds = np.append(dependence.runs, records)
    last = len(bounds) - 1
    first = np.arange(last)
    end = np.maximum(first + dependence.together, np.searchsorted(bounds, bounds[:-1] + least))
    # The last block may be too short. There is always at least one block.
    whole = max(1, int((end <= last).sum()))
    chosen = evenly(whole - 1)
    return Blocks(bounds[chosen], bounds[np.minimum(end[chosen], last)])


def evenly(last: int) -> Places:
    """Return at most `MAX_STARTS` different integers from 0 to `last`, evenly spaced."""
    found: Places = np.unique(np.linspace(0, last, min(last + 1, MAX_STARTS)).astype(np.int64))
    return found
