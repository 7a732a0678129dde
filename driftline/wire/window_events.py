"""Define the events of the topic `windows`: closed windows and panes, with their results."""

from typing import Literal

import msgspec

from driftline.config.stream_sections import Kind, Metric
from driftline.wire.events import (
    Count,
    Event,
    Position,
    RowNumber,
    check_time,
)

Quality = Literal["missing", "unseen", "out_of_range", "stuck"]  # faults of a column
WindowQuality = Literal["dead_letters", "gaps"]  # faults of a window


class ColumnResult(msgspec.Struct, frozen=True):
    """One column of a window, compared with the reference of the model that scored the window.

    `score` is the distance from the reference, divided by the distance that chance alone produces
    in about one of a hundred windows. `drifted` is true if the score reaches the group's
    `limits.warning` and the effect is large enough. `missing`, `unseen` (categories that the
    reference does not have) and `out_of_range` count values in the group's sample. `stuck` is the
    longest run of equal values in it. `quality` names those of the four that the reference does not
    explain and that are large enough to matter.
    """

    column: str
    kind: Kind
    test: str
    p_value: float | None  # None if the test returns a distance or nothing was tested
    # The test's distance. If it gives a p-value: Wasserstein distance in standard deviations, or
    # Jensen-Shannon distance.
    effect: float
    drifted: bool
    score: float = 0.0
    missing: Count = 0
    unseen: Count = 0
    out_of_range: Count = 0
    stuck: Count = 0
    quality: tuple[Quality, ...] = ()


class DependenceDrift(msgspec.Struct, frozen=True):
    """Columns whose dependence on each other has drifted although no column has drifted alone.

    For a pair, `effect` is the share of records that are in another cell of a 3 × 3 table, beyond
    what each column's own change explains. If only the classifier found the change, `columns` are
    the (at most three) columns that it relies on most, and `effect` is its Gini coefficient.
    """

    columns: tuple[str, ...]
    effect: float
    score: float


class Limits(msgspec.Struct, frozen=True):
    """Thresholds for the scores of a window.

    A score of `alarm` or more is a drift event. So is a score of `warning` or more, if one of the
    two previous windows had one too. `alarm` is None if the reference is too short for a
    calibration. Then `warning` is larger than every score of the reference's own windows.
    """

    warning: float
    alarm: float | None


class MetricEstimate(msgspec.Struct, frozen=True):
    """An estimate of the stream's metric in a window, before the labels are known.

    `low` and `high` are a 95% interval for the realised metric of the same records. It is valid as
    long as the relation between inputs and labels is the same as in training. `reference` is the
    same model's metric on the data that were held out in training.
    """

    metric: Metric
    value: float
    low: float
    high: float
    reference: float


class DataGroup(msgspec.Struct, frozen=True):
    """The records of a window that one model scored.

    `sampled` is the number of records that were tested, 0 if nothing was tested. It is limited by
    `windows.max_sample` and excludes records whose columns the stream file cannot read. `repeated`
    is the number of sampled records that repeat the id of another one.
    """

    model: str
    records: Count
    sampled: Count
    tested: bool  # there were enough records, and the reference was available
    columns: tuple[ColumnResult, ...] = ()
    prediction: ColumnResult | None = None
    relations: tuple[DependenceDrift, ...] = ()
    repeated: Count = 0
    limits: Limits | None = None
    estimate: MetricEstimate | None = None  # None: not tested, or the package lacks the data


class PerformanceGroup(msgspec.Struct, frozen=True):
    """The outcomes of one model in a window, with the model's error on held-out data."""

    model: str
    records: Count
    metric: float
    error: float  # mean error: 0 or 1 for classification, absolute error for regression
    reference_error: float | None = None
    p_value: float | None = None  # p-value of the increase over `reference_error`; None: not tested
    worse: bool = False
    standard_error: float | None = None  # standard error of the metric, if records were independent


class DataWindow(Event, frozen=True, tag="data_window"):
    """A closed window of predictions. Records are assigned to it by their own positions.

    `groups` are ordered by each model's newest record, so the last group is of the model that
    served last. `late` counts records that arrived after their partition had closed their pane, and
    records that are marked `ahead`. They are counted in the window that their partition had
    reached, and not used otherwise. `row` and `time`
    are the largest of all records. `dead_letters` could not be scored, and `lost` records were
    deleted before they were read (a topic that was created again counts as one). `records` includes
    neither. `quality` names those of the two that are too many.
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
    """A closed window of outcomes, assigned by the position at which the label became known.

    Only the first label of a record counts. Changes of a label are counted as `revised`. `lost`
    counts the offsets of labels, predictions and outcomes that were deleted before they were read.
    `dead_letters` counts labels that became dead letters. `quality` contains `dead_letters` if they
    are too many. All other fields are as in `DataWindow`.
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
    value: float | None  # None if there are no outcomes, or all are late or revised
    groups: tuple[PerformanceGroup, ...]
    standard_error: float | None = None  # standard error of `value`, if records were independent
    lost: Count = 0
    dead_letters: Count = 0
    quality: tuple[WindowQuality, ...] = ()

    def __post_init__(self) -> None:
        check_time(self.time)


class PerformancePane(Event, frozen=True, tag="performance_pane"):
    """A closed pane of one model's outcomes. The drift detectors read it.

    `errors` are 0 or 1 for classification and absolute errors for regression. They are ordered by
    the position of the label, then of the record. If there are more than a twentieth of
    `windows.max_sample`, only those with the smallest hashes of their ids are included.
    `first_position` and `last_position` are positions of the records themselves. The onset of a
    change is estimated from them. `reference_error` is the model's mean error on held-out data.
    `error_inflation` is the variance inflation of that mean: autocorrelated errors carry less
    information than independent ones. `trained_on` is the number of training records.
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

    def __post_init__(self) -> None:
        check_time(self.time)


WindowsEvent = DataWindow | PerformanceWindow | PerformancePane
