"""Compare each window's estimated metric with its realised metric, once the labels are known.

Input: one stream's outcomes and data window events. Output: comparisons between estimated and
realised metrics, and a summary of these comparisons.
"""

from collections.abc import Iterable, Sequence

import msgspec

from driftline.config.stream import Stream
from driftline.wire.events import Outcome, Value
from driftline.wire.values import parse_time
from driftline.wire.window_events import DataWindow, MetricEstimate
from monitor.metric_sums import Tally, new_tally
from monitor.panes import Grid


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
        own: dict[tuple[int, str], tuple[list[Value], list[Value]]] = {}
        for outcome in outcomes:
            position = _position(self._stream, outcome)
            if position is not None and not outcome.revision:
                key = (position // self._grid.size, outcome.model)
                labels, predictions = own.setdefault(key, ([], []))
                labels.append(outcome.label)
                predictions.append(outcome.prediction)
        for (latest, model), (labels, predictions) in own.items():
            for index in range(latest - self._grid.overlap + 1, latest + 1):
                key = index, model
                if key not in self._tallies:
                    self._tallies[key] = new_tally(self._stream.task)
                self._tallies[key].add(labels, predictions)

    def compare(self, windows: Iterable[DataWindow]) -> list[EstimateComparison]:
        """Return a comparison for each window and model with both an estimate and outcomes, in
        window order."""
        return [
            EstimateComparison(
                window.end,
                group.model,
                group.estimate,
                tally.metric(group.estimate.metric),
                tally.records,
                group.records,
            )
            for window in windows
            # Skip windows of another size, which were published before the stream file changed.
            if self._grid.window(window.index) == (window.start, window.end)
            for group in window.groups
            if group.estimate is not None
            and (tally := self._tallies.get((window.index, group.model))) is not None
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


def _position(stream: Stream, outcome: Outcome) -> int | None:
    if stream.axis == "row":
        return outcome.row
    return None if outcome.time is None else parse_time(outcome.time)
