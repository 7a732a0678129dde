"""Draw generated or elec2 windows in which only the dependence between columns changes.

Input: a random generator and a number of rows. Output: the columns of a reference, and of windows
with each kind of change. No single column drifts. Rows are independent, because elec2's rows
are shuffled.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from statistics import NormalDist
from typing import Any, Final, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.evidence.false_alarms import columns_of
from benchmarks.evidence.sets import SETS

REFERENCE: Final = 10_000  # number of rows in a reference
QUIET: Final = "no drift"  # key in `changes` for windows without drift
# elec2 is used from this row on, because three columns are constant before it.
_ELEC2_SINCE: Final = 17_424
_DEMAND: Final = 1  # the index of nswdemand in the watched columns
_NUMBERS: Final = 16  # number of numeric columns; the other 4 columns are categories
_LETTERS: Final = np.array(list("abcde"), dtype=object)
_CUTS: Final = np.array([NormalDist().inv_cdf(share) for share in (0.2, 0.4, 0.6, 0.8)])

Columns = list[NDArray[Any]]
Floats = NDArray[np.float64]
Rng = np.random.Generator


class Draw(Protocol):
    """A function that draws a window with the given number of rows and returns its columns."""

    def __call__(self, rng: Rng, rows: int, /) -> Columns: ...


class WindowSource(msgspec.Struct, frozen=True):
    """A reference, and for each kind of change a function that draws windows with that change."""

    name: str
    reference: Columns
    changes: Mapping[str, Draw]


def generated_source(seed: int) -> WindowSource:
    """Return a generated source with 20 columns."""
    changes: dict[str, Draw] = {
        QUIET: generated,
        "correlation 0 → 0.3": partial(generated, pair=0.3),
        "correlation 0 → 0.5": partial(generated, pair=0.5),
        "category given number, 0.5 → 0": partial(generated, category=0.0),
        "correlation 0.4 → −0.4": partial(generated, turned=-0.4),
        "signs of three columns (XOR)": partial(generated, xor=True),
    }
    return WindowSource("generated", generated(np.random.default_rng(seed), REFERENCE), changes)


def generated(
    rng: Rng,
    rows: int,
    *,
    pair: float = 0.0,
    turned: float = 0.4,
    category: float = 0.5,
    xor: bool = False,
) -> Columns:
    """Draw 16 normal columns, 8 of them with a common factor, and 4 columns of letters a to e.

    pair: the correlation between columns 0 and 1. turned: the correlation between columns 2 and 3.
    category: the correlation between column 4 and the normal variable from which the first column
    of letters is derived. xor: whether the sign of column 7 is the product of the signs of columns
    5 and 6.
    """
    x = rng.normal(size=(20, rows))
    x[1] = _mixed(x[0], x[1], pair)
    x[3] = _mixed(x[2], x[3], turned)
    if xor:
        x[7] = np.abs(x[7]) * np.sign(x[5] * x[6])
    x[8:_NUMBERS] = _mixed(rng.normal(size=rows), x[8:_NUMBERS], np.sqrt(0.5))
    x[_NUMBERS] = _mixed(x[4], x[_NUMBERS], category)
    return [*x[:_NUMBERS], *_LETTERS[np.searchsorted(_CUTS, x[_NUMBERS:])]]


def _mixed(common: Floats, own: Floats, correlation: float) -> Floats:
    mixed: Floats = correlation * common + np.sqrt(1.0 - correlation**2) * own
    return mixed


def real_source(seed: int, data: Path) -> WindowSource:
    """Return a source of elec2 rows. Its changes shuffle `nswdemand` within a window."""
    columns = [values[_ELEC2_SINCE:] for values in columns_of(SETS["elec2"], data)]
    order = np.random.default_rng(seed).permutation(len(columns[0]))
    reference, others = order[:REFERENCE], order[REFERENCE:]

    def drawn(rng: Rng, rows: int, share: float = 0.0) -> Columns:
        chosen = rng.choice(others, rows, replace=False)
        found = [values[chosen] for values in columns]
        moved = rng.permutation(rows)[: round(share * rows)]
        found[_DEMAND][np.sort(moved)] = found[_DEMAND][moved]
        return found

    changes: dict[str, Draw] = {
        QUIET: drawn,
        "nswdemand permuted in 20% of rows": partial(drawn, share=0.2),
        "nswdemand permuted": partial(drawn, share=1.0),
    }
    return WindowSource("elec2", [values[reference] for values in columns], changes)
