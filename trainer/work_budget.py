"""Limit a model search by its work, counted in rows and fits.

Input: the budget of the stream file, and the work of each fit. Output: how many rows a further fit
may use. Work is never measured in seconds, so equal searches always end at the same point.
"""

from collections.abc import Sequence
from typing import Final

from trainer.candidates import Candidate

# Each candidate is compared on at least this many rows, even if the budget allows fewer. A
# comparison on fewer rows would be mostly chance.
LEAST_ROWS: Final = 100


class WorkBudget:
    """The work that a search may still do, in the units of `trainer.candidates.FitWork`."""

    def __init__(self, total: float) -> None:
        self.total = total
        self.spent = 0.0

    def rows(self, kind: Candidate, *, share: float = 1.0, fits: int = 1) -> int:
        """Return how many rows each of `fits` fits may use, for this share of the remaining
        budget."""
        left = share * (self.total - self.spent) / fits - kind.work.fixed
        return int(max(0.0, left) / kind.work.per_row)

    def equal_rows(self, kinds: Sequence[Candidate], sizes: Sequence[int], share: float) -> int:
        """Return the number of rows to which ranges of these `sizes` must be cut, so that one fit
        of each kind on each range takes at most this share of the budget. The result is at least
        `LEAST_ROWS`."""
        allowed = share * self.total
        low, high = LEAST_ROWS, max([LEAST_ROWS, *sizes])
        while low < high:
            middle = (low + high + 1) // 2
            work = sum(work_of(kind, min(size, middle)) for kind in kinds for size in sizes)
            low, high = (middle, high) if work <= allowed else (low, middle - 1)
        return low

    def spend(self, kind: Candidate, rows: int, *, fits: int = 1) -> None:
        """Count the work of `fits` fits on `rows` rows each."""
        self.spent += fits * work_of(kind, rows)


def work_of(kind: Candidate, rows: int) -> float:
    """Return the work of a fit on `rows` rows."""
    return kind.work.fixed + kind.work.per_row * kind.used(rows)
