"""Define the events of the topic `parts`: what one partition contributes to windows."""

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
        check_time(self.time)


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
        check_time(self.time)


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


PartsEvent = DataAggregates | PerformanceAggregates
