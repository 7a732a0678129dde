"""How good the estimates were, once the truth has come.

In: data windows, and outcomes of the same stream. Out: pairs of estimate and realised metric, and
what they say together.
"""

from collections.abc import Iterable, Sequence

import msgspec

from driftline.codec.records import parse_time
from driftline.evaluation import evaluate
from driftline.events import DataWindow, MetricEstimate, Outcome, Value
from driftline.stream import Stream
from monitor.progress import Grid


class Compared(msgspec.Struct, frozen=True):
    """The estimate of one model's records in one window, and their metric."""

    estimate: MetricEstimate
    realised: float
    outcomes: int  # records of the window whose truth is known
    records: int


class Coverage(msgspec.Struct, frozen=True):
    """Of so many windows: the mean distance of estimate and realised metric, the share of windows
    whose realised metric is in the interval, and the mean distance where the held-out metric of the
    model is taken for an estimate."""

    windows: int
    mean_absolute_error: float
    covered: float
    held_out_error: float


def compare(
    stream: Stream, windows: Iterable[DataWindow], outcomes: Iterable[Outcome]
) -> list[Compared]:
    """Pairs in the order of the windows, for each group that has an estimate and outcomes.

    An outcome belongs to the window in which its record stands, not to that in which its label came
    to be known (as in `PerformanceWindow`). A record's first label counts.
    """
    grid = Grid.of(stream)
    truth: dict[tuple[int, str], tuple[list[Value], list[Value]]] = {}
    for outcome in outcomes:
        position = _position(stream, outcome)
        if position is None or outcome.revision:
            continue
        latest = position // grid.size  # of the windows that have it
        for index in range(latest - grid.overlap + 1, latest + 1):
            own = truth.setdefault((index, outcome.model), ([], []))
            own[0].append(outcome.label)
            own[1].append(outcome.prediction)
    return [
        Compared(
            group.estimate,
            evaluate(group.estimate.metric, stream.task, *truth[window.index, group.model]),
            len(truth[window.index, group.model][0]),
            group.records,
        )
        for window in windows
        for group in window.groups
        if group.estimate is not None and (window.index, group.model) in truth
    ]


def coverage(pairs: Sequence[Compared]) -> Coverage | None:
    """Of all pairs together; None without any."""
    if not pairs:
        return None
    count = len(pairs)
    return Coverage(
        windows=count,
        mean_absolute_error=sum(abs(p.estimate.value - p.realised) for p in pairs) / count,
        covered=sum(p.estimate.low <= p.realised <= p.estimate.high for p in pairs) / count,
        held_out_error=sum(abs(p.estimate.reference - p.realised) for p in pairs) / count,
    )


def _position(stream: Stream, outcome: Outcome) -> int | None:
    if stream.axis == "row":
        return outcome.row
    return None if outcome.time is None else parse_time(outcome.time)
