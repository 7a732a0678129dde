"""Ways to predict the same records, side by side: their metric, over time, and paired differences.

In: for every outcome its data row, its label and what each way predicted. Out: numbers. It reads
no topic; `Observer` fills it.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from driftline.evaluation import evaluate, higher_is_better
from driftline.events import Value
from driftline.stream import Metric, Task

# Blocks over which the difference of two ways is averaged before its error is computed: errors of
# neighbouring records are correlated, those of distant blocks hardly.
BLOCKS = 30


class Compared:
    """Labels and predictions, one for each outcome, in the order in which outcomes came."""

    def __init__(self, metric: Metric, task: Task, names: Sequence[str]) -> None:
        self._metric_name: Metric = metric
        self._task: Task = task
        self.rows: list[int] = []
        self.labels: list[Value] = []
        self.predicted: dict[str, list[Value]] = {name: [] for name in names}

    def add(self, row: int, label: Value, said: Mapping[str, Value]) -> None:
        """One outcome; `said` has each of the names."""
        self.rows.append(row)
        self.labels.append(label)
        for name, values in self.predicted.items():
            values.append(said[name])

    def metric(self, name: str, chosen: NDArray[np.intp] | None = None) -> float | None:
        """The metric of one way, over the outcomes at these places; None where there are none."""
        places: Sequence[int] = range(len(self.rows)) if chosen is None else chosen.tolist()
        if not places:
            return None
        predicted = self.predicted[name]
        return evaluate(
            self._metric_name,
            self._task,
            [self.labels[i] for i in places],
            [predicted[i] for i in places],
        )

    def over_time(self, block: int) -> tuple[list[int], dict[str, list[float | None]]]:
        """The metric in blocks of `block` data rows: last row of each, and the values."""
        if not self.rows:
            return [], {name: [] for name in self.predicted}
        rows = np.array(self.rows)
        first = int(rows.min())
        number = (rows - first) // block
        ends, values = [], {name: list[float | None]() for name in self.predicted}
        for index in range(int(number.max()) + 1):
            chosen = np.flatnonzero(number == index)
            ends.append(min(first + (index + 1) * block - 1, int(rows.max())))
            for name, series in values.items():
                series.append(self.metric(name, chosen))
        return ends, values

    def gain(self, ours: str, theirs: str) -> tuple[float | None, float | None]:
        """Mean and standard error of (ours better than theirs) over blocks of rows."""
        if len(self.rows) < 2 * BLOCKS:
            return None, None
        blocks = np.array_split(np.argsort(np.array(self.rows), kind="stable"), BLOCKS)
        sign = 1 if higher_is_better(self._metric_name) else -1
        gains = np.array(
            [
                sign * ((self.metric(ours, b) or 0.0) - (self.metric(theirs, b) or 0.0))
                for b in blocks
            ]
        )
        return float(gains.mean()), float(gains.std(ddof=1) / np.sqrt(BLOCKS))

    def beside(self, name: str, other: "Compared", theirs: str, *, as_name: str) -> "Compared":
        """Our way `name` and the other's `theirs`, called `as_name`, on the rows of both."""
        at = {row: place for place, row in enumerate(other.rows)}
        both = Compared(self._metric_name, self._task, (name, as_name))
        for place, row in enumerate(self.rows):
            if row in at:
                said = {
                    name: self.predicted[name][place],
                    as_name: other.predicted[theirs][at[row]],
                }
                both.add(row, self.labels[place], said)
        return both
