"""Compare each window's estimated metric with its realised metric, once the labels are known.

Input: one stream's outcomes and data window events. Output: comparisons between estimated and
realised metrics, and a summary of these comparisons.
"""

from collections.abc import Iterable, Sequence
from math import isfinite

import msgspec
import numpy as np

from driftline.config.measure import Measure
from driftline.config.stream import Stream
from driftline.learning.metrics import Answers, used_scores
from driftline.wire.events import Outcome, Value
from driftline.wire.values import parse_time
from driftline.wire.window_events import DataWindow, MetricEstimate
from monitor.metric_sums import Tally
from monitor.panes import Grid
from monitor.tallies import new_tally


class EstimateComparison(msgspec.Struct, frozen=True):
    """The estimated and the realised metric for one model's records in one window."""

    end: int  # exclusive end of the window
    model: str
    estimate: MetricEstimate
    realised: float
    outcomes: int  # number of records with a known label
    records: int

    @property
    def covered(self) -> bool:
        """Return whether the interval contains the realised metric."""
        return self.estimate.low <= self.realised <= self.estimate.high


class Coverage(msgspec.Struct, frozen=True):
    """A summary of `EstimateComparison`s.

    `windows` is the number of comparisons. `mean_absolute_error` is the mean distance between the
    estimated and the realised metric. `covered` is the share of intervals that contain the realised
    metric. `held_out_error` is the mean distance between the held-out and the realised metric.
    """

    windows: int
    mean_absolute_error: float
    covered: float
    held_out_error: float


class Truth:
    """Collects each model's outcomes by window. An outcome is assigned to its record's window,
    whereas a `PerformanceWindow` contains the outcomes whose labels arrived in the window. Memory
    use grows with the number of windows, not with the number of outcomes."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._grid = Grid.of(stream)
        self._tallies: dict[tuple[int, str], Tally] = {}

    def add(self, outcomes: Iterable[Outcome]) -> None:
        """Add outcomes. If a record's label was revised, only the first label is used."""
        measure = self._stream.judged_by
        own: dict[tuple[int, str], list[Outcome]] = {}
        for outcome in outcomes:
            position = _position(self._stream, outcome)
            if position is not None and not outcome.revision:
                key = (position // self._grid.size, outcome.model)
                own.setdefault(key, []).append(outcome)
        for (latest, model), joined in own.items():
            labels, answers = _answers(measure, joined)
            if not labels:
                continue
            for index in range(latest - self._grid.overlap + 1, latest + 1):
                key = index, model
                if key not in self._tallies:
                    self._tallies[key] = new_tally(measure)
                self._tallies[key].add(labels, answers)

    def compare(self, windows: Iterable[DataWindow]) -> list[EstimateComparison]:
        """Return a comparison for each window and model with both an estimate and outcomes, in
        window order."""
        return [
            EstimateComparison(
                window.end,
                group.model,
                group.estimate,
                realised,
                tally.records,
                group.records,
            )
            for window in windows
            # Skip windows of another size, which were published before the stream file changed.
            if self._grid.window(window.index) == (window.start, window.end)
            for group in window.groups
            # Skip estimates of another metric, which were made before the stream file changed.
            if group.estimate is not None
            and group.estimate.metric == self._stream.judged_by.name
            and (tally := self._tallies.get((window.index, group.model))) is not None
            and isfinite(realised := tally.metric())
        ]


def coverage(pairs: Sequence[EstimateComparison]) -> Coverage | None:
    """Return a summary of `pairs`, or None if `pairs` is empty."""
    if not pairs:
        return None
    count = len(pairs)
    return Coverage(
        windows=count,
        mean_absolute_error=sum(abs(p.estimate.value - p.realised) for p in pairs) / count,
        covered=sum(p.covered for p in pairs) / count,
        held_out_error=sum(abs(p.estimate.reference - p.realised) for p in pairs) / count,
    )


def _answers(measure: Measure, outcomes: Sequence[Outcome]) -> tuple[list[Value], Answers]:
    """Return the labels and answers of the outcomes that have what the metric needs."""
    labels = [outcome.label for outcome in outcomes]
    scores = used_scores(measure, labels, (outcome.scores for outcome in outcomes))
    answers = Answers([outcome.prediction for outcome in outcomes], scores)
    if scores is None or np.isfinite(scores).all():
        return labels, answers
    known = np.flatnonzero(np.isfinite(scores))
    return [labels[place] for place in known.tolist()], answers.take(known)


def _position(stream: Stream, outcome: Outcome) -> int | None:
    if stream.axis == "row":
        return outcome.row
    return None if outcome.time is None else parse_time(outcome.time)
