"""Compares what a group has read of its inputs with what their logs hold now.

In: committed offsets, and the broker. Out: where to go on, and a `LogChange` where records were
deleted unread, the topic was created again, or the group reads it for the first time. The id of the
topic is kept in the metadata beside each committed offset.
"""

import logging
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from driftline.broker.port import Broker, Committed, OffsetRange, TopicPartition
from driftline.handler import LogChange
from driftline.scan import handled

log = logging.getLogger(__name__)

_TOPIC_ID = re.compile(r'^\{"topic_id":"([\w.-]*)",?')


class Compared(NamedTuple):
    """Where a partition is read from, what its log holds, and how that has changed."""

    committed: Committed
    start: int
    end: int
    change: LogChange | None


class InputLogs:
    """The logs of one worker's inputs. It outlives the sessions of the worker.

    Kafka forgets committed offsets together with their topic, so what this worker has committed is
    remembered here too.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._ids: dict[str, str] = {}
        self._read: dict[TopicPartition, tuple[str, int]] = {}  # id, next offset to handle

    def compare(
        self, partitions: Iterable[TopicPartition], found: Mapping[TopicPartition, Committed]
    ) -> dict[TopicPartition, Compared]:
        """Where to go on, if `found` is what is committed. Raises BrokerError."""
        wanted = list(partitions)
        topics = sorted({partition.topic for partition in wanted})
        spans: dict[TopicPartition, OffsetRange] = {}
        admin = self._broker.admin()
        try:
            self._ids |= admin.topic_ids(topics)
            for topic in topics:
                spans |= admin.offsets(topic)
        finally:
            admin.close()
        return {
            partition: self._compare(partition, found.get(partition), spans[partition])
            for partition in wanted
        }

    def have_changed(self) -> bool:
        """Whether a topic that was compared has been created again since. Raises BrokerError."""
        admin = self._broker.admin()
        try:
            ids = admin.topic_ids(sorted(self._ids))
        finally:
            admin.close()
        return any(self._ids[topic] != id for topic, id in ids.items())

    def committed(
        self, offsets: Mapping[TopicPartition, Committed]
    ) -> dict[TopicPartition, Committed]:
        """What to commit: with the ids of the topics."""
        return {
            partition: _with_topic_id(at, self._ids.get(partition.topic, ""))
            for partition, at in offsets.items()
        }

    def remember(self, offsets: Mapping[TopicPartition, Committed]) -> None:
        """Take note of what was committed."""
        for partition, at in offsets.items():
            self._read[partition] = (self._ids.get(partition.topic, ""), handled(at))

    def _compare(
        self, partition: TopicPartition, found: Committed | None, span: OffsetRange
    ) -> Compared:
        topic_id = self._ids.get(partition.topic, "")
        if found is None:
            known, unread = self._read.get(partition, ("", None))
            change = LogChange(
                partition,
                topic_id,
                span.start,
                unread if known != topic_id else None,
                is_new_topic=True,
            )
            return Compared(Committed(span.start), *span, change)
        known, at = without_topic_id(found)
        unread = handled(at)
        if (known and known != topic_id) or (not known and at.offset > span.end):
            change = LogChange(partition, topic_id, span.start, unread, is_new_topic=True)
            return Compared(Committed(span.start), *span, change)
        if at.offset <= span.end < unread:
            log.warning(
                "%s[%d]: the metadata beside the committed offset %d says that results up to %d "
                "are published, but the log ends at %d: it is ignored, and results from the "
                "committed offset on are published again",
                partition.topic,
                partition.partition,
                at.offset,
                unread,
                span.end,
            )
            at, unread = Committed(at.offset), at.offset
        if unread < span.start:
            change = LogChange(partition, topic_id, span.start, unread)
            return Compared(Committed(span.start, at.metadata), *span, change)
        if not known:  # committed before ids were kept
            change = LogChange(partition, topic_id, unread, is_new_topic=True)
            return Compared(at, *span, change)
        return Compared(at, *span, None)


def _with_topic_id(at: Committed, topic_id: str) -> Committed:
    """
    >>> _with_topic_id(Committed(7, '{"watermark":5}'), "abc").metadata
    '{"topic_id":"abc","watermark":5}'
    >>> _with_topic_id(Committed(7, "any text"), "abc").metadata
    '{"topic_id":"abc"} any text'
    """
    own, rest = f'{{"topic_id":"{topic_id}"', at.metadata
    if len(rest) > 2 and rest.startswith("{"):
        return Committed(at.offset, f"{own},{rest[1:]}")
    return Committed(at.offset, f"{own}}} {rest}" if rest.strip("{}") else f"{own}}}")


def without_topic_id(at: Committed) -> tuple[str, Committed]:
    """The topic's id, empty if it is unknown, and what the handler has committed.

    >>> without_topic_id(Committed(7, '{"topic_id":"abc","watermark":5}'))
    ('abc', Committed(offset=7, metadata='{"watermark":5}'))
    """
    match = _TOPIC_ID.match(at.metadata)
    if match is None:
        return "", at
    rest = at.metadata[match.end() :]
    return match[1], Committed(at.offset, rest[2:] if rest.startswith("}") else "{" + rest)
