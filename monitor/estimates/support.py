"""Find columns of a window that lie outside of the support of a model's reference.

Input: the reference's columns, then a window's sample. Output: the columns for which an estimate
without labels would be a guess. An estimate applies the relation between inputs and errors that the
reference shows. It is valid where the reference has records, and as long as a column's values mean
the same.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from driftline.wire.columns import Columns
from monitor.reference.quality import is_stuck, longest_run
from monitor.watched_columns import present

# A column is unsupported if at least this share of its values, beyond the reference's own share, is
# missing, outside of the reference's range, or an unknown category. The model may be wrong about
# all of these records: the error may be 5 percentage points above the estimate.
MAX_OUTSIDE: Final = 0.05


class Support:
    """The values that a model's reference contains, by column."""

    def __init__(self, columns: Columns) -> None:
        self._records = max(1, len(columns))
        self._missing: dict[str, float] = {}
        self._known: dict[str, tuple[float, float] | frozenset[str]] = {}
        self._runs: dict[str, int] = {}
        for name, values in (*columns.numbers.items(), *columns.categories.items()):
            found = present(values)
            self._missing[name] = 1.0 - len(found) / self._records
            self._runs[name] = longest_run(values)
            if name in columns.categories:
                self._known[name] = frozenset(found)
            elif len(found):
                self._known[name] = float(found.min()), float(found.max())

    def unsupported(self, columns: Columns) -> tuple[str, ...]:
        """Return the names of the columns of a window's sample, of length n ≥ 1 and in time order,
        that lie outside of the support. A column whose values are stuck also belongs to them: its
        value may be common in the reference, but it no longer describes the records."""
        return tuple(name for name in self._known if self._is_outside(name, columns[name]))

    def _is_outside(self, name: str, values: NDArray[Any]) -> bool:
        known, found = self._known[name], present(values)
        if isinstance(known, frozenset):
            outside = sum(value not in known for value in found)
        else:
            outside = int(np.count_nonzero((found < known[0]) | (found > known[1])))
        missing = len(values) - len(found)
        if (outside + missing) / len(values) - self._missing[name] >= MAX_OUTSIDE:
            return True
        return is_stuck(longest_run(values), len(values), self._runs[name])
