"""Compare the committed offsets of a group with the current logs of its input topics.

Input: committed offsets, and the broker. Output: where to resume, and a `LogChange` if records were
deleted unread, the topic was created again, or the group reads it for the first time. The metadata
of each committed offset contains the id of its topic.
"""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from driftline.broker.port import Broker, Committed, OffsetRange, Outgoing, TopicPartition
from driftline.errors import BrokerUnavailable
from driftline.runtime.handler import LogChange
from driftline.wire.commit_metadata import handled
from driftline.wire.envelope import encode
from driftline.wire.events import Gap, Watermark

log = logging.getLogger(__name__)

_TOPIC_ID = re.compile(r'^\{"topic_id":"([\w.-]*)",?')


class ResumePoint(NamedTuple):
    """The checkpoint to resume from, the range of the log, and its change, if there is one."""

    committed: Committed
    start: int
    end: int
    change: LogChange | None


class InputLogs:
    """The logs of one worker's input topics. One object serves all sessions of the worker.

    It remembers the worker's newest commits, for two reasons. Kafka deletes committed offsets
    together with their topic. And after a crash, a broker (4.1.0) may answer for minutes that the
    group has committed nothing. Reading everything again would then publish all results twice.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._ids: dict[str, str] = {}  # ids of the topics, updated by `compare`
        # The newest known commit of each partition. `remember` and `_check_commits` set it; the
        # latter also removes partitions that other workers have now.
        self._known: dict[TopicPartition, Committed] = {}
        # A transaction may have committed newer offsets than `_known`. Set by `expect`, reset by
        # `remember` and when Kafka returns the committed offsets.
        self._is_outcome_unknown = False

    def partitions(self, topics: Iterable[str]) -> tuple[TopicPartition, ...]:
        """Fetch all partitions of these topics. Raises BrokerError."""
        admin = self._broker.admin()
        try:
            described = admin.describe(topics)
        finally:
            admin.close()
        return tuple(
            TopicPartition(topic, number)
            for topic, info in described.items()
            for number in range(info.partitions)
        )

    def compare(
        self,
        partitions: Iterable[TopicPartition],
        found: Mapping[TopicPartition, Committed] | None,
    ) -> dict[TopicPartition, ResumePoint]:
        """Return where to resume, given the committed offsets of all partitions of this worker, or
        None to ignore them. Raises BrokerError, and BrokerUnavailable if Kafka has no offsets of a
        partition for which this worker knows some, and they may not be the newest."""
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
        found = {} if found is None else self._check_commits(wanted, found)
        return {
            partition: self._compare(partition, found.get(partition), spans[partition])
            for partition in wanted
        }

    def compare_broadcasts(self, topics: Iterable[str]) -> dict[str, str]:
        """Return the new ids of the topics that were created again since the last call with them.

        From now on, `have_changed` checks these topics too. Raises BrokerError.
        """
        admin = self._broker.admin()
        try:
            ids = admin.topic_ids(sorted(topics))
        finally:
            admin.close()
        changed = {topic: id for topic, id in ids.items() if self._ids.get(topic, id) != id}
        self._ids |= ids
        return changed

    def have_changed(self) -> bool:
        """Return whether a topic was created again since it was last compared. Raises
        BrokerError."""
        admin = self._broker.admin()
        try:
            ids = admin.topic_ids(sorted(self._ids))
        finally:
            admin.close()
        return any(self._ids[topic] != id for topic, id in ids.items())

    def committed(
        self, offsets: Mapping[TopicPartition, Committed]
    ) -> dict[TopicPartition, Committed]:
        """Return these offsets to commit with the ids of their topics in the metadata."""
        return {
            partition: _with_topic_id(at, self._ids.get(partition.topic, ""))
            for partition, at in offsets.items()
        }

    def expect(self) -> None:
        """Note that a transaction is about to be committed."""
        self._is_outcome_unknown = True

    def remember(self, offsets: Mapping[TopicPartition, Committed]) -> None:
        """Remember what was committed."""
        self._is_outcome_unknown = False
        self._known |= offsets

    def _check_commits(
        self, wanted: Sequence[TopicPartition], found: Mapping[TopicPartition, Committed]
    ) -> Mapping[TopicPartition, Committed]:
        """Return the committed offsets, with those that Kafka has lost, or not loaded yet.

        The topic's id tells such a partition from one whose topic was created again.
        """
        known = {
            partition: self._known[partition] for partition in wanted if partition in self._known
        }
        missing = {
            partition: at
            for partition, at in known.items()
            if partition not in found
            and without_topic_id(at)[0] == self._ids.get(partition.topic, "unknown")
        }
        if missing:
            first = next(iter(missing))
            where = f"{first.topic}[{first.partition}]"
            if self._is_outcome_unknown or not all(p in found or p in known for p in wanted):
                raise BrokerUnavailable(
                    f"Kafka returns no committed offset of {where}, although this worker knows one",
                    hint="restart the broker that coordinates the group, so that it loads its "
                    "offsets again; if they were deleted on purpose, restart this service",
                )
            log.error(
                "Kafka returns no committed offsets of %d partitions, such as %s, although this "
                "worker committed some: resuming at these",
                len(missing),
                where,
            )
        else:
            self._is_outcome_unknown = False
        found = {**found, **missing}
        self._known = {**known, **found}
        return found

    def _compare(
        self, partition: TopicPartition, found: Committed | None, span: OffsetRange
    ) -> ResumePoint:
        topic_id = self._ids.get(partition.topic, "")
        if found is None:  # never committed, or deleted by Kafka together with the topic
            before = self._known.get(partition)
            is_other = before is not None and without_topic_id(before)[0] != topic_id
            unread = handled(before) if is_other else None
            change = LogChange(partition, topic_id, span.start, unread, is_new_topic=True)
            return ResumePoint(Committed(span.start), *span, change)
        known, at = without_topic_id(found)
        unread = handled(at)
        # The topic was created again: its id has changed, or, if no id was committed, the committed
        # offset is beyond the end of the log.
        if (known and known != topic_id) or (not known and at.offset > span.end):
            change = LogChange(partition, topic_id, span.start, unread, is_new_topic=True)
            return ResumePoint(Committed(span.start), *span, change)
        if at.offset <= span.end < unread:
            log.warning(
                "%s[%d]: the metadata of the committed offset %d states that results up to %d are "
                "published, but the log ends at %d: ignoring the metadata and publishing results "
                "from the committed offset on again",
                partition.topic,
                partition.partition,
                at.offset,
                unread,
                span.end,
            )
            at, unread = Committed(at.offset), at.offset
        if unread < span.start:  # unread records were deleted
            change = LogChange(partition, topic_id, span.start, unread)
            return ResumePoint(Committed(span.start, at.metadata), *span, change)
        if not known:  # committed by an old version, or by a tool that moves offsets
            change = LogChange(partition, topic_id, unread, is_new_topic=True)
            return ResumePoint(at, *span, change)
        return ResumePoint(at, *span, None)


def _with_topic_id(at: Committed, topic_id: str) -> Committed:
    """Put the id of the topic in front of the metadata.

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
    """Return the topic's id, empty if it is unknown, and the offset and metadata of the handler.

    >>> without_topic_id(Committed(7, '{"topic_id":"abc","watermark":5}'))
    ('abc', Committed(offset=7, metadata='{"watermark":5}'))
    """
    match = _TOPIC_ID.match(at.metadata)
    if match is None:
        return "", at
    rest = at.metadata[match.end() :]
    return match[1], Committed(at.offset, rest[2:] if rest.startswith("}") else "{" + rest)


def lost_unread(change: LogChange, outcomes: str) -> list[Outgoing]:
    """Return the watermark for the topic `outcomes` that reports offsets deleted before they were
    read. The list is empty if none were deleted."""
    if change.unread is None:
        return []
    topic, partition = change.partition
    end = None if change.is_new_topic else change.start
    mark = Watermark(None, gaps=(Gap(partition, change.unread, end, topic),))
    return [Outgoing(outcomes, encode(mark), partition=partition)]


def loss_message(change: LogChange) -> str:
    """Return the log message for lost records."""
    topic, partition = change.partition
    if change.is_new_topic:
        return (
            f"{topic} was created again: records of {topic}[{partition}] from offset "
            f"{change.unread} on were not read; resuming at offset {change.start} of the new topic"
        )
    assert change.unread is not None
    return (
        f"{topic}[{partition}]: offsets {change.unread} to {change.start - 1} were deleted before "
        f"they were read; resuming at {change.start}. Raise the topic's "
        "retention above the longest downtime"
    )
