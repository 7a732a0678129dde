"""Define the structs of the events that Driftline publishes to its Kafka topics.

Values are JSON with snake_case names. Times are RFC 3339 in UTC, ids are strings, digests are
`sha256:…`, and a missing value is `null`. A `position` is an integer on the axis of the stream's
windows: a record number, or microseconds since 1970 UTC. Feature records and labels are not
defined here, because they are the user's own JSON (`wire.feature_records`, `wire.labels`).
"""

import hashlib
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from driftline.config.stream_sections import DriftKind, Metric, Task
from driftline.wire.values import parse_time

Value = str | float  # class name, or a number for regression
# The largest record number. Readers that parse JSON numbers as floats would round a larger number
# (RFC 8259, section 6), and sums of larger positions might not fit into 64 bits.
MAX_ROW: Final = 2**53 - 1
RowNumber = Annotated[int, Meta(ge=0, le=MAX_ROW)]
# These bounds leave room for times in the years 1 to 9999, for record numbers, and for sums of two
# positions.
Position = Annotated[int, Meta(ge=-(2**60), le=2**60)]
Count = Annotated[int, Meta(ge=0, le=MAX_ROW)]
PartitionNumber = Annotated[int, Meta(ge=0, le=2**31 - 1)]
# At a million records a second, a partition reaches the largest offset after 146,000 years.
Offset = Annotated[int, Meta(ge=0, le=2**62)]
_Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]


class Event(msgspec.Struct, frozen=True, tag_field="type", kw_only=True):
    """Base class of all events. The field `type` names the kind of event."""


def check_time(value: str | None) -> None:
    """Raise ValueError if a time is not valid. msgspec converts this error to a decode error."""
    if value is not None:
        parse_time(value)


def event_id(kind: str, *parts: object) -> str:
    """Return a stable id: the same arguments give the same id, in a live run and in a replay.

    >>> event_id("drift", "data", 7)
    'drift-52cf42d9f7f3'
    """
    text = "\x1f".join(str(part) for part in parts)
    return f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


# ---- predictions and outcomes (high-volume topics) -----------------------------------------------


class Source(msgspec.Struct, frozen=True):
    """The topic, partition and offset of the scored record, which identify the prediction."""

    topic: str
    partition: PartitionNumber
    offset: Offset


class Prediction(Event, frozen=True, tag="prediction", omit_defaults=True):
    """A model's prediction for one record. `record` contains the record's raw bytes.

    `ahead` is true if the record's position is implausibly far ahead of earlier records in the same
    partition. Such a record counts as late in windows, does not advance the watermark, and is not
    used for training.
    """

    record_id: str
    time: str | None
    row: RowNumber | None
    prediction: Value
    scores: dict[str, float] | None  # class name → probability
    model: str
    source: Source
    record: msgspec.Raw
    ahead: bool = False

    def __post_init__(self) -> None:
        check_time(self.time)


class RejectedRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """A record that became a dead letter, with its position if the position is readable.

    A watermark in the `predictions` topic reports a rejected feature record; a watermark in the
    `outcomes` topic reports a rejected label.
    """

    offset: Offset
    position: Position | None = None


class Log(msgspec.Struct, frozen=True):
    """A log of feature records, which inference starts to read at `offset`.

    `topic_id` is Kafka's id for the topic. A topic that is deleted and recreated gets a new id, and
    its offsets start at 0 again.
    """

    topic_id: str
    offset: Offset


class Gap(msgspec.Struct, frozen=True, omit_defaults=True):
    """A range of offsets in a partition whose records were deleted before they were read.

    The range is `[start, end)`. `end` is None if the topic was recreated, because the number of
    lost records is then unknown. `topic` is empty for the features topic.
    """

    partition: PartitionNumber
    start: Offset
    end: Offset | None = None
    topic: str = ""


class Watermark(Event, frozen=True, tag="watermark", omit_defaults=True):
    """Declares that no more records below `position` are expected in this partition.

    `position` is None until the partition has had a record with a readable position. Inference
    writes watermarks for idle partitions and when it starts to read a new log. It also writes a
    watermark for each dead letter and each gap, in offset order, so that the `predictions` topic
    accounts for every feature record. In the `outcomes` topic, the outcomes service writes a
    watermark for each label that became a dead letter, and the outcomes service and the monitor
    write a watermark for each gap that they detect.
    """

    position: Position | None
    dead_letter: RejectedRecord | None = None
    log: Log | None = None
    gaps: tuple[Gap, ...] = ()


class Outcome(Event, frozen=True, tag="outcome", omit_defaults=True):
    """A prediction joined with its label. `revision` counts changes to the label, starting at 0.

    `ahead` is true if it is true in the prediction, or if the label's position is implausibly far
    ahead of earlier labels in the same partition.
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
    # The event time at which the label became known. Always None if windows use the row axis.
    label_time: str | None
    # The record number at which the label became known. Always None if windows use the time axis.
    label_row: RowNumber | None
    revision: Count
    ahead: bool = False

    def __post_init__(self) -> None:
        check_time(self.time)
        check_time(self.label_time)


# ---- drift, retraining --------------------------------------------------------------------------


class DriftEvent(Event, frozen=True, tag="drift"):
    """A change to a drift event: opened, updated or resolved. An event's changes share its `id`."""

    id: str
    action: Literal["opened", "updated", "resolved"]
    kind: DriftKind
    columns: tuple[str, ...]
    # Severity by kind: for data and prediction, the largest effect plus the harm; for quality, the
    # share of affected records; for performance, the increase in the error as a fraction of the
    # earlier error.
    severity: float
    message: str
    position: Position
    onset: Position | None  # estimated position of the change
    model: str | None
    detector: str | None
    windows: tuple[str, ...]  # one element: id of the window or pane that caused this change
    report: str | None = None  # file name of the HTML report in the reports folder, or None
    # For data, prediction and quality: the estimated increase in the error, as a fraction of the
    # held-out error. 0.0 if the increase may be due to chance; None if there is no estimate.
    harm: float | None = None


class RetrainRequest(Event, frozen=True, tag="retrain_request"):
    """A request to train a new model, with its cause."""

    id: str
    cause: Literal["drift", "manual", "schedule"]
    caused_by: tuple[str, ...]  # ids of the drift events that caused the request
    reason: str
    position: Position | None  # the stream's largest position when the request was made
    since: Position | None  # onset of the change; earlier data may reflect a different concept
    # The expected decrease in the error, as a fraction of the error before the change: the increase
    # that drift has caused, which a new model may at best undo. None if it is unknown.
    expected_gain: float | None = None


class Removed(msgspec.Struct, frozen=True):
    """A reason for which the trainer removed outcomes before training, and how many it removed."""

    reason: str
    count: Count


class Trial(msgspec.Struct, frozen=True):
    """One candidate model that was trained on one range of outcomes.

    `rows` is the number of rows that it was fitted on. A candidate's first trial states in
    `left_out` what the work budget left out for this candidate.
    """

    candidate: str
    parameters: dict[str, str | _Int64 | float | bool | None]
    range: str
    rows: Count
    metric: float
    left_out: str = ""


class RetrainDecision(Event, frozen=True, tag="retrain_decision"):
    """The result of a retrain request: a new model or none, and the reason.

    `outcomes` is the number of outcomes that remained after cleaning.
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


class ComparisonStarted(Event, frozen=True, tag="retrain_comparison"):
    """The start of a comparison of a request's challenger with the champion.

    The models are compared on outcomes whose positions are after `after`, which is the newest
    position used to train or select the challenger. `pointer` is the id of the champion's pointer.
    `dependence` is the number of neighbouring records whose errors are related, `largest_loss` the
    largest loss of the challenger on one record, and `classes` the labels, all as measured on
    earlier outcomes. `challenger_value` and `champion_value` are the metrics on the held-out
    outcomes that selected the challenger. The other fields are as in `RetrainDecision`.
    """

    id: str
    request: str
    challenger: str
    champion: str
    pointer: str
    after: Position
    dependence: Count
    largest_loss: float
    classes: tuple[str, ...]
    reason: str
    metric: Metric
    challenger_value: float | None
    champion_value: float | None
    outcomes: Count
    removed: tuple[Removed, ...]
    trials: tuple[Trial, ...]


# ---- models -------------------------------------------------------------------------------------


# Length limits for text in the `models` topic: far above the lengths that Driftline writes, but low
# enough to protect a reader's memory.
_Short = Annotated[str, Meta(max_length=512)]
_Text = Annotated[str, Meta(max_length=16_384)]
# Every JSON parser represents integers up to 2^53 exactly.
_Sequence = Annotated[int, Meta(ge=0, le=2**53)]


class ModelAnnounced(Event, frozen=True, tag="model"):
    """The announcement of a model package. The record's key is `model/<digest>`."""

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
    """A pointer to the model that holds a role. The record's key is `role/champion`.

    `sequence` is one more than the replaced pointer's `sequence`. A pointer whose `sequence` is not
    larger than the current pointer's is stale and is ignored. Pointers from earlier versions of
    Driftline have `sequence` 0.
    """

    id: _Short
    role: Literal["champion", "challenger"]
    digest: _Short
    replaces: _Short | None  # id of the replaced pointer
    cause: _Short | None
    by: Literal["trainer", "person"]
    reason: _Text
    at: _Short
    replaced: _Short | None = None  # digest of the previous champion
    # Position of the newest outcome that the trainer used to choose this model. On later outcomes,
    # it compares the model with the one that it replaced. None if an operator chose the model.
    chosen_at: Position | None = None
    dependence: Count = 1  # as in `ComparisonStarted`
    # Digests of models that were champion before, newest first.
    former: Annotated[tuple[_Short, ...], Meta(max_length=100)] = ()
    # Digests of the quarantined models, which an operator or the trainer has rolled back. The
    # trainer does not promote these models.
    set_aside: Annotated[tuple[_Short, ...], Meta(max_length=100)] = ()
    sequence: _Sequence = 0

    @property
    def is_rollback(self) -> bool:
        """Return whether this pointer quarantines the champion that it replaces."""
        return self.replaced in self.set_aside


class Freeze(Event, frozen=True, tag="freeze"):
    """Pauses or resumes automatic promotion. The record's key is `freeze`.

    `sequence` has the same meaning as in `RolePointer`.
    """

    id: _Short
    frozen: bool
    reason: _Text
    at: _Short
    sequence: _Sequence = 0


PredictionsEvent = Prediction | Watermark
OutcomesEvent = Outcome | Watermark
RetrainEvent = RetrainRequest | ComparisonStarted | RetrainDecision
ModelsEvent = ModelAnnounced | RolePointer | Freeze
