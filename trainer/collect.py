"""Collect rows from the outcomes topic in Kafka (step 2 of docs/model-life.md).

Input: outcomes, with partitions in any order. Output: the outcomes in the range `retrain.train_on`,
at most `MAX_OUTCOMES`, so that memory use is bounded; or, to compare models, the first outcomes
after a position. `clean` removes duplicates and most errors.
"""

import heapq
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from math import isfinite
from typing import Final, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from driftline.broker.port import Broker, TopicPartition
from driftline.broker.scan import ranges, scan
from driftline.config.spans import Span
from driftline.config.stream import Stream
from driftline.config.stream_sections import MAX_OUTCOMES
from driftline.wire.envelope import decode_or_skip, outcomes_decoder
from driftline.wire.events import Outcome, Removed, Value
from driftline.wire.feature_records import RecordCodec
from driftline.wire.topics import Topics
from driftline.wire.values import parse_time
from trainer.rows import TrainingRows, from_batch

log = logging.getLogger(__name__)

# Number of records to decode at once (a few MB).
_CHUNK: Final = 5000
# Number of check records in a package. Inference scores these records as a test before it uses the
# model.
CHECK_RECORDS: Final = 16


# The next offset to read in each partition of the outcomes topic.
Offsets = Mapping[TopicPartition, int]


class OutcomeLog(Protocol):
    """The outcomes published so far."""

    def read(self, start: Offsets | None = None) -> Iterable[Outcome]:
        """Return the outcomes from these offsets on, by default all, in order within each
        partition. Raises BrokerError."""

    def ends(self) -> Offsets:
        """Return the offset after the last outcome of each partition. Raises BrokerError."""

    def count(self) -> int:
        """Return an upper bound on the number of outcomes. The bound never decreases. The call is
        cheap."""


class BrokerOutcomeLog:
    """Reads the outcomes topic up to the end that it had when reading began.

    Outcomes marked `ahead` are skipped: the training range ends at the newest record, so a single
    wrong position would shift the range.
    """

    def __init__(self, broker: Broker, stream: Stream) -> None:
        self._broker = broker
        self._topic = Topics(stream).outcomes

    def read(self, start: Offsets | None = None) -> Iterator[Outcome]:
        span = ranges(self._broker, [self._topic])
        for partition, first in (start or {}).items():
            offsets = span.get(partition)
            # A topic that was created again is read from its start.
            if offsets is not None and offsets.start <= first <= offsets.end:
                span[partition] = offsets._replace(start=first)
        for messages in scan(self._broker, span):
            for message in messages:
                event = decode_or_skip(outcomes_decoder, message)
                if isinstance(event, Outcome) and not event.ahead:
                    yield event

    def ends(self) -> Offsets:
        return {
            partition: offsets.end
            for partition, offsets in ranges(self._broker, [self._topic]).items()
        }

    def count(self) -> int:
        return sum(self.ends().values())


class Collected(msgspec.Struct, frozen=True):
    """The unsorted records in the training range, and the number of removed records by reason."""

    rows: TrainingRows
    removed: tuple[Removed, ...]


def collect(outcomes: Iterable[Outcome], stream: Stream, champion: str | None = None) -> Collected:
    """Collect the outcomes that are at most `retrain.train_on` older than the newest outcome.

    `champion` is the digest of the model whose errors the rows contain.
    """
    collector = _Collector(stream, champion=champion)
    for outcome in outcomes:
        collector.add(outcome)
    return collector.result()


def collect_after(
    outcomes: Iterable[Outcome], stream: Stream, after: int, count: int
) -> TrainingRows:
    """Return the first `count` outcomes after a position, in the order of (position, record id).

    Only a record's first label counts, and labels of the wrong type are left out.
    """
    # A max-heap of the smallest keys. `Reversed` is needed because heapq only has min-heaps.
    heap: list[tuple[int, _Reversed, Outcome]] = []
    known: set[tuple[int, str]] = set()
    for outcome in outcomes:
        position = position_of(outcome, stream)
        if position is None or position <= after or not _is_usable(outcome, stream):
            continue
        key = (position, outcome.record_id)
        if key in known:
            continue
        item = (-position, _Reversed(outcome.record_id), outcome)
        known.add(key)
        if len(heap) < count:
            heapq.heappush(heap, item)
        else:
            _, _, left = heapq.heappushpop(heap, item)
            known.discard((position_of(left, stream) or 0, left.record_id))
    collector = _Collector(stream, bounded=False)
    for _, _, outcome in sorted(heap, key=lambda item: (-item[0], item[2].record_id)):
        collector.add(outcome)
    return collector.result().rows


def position_of(outcome: Outcome, stream: Stream) -> int | None:
    """Return an outcome's position on the axis of the stream's windows."""
    if stream.axis == "row":
        return outcome.row
    return None if outcome.time is None else parse_time(outcome.time)


def _error(outcome: Outcome) -> float:
    """Return the error of the prediction that was served, or NaN if the label is not usable."""
    label, prediction = outcome.label, outcome.prediction
    if isinstance(label, str) or isinstance(prediction, str):
        return float(label != prediction)
    return abs(label - prediction)


class _Reversed(str):
    """A record id that sorts in reverse order."""

    __slots__ = ()

    def __lt__(self, other: str) -> bool:
        return str.__gt__(self, other)


def _is_usable(outcome: Outcome, stream: Stream) -> bool:
    label = outcome.label
    if outcome.revision:
        return False
    if stream.task == "regression":
        return isinstance(label, int | float) and isfinite(label)
    return isinstance(label, str) and bool(label)


def from_records(stream: Stream, records: Iterable[bytes], labels: Iterable[Value]) -> Collected:
    """Collect all records with their labels, ignoring the limit `retrain.train_on`."""
    collector = _Collector(stream, bounded=False)
    for record, label in zip(records, labels, strict=True):
        collector.add_record(record, label, 0)
    return collector.result()


class _Collector:
    """Decodes records in chunks, and drops records that have become too old to train on."""

    def __init__(
        self, stream: Stream, *, bounded: bool = True, champion: str | None = None
    ) -> None:
        self._stream = stream
        self._champion = champion
        self._codec = RecordCodec(stream)
        self._span = stream.retrain.train_on if bounded else None
        # Records that `_flush` will decode, each with its label, revision and served error.
        self._pending: list[tuple[bytes, Value, int, float]] = []
        self._parts: list[TrainingRows] = []  # decoded chunks; `_flush` merges them
        self._newest: list[tuple[int, str, bytes]] = []  # heap of the newest records
        self._shared: dict[str, str] = {}  # one shared copy of each category
        self._removed: Counter[str] = Counter()  # number of removed records by reason

    def add(self, outcome: Outcome) -> None:
        served = _error(outcome) if outcome.model == self._champion else np.nan
        self.add_record(bytes(outcome.record), outcome.label, outcome.revision, served)

    def add_record(
        self, record: bytes, label: Value, revision: int, served: float = np.nan
    ) -> None:
        self._pending.append((record, label, revision, served))
        if len(self._pending) >= _CHUNK:
            self._flush()

    def result(self) -> Collected:
        self._flush()
        rows = TrainingRows.concat(self._parts)
        rows = rows.take(self._within(rows))
        newest = tuple(record for _, _, record in sorted(self._newest))
        removed = tuple(Removed(reason, n) for reason, n in sorted(self._removed.items()))
        return Collected(msgspec.structs.replace(rows, newest=newest), removed)

    def _flush(self) -> None:
        batch = self._codec.decode([record for record, *_ in self._pending])
        for rejected in batch.rejected:
            self._removed[f"error: {rejected.reason}"] += 1
        for name, values in batch.columns.categories.items():
            for place, value in enumerate(values):
                if value is not None:
                    values[place] = self._shared.setdefault(value, value)
            batch.columns.categories[name] = values
        kept = [self._pending[index] for index in batch.kept]
        part = from_batch(
            self._stream,
            batch,
            [label for _, label, _, _ in kept],
            [revision for _, _, revision, _ in kept],
            [served for _, _, _, served in kept],
        )
        for position, record_id, (record, *_) in zip(
            part.positions.tolist(), part.ids, kept, strict=True
        ):
            item = (position, record_id, record)
            if len(self._newest) < CHECK_RECORDS:
                heapq.heappush(self._newest, item)
            elif item > self._newest[0]:
                heapq.heapreplace(self._newest, item)
        self._pending = []
        self._parts.append(part)
        # Merging and trimming copy all rows, so do both only once every 20 chunks.
        if len(self._parts) > 20:
            rows = TrainingRows.concat(self._parts)
            self._parts = [rows.take(self._within(rows))]

    def _within(self, rows: TrainingRows) -> NDArray[np.intp]:
        kept = np.flatnonzero(in_range(rows, self._span))
        if len(kept) > MAX_OUTCOMES:
            order = np.lexsort((rows.ids[kept].astype(str), rows.positions[kept]))
            self._removed[f"older than the newest {MAX_OUTCOMES}"] += len(kept) - MAX_OUTCOMES
            kept = np.sort(kept[order[-MAX_OUTCOMES:]])
        return kept


def in_range(rows: TrainingRows, span: Span | None) -> NDArray[np.bool_]:
    """Return a bool mask (n,) of the records within `span` of the newest record. If `span` is None,
    the mask selects all records."""
    if span is None or not len(rows):
        return np.ones(len(rows), dtype=bool)
    if span.us is not None:
        return rows.times_us > int(rows.times_us.max()) - span.us
    return rows.rows > int(rows.rows.max()) - (span.records or 0)
