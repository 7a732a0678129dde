"""Find the misplaced labels and the lost records for `audit.reconcile`.

Input: the SQLite tables, a consumer group's committed offsets, and the topics' ids and offsets.
Output: `Misplaced` labels, each with its cause, and ranges of `Lost` records.
"""

import sqlite3
from collections.abc import Iterator, Mapping

import msgspec

from driftline.audit.reconcile_sql import NAMED_MISPLACED_LABELS
from driftline.broker.partitioner import MURMUR2, PARTITIONERS, partitioners_for
from driftline.broker.port import Committed, OffsetRange, TopicPartition
from driftline.config.stream import Stream
from driftline.runtime.input_logs import without_topic_id
from driftline.wire.commit_metadata import handled


class Misplaced(msgspec.Struct, frozen=True):
    """A label that is not in its record's partition, and the cause."""

    partition: int
    offset: int
    id: str
    record_partition: int
    cause: str


class Lost(msgspec.Struct, frozen=True):
    """Records `[start, end)` of a partition that were deleted before they were read.

    `end` is None if the topic was recreated, because the number of lost records is then unknown.
    """

    topic: str
    partition: int
    start: int
    end: int | None


def misplaced_labels(
    database: sqlite3.Connection, stream: Stream, limit: int | None
) -> Iterator[Misplaced]:
    """Yield the first `limit` misplaced labels, or all of them if `limit` is None."""
    rows = database.execute(NAMED_MISPLACED_LABELS + " LIMIT ?", (-1 if limit is None else limit,))
    for partition, offset, id, key, of_record, record_key in rows:
        cause = _cause(key, partition, record_key, of_record, stream.kafka.partitions)
        yield Misplaced(partition, offset, id, of_record, cause)


def _cause(
    key: bytes | None, partition: int, record_key: bytes | None, of_record: int, partitions: int
) -> str:
    """Explain why a label and its record are in different partitions."""
    if key is None:
        return "it has no key; send it with its record's key"
    if key != record_key:
        return f"its key is {_shown(key)}, but its record's key is {_shown(record_key)}"
    own, other = (_partitioner(key, at, partitions) for at in (partition, of_record))
    if own is None or other is None:
        which = "label" if own is None else "record"
        return f"both have the key {_shown(key)}; the {which}'s partition does not depend on it"
    return (
        f"both have the key {_shown(key)}; {own} gives partition {partition}, {other} gives "
        f"{of_record}: use one partitioner, {MURMUR2}, in both producers"
    )


def _partitioner(key: bytes, partition: int, partitions: int) -> str | None:
    """Return the first known partitioner that chooses this partition for the key, or None."""
    found = partitioners_for(key, partition, partitions)
    return next((name for name in PARTITIONERS if name in found), None)


def _shown(key: bytes | None) -> str:
    return "missing" if key is None else repr(key.decode("utf-8", "replace"))


def lost_records(
    committed: Mapping[TopicPartition, Committed],
    ids: Mapping[str, str],
    spans: Mapping[TopicPartition, OffsetRange],
) -> Iterator[Lost]:
    """Yield the ranges of records that were deleted before a consumer group read them.

    Each range starts at the first offset that the group has not handled. Either retention deleted
    the records, or their topic was recreated.
    """
    for partition, at in committed.items():
        span = spans.get(partition)
        topic_id, _ = without_topic_id(at)
        unread = handled(at)
        is_other = bool(topic_id) and topic_id != ids.get(partition.topic, topic_id)
        if is_other or (span is not None and unread > span.end):
            yield Lost(*partition, unread, None)
        elif span is not None and unread < span.start:
            yield Lost(*partition, unread, span.start)
