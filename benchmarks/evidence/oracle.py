"""Test windows for a shift with full knowledge of the stream's law, as an upper mark for a monitor.

Input: a source without drift, from which the oracle draws as many windows as it needs to set its
limit. Output: whether a shifted column is found in the last two windows.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.evidence.drifting import Floats, Rng
from benchmarks.evidence.stationary import Stationary, StationarySource
from driftline.models.package_reference import MAX_REFERENCE_ROWS

RATE: Final = 0.005  # the default `false_alarm_rate`
WITHIN: Final = 2  # a shift counts as found if it is found within this many windows
# Windows from which the limit is estimated: 20 of them exceed it.
ORACLE_WINDOWS: Final = 4_000


class Oracle:
    """A test that knows a source's law: it draws from it to set its limits.

    The score of a column is the mean of a window minus the mean of the reference, in standard
    deviations of this difference. Known seasons are subtracted first. A window has an alarm if the
    largest score of all columns exceeds the limit, which `RATE` of the windows without drift do.
    """

    def __init__(self, own: StationarySource, size: int, per_reference: int, rng: Rng) -> None:
        self._reference, self._size = own.reference, size
        count = -(-ORACLE_WINDOWS // per_reference)
        rows = own.reference + per_reference * size
        found = [self._differences(own.draw(rng, rows)) for _ in range(count)]
        differences = {
            name: np.concatenate([each[name] for each in found]) for name in found[0]
        }  # each (windows,)
        self._scale = {
            name: float(np.nanstd(values))
            for name, values in differences.items()
            if np.nanstd(values) > 0
        }
        scores = [np.abs(differences[name]) / scale for name, scale in self._scale.items()]
        self._limit = float(np.quantile(np.nanmax(scores, axis=0), 1 - RATE))

    @property
    def columns(self) -> list[str]:
        """The numeric columns that are not constant."""
        return list(self._scale)

    def finds(self, shifted: Stationary, column: str) -> bool:
        """Return whether the column has an alarm in one of the last `WITHIN` windows."""
        differences = self._differences(shifted)[column][-WITHIN:]
        return bool((np.abs(differences) > self._limit * self._scale[column]).any())

    def _differences(self, drawn: Stationary) -> dict[str, Floats]:
        """Return the difference (windows,) of each numeric column."""
        found = {}
        for name, values in drawn.rows.columns.numbers.items():
            own = values - drawn.seasons.get(name, 0.0)
            windows = own[self._reference :]
            windows = windows[: len(windows) // self._size * self._size].reshape(-1, self._size)
            kept = own[max(0, self._reference - MAX_REFERENCE_ROWS) : self._reference]
            found[name] = _means(windows) - _means(kept[None])
        return found


def _means(values: NDArray[np.float64]) -> Floats:
    """Return the mean of each row (n, m) without missing values; NaN if all are missing."""
    known = ~np.isnan(values)
    count = known.sum(axis=1)
    total = np.where(known, values, 0.0).sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
