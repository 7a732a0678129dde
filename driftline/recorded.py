"""Reads a stream's features and labels topics once and writes them as a data file to play again.

In: a broker and a stream. Out: JSON lines, one record each with its label, its number in `@row` and
in `@at` when the label was known; and `Recorded`, which counts what was left out. Labels are joined
as the outcomes service joins them, partition by partition. All records are in memory meanwhile.
"""

import heapq
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from driftline.broker.port import Broker, Message
from driftline.codec.labels import Label, LabelCodec
from driftline.codec.records import RecordCodec
from driftline.codec.values import format_time
from driftline.errors import DataError
from driftline.events import Value
from driftline.partition_clock import PartitionClock
from driftline.scan import Progress, ranges, scan, size
from driftline.stream import AT, Simulate, Stream
from driftline.topics import Topics


class Recorded(msgspec.Struct, frozen=True):
    """What the topics held. Without the unreadable ones, which dead letters tell of, all records
    are in the file."""

    records: int
    labelled: int  # records with a label
    unreadable_records: int
    unreadable_labels: int
    repeated_labels: int  # said what was known
    revised_labels: int  # changed: the last one counts, from when it was known
    labels_without_record: int  # in their partition: it is unreadable, deleted, or has another key


def as_recorded(stream: Stream) -> Stream:
    """The stream, with its data played as they were recorded: numbers, and delays of labels."""
    return msgspec.structs.replace(stream, simulate=Simulate(label_delay=AT))


def write_recorded(
    broker: Broker,
    stream: Stream,
    file: Path,
    *,
    progress: Progress | None = None,
    total: Progress | None = None,
) -> Recorded:
    """Read both topics up to their present ends and write `file`.

    Records stand in the order of their partitions, and partitions are merged by position, as far
    as each has come. `total` is told once how many offsets there are to read, `progress` how many
    more were read. Raises DataError (no record, no label), BrokerError (no such topic).
    """
    topics = Topics(stream)
    span = ranges(broker, [topics.features, topics.labels])
    if total is not None:
        total(size(span))
    reader = _Reader(stream)
    for messages in scan(broker, span, progress=progress):
        for topic, take in ((topics.features, reader.records), (topics.labels, reader.labels)):
            if found := [message for message in messages if message.topic == topic]:
                take(found)
    if not reader.partitions:
        bad = reader.counts["unreadable_records"]
        raise DataError(
            f"{topics.features}: {'no record can be read' if bad else 'no records'}",
            hint="name a data file to play that",
        )
    with file.open("wb") as lines:
        for line in reader.lines():
            lines.write(line + b"\n")
    if not reader.counts["labelled"]:
        raise DataError(
            f"{topics.labels}: no label for any of {reader.counts['records']} records",
            hint="a backtest needs labels, with the keys of their records",
        )
    return Recorded(
        **{name: reader.counts[name] for name in Recorded.__struct_fields__},
    )


class _Record(NamedTuple):
    """What is known of a record before it is written; compared by the first three."""

    reached: int  # the largest position in its partition up to it that is believed
    partition: int
    offset: int
    position: int
    id: str
    value: bytes


class _Known(NamedTuple):
    label: Value
    at: int | None


class _Reader:
    """Takes in messages of both topics in any order between them, each in its partition's order."""

    def __init__(self, stream: Stream) -> None:
        self.counts: Counter[str] = Counter()
        self.partitions: dict[int, list[_Record]] = {}
        self._stream = stream
        self._records = RecordCodec(stream)
        self._labels = LabelCodec(stream)
        self._clocks: dict[int, PartitionClock] = {}
        self._known: dict[tuple[int, str], _Known] = {}

    def records(self, messages: list[Message]) -> None:
        found = self._records.decode([message.value for message in messages])
        self.counts["unreadable_records"] += len(found.rejected)
        positions = found.positions(self._stream.axis)
        for index, record_id, position in zip(found.kept, found.ids, positions, strict=True):
            message = messages[index]
            before = self.partitions.setdefault(message.partition, [])
            clock = self._clocks.get(message.partition)
            if clock is None:
                clock = PartitionClock(self._stream.max_ahead)
                self._clocks[message.partition] = clock
            clock.believes(position)
            reached = position if clock.reached is None else clock.reached
            value = message.value or b""
            before.append(
                _Record(reached, message.partition, message.offset, position, record_id, value)
            )

    def labels(self, messages: list[Message]) -> None:
        found = self._labels.decode_all([message.value for message in messages])
        self.counts["unreadable_labels"] += len(found.rejected)
        for index, label in zip(found.kept, found.items, strict=True):
            self._learn(messages[index].partition, label)

    def _learn(self, partition: int, label: Label) -> None:
        place = (partition, label.record_id)
        known = self._known.get(place)
        if known is not None and known.label == label.label:
            self.counts["repeated_labels"] += 1
            return
        self.counts["revised_labels"] += known is not None
        self._known[place] = _Known(label.label, label.at)

    def lines(self) -> Iterator[bytes]:
        """Each record as a line of JSON, with its label, which is given out once."""
        decode = msgspec.json.Decoder(dict[str, Any]).decode
        for record in heapq.merge(*self.partitions.values()):
            known = self._known.pop((record.partition, record.id), None)
            row = decode(record.value)
            row[self._stream.target] = row[AT] = None
            if known is not None:
                row[self._stream.target] = known.label
                row[AT] = self._moment(record.position if known.at is None else known.at)
                self.counts["labelled"] += 1
            self.counts["records"] += 1
            yield msgspec.json.encode(row)
        self.counts["labels_without_record"] = len(self._known)

    def _moment(self, position: int) -> int | str:
        return position if self._stream.axis == "row" else format_time(position)
