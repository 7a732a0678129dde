"""Check the data quality of columns and windows, using arrays of values and counts.

Input: a column's values, and counts from a window's sample and a model's reference. Output: which
shares of missing, unseen and out-of-range values increased, whether a column is stuck, and whether
a window has too many dead letters. In the default sample of 10,000 records, a share of 1% is
accurate to ±0.3 percentage points (three standard deviations), which is less than `MIN_INCREASE`.
"""

from collections import Counter
from collections.abc import Collection
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from driftline.config.stream_sections import Feature
from driftline.wire.window_events import Quality

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

Counts = tuple[int, int, int]  # one count for each of `QUALITIES`, in the same order


def count_numbers(values: NDArray[np.float64], feature: Feature | None) -> Counts:
    """Count missing (NaN) and out-of-range values. `feature` is None for derived features."""
    missing = int(np.isnan(values).sum())
    outside = 0
    if feature is not None and feature.min is not None:
        outside += int((values < feature.min).sum())
    if feature is not None and feature.max is not None:
        outside += int((values > feature.max).sum())
    return missing, 0, outside


def count_categories(values: NDArray[Any], levels: Collection[str]) -> Counts:
    """Count missing (None) values, and values that are not in `levels`."""
    counts = Counter(values)
    missing = counts.pop(None, 0)
    return missing, sum(n for value, n in counts.items() if value not in levels), 0


def rising(
    counts: Counts, records: int, reference: Counts, reference_records: int, *, level: float
) -> tuple[Quality, ...]:
    """Return the quality problems (see `QUALITIES`) whose shares of the records rose by at least
    `MIN_INCREASE`, if the increase is significant at `level`.

    Counts are often small, so significance is tested with a one-sided Fisher's exact test.

    >>> rising((80, 0, 3), 1000, (0, 0, 0), 10_000, level=0.001)
    ('missing',)
    """
    from scipy.stats import fisher_exact

    increased: list[Quality] = []
    for name, count, before in zip(QUALITIES, counts, reference, strict=True):
        if not reference_records or count / records - before / reference_records < MIN_INCREASE:
            continue
        table = [[count, records - count], [before, reference_records - before]]
        if float(fisher_exact(table, alternative="greater").pvalue) < level:
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
