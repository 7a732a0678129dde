"""Compute a replay's metrics for the models in use, the first model alone and two baselines.

Input: each outcome's row, label and answers, one per predictor, from `Observer`. Output:
metrics, metrics over time, and paired differences. This module reads no topic.
"""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from driftline.config.measure import Measure
from driftline.learning.metrics import Answers, evaluate, used_scores
from driftline.wire.events import Value

# Number of blocks of rows. The difference between two predictors is averaged within each block
# before its standard error is computed. Errors of neighbouring records are correlated, whereas the
# averages of different blocks are nearly independent.
BLOCKS = 30


class Answer(NamedTuple):
    """One predictor's answer for one record: its prediction and, if there are, its scores by
    class."""

    prediction: Value
    scores: Mapping[str, float] | None = None


def repeated(label: Value) -> Answer:
    """Return the answer of a predictor that repeats this label.

    >>> repeated("a")
    Answer(prediction='a', scores={'a': 1.0})
    """
    return Answer(label, {label: 1.0} if isinstance(label, str) else None)


class ComparedPredictors:
    """Labels and answers of all outcomes, in the order in which the outcomes were read."""

    def __init__(self, measure: Measure, names: Sequence[str]) -> None:
        self._measure = measure
        self.rows: list[int] = []
        self.labels: list[Value] = []
        self.predicted: dict[str, list[Value]] = {name: [] for name in names}
        # The probabilities that the metric uses, by predictor; empty lists if it uses none.
        self._scores: dict[str, list[float]] = {name: [] for name in names}

    def add(self, row: int, label: Value, answers: Mapping[str, Answer]) -> None:
        """Add an outcome, with each predictor's answer."""
        self.rows.append(row)
        self.labels.append(label)
        for name, values in self.predicted.items():
            answer = answers[name]
            values.append(answer.prediction)
            used = used_scores(self._measure, [label], [answer.scores])
            if used is not None:
                self._scores[name].append(float(used[0]))

    def metric(self, name: str, chosen: NDArray[np.intp] | None = None) -> float | None:
        """Return a predictor's metric on the `chosen` outcomes, by default on all outcomes.

        Return None if there are no outcomes, or if the metric is undefined.
        """
        places: Sequence[int] = range(len(self.rows)) if chosen is None else chosen.tolist()
        if not places:
            return None
        predicted, scores = self.predicted[name], self._scores[name]
        used = np.array([scores[i] for i in places]) if self._measure.needs_scores else None
        if used is not None and not np.isfinite(used).all():
            return None  # some of the predictor's answers have no probabilities
        answers = Answers([predicted[i] for i in places], used)
        value = evaluate(self._measure, [self.labels[i] for i in places], answers)
        return value if isfinite(value) else None

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

        Both are computed from the improvement in each of `BLOCKS` blocks of rows. Blocks in which
        the metric is undefined are left out.
        """
        if len(self.rows) < 2 * BLOCKS:
            return None, None
        blocks = np.array_split(np.argsort(np.array(self.rows), kind="stable"), BLOCKS)
        sign = 1 if self._measure.higher_is_better else -1
        pairs = [(self.metric(ours, block), self.metric(theirs, block)) for block in blocks]
        gains = np.array([sign * (a - b) for a, b in pairs if a is not None and b is not None])
        if len(gains) < 2:
            return None, None
        return float(gains.mean()), float(gains.std(ddof=1) / np.sqrt(len(gains)))

    def beside(
        self, name: str, other: "ComparedPredictors", theirs: str, *, as_name: str
    ) -> "ComparedPredictors":
        """Return a comparison of this object's predictor `name` with `other`'s predictor `theirs`.

        The comparison contains only the rows that both objects have. In the comparison, `other`'s
        predictor is called `as_name`.
        """
        at = {row: place for place, row in enumerate(other.rows)}
        both = ComparedPredictors(self._measure, (name, as_name))
        places = [place for place, row in enumerate(self.rows) if row in at]
        both.rows = [self.rows[place] for place in places]
        both.labels = [self.labels[place] for place in places]
        others = [at[row] for row in both.rows]
        for as_, source, source_name, chosen in (
            (name, self, name, places),
            (as_name, other, theirs, others),
        ):
            both.predicted[as_] = [source.predicted[source_name][i] for i in chosen]
            if self._measure.needs_scores:
                both._scores[as_] = [source._scores[source_name][i] for i in chosen]
        return both
