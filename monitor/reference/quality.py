"""Data quality of a column: missing, unseen and out-of-range values, and whether their share rose;
values that stand still. Data quality of a window: the share of dead letters.

In: arrays of a column, counts of a window's sample and of a model's reference. Out: counts, and
which of them rose. A share of 1% is known to ±0.3% (three standard deviations) from the 10,000
records that are sampled by default, where `MIN_RISE` is 0.5%.
"""

from collections import Counter
from collections.abc import Collection
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from driftline.events import Quality
from driftline.stream import Feature

QUALITIES: Final[tuple[Quality, ...]] = ("missing", "unseen", "out_of_range")
# A smaller rise is significant in a large window, and no reason to act. (A new category that comes
# with 0.6% to 0.9% of the records, as in `car_loan_nml_dq`, is one.)
MIN_RISE: Final = 0.005

# A value that stands still this many times longer than ever in the reference, for this share of a
# window and so many records at least, is a sensor's that is stuck, or a constant.
STUCK_TIMES: Final = 3
STUCK_SHARE: Final = 0.05
STUCK_RECORDS: Final = 20

Counts = tuple[int, int, int]  # in the order of QUALITIES


def count_numbers(values: NDArray[np.float64], feature: Feature | None) -> Counts:
    """Missing (NaN) and out of the declared range; `feature` is None for derived features."""
    missing = int(np.isnan(values).sum())
    outside = 0
    if feature is not None and feature.min is not None:
        outside += int((values < feature.min).sum())
    if feature is not None and feature.max is not None:
        outside += int((values > feature.max).sum())
    return missing, 0, outside


def count_categories(values: NDArray[Any], levels: Collection[str]) -> Counts:
    """Missing (None) and not among `levels`."""
    counts = Counter(values)
    missing = counts.pop(None, 0)
    return missing, sum(n for value, n in counts.items() if value not in levels), 0


def rising(
    counts: Counts, records: int, reference: Counts, reference_records: int, *, level: float
) -> tuple[Quality, ...]:
    """Which shares rose by `MIN_RISE` or more, and significantly at `level` each.

    One-sided Fisher's exact test: small counts are usual here.

    >>> rising((80, 0, 3), 1000, (0, 0, 0), 10_000, level=0.001)
    ('missing',)
    """
    from scipy.stats import fisher_exact

    risen: list[Quality] = []
    for name, count, before in zip(QUALITIES, counts, reference, strict=True):
        if not reference_records or count / records - before / reference_records < MIN_RISE:
            continue
        table = [[count, records - count], [before, reference_records - before]]
        if float(fisher_exact(table, alternative="greater").pvalue) < level:
            risen.append(name)
    return tuple(risen)


def are_many(dead_letters: int, records: int, *, level: float) -> bool:
    """Whether more than `MIN_RISE` of all records are dead letters, significantly at `level`.

    A one-sided binomial test. There are no dead letters in a model's reference, so the test needs
    none, and works where no record could be scored.

    >>> are_many(25, 250, level=0.001), are_many(2, 250, level=0.001)
    (True, False)
    """
    from scipy.stats import binom

    return dead_letters > 0 and float(binom.sf(dead_letters - 1, records, MIN_RISE)) < level


def longest_run(values: NDArray[Any]) -> int:
    """How many values in a row, in the order (n,) given, are one and the same; missing ones (NaN,
    None) are in no row.

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
    """Whether the longest run of a window is one that the reference does not explain."""
    least = max(STUCK_RECORDS, STUCK_SHARE * records, STUCK_TIMES * reference_run)
    return run >= least
