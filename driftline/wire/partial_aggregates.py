"""Define the events in the `parts` Kafka topic: partial aggregates that are merged into windows."""

import msgspec

from driftline.wire.events import (
    Count,
    Event,
    PartitionNumber,
    Position,
    RowNumber,
    Value,
    check_time,
)


class Codes(msgspec.Struct, frozen=True):
    """A category column. `codes` are int32 (n,) indices into `levels`, or -1 for missing values."""

    levels: tuple[str, ...]
    codes: bytes


class SampledRecords(msgspec.Struct, frozen=True):
    """A sample of n records as columns: little-endian arrays (n,), base64-encoded in JSON.

    `hashes` are uint32 hashes of the record ids. `positions` and `offsets` (in the `predictions`
    topic) are int64. `columns` are float64 arrays (number columns) or `Codes` (category columns).
    `scores` (one array per class) are uint16: the score times 65534, or 65535 if there is no score.
    """

    hashes: bytes
    positions: bytes
    offsets: bytes
    columns: dict[str, bytes | Codes]
    prediction: bytes | Codes
    scores: dict[str, bytes] = {}


class GroupAggregate(msgspec.Struct, frozen=True, omit_defaults=True):
    """Aggregates the records that one model scored.

    `sample` contains the candidates for the sample that is merged from all partitions.
    """

    model: str
    records: Count = 0
    last: Position | None = None  # the records' largest position
    sample: SampledRecords | None = None


class SlideAggregate(msgspec.Struct, frozen=True, omit_defaults=True):
    """One partition's partial aggregate for a slide of predictions, or a chunk of the aggregate.

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
        check_time(self.time)


class DataAggregates(Event, frozen=True, tag="data_parts"):
    """One partition's partial aggregates for closed slides of predictions.

    Chunks of the same slide must be merged. `grid` states a slide's size and number of panes, which
    determine how slides are numbered. Slides whose index is smaller than `passed` are closed, so no
    more partial aggregates for them will follow. If the aggregates are split into several
    records, `passed` is None in all records except the last.
    """

    partition: PartitionNumber
    grid: str
    passed: Position | None
    slices: tuple[SlideAggregate, ...]


class SampledErrors(msgspec.Struct, frozen=True, omit_defaults=True):
    """The errors of n outcomes: little-endian arrays (n,), base64-encoded in JSON.

    `hashes` are uint32 hashes of the record ids. `positions` (of labels), `records` (positions of
    records) and `offsets` (in the `outcomes` topic) are int64. `errors` are float64: the losses
    that the metric implies. A ranking metric has no loss per record: `scores` are then uint16 codes
    of the positive class's scores, and `errors` are 1 for the positive class and 0 for others.
    """

    hashes: bytes
    positions: bytes
    records: bytes
    offsets: bytes
    errors: bytes
    scores: bytes = b""


class Pair(msgspec.Struct, frozen=True):
    """The number of outcomes with this label and this prediction."""

    label: Value
    prediction: Value
    count: Count


class ErrorSums(msgspec.Struct, frozen=True):
    """Sums of the losses and of their squares (both scaled by 2^64), and of their fourth powers
    (scaled by 2^128). The sums are arbitrarily large integers, written as text. For mae and rmse,
    the losses are absolute errors."""

    errors: str
    squares: str
    fourths: str = "0"


class ScoreCounts(msgspec.Struct, frozen=True):
    """The number of outcomes of the positive class and of other classes by score: little-endian
    arrays (u,), base64-encoded in JSON. `codes` are uint16, in ascending order. `positives` and
    `negatives` are int64."""

    codes: bytes
    positives: bytes
    negatives: bytes


class ModelAggregate(msgspec.Struct, frozen=True, omit_defaults=True):
    """Aggregates one model's outcomes: in `pairs` if the metric depends only on classes, in
    `ranks` if it depends on the order of scores, and otherwise in `sums`. `loss` names the loss
    that the metric implies; it is empty for 0/1 errors and absolute errors. Aggregates of another
    loss than the stream's are not merged: the metric has changed since they were written."""

    model: str
    records: Count = 0
    first: Position | None = None  # smallest position of the records, not of the labels
    last: Position | None = None  # largest position of the records, not of the labels
    pairs: tuple[Pair, ...] = ()
    sums: ErrorSums | None = None
    sample: SampledErrors | None = None
    row: RowNumber | None = None
    time: str | None = None
    ranks: ScoreCounts | None = None
    loss: str = ""

    def __post_init__(self) -> None:
        check_time(self.time)


class PaneAggregate(msgspec.Struct, frozen=True, omit_defaults=True):
    """One partition's partial aggregate for a pane of outcomes, or a chunk of the aggregate."""

    index: Position
    late: Count = 0
    revised: Count = 0
    models: tuple[ModelAggregate, ...] = ()
    lost: Count = 0
    dead_letters: Count = 0


class PerformanceAggregates(Event, frozen=True, tag="performance_parts"):
    """One partition's partial aggregates for closed panes of outcomes.

    Panes whose index is smaller than `passed` are closed. `partition` and `grid` are as in
    `DataAggregates`.
    """

    partition: PartitionNumber
    grid: str
    passed: Position | None
    panes: tuple[PaneAggregate, ...]


PartsEvent = DataAggregates | PerformanceAggregates
