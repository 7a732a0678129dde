"""Define the events that Driftline publishes as frozen structs: the wire format of each topic.

Values are JSON with snake_case names. Times are RFC 3339 in UTC, ids are strings, digests are
`sha256:…`, and a missing value is `null`. A `position` is an integer on the axis of the stream's
windows: the record's number, or microseconds since 1970 UTC. Feature records and labels are the
user's own JSON (`wire.feature_records`).
"""

import hashlib
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from driftline.config.stream import DriftKind, Kind, Metric, Task
from driftline.wire.values import parse_time

Value = str | float  # name of a class, or a number
# The largest record number. Readers that parse JSON numbers as floats would read a larger one as
# another number (RFC 8259, section 6), and sums of positions would not fit into 64 bits.
MAX_ROW: Final = 2**53 - 1
RowNumber = Annotated[int, Meta(ge=0, le=MAX_ROW)]
# Room for times in the years 1 to 9999 and for record numbers, and for sums of two positions.
Position = Annotated[int, Meta(ge=-(2**60), le=2**60)]
Count = Annotated[int, Meta(ge=0, le=MAX_ROW)]
PartitionNumber = Annotated[int, Meta(ge=0, le=2**31 - 1)]
# A partition reaches this after 146,000 years at a million records a second.
Offset = Annotated[int, Meta(ge=0, le=2**62)]
_Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Quality = Literal["missing", "unseen", "out_of_range", "stuck"]  # faults of a column
WindowQuality = Literal["dead_letters", "gaps"]  # faults of a window


class Event(msgspec.Struct, frozen=True, tag_field="type", kw_only=True):
    """Base class of all events. The field `type` names the kind of event."""


def _check_time(value: str | None) -> None:
    """Raise ValueError if the value is not a usable time. Decoders report the error."""
    if value is not None:
        parse_time(value)


def event_id(kind: str, *parts: object) -> str:
    """Return a stable id: the same parts give the same id, in a live run and in a replay.

    >>> event_id("drift", "data", 7)
    'drift-52cf42d9f7f3'
    """
    text = "\x1f".join(str(part) for part in parts)
    return f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


# ---- predictions and outcomes (the hot topics) ---------------------------------------------------


class Source(msgspec.Struct, frozen=True):
    """The place of the scored record in the log. It identifies a prediction."""

    topic: str
    partition: PartitionNumber
    offset: Offset


class Prediction(Event, frozen=True, tag="prediction", omit_defaults=True):
    """A model's prediction for one record. `record` contains the raw bytes of the record.

    `ahead` is true if the record's position is implausibly far ahead of the earlier records of its
    partition. Windows, watermarks and training ignore such a record.
    """

    record_id: str
    time: str | None
    row: RowNumber | None
    prediction: Value
    scores: dict[str, float] | None  # class → probability
    model: str
    source: Source
    record: msgspec.Raw
    ahead: bool = False

    def __post_init__(self) -> None:
        _check_time(self.time)


class RefusedRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """A record that became a dead letter, with its position if that is readable.

    In `predictions` it is a feature record, in `outcomes` a label.
    """

    offset: Offset
    position: Position | None = None


class Log(msgspec.Struct, frozen=True):
    """The log of feature records that inference starts to read, from `offset` on.

    `topic_id` is Kafka's id of the topic. If a topic is deleted and created again, it gets another
    id and its offsets start again.
    """

    topic_id: str
    offset: Offset


class Gap(msgspec.Struct, frozen=True, omit_defaults=True):
    """Offsets `[start, end)` of a partition that were deleted before they were read.

    `end` is None if the topic was created again: the number of lost records is unknown. `topic` is
    empty for the topic of feature records.
    """

    partition: PartitionNumber
    start: Offset
    end: Offset | None = None
    topic: str = ""


class Watermark(Event, frozen=True, tag="watermark", omit_defaults=True):
    """Declares that no more records below `position` are expected in this partition.

    `position` is None until the partition has had a record with a readable position. Inference also
    writes a watermark for each dead letter and each gap, in offset order, so that the predictions
    topic accounts for every feature record. It writes another one when it starts to read a new log.
    Outcomes writes one to the outcomes topic for each label that became a dead letter. Outcomes and
    monitor write one there for each gap that they find.
    """

    position: Position | None
    dead_letter: RefusedRecord | None = None
    log: Log | None = None
    gaps: tuple[Gap, ...] = ()


class Outcome(Event, frozen=True, tag="outcome", omit_defaults=True):
    """A prediction joined with its label. `revision` counts changes of the label, starting at 0.

    `ahead` is as in the prediction. It is also true if the label's position is implausibly far
    ahead of the earlier labels of its partition.
    """

    record_id: str
    time: str | None
    row: RowNumber | None
    prediction: Value
    scores: dict[str, float] | None
    model: str
    source: Source
    record: msgspec.Raw
    label: Value
    label_time: str | None  # event time at which the label became known, on the time axis
    label_row: RowNumber | None  # record number at which the label became known, on the row axis
    revision: Count
    ahead: bool = False

    def __post_init__(self) -> None:
        _check_time(self.time)
        _check_time(self.label_time)


# ---- windows ------------------------------------------------------------------------------------


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
        _check_time(self.time)


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
        _check_time(self.time)


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
        _check_time(self.time)


# ---- partial aggregates of windows (between workers of the monitor) ------------------------------


class Codes(msgspec.Struct, frozen=True):
    """Categories: `codes` (n,) are int32 indices into `levels`, -1 for a missing value."""

    levels: tuple[str, ...]
    codes: bytes


class SampledRecords(msgspec.Struct, frozen=True):
    """The n records of a sample as columns: little-endian arrays (n,), base64 in JSON.

    `hashes` of the record ids are uint32. `positions` and `offsets` (in `predictions`) are int64.
    `columns` are float64 or codes. `scores` by class are uint16: the score times 65534, or 65535 if
    there is no score.
    """

    hashes: bytes
    positions: bytes
    offsets: bytes
    columns: dict[str, bytes | Codes]
    prediction: bytes | Codes
    scores: dict[str, bytes] = {}


class GroupAggregate(msgspec.Struct, frozen=True, omit_defaults=True):
    """One model's records. `sample` contains those that may be in the merged sample."""

    model: str
    records: Count = 0
    last: Position | None = None  # largest position of these records
    sample: SampledRecords | None = None


class SlideAggregate(msgspec.Struct, frozen=True, omit_defaults=True):
    """The partial aggregate of one partition for one slide of predictions, or a chunk of it.

    A slide is the span between the starts of two consecutive windows.
    """

    index: Position
    late: Count = 0
    row: RowNumber | None = None
    time: str | None = None
    groups: tuple[GroupAggregate, ...] = ()
    dead_letters: Count = 0
    lost: Count = 0

    def __post_init__(self) -> None:
        _check_time(self.time)


class DataAggregates(Event, frozen=True, tag="data_parts"):
    """The slides of predictions that a partition has closed, with its partial aggregates.

    Chunks of one slide are added up. `grid` contains the size of a slide and its number of panes,
    which define what an index means. `passed` is the index up to which slides are closed: no
    partial aggregate with a smaller index will follow. It is None in all but the last of several
    records.
    """

    partition: PartitionNumber
    grid: str
    passed: Position | None
    slices: tuple[SlideAggregate, ...]


class SampledErrors(msgspec.Struct, frozen=True):
    """The errors of n outcomes: little-endian arrays (n,), base64 in JSON.

    `hashes` of the record ids are uint32. `positions` of the labels, `records` (positions of the
    records themselves) and `offsets` (in `outcomes`) are int64. `errors` are float64.
    """

    hashes: bytes
    positions: bytes
    records: bytes
    offsets: bytes
    errors: bytes


class Pair(msgspec.Struct, frozen=True):
    """The number of outcomes with this label and this prediction."""

    label: Value
    prediction: Value
    count: Count


class ErrorSums(msgspec.Struct, frozen=True):
    """Sums of absolute errors and of their squares, times 2^64, and of their fourth powers, times
    2^128. They are integers of any size, written as text."""

    errors: str
    squares: str
    fourths: str = "0"


class ModelAggregate(msgspec.Struct, frozen=True, omit_defaults=True):
    """The outcomes of one model: `pairs` for classification, `sums` for regression."""

    model: str
    records: Count = 0
    first: Position | None = None  # smallest and largest position of the records themselves
    last: Position | None = None
    pairs: tuple[Pair, ...] = ()
    sums: ErrorSums | None = None
    sample: SampledErrors | None = None
    row: RowNumber | None = None
    time: str | None = None

    def __post_init__(self) -> None:
        _check_time(self.time)


class PaneAggregate(msgspec.Struct, frozen=True, omit_defaults=True):
    """The partial aggregate of one partition for one pane of outcomes, or a chunk of it."""

    index: Position
    late: Count = 0
    revised: Count = 0
    models: tuple[ModelAggregate, ...] = ()
    lost: Count = 0
    dead_letters: Count = 0


class PerformanceAggregates(Event, frozen=True, tag="performance_parts"):
    """The panes of outcomes that a partition has closed, with its partial aggregates.

    `passed` is the index of a pane. All other fields are as in `DataAggregates`.
    """

    partition: PartitionNumber
    grid: str
    passed: Position | None
    panes: tuple[PaneAggregate, ...]


# ---- drift, retraining --------------------------------------------------------------------------


class DriftEvent(Event, frozen=True, tag="drift"):
    """A drift event was opened, updated or resolved. All records of an event share its `id`."""

    id: str
    action: Literal["opened", "updated", "resolved"]
    kind: DriftKind
    columns: tuple[str, ...]
    # data, prediction: largest effect plus harm; quality: share of affected records; performance:
    # increase of the error as a share of the earlier error
    severity: float
    message: str
    position: Position
    onset: Position | None  # estimated position of the change
    model: str | None
    detector: str | None
    windows: tuple[str, ...]  # id of the window or pane that caused this record
    report: str | None = None  # name of the HTML report in the reports folder, if there is one
    # data, prediction, quality: estimated increase of the error as a share of the held-out error;
    # 0.0 if it may be chance; None if there is no estimate
    harm: float | None = None


class RetrainRequest(Event, frozen=True, tag="retrain_request"):
    """A request to train a new model, with its cause."""

    id: str
    cause: Literal["drift", "manual", "schedule"]
    caused_by: tuple[str, ...]  # ids of drift events
    reason: str
    position: Position | None  # largest position of the stream at the time of the request
    since: Position | None  # onset of the change: older data may follow another concept


class Removed(msgspec.Struct, frozen=True):
    """The number of outcomes that collecting or cleaning removed for one reason."""

    reason: str
    count: Count


class Trial(msgspec.Struct, frozen=True):
    """One candidate, trained on one range of the outcomes."""

    candidate: str
    parameters: dict[str, str | _Int64 | float | bool | None]
    range: str
    rows: Count
    metric: float


class RetrainDecision(Event, frozen=True, tag="retrain_decision"):
    """The result of a request: a model, or none, with the reason.

    `outcomes` is the number of outcomes that were left after cleaning.
    """

    id: str
    request: str
    published: bool
    promoted: bool
    model: str | None
    reason: str
    metric: Metric
    challenger: float | None
    champion: float | None
    outcomes: Count
    removed: tuple[Removed, ...]
    trials: tuple[Trial, ...]


# ---- models -------------------------------------------------------------------------------------


# Limits for text in the `models` topic: far more than Driftline writes, and too little to fill a
# reader's memory.
_Short = Annotated[str, Meta(max_length=512)]
_Text = Annotated[str, Meta(max_length=16_384)]
# Every JSON reader reads integers up to 2^53 exactly.
_Sequence = Annotated[int, Meta(ge=0, le=2**53)]


class ModelAnnounced(Event, frozen=True, tag="model"):
    """The announcement of a package. Its key is `model/<digest>`."""

    digest: _Short
    signature: _Short  # Ed25519 signature of the digest's text, in hex
    key_id: _Short
    location: Annotated[str, Meta(max_length=4096)]
    stream: _Short
    task: Task
    candidate: _Short
    metric: Metric
    value: float
    parent: _Short | None
    cause: _Short | None  # id of the retrain request
    trained_at: _Short


class RolePointer(Event, frozen=True, tag="role"):
    """The model that has a role. Its key is `role/champion`.

    `sequence` is one more than in the pointer that it replaces. A pointer is stale, and ignored, if
    its sequence is not larger than the current one. It is 0 in pointers of earlier versions.
    """

    id: _Short
    role: Literal["champion", "challenger"]
    digest: _Short
    replaces: _Short | None  # id of the pointer that it replaces
    cause: _Short | None
    by: Literal["trainer", "person"]
    reason: _Text
    at: _Short
    replaced: _Short | None = None  # digest of the previous champion
    # Models that operators have rolled back. The trainer does not promote them.
    set_aside: Annotated[tuple[_Short, ...], Meta(max_length=100)] = ()
    sequence: _Sequence = 0


class Freeze(Event, frozen=True, tag="freeze"):
    """Stops or allows automatic promotion. Its key is `freeze`. `sequence`: see `RolePointer`."""

    id: _Short
    frozen: bool
    reason: _Text
    at: _Short
    sequence: _Sequence = 0


PredictionsEvent = Prediction | Watermark
OutcomesEvent = Outcome | Watermark
PartsEvent = DataAggregates | PerformanceAggregates
WindowsEvent = DataWindow | PerformanceWindow | PerformancePane
RetrainEvent = RetrainRequest | RetrainDecision
ModelsEvent = ModelAnnounced | RolePointer | Freeze
