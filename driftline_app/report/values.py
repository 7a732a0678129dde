"""Define the content of a run's report as structs, which `report/page.py` renders as HTML."""

from typing import Literal

import msgspec

from driftline.config.stream_sections import DriftKind
from producers.rows import Change

Happened = Literal[
    "drift opened", "drift updated", "drift resolved", "retrain", "swap", "kept", "refused"
]


class RunEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event of a run."""

    row: int  # data row, counted from 0, at which the event was observed
    what: Happened
    text: str  # the reason, as a sentence
    # Id of the drift event, retrain request or decision; the model's digest if an operator changed
    # the champion.
    id: str
    drift: DriftKind | None = None  # kind of drift; None for other events
    report: str | None = None  # path of Evidently's report, relative to the run's report


class MetricOverTime(msgspec.Struct, frozen=True, kw_only=True):
    """The metric in blocks of equal length; None for a block without outcomes.

    `rows[i]` is the last row of block i. `loop`, `static` and `baseline` have one value per block.
    """

    rows: tuple[int, ...]
    loop: tuple[float | None, ...]
    static: tuple[float | None, ...]
    baseline: tuple[float | None, ...]
    block: int  # number of rows in a block


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """A run's counts and metrics."""

    records: int
    predictions: int
    outcomes: int
    dead_letters: int
    lost: int
    windows: int
    models: int  # number of published models, including the first
    loop: float | None
    static: float | None
    baseline: float | None
    seconds: float


class RunReport(msgspec.Struct, frozen=True, kw_only=True):
    """The content of a run's report page."""

    stream: str
    run: str  # name of the run's folder
    metric: str
    higher_is_better: bool
    baseline: str  # the kind of baseline: "prior" or "previous_label"
    totals: Totals
    over_time: MetricOverTime
    events: tuple[RunEvent, ...]  # sorted by row
    changes: tuple[Change, ...] = ()  # known changes in the data
    notes: tuple[str, ...] = ()  # sentences shown at the end of the page
