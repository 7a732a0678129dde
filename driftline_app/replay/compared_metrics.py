"""Compute a replay's metrics for the models in use, the first model alone and two baselines.

Input: each outcome's row, label and predictions, one per predictor, from `Observer`. Output:
metrics, metrics over time, and paired differences. This module reads no topic.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from driftline.config.stream_sections import Metric, Task
from driftline.learning.metrics import evaluate, higher_is_better
from driftline.wire.events import Value

# Number of blocks of rows. The difference between two predictors is averaged within each block
# before its standard error is computed. Errors of neighbouring records are correlated, whereas the
# averages of different blocks are nearly independent.
BLOCKS = 30


class ComparedPredictors:
    """Labels and predictions of all outcomes, in the order in which the outcomes were read."""

    def __init__(self, metric: Metric, task: Task, names: Sequence[str]) -> None:
        self._metric_name: Metric = metric
        self._task: Task = task
        self.rows: list[int] = []
        self.labels: list[Value] = []
        self.predicted: dict[str, list[Value]] = {name: [] for name in names}

    def add(self, row: int, label: Value, predictions: Mapping[str, Value]) -> None:
        """Add an outcome, with each predictor's prediction."""
        self.rows.append(row)
        self.labels.append(label)
        for name, values in self.predicted.items():
            values.append(predictions[name])

    def metric(self, name: str, chosen: NDArray[np.intp] | None = None) -> float | None:
        """Return a predictor's metric on the `chosen` outcomes, by default on all outcomes.

        Return None if there are no outcomes.
        """
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
        """Divide the rows into blocks of `block` rows. Return each block's last row and metrics.

        If less than half a block remains at the end, its rows are added to the last block.
        """
        if not self.rows:
            return [], {name: [] for name in self.predicted}
        rows = np.array(self.rows)
        first, last = int(rows.min()), int(rows.max())
        blocks = max(1, (last - first + 1 + block // 2) // block)
        number = np.minimum((rows - first) // block, blocks - 1)
        ends, values = [], {name: list[float | None]() for name in self.predicted}
        for index in range(blocks):
            chosen = np.flatnonzero(number == index)
            ends.append(last if index == blocks - 1 else first + (index + 1) * block - 1)
            for name, series in values.items():
                series.append(self.metric(name, chosen))
        return ends, values

    def gain(self, ours: str, theirs: str) -> tuple[float | None, float | None]:
        """Return the mean improvement of `ours` over `theirs`, and its standard error.

        Both are computed from the improvement in each of `BLOCKS` blocks of rows.
        """
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

    def beside(
        self, name: str, other: "ComparedPredictors", theirs: str, *, as_name: str
    ) -> "ComparedPredictors":
        """Return a comparison of this object's predictor `name` with `other`'s predictor `theirs`.

        The comparison contains only the rows that both objects have. In the comparison, `other`'s
        predictor is called `as_name`.
        """
        at = {row: place for place, row in enumerate(other.rows)}
        both = ComparedPredictors(self._metric_name, self._task, (name, as_name))
        for place, row in enumerate(self.rows):
            if row in at:
                predictions = {
                    name: self.predicted[name][place],
                    as_name: other.predicted[theirs][at[row]],
                }
                both.add(row, self.labels[place], predictions)
        return both
