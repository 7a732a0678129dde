"""Read a stream's topics into the SQLite tables of `driftline.audit.reconcile`.

Input: the topics, and consumer groups' committed offsets. Output: rows in the tables that
`reconcile_sql` defines, and counts of records that Driftline did not write.
"""

import sqlite3
from collections.abc import Callable, Mapping

import msgspec

from driftline.audit.dead_letters import REPLAYED
from driftline.audit.reconcile_findings import Lost
from driftline.audit.reconcile_logs import ReadLogs
from driftline.broker.port import Broker, Committed, Message, OffsetRange, TopicPartition
from driftline.broker.scan import Progress, scan
from driftline.config.stream import Stream
from driftline.errors import DataError
from driftline.wire.column_decoders import id_reader
from driftline.wire.commit_metadata import handled
from driftline.wire.envelope import dead_letter_origin, decode_or_skip
from driftline.wire.events import Count, Gap, Log, Source
from driftline.wire.labels import LabelCodec
from driftline.wire.topics import Topics

_Row = tuple[str | int | float | bytes | None, ...]
_RowOf = Callable[[Message], _Row | None]  # returns None for a message that is not counted


class _PredictionHead(msgspec.Struct, frozen=True, gc=False):
    """The fields of a prediction or watermark that are needed for counting."""

    type: str
    record_id: str = ""
    source: Source | None = None
    log: Log | None = None
    gaps: tuple[Gap, ...] = ()


class _OutcomeHead(msgspec.Struct, frozen=True, gc=False):
    type: str
    record_id: str = ""
    source: Source | None = None
    label: str | float = ""
    revision: Count = 0
    gaps: tuple[Gap, ...] = ()


_predictions = msgspec.json.Decoder(_PredictionHead)
_outcomes = msgspec.json.Decoder(_OutcomeHead)


class TableLoader:
    """Fills the SQLite tables from a stream's topics."""

    def __init__(
        self,
        database: sqlite3.Connection,
        broker: Broker,
        stream: Stream,
        spans: Mapping[str, Mapping[TopicPartition, OffsetRange]],
        progress: Progress | None,
        topic_id: str,
    ) -> None:
        self._database = database
        self._broker = broker
        self._topics = Topics(stream)
        self._spans = spans
        self._progress = progress
        self._id = id_reader(stream.record.id)
        self._label = LabelCodec(stream).decode
        self.foreign_letters = self.foreign_records = 0
        self.logs = ReadLogs(self._topics.features, topic_id)
        self.lost: list[Lost] = []  # records deleted before outcomes or the monitor read them
        # (output topic, partition) → publish time of the oldest remaining record, if retention
        # has deleted earlier records.
        self._oldest_ms: dict[tuple[str, int], int] = {}

    def load(self, committed: Mapping[TopicPartition, Committed]) -> None:
        topics = self._topics
        roles = {
            topics.features: "features",
            topics.predictions: "predictions",
            topics.labels: "labels",
        }
        self._fill(topics.predictions, "predictions", 5, self._prediction)
        self._fill(topics.outcomes, "outcomes", 5, self._outcome)
        self._fill(topics.deadletters, "letters", 3, self._letter)
        self._fill(topics.features, "features", 5, self._feature)
        self._fill(topics.labels, "labels", 6, self._labelled)
        self._database.executemany(
            "INSERT INTO groups VALUES (?, ?, ?, ?, ?)",
            [
                (
                    partition.topic,
                    roles.get(partition.topic, ""),
                    partition.partition,
                    at.offset,
                    handled(at),
                )
                for partition, at in committed.items()
            ],
        )
        self._database.executemany(
            "INSERT INTO logs VALUES (?, ?, ?, ?)",
            [
                (partition.topic, partition.partition, span.start, span.end)
                for spans in self._spans.values()
                for partition, span in spans.items()
            ],
        )
        outputs = {
            "features": (topics.predictions, topics.deadletters),
            "labels": (topics.outcomes, topics.deadletters),
        }
        self._database.executemany(
            "INSERT INTO kept VALUES (?, ?, ?)",
            [
                (role, partition, max(oldest))
                for role, names in outputs.items()
                for partition in {at.partition for at in self._spans[names[0]]}
                if (
                    oldest := [
                        self._oldest_ms[name, partition]
                        for name in names
                        if (name, partition) in self._oldest_ms
                    ]
                )
            ],
        )

    def _fill(self, topic: str, table: str, width: int, row: _RowOf) -> None:
        insert = f"INSERT INTO {table} VALUES ({', '.join('?' * width)})"
        span = self._spans[topic]
        for messages in scan(self._broker, span, progress=self._progress):
            for message in messages:
                start = span[TopicPartition(topic, message.partition)].start
                if start > 0:
                    self._oldest_ms.setdefault((topic, message.partition), message.timestamp_ms)
            self._database.executemany(
                insert, (found for message in messages if (found := row(message)) is not None)
            )

    def _prediction(self, message: Message) -> _Row | None:
        event = decode_or_skip(_predictions, message)
        self.foreign_records += event is None
        if event is not None and (event.log is not None or event.gaps):
            self.logs.mark(message.partition, event.log, event.gaps)
        if event is None or event.source is None or event.source.topic != self._topics.features:
            return None
        source = event.source
        if not self.logs.is_present(source.partition, source.offset):
            return None
        return (source.partition, source.offset, message.offset, event.record_id, message.key)

    def _outcome(self, message: Message) -> _Row | None:
        event = decode_or_skip(_outcomes, message)
        self.foreign_records += event is None
        if event is not None:
            self.lost += (Lost(g.topic, g.partition, g.start, g.end) for g in event.gaps)
        if event is None or event.source is None or event.source.topic != self._topics.features:
            return None
        source = event.source
        return (source.partition, source.offset, event.record_id, event.revision, event.label)

    def _letter(self, message: Message) -> _Row | None:
        try:
            origin = dead_letter_origin(message)
        except DataError:
            self.foreign_letters += 1
            return None
        role = {self._topics.features: "features", self._topics.labels: "labels"}.get(origin.topic)
        return None if role is None else (role, origin.partition, origin.offset)

    def _feature(self, message: Message) -> _Row:
        replayed = any(name == REPLAYED for name, _ in message.headers)
        at = (message.partition, message.offset, message.timestamp_ms)
        return (*at, self._id(message.value), replayed)

    def _labelled(self, message: Message) -> _Row:
        at = (message.partition, message.offset, message.timestamp_ms)
        try:
            label = self._label(message.value)
        except DataError:
            return (*at, None, None, message.key)
        return (*at, label.record_id, label.label, message.key)
