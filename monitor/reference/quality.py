"""Check the data quality of columns and windows, using arrays of values and counts.

Input: a column's values, and counts from a window's sample and a model's reference. Output: which
shares of missing, unseen and out-of-range values increased, whether a column is stuck, and whether
a window has too many dead letters. In the default sample of 10,000 records, a share of 1% is
accurate to ±0.3 percentage points (three standard deviations), which is less than `MIN_INCREASE`.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from itertools import pairwise
from math import ceil, floor, sqrt
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from driftline.config.stream_sections import Feature
from driftline.wire.window_events import Quality, UnseenLevel

QUALITIES: Final[tuple[Quality, ...]] = ("missing", "unseen", "out_of_range")
# Smaller increases in a share are not reported. They can be significant in a large window, but are
# no reason to act. A new category in 0.6% to 0.9% of the records, as in the data set
# `car_loan_nml_dq`, is a reason to act.
MIN_INCREASE: Final = 0.005

# A column is stuck if a run of equal values is at least `STUCK_TIMES` times as long as the
# reference's longest run, at least `STUCK_SHARE` of the window, and at least `STUCK_RECORDS`
# records long. Typical causes are a stuck sensor and a hard-coded value.
STUCK_TIMES: Final = 3
STUCK_SHARE: Final = 0.05
STUCK_RECORDS: Final = 20

# If at least this share of a window's values has a fault, the test's result does not matter: a
# fault that lasts for the whole window is a single run, which is too few for a test.
OUTAGE: Final = 0.95
# At most this many unseen categories of a column are reported by name, each cut to this length.
MAX_UNSEEN: Final = 10
MAX_NAME: Final = 64

Counts = tuple[int, int, int]  # one count for each of `QUALITIES`, in the same order
Faults = tuple[NDArray[np.bool_], ...]  # for each of `QUALITIES`, which rows (n,) have the fault


class Before(NamedTuple):
    """How many rows of the reference have a fault, and how many rows count as one independent row,
    because faults come in runs."""

    rows: int
    per_run: float


def faults_of_numbers(values: NDArray[np.float64], feature: Feature | None) -> Faults:
    """Return missing (NaN) and out-of-range values. `feature` is None for derived features."""
    outside = np.zeros(len(values), dtype=bool)
    if feature is not None and feature.min is not None:
        outside |= values < feature.min
    if feature is not None and feature.max is not None:
        outside |= values > feature.max
    return np.isnan(values), np.zeros(len(values), dtype=bool), outside


def faults_of_categories(values: NDArray[Any], levels: Collection[str]) -> Faults:
    """Return missing values (None), and values that are not in `levels`."""
    missing = np.fromiter((value is None for value in values), bool, len(values))
    unseen = np.fromiter((value not in levels for value in values), bool, len(values)) & ~missing
    return missing, unseen, np.zeros(len(values), dtype=bool)


def unseen_levels(values: NDArray[Any], unseen: NDArray[np.bool_]) -> tuple[UnseenLevel, ...]:
    """Return the most frequent unseen categories, given which of the `values` (n,) are unseen."""
    counts = Counter(str(value)[:MAX_NAME] for value in values[unseen])
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return tuple(UnseenLevel(level, count) for level, count in ordered[:MAX_UNSEEN])


def before(faults: Faults) -> tuple[Before, ...]:
    """Return how often the reference's rows have each fault, and how long the faults' runs are."""
    return tuple(Before(int(each.sum()), rows_per_run(each)) for each in faults)


def levels_seen_once(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which values (n,) of a reference belong to a category that has a single run, other
    than the first run.

    Their share estimates the share of unseen categories in later records (Good 1953). It is nearly
    0 for a fixed set of stations, and nearly 1 for batch numbers.
    """
    starts = [n for n in range(len(values)) if not n or values[n] != values[n - 1]]
    runs = Counter(values[n] for n in starts)
    found = np.zeros(len(values), dtype=bool)
    for start, end in pairwise([*starts, len(values)]):
        found[start:end] = start > 0 and values[start] is not None and runs[values[start]] == 1
    return found


def rows_per_run(fault: NDArray[np.bool_]) -> float:
    """Return the variance inflation of a fault's share in a series (n,) of rows with and without
    the fault, at least 1.

    It is that of an alternating renewal process (Cox, "Renewal Theory", 1962): runs of rows with
    and without the fault alternate, and their lengths are independent. It is 1 for independent
    rows, and the length of the runs if they are rare and equally long. From few runs, the estimate
    is uncertain, so its excess over 1 is raised by two standard errors.

    >>> rng = np.random.default_rng(0)
    >>> round(rows_per_run(rng.random(10_000) < 0.02), 1)
    1.0
    >>> round(rows_per_run(np.convolve(rng.random(100_000) < 0.001, np.ones(20), "same") > 0))
    27
    """
    bounds = np.flatnonzero(fault[1:] != fault[:-1]) + 1
    lengths = np.diff(np.concatenate(([0], bounds, [len(fault)]))).astype(np.float64)
    first = int(not fault[:1].any())
    faulty, sound = lengths[first::2], lengths[1 - first :: 2]
    if not len(faulty) or not len(sound):
        return 1.0
    one, other = float(faulty.mean()), float(sound.mean())
    # A few runs may be evenly spaced by chance. Assume that they are as irregular as independent
    # rows, at least.
    gaps = max(float(sound.var()), other**2 - other)
    variance = other**2 * float(faulty.var()) + one**2 * gaps
    inflation = variance / ((one + other) * one * other)
    return 1.0 + max(0.0, inflation - 1.0) * (1.0 + 2.0 / sqrt(len(faulty)))


def rising(
    counts: Counts, records: int, reference: Sequence[Before], reference_records: int, level: float
) -> tuple[Quality, ...]:
    """Return the quality problems (see `QUALITIES`) whose shares of the records rose by at least
    `MIN_INCREASE`, if the increase is significant at `level`.

    Counts are often small, so significance is tested with a one-sided Fisher's exact test. A run of
    faults is one event, so all counts are divided by the rows that count as one independent row.
    Rounding makes the increase less significant.

    >>> none = Before(0, 1.0)
    >>> rising((80, 0, 3), 1000, (none, none, none), 10_000, level=0.001)
    ('missing',)
    >>> rising((80, 0, 0), 1000, (Before(200, 40.0), none, none), 10_000, level=0.001)
    ()
    """
    from scipy.stats import fisher_exact

    increased: list[Quality] = []
    for name, count, (known, per_run) in zip(QUALITIES, counts, reference, strict=True):
        if not reference_records or count / records - known / reference_records < MIN_INCREASE:
            continue
        now, total = floor(count / per_run), max(1, round(records / per_run))
        old, all_old = ceil(known / per_run), max(1, round(reference_records / per_run))
        table = [[now, max(0, total - now)], [old, max(0, all_old - old)]]
        significant = float(fisher_exact(table, alternative="greater").pvalue) < level
        outage = count >= OUTAGE * records and known < reference_records / 2
        if significant or outage:
            increased.append(name)
    return tuple(increased)


def are_many(dead_letters: int, records: int, *, level: float) -> bool:
    """Return whether the share of dead letters is significantly larger than `MIN_INCREASE`, at the
    significance level `level`.

    The test is a one-sided binomial test. It does not use the reference, which contains no dead
    letters, so the test also works if no record could be scored.

    >>> are_many(25, 250, level=0.001), are_many(2, 250, level=0.001)
    (True, False)
    """
    from scipy.stats import binom

    return dead_letters > 0 and float(binom.sf(dead_letters - 1, records, MIN_INCREASE)) < level


def longest_run(values: NDArray[Any]) -> int:
    """Return the length of the longest run of equal values in an array (n,). Missing values (NaN,
    None) end a run.

    >>> longest_run(np.array([1.0, 2.0, 2.0, 2.0, np.nan, np.nan, 2.0]))
    3
    """
    is_number = values.dtype.kind == "f"
    present = ~np.isnan(values) if is_number else np.array([v is not None for v in values], bool)
    if not present.any():
        return 0
    same = present[1:] & present[:-1] & (values[1:] == values[:-1])
    ends = np.flatnonzero(np.diff(np.concatenate(([0], same.astype(np.int8), [0]))))
    return 1 + int((ends[1::2] - ends[::2]).max(initial=0))


def is_stuck(run: int, records: int, reference_run: int) -> bool:
    """Return whether a column is stuck, given `run`, the length of its longest run of equal values
    in a window. `reference_run` is the length of the reference's longest run."""
    least = max(STUCK_RECORDS, STUCK_SHARE * records, STUCK_TIMES * reference_run)
    return run >= least
