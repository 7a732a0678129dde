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

from driftline.config.stream_sections import DriftKind, Metric, Task
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


class Event(msgspec.Struct, frozen=True, tag_field="type", kw_only=True):
    """Base class of all events. The field `type` names the kind of event."""


def check_time(value: str | None) -> None:
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
        check_time(self.time)


class RejectedRecord(msgspec.Struct, frozen=True, omit_defaults=True):
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
    dead_letter: RejectedRecord | None = None
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
        check_time(self.time)
        check_time(self.label_time)


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
RetrainEvent = RetrainRequest | RetrainDecision
ModelsEvent = ModelAnnounced | RolePointer | Freeze
