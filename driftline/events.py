"""Everything that Driftline publishes, as frozen structs: the wire format of each topic.

JSON, snake_case; times are RFC 3339 UTC, ids strings, digests `sha256:…`, missing is `null`. A
`position` is a whole number on the axis of the stream's windows: the record's number, or
microseconds since 1970 UTC. Feature records and labels are the user's own JSON (`codec.records`).
"""

import hashlib
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from driftline.codec.values import parse_time
from driftline.stream import DriftKind, Kind, Metric, Task

Value = str | float  # a class's name, or a number
# The largest record number. Beyond it, readers that hold JSON numbers as floats see another number
# (RFC 8259, section 6), and sums of positions no longer fit in 64 bits.
MAX_ROW: Final = 2**53 - 1
RowNumber = Annotated[int, Meta(ge=0, le=MAX_ROW)]
# A position of years 1 to 9999, or a record number, and as far again on either side.
Position = Annotated[int, Meta(ge=-(2**60), le=2**60)]
Count = Annotated[int, Meta(ge=0, le=MAX_ROW)]
PartitionNumber = Annotated[int, Meta(ge=0, le=2**31 - 1)]
# A partition would have to grow by a million records a second for 146,000 years.
Offset = Annotated[int, Meta(ge=0, le=2**62)]
_Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Quality = Literal["missing", "unseen", "out_of_range", "stuck"]  # of a column
WindowQuality = Literal["dead_letters", "gaps"]  # of all records of a window


class Event(msgspec.Struct, frozen=True, tag_field="type", kw_only=True):
    """Base of all events; the field `type` names which one it is."""


def _check_time(value: str | None) -> None:
    """Raise ValueError, which decoders report, unless the value is a time that can be used."""
    if value is not None:
        parse_time(value)


def event_id(kind: str, *parts: object) -> str:
    """A stable id: the same causes give the same id, in a live run and in a replay.

    >>> event_id("drift", "data", 7)
    'drift-52cf42d9f7f3'
    """
    text = "\x1f".join(str(part) for part in parts)
    return f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


# ---- predictions and outcomes (the hot topics) ---------------------------------------------------


class Source(msgspec.Struct, frozen=True):
    """Where the scored record stands in the log. A prediction's identity."""

    topic: str
    partition: PartitionNumber
    offset: Offset


class Prediction(Event, frozen=True, tag="prediction", omit_defaults=True):
    """What a model said about one record, the record spliced in as its raw bytes.

    `ahead`: its position lies implausibly far ahead of the records before it in its partition, so
    that windows, watermarks and training leave it out.
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
    """A feature record that became a dead letter: its offset, and its position if readable."""

    offset: Offset
    position: Position | None = None


class Log(msgspec.Struct, frozen=True):
    """The log of feature records that is read from here on: Kafka's id of the topic, and the first
    offset. A topic that was deleted and created again has another id, and its offsets start anew.
    """

    topic_id: str
    offset: Offset


class Gap(msgspec.Struct, frozen=True, omit_defaults=True):
    """Offsets of a partition of features that were deleted before they were read: `[start, end)`.

    `end` is None where the topic was created again: how many records the former one had is unknown.
    """

    partition: PartitionNumber
    start: Offset
    end: Offset | None = None


class Watermark(Event, frozen=True, tag="watermark", omit_defaults=True):
    """No record of this partition with a position below `position` is still to come; None while
    nothing is known.

    Inference also writes one for each dead letter and each gap, in the order of the source offsets,
    so that the predictions topic accounts for every feature record, and one where another log
    begins.
    """

    position: Position | None
    dead_letter: RefusedRecord | None = None
    log: Log | None = None
    gaps: tuple[Gap, ...] = ()


class Outcome(Event, frozen=True, tag="outcome", omit_defaults=True):
    """A prediction joined with its label. `revision` counts changes of the label, from 0.

    `ahead`: as in the prediction; or the label was known implausibly far ahead of the labels before
    it in its partition.
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
    label_time: str | None  # when the truth was known: event time, or
    label_row: RowNumber | None  # the record number that the stream had reached
    revision: Count
    ahead: bool = False

    def __post_init__(self) -> None:
        _check_time(self.time)
        _check_time(self.label_time)


# ---- windows ------------------------------------------------------------------------------------


class ColumnResult(msgspec.Struct, frozen=True):
    """One column of a window against the reference of the model that scored it.

    `score` is how far it is off, in units of what chance brings once in about a hundred windows;
    `drifted` says that it is beyond the group's `limits` and the effect size. `missing`, `unseen`
    (a category that the reference has not) and `out_of_range` count the group's sampled records,
    `stuck` is the longest row of them with one value; `quality` names those of the four that are
    more than the reference explains, and enough to matter.
    """

    column: str
    kind: Kind
    test: str
    p_value: float | None  # None where the test gives a distance, or there was nothing to test
    effect: float  # Wasserstein distance in standard deviations, or Jensen-Shannon distance
    drifted: bool
    score: float = 0.0
    missing: Count = 0
    unseen: Count = 0
    out_of_range: Count = 0
    stuck: Count = 0
    quality: tuple[Quality, ...] = ()


class RelationResult(msgspec.Struct, frozen=True):
    """Columns that go together otherwise than in the reference, while none of them has drifted.

    Of two, `effect` is the share of records that lie elsewhere in a 3 × 3 table, beyond what each
    column's own change explains. Of what only the classifier sees, they are those it goes by (three
    at most), and `effect` is how much more often it takes a record of the window for one than a
    record of the reference.
    """

    columns: tuple[str, ...]
    effect: float
    score: float


class Limits(msgspec.Struct, frozen=True):
    """A score of `alarm` is a drift event; so is one of `warning`, if one of the two windows before
    had one too. `alarm` is None where the reference is too short to say how often chance brings
    what: then `warning` is beyond all that its own windows reach."""

    warning: float
    alarm: float | None


class MetricEstimate(msgspec.Struct, frozen=True):
    """What the stream's metric of a window is thought to be, before its labels are known.

    `low` to `high` has the realised metric of the same records in 95 of 100 windows, as long as
    the relation of inputs and labels is that of training. `reference` is the same model's metric
    on the data that were held out in training.
    """

    metric: Metric
    value: float
    low: float
    high: float
    reference: float


class DataGroup(msgspec.Struct, frozen=True):
    """The records of a window that one model scored.

    `sampled` of them were tested, or none: all up to `windows.max_sample`, but for those whose
    columns the stream file cannot read. `repeated` of these have the id of another one.
    """

    model: str
    records: Count
    sampled: Count
    tested: bool  # enough records, and a reference was at hand
    columns: tuple[ColumnResult, ...] = ()
    prediction: ColumnResult | None = None
    relations: tuple[RelationResult, ...] = ()
    repeated: Count = 0
    limits: Limits | None = None
    estimate: MetricEstimate | None = None  # None: not tested, or the model allows none


class PerformanceGroup(msgspec.Struct, frozen=True):
    """The outcomes of a window that one model predicted, and its held-out error in training."""

    model: str
    records: Count
    metric: float
    error: float  # mean of the errors: 0 or 1 for classification, absolute for regression
    reference_error: float | None = None
    p_value: float | None = None  # of the error's rise against the reference; None: not tested
    worse: bool = False
    standard_error: float | None = None  # of the metric, as if records were independent


class DataWindow(Event, frozen=True, tag="data_window"):
    """A closed window of predictions, by the records' own position.

    `groups` are in the order of their newest record: the last one's model answered last. `late`
    records came after their pane had been passed by their partition; they are counted in the
    windows that the partition had reached, and not used. `row` and `time` are the largest seen.
    `dead_letters` could not be scored and `lost` records were deleted unread (a topic created again
    counts as one): neither are among `records`. `quality` names what is more
    than the window may have.
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
    """A closed window of outcomes, by the position at which the label was known.

    Only a record's first label counts; later ones are counted as `revised`. Otherwise as
    `DataWindow`.
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
    value: float | None  # None: no outcomes, only late or revised ones
    groups: tuple[PerformanceGroup, ...]
    standard_error: float | None = None  # of `value`, as if records were independent

    def __post_init__(self) -> None:
        _check_time(self.time)


class PerformancePane(Event, frozen=True, tag="performance_pane"):
    """A closed pane of one model's outcomes, for the detectors.

    `errors` are 0 or 1 for classification, absolute errors for regression, in the order of the
    positions of label and record; of more records than a twentieth of `windows.max_sample`, those
    with the smallest hash of their id. `first_position` and `last_position` are those of the
    records themselves, to estimate the onset of a change. `reference_error` is the model's held-out
    one, and `error_inflation` by how much the mean of held-out errors varies more than that of as
    many independent ones: errors that come in runs say less. `trained_on`: so many records it was
    trained on.
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


# ---- parts of windows (between workers of the monitor) -------------------------------------------


class Codes(msgspec.Struct, frozen=True):
    """Categories: `codes` (n,) int32 count through `levels`, -1 is missing."""

    levels: tuple[str, ...]
    codes: bytes


class SampledRecords(msgspec.Struct, frozen=True):
    """Records of a sample as columns of n values, little-endian, base64 in JSON.

    `hashes` uint32 of the record ids, `positions` and `offsets` (in `predictions`) int64; columns
    are float64, or codes; `scores` by class are uint16, times 65534, and 65535 where there is none.
    """

    hashes: bytes
    positions: bytes
    offsets: bytes
    columns: dict[str, bytes | Codes]
    prediction: bytes | Codes
    scores: dict[str, bytes] = {}


class GroupPart(msgspec.Struct, frozen=True, omit_defaults=True):
    """One model's records, of which `sample` has those that may be in the sample of the whole."""

    model: str
    records: Count = 0
    last: Position | None = None  # largest position
    sample: SampledRecords | None = None


class SlicePart(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a partition puts into one slice of predictions, or a piece of that: from the beginning
    of one window to that of the next."""

    index: Position
    late: Count = 0
    row: RowNumber | None = None
    time: str | None = None
    groups: tuple[GroupPart, ...] = ()
    dead_letters: Count = 0
    lost: Count = 0

    def __post_init__(self) -> None:
        _check_time(self.time)


class DataParts(Event, frozen=True, tag="data_parts"):
    """Slices of predictions that a partition has passed: all that it puts into them.

    Pieces of a slice add up. `grid`: what the slices' numbers hang on, their size and number
    of panes. `passed`: no part of a slice before this one is to come; None in all but the last of
    several records.
    """

    partition: PartitionNumber
    grid: str
    passed: Position | None
    slices: tuple[SlicePart, ...]


class SampledErrors(msgspec.Struct, frozen=True):
    """Errors of n outcomes, little-endian, base64 in JSON: `hashes` uint32 of the record ids;
    `positions` of the labels, `records` (the records' own positions) and `offsets` (in `outcomes`)
    int64; `errors` float64."""

    hashes: bytes
    positions: bytes
    records: bytes
    offsets: bytes
    errors: bytes


class Pair(msgspec.Struct, frozen=True):
    """How many outcomes had this label and this prediction."""

    label: Value
    prediction: Value
    count: Count


class ErrorSums(msgspec.Struct, frozen=True):
    """Sums of absolute errors and of their squares, times 2^64, and of the squares' squares, times
    2^128: whole numbers of any size."""

    errors: str
    squares: str
    fourths: str = "0"


class ModelPart(msgspec.Struct, frozen=True, omit_defaults=True):
    """Outcomes that one model predicted: pairs for classification, sums for regression."""

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


class PanePart(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a partition puts into one pane of outcomes, or a piece of that."""

    index: Position
    late: Count = 0
    revised: Count = 0
    models: tuple[ModelPart, ...] = ()


class PerformanceParts(Event, frozen=True, tag="performance_parts"):
    """Panes of outcomes that a partition has passed. `passed` is a pane's index, otherwise as in
    `DataParts`."""

    partition: PartitionNumber
    grid: str
    passed: Position | None
    panes: tuple[PanePart, ...]


# ---- drift, retraining --------------------------------------------------------------------------


class DriftEvent(Event, frozen=True, tag="drift"):
    """A drift event opened, updated or resolved. `id` is the same through its life."""

    id: str
    action: Literal["opened", "updated", "resolved"]
    kind: DriftKind
    columns: tuple[str, ...]
    # data, prediction: largest effect, and harm added; quality: share of records; performance:
    # share of loss
    severity: float
    message: str
    position: Position
    onset: Position | None  # position from which the data are thought to be new
    model: str | None
    detector: str | None
    windows: tuple[str, ...]  # ids of the windows or panes that caused it
    report: str | None = None  # name of the HTML report in the reports folder, if one is drawn
    # data, prediction, quality: estimated rise of the error as a share of what it was in training,
    # 0.0 if that may be chance; None: not estimated
    harm: float | None = None


class RetrainRequest(Event, frozen=True, tag="retrain_request"):
    """A wish for a new model, with its cause."""

    id: str
    cause: Literal["drift", "manual", "schedule"]
    caused_by: tuple[str, ...]  # ids of drift events
    reason: str
    position: Position | None  # reached when it was asked for
    since: Position | None  # onset: data before it may be of another concept


class Removed(msgspec.Struct, frozen=True):
    """Outcomes that cleaning took out, and why."""

    reason: str
    count: Count


class Trial(msgspec.Struct, frozen=True):
    """One candidate that was trained, on one range of the outcomes."""

    candidate: str
    parameters: dict[str, str | _Int64 | float | bool | None]
    range: str
    rows: Count
    metric: float


class RetrainDecision(Event, frozen=True, tag="retrain_decision"):
    """What came of a request: a model, or none, and why."""

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


# Bounds of what the `models` topic may carry: far more than is ever written, and too little to fill
# a reader's memory.
_Short = Annotated[str, Meta(max_length=512)]
_Text = Annotated[str, Meta(max_length=16_384)]
_Sequence = Annotated[int, Meta(ge=0, le=2**53)]  # exact in every JSON reader


class ModelAnnounced(Event, frozen=True, tag="model"):
    """A package that was published; key `model/<digest>`."""

    digest: _Short
    signature: _Short  # hex, Ed25519 over the digest's text
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
    """Which model has a role; key `role/champion`.

    `sequence` is one more than that of the pointer that it replaces. A pointer whose number is not
    larger than the current one's is stale, and ignored. 0: written before pointers were signed.
    """

    id: _Short
    role: Literal["champion", "challenger"]
    digest: _Short
    replaces: _Short | None  # id of the pointer that it replaces
    cause: _Short | None
    by: Literal["trainer", "person"]
    reason: _Text
    at: _Short
    replaced: _Short | None = None  # the model that answered before
    # Models that people rolled back: no trainer turns to them.
    set_aside: Annotated[tuple[_Short, ...], Meta(max_length=100)] = ()
    sequence: _Sequence = 0


class Freeze(Event, frozen=True, tag="freeze"):
    """Stops (or allows again) automatic promotion; key `freeze`. `sequence` as in `RolePointer`."""

    id: _Short
    frozen: bool
    reason: _Text
    at: _Short
    sequence: _Sequence = 0


PredictionsEvent = Prediction | Watermark
OutcomesEvent = Outcome | Watermark
PartsEvent = DataParts | PerformanceParts
WindowsEvent = DataWindow | PerformanceWindow | PerformancePane
RetrainEvent = RetrainRequest | RetrainDecision
ModelsEvent = ModelAnnounced | RolePointer | Freeze
