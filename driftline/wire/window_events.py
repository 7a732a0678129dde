"""Define the events in the `windows` Kafka topic: closed windows and panes, with their results."""

from typing import Annotated, Literal

import msgspec

from driftline.config.measure import Metric
from driftline.config.stream_sections import Kind
from driftline.wire.events import (
    Count,
    Event,
    Position,
    RowNumber,
    check_time,
)

Quality = Literal["missing", "unseen", "out_of_range", "stuck"]  # data-quality faults of a column
WindowQuality = Literal["dead_letters", "gaps"]  # data-quality faults of a window


class UnseenLevel(msgspec.Struct, frozen=True):
    """A category that the scoring model's reference lacks, cut to 64 characters, and its number of
    records in the sample."""

    level: str
    records: Count


class ColumnResult(msgspec.Struct, frozen=True):
    """The result of comparing one column of a window with the scoring model's reference.

    `score` is the distance from the reference, divided by the distance that chance alone exceeds in
    about one in a thousand windows. `drifted` is true if the score reaches the group's
    `limits.warning` and the effect is large enough. `missing`, `unseen` (categories that are not in
    the reference) and `out_of_range` count values in the group's sample. `stuck` is the length of
    the longest run of equal values in the sample. `quality` lists which of these four fields
    have values that are larger than the reference explains and large enough to matter.
    `unseen_levels` are the most frequent unseen categories (at most 10).
    """

    column: str
    kind: Kind
    test: str
    p_value: float | None  # None if the test returns a distance or nothing was tested
    # The distance that the test returns. If the test returns a p-value instead, `effect` is the
    # Wasserstein distance in standard deviations (numbers) or the Jensen-Shannon distance
    # (categories).
    effect: float
    drifted: bool
    score: float = 0.0
    missing: Count = 0
    unseen: Count = 0
    out_of_range: Count = 0
    stuck: Count = 0
    quality: tuple[Quality, ...] = ()
    unseen_levels: tuple[UnseenLevel, ...] = ()


class DependenceDrift(msgspec.Struct, frozen=True):
    """Columns whose mutual dependence has drifted although none of them has drifted on its own.

    For a pair of columns, `effect` is the share of records that moved to another cell of a 3 × 3
    table, beyond what each column's own change explains. If the change was detected
    only by the classifier that separates the window from the reference, `columns` are the columns
    that it relies on most (at most three), and `effect` is its Gini coefficient.
    """

    columns: tuple[str, ...]
    effect: float
    score: float


class Limits(msgspec.Struct, frozen=True):
    """Thresholds for a window's scores.

    A column or pair with a score of `alarm` or more is evidence for a drift event. A score of
    `warning` or more is also evidence if the same column or pair had such a score in either of the
    two preceding non-overlapping windows.

    The reference is too short to calibrate the columns in `uncalibrated` (the predictions have the
    target's name). Such a column never scores more than `warning`, which it reaches only beyond the
    largest distance of the reference's own windows. `alarm` is None if no column is calibrated.
    `insensitive` are the columns that need a shift of more than one standard deviation to score
    `warning`.
    """

    warning: float
    alarm: float | None
    uncalibrated: tuple[str, ...] = ()
    insensitive: tuple[str, ...] = ()


class MetricEstimate(msgspec.Struct, frozen=True):
    """An estimate of the stream's metric in a window, before the labels are known.

    `low` and `high` bound a 95% interval for the same records' realised metric. The interval is
    valid as long as the relation between inputs and labels is the same as in training. `reference`
    is the same model's metric on the held-out data from its training. If `unsupported` is not
    empty, these columns have values outside of the reference's support, or are stuck. The estimate
    may then be wrong by any amount. `floor` is the smallest error to which an increase is related.
    """

    metric: Metric
    value: float
    low: float
    high: float
    reference: float
    unsupported: tuple[str, ...] = ()
    floor: Annotated[float, msgspec.Meta(ge=0)] = 0.0


class DataGroup(msgspec.Struct, frozen=True):
    """The records that one model scored in a window.

    `sampled` is the number of records that were tested, or 0 if nothing was tested. It is at most
    `windows.max_sample` and excludes records that cannot be decoded with the current stream file.
    `repeated` is the number of sampled records that repeat another sampled record's id.
    """

    model: str
    records: Count
    sampled: Count
    tested: bool  # true if there were enough records and the reference was available
    columns: tuple[ColumnResult, ...] = ()
    prediction: ColumnResult | None = None
    relations: tuple[DependenceDrift, ...] = ()
    repeated: Count = 0
    limits: Limits | None = None
    # None if nothing was tested, or if the model package lacks the necessary data.
    estimate: MetricEstimate | None = None


class PerformanceGroup(msgspec.Struct, frozen=True):
    """One model's outcomes in a window, with the model's error on held-out data.

    `error` is the mean of the losses that the metric implies (see docs/metrics.md): by default, of
    0/1 errors for classification and of absolute errors for regression. `metric` and `error` are
    None if they are undefined, such as ROC AUC in a window without records of the positive class,
    and if the metric needs probabilities that the outcomes do not have.
    """

    model: str
    records: Count
    metric: float | None
    error: float | None
    reference_error: float | None = None
    p_value: float | None = None  # for the increase over `reference_error`; None if not tested
    worse: bool = False
    standard_error: float | None = None  # standard error of `metric`, assuming independent records
    # As in `PerformancePane`. None if it is unknown.
    error_scale: Annotated[float, msgspec.Meta(gt=0)] | None = None


class DataWindow(Event, frozen=True, tag="data_window"):
    """A closed window of predictions. Records are assigned to windows by their own positions.

    `groups` are ordered by each model's newest record, so the last group belongs to the model that
    served last. `late` counts records that arrived after their partition's watermark had passed the
    end of their pane, and records that are marked `ahead`. Both are counted in the window that the
    watermark had reached when they arrived, and are not used otherwise. `row` and `time` are the
    largest row number and time of all records. `dead_letters` counts records that could not be
    scored. `lost` counts records that were deleted before they were read; recreating a topic counts
    as one lost record. `records` includes neither dead letters nor lost records. `quality` contains
    `dead_letters` or `gaps` if the number of dead letters or lost records is too high.
    """

    id: str
    index: Position
    start: Position
    end: Position
    records: Count
    late: Count
    row: RowNumber | None
    time: str | None
    groups: tuple[DataGroup, ...]
    dead_letters: Count = 0
    lost: Count = 0
    quality: tuple[WindowQuality, ...] = ()

    def __post_init__(self) -> None:
        check_time(self.time)


class PerformanceWindow(Event, frozen=True, tag="performance_window"):
    """A closed window of outcomes.

    Outcomes are assigned to windows by the position at which their label became known. Only a
    record's first label is used; `revised` counts later changes to labels. `lost` counts the
    labels, predictions and outcomes that were deleted before they were read. `dead_letters` counts
    labels that became dead letters, and `quality` contains `dead_letters` if this count is too
    high. All other fields are as in `DataWindow`.
    """

    id: str
    index: Position
    start: Position
    end: Position
    records: Count
    late: Count
    revised: Count
    row: RowNumber | None
    time: str | None
    metric: Metric
    # None if there are no outcomes, if all are late or revised, or if the metric is undefined
    value: float | None
    groups: tuple[PerformanceGroup, ...]
    standard_error: float | None = None  # standard error of `value`, assuming independent records
    lost: Count = 0
    dead_letters: Count = 0
    quality: tuple[WindowQuality, ...] = ()

    def __post_init__(self) -> None:
        check_time(self.time)


class PerformancePane(Event, frozen=True, tag="performance_pane"):
    """A closed pane of one model's outcomes, which the drift detectors process.

    `errors` are the losses that the metric implies (see docs/metrics.md), and `loss` names them. It
    is empty for 0/1 errors (classification) and absolute errors (regression). For ranking metrics,
    there is one error for each record of the positive class, and otherwise one for each outcome.
    They are ordered by the label's position, then by the record's position. If there are more
    outcomes than a twentieth of `windows.max_sample`, only outcomes whose record ids have the
    smallest hashes are included.
    `first_position` and `last_position` are positions of records, not of labels. The monitor
    uses them to estimate the onset of a change. `reference_error` is the model's mean error on
    held-out data. `error_inflation` is the variance inflation of this mean: autocorrelated errors
    carry less information than independent errors. `trained_on` is the number of training records.
    `error_scale` is the level at which the detectors clip errors; for errors from 0 to 1, it is 1.
    """

    id: str
    index: Position
    start: Position
    end: Position
    model: str
    records: Count
    errors: tuple[float, ...]
    reference_error: float | None
    first_position: Position
    last_position: Position
    row: RowNumber | None
    time: str | None
    error_inflation: float = 1.0
    trained_on: Count | None = None
    loss: str = ""
    error_scale: Annotated[float, msgspec.Meta(gt=0)] | None = None

    def __post_init__(self) -> None:
        check_time(self.time)


WindowsEvent = DataWindow | PerformanceWindow | PerformancePane
