"""Compare a group's committed offsets with the current logs of its input topics in Kafka.

Input: committed offsets, and a broker. Output: the offsets to resume from, and a `LogChange` if
unread records were deleted, the topic was recreated, or the group reads the topic for the first
time. Each committed offset's metadata contains its topic's id.
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
    """The checkpoint to resume from, the log's range of offsets, and the log's change, if any."""

    committed: Committed
    start: int
    end: int
    change: LogChange | None


class InputLogs:
    """The logs of one worker's input topics. One object serves all of the worker's sessions.

    It remembers the worker's latest commits, for two reasons. First, Kafka deletes a topic's
    committed offsets together with the topic. Second, for minutes after a crash, a broker
    (Kafka 4.1.0) may report that the group has committed nothing. Reading all records again would
    then publish all results twice.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        # Topic ids by name. Updated by `compare` and `compare_broadcasts`.
        self._ids: dict[str, str] = {}
        # Each partition's latest known commit. Set by `remember` and `_check_commits`.
        # `_check_commits` also removes partitions that now belong to other workers.
        self._known: dict[TopicPartition, Committed] = {}
        # True if a transaction may have committed newer offsets than `_known`. Set by
        # `begin_commit`; reset by `remember`, and when Kafka returns the committed offsets.
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
        """Return each partition's resume point.

        `found` contains the committed offsets of all of this worker's partitions, or is None if
        committed offsets do not matter. Raises BrokerError. Raises BrokerUnavailable if Kafka
        has lost committed offsets, and this worker's own copy of them may be outdated or
        incomplete.
        """
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
        """Return the new ids of topics that were recreated since the last call with these topics.

        From now on, `have_changed` also checks these topics. Raises BrokerError.
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
        """Return whether a topic was recreated since the last comparison. Raises BrokerError."""
        admin = self._broker.admin()
        try:
            ids = admin.topic_ids(sorted(self._ids))
        finally:
            admin.close()
        return any(self._ids[topic] != id for topic, id in ids.items())

    def committed(
        self, offsets: Mapping[TopicPartition, Committed]
    ) -> dict[TopicPartition, Committed]:
        """Return the offsets to commit, with each topic's id added to the metadata."""
        return {
            partition: _with_topic_id(at, self._ids.get(partition.topic, ""))
            for partition, at in offsets.items()
        }

    def begin_commit(self) -> None:
        """Register that a transaction is about to be committed."""
        self._is_outcome_unknown = True

    def remember(self, offsets: Mapping[TopicPartition, Committed]) -> None:
        """Store offsets that have been committed."""
        self._is_outcome_unknown = False
        self._known |= offsets

    def _check_commits(
        self, wanted: Sequence[TopicPartition], found: Mapping[TopicPartition, Committed]
    ) -> Mapping[TopicPartition, Committed]:
        """Return the committed offsets, including offsets that Kafka has lost or not yet loaded.

        If a topic's id shows that the topic was recreated, its old offsets are not included.
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
                    f"Kafka returns no committed offset for {where}, but this worker remembers one",
                    hint="restart the broker that coordinates the group, so that it reloads the "
                    "offsets; if the offsets were deleted on purpose, restart this service",
                )
            log.error(
                "Kafka returns no committed offsets for %d partitions, such as %s: resuming at the "
                "offsets that this worker committed",
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
        if found is None:  # nothing was committed, or Kafka deleted the offset with the topic
            before = self._known.get(partition)
            is_other = before is not None and without_topic_id(before)[0] != topic_id
            unread = handled(before) if is_other else None
            change = LogChange(partition, topic_id, span.start, unread, is_new_topic=True)
            return ResumePoint(Committed(span.start), *span, change)
        known, at = without_topic_id(found)
        unread = handled(at)
        # The topic was recreated if its id has changed or, when no id was committed, if the
        # committed offset is beyond the end of the log.
        if (known and known != topic_id) or (not known and at.offset > span.end):
            change = LogChange(partition, topic_id, span.start, unread, is_new_topic=True)
            return ResumePoint(Committed(span.start), *span, change)
        if at.offset <= span.end < unread:
            log.warning(
                "%s[%d]: the metadata of committed offset %d states that results up to offset %d "
                "have been published, but the log ends at %d: ignoring the metadata and "
                "republishing all results from the committed offset onwards",
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
        if not known:  # committed by an old version of Driftline, or by a tool that resets offsets
            change = LogChange(partition, topic_id, unread, is_new_topic=True)
            return ResumePoint(at, *span, change)
        return ResumePoint(at, *span, None)


def _with_topic_id(at: Committed, topic_id: str) -> Committed:
    """Prepend the topic's id to the metadata.

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
    """Return the topic's id (empty if unknown) and the checkpoint with the handler's own metadata.

    >>> without_topic_id(Committed(7, '{"topic_id":"abc","watermark":5}'))
    ('abc', Committed(offset=7, metadata='{"watermark":5}'))
    """
    match = _TOPIC_ID.match(at.metadata)
    if match is None:
        return "", at
    rest = at.metadata[match.end() :]
    return match[1], Committed(at.offset, rest[2:] if rest.startswith("}") else "{" + rest)


def lost_unread(change: LogChange, outcomes: str) -> list[Outgoing]:
    """Return a list with a watermark for the topic `outcomes` that reports lost records.

    Records are lost if they are deleted before they are read. If no records were lost, the list is
    empty.
    """
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
            f"{topic} was recreated: records of {topic}[{partition}] from offset {change.unread} "
            f"onwards were never read; resuming at offset {change.start} of the new topic"
        )
    assert change.unread is not None
    return (
        f"{topic}[{partition}]: offsets {change.unread} to {change.start - 1} were deleted before "
        f"they were read; resuming at {change.start}. Set the topic's retention to more than your "
        "longest downtime"
    )
