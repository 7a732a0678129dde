"""The content of a run's report, which `driftline_app.report.page` draws."""

from typing import Literal

import msgspec

from driftline.config.stream_sections import DriftKind
from producers.rows import Change

Happened = Literal[
    "drift opened", "drift updated", "drift resolved", "retrain", "swap", "kept", "refused"
]


class RunEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event of a run."""

    row: int  # row of the data, from 0, at which it was observed
    what: Happened
    text: str  # the reason, in a sentence
    id: str  # of the drift event, the retrain request or the decision; a digest for a swap
    drift: DriftKind | None = None  # for the three values of `what` about drift
    report: str | None = None  # Evidently's HTML, relative to the run's report


class MetricOverTime(msgspec.Struct, frozen=True, kw_only=True):
    """The metric in blocks of equal length; None where a block had no outcome.

    `rows[i]` is the last row of block i; the other three have one value for each block.
    """

    rows: tuple[int, ...]
    loop: tuple[float | None, ...]
    static: tuple[float | None, ...]
    baseline: tuple[float | None, ...]
    block: int  # rows in a block


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """The counts and metrics of a run."""

    records: int
    predictions: int
    outcomes: int
    dead_letters: int
    lost: int
    windows: int
    models: int  # published, the first one included
    loop: float | None
    static: float | None
    baseline: float | None
    seconds: float


class RunReport(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the page shows."""

    stream: str
    run: str  # name of the run's folder
    metric: str
    higher_is_better: bool
    baseline: str  # the kind of baseline: "prior" or "previous_label"
    totals: Totals
    over_time: MetricOverTime
    events: tuple[RunEvent, ...]  # in order of row
    changes: tuple[Change, ...] = ()  # of the data, where they are known
    notes: tuple[str, ...] = ()  # sentences for the end of the page
