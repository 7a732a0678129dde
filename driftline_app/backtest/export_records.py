"""Read `features` and `labels` from the broker, join them, and write them to a JSON Lines file.

Input: a broker and a stream. Output: the file, and `Recorded`, which counts records and labels.
Each line is a record with its label; `@at` is the position at which the label became known. Labels
are joined within a partition, as in the outcomes service. `driftline backtest` can replay the file.
All records are held in memory until the file is written.
"""

import heapq
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from driftline.broker.port import Broker, Message
from driftline.broker.scan import Progress, ranges, scan, size
from driftline.config.simulate_section import Simulate
from driftline.config.stream import Stream
from driftline.config.stream_sections import AT
from driftline.errors import DataError
from driftline.runtime.partition_clock import PartitionClock
from driftline.wire.events import Value
from driftline.wire.feature_records import RecordCodec
from driftline.wire.labels import Label, LabelCodec
from driftline.wire.topics import Topics
from driftline.wire.values import format_time


class Recorded(msgspec.Struct, frozen=True):
    """The numbers of exported records and labels. The file contains every readable record."""

    records: int
    labelled: int  # records with a label
    unreadable_records: int
    unreadable_labels: int
    repeated_labels: int  # labels equal to the previous label with the same id
    revised_labels: int  # labels that change an earlier label; the file has the last label
    labels_without_record: int  # labels whose partition has no readable record with the same id


def as_recorded(stream: Stream) -> Stream:
    """Return a copy of the stream, set to replay labels at their recorded positions.

    Only the `[simulate]` section differs.
    """
    return msgspec.structs.replace(stream, simulate=Simulate(label_delay=AT))


def write_recorded(
    broker: Broker,
    stream: Stream,
    file: Path,
    *,
    progress: Progress | None = None,
    total: Progress | None = None,
) -> Recorded:
    """Read both topics up to their current ends and write `file`.

    Within a partition, records keep their order. Partitions are merged by position; a late record
    is placed as if it had the largest position read before it in its partition. `total` is called
    once with the number of offsets to read, and `progress` with the number read since its last
    call. Raises DataError if there are no records or no labels, and BrokerError if a topic does not
    exist.
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
            hint="to replay a data file instead, pass its path as DATA",
        )
    with file.open("wb") as lines:
        for line in reader.lines():
            lines.write(line + b"\n")
    if not reader.counts["labelled"]:
        raise DataError(
            f"{topics.labels}: no label for any of {reader.counts['records']} records",
            hint="a backtest needs labels; send each label with its record's key",
        )
    return Recorded(
        **{name: reader.counts[name] for name in Recorded.__struct_fields__},
    )


class _Record(NamedTuple):
    """A decoded record. The first three fields define the order in which partitions are merged."""

    reached: int  # the partition's max position (see `PartitionClock`) after this record
    partition: int
    offset: int
    position: int
    id: str
    value: bytes


class _Known(NamedTuple):
    label: Value
    at: int | None


class _Reader:
    """Collects records and labels from both topics, and joins them.

    Pass each partition's messages in order. Messages from the two topics may be interleaved in any
    way.
    """

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
            reached = position if clock.max_position is None else clock.max_position
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
        """Yield each record, with its label, as one line of JSON.

        If several records have the same id, only the first one gets the label.
        """
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
