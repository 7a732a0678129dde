"""Compare a group's committed offsets with the current logs of its input topics in Kafka.

Input: committed offsets, and a broker. Output: the offsets to resume from, and a `LogChange` if
unread records were deleted, the topic was recreated, or the group reads the topic for the first
time. Each committed offset's metadata contains its topic's id and the number of the commit.
"""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from driftline.broker.port import Broker, Committed, OffsetRange, Outgoing, TopicPartition
from driftline.clock import Clock
from driftline.errors import BrokerUnavailable
from driftline.runtime.commits_file import Commits, CommitsFile
from driftline.runtime.handler import LogChange
from driftline.wire.commit_metadata import handled
from driftline.wire.envelope import encode
from driftline.wire.events import Gap, Watermark

log = logging.getLogger(__name__)

# In the metadata of old commits, the number is missing.
_PREFIX = re.compile(r'^\{"topic_id":"([\w.-]*)"(?:,"commit":(\d{1,18}))?,?')


class ResumePoint(NamedTuple):
    """The checkpoint to resume from, the log's range of offsets, and the log's change, if any."""

    committed: Committed
    start: int
    end: int
    change: LogChange | None
    is_lost: bool = False  # True if only this worker has the checkpoint, and Kafka an older or none


class InputLogs:
    """The logs of one worker's input topics. One object serves all of the worker's sessions.

    It remembers the worker's latest commits, for two reasons. First, Kafka deletes a topic's
    committed offsets together with the topic. Second, for minutes after a crash, a broker (seen in
    Kafka 4.1.0 and 4.1.2) may return no commits or outdated ones. Reading the records since then
    again would publish their results twice. Commits are numbered, so that outdated ones are
    recognised even if their offsets are equal. A file carries them over to the next process.
    """

    def __init__(self, broker: Broker, clock: Clock, commits_file: Path | None = None) -> None:
        """Read the commits of the slot's previous process from `commits_file`."""
        self._broker = broker
        self._clock = clock
        # Topic ids by name. Updated by `compare` and `compare_broadcasts`.
        self._ids: dict[str, str] = {}
        self._file = CommitsFile(commits_file) if commits_file is not None else None
        before = self._file.read() if self._file is not None else Commits({}, is_final=True)
        # Each partition's latest known commit. Set by `remember` and `_check_commits`.
        # `_check_commits` also removes partitions that now belong to other workers.
        self._known: dict[TopicPartition, Committed] = dict(before.offsets)
        # Each partition's largest known commit number. Set together with `_known`, never removed.
        self._numbers = {partition: _number(at) for partition, at in before.offsets.items()}
        # True if there may be newer commits than `_known`. Set by `begin_commit`, or because the
        # previous process was killed; reset by `remember`, and when Kafka returns all commits.
        self._is_outcome_unknown = not before.is_final

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
        current = {} if found is None else self._check_commits(wanted, found, spans)
        return {
            partition: self._compare(partition, current.get(partition), spans[partition])._replace(
                is_lost=found is not None and current.get(partition) != found.get(partition)
            )
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
        """Return the offsets to commit, with topic ids and commit numbers added to the metadata.

        A commit's number is the time in ms, or the last known number plus 1 if that is larger. So
        numbers increase even if an operator has reset the offsets, which removes the last number,
        and the next commit comes from another worker.
        """
        now_ms = int(1000 * self._clock.time())
        return {
            partition: _numbered(
                at,
                self._ids.get(partition.topic, ""),
                max(now_ms, 1 + self._numbers.get(partition, 0)),
            )
            for partition, at in offsets.items()
        }

    def begin_commit(self) -> None:
        """Register that a transaction is about to be committed."""
        self._is_outcome_unknown = True

    def remember(self, offsets: Mapping[TopicPartition, Committed]) -> None:
        """Store offsets that have been committed."""
        self._is_outcome_unknown = False
        self._known |= offsets
        self._note_numbers(offsets)
        if self._file is not None:
            self._file.write(Commits(self._known, is_final=False))

    def close(self) -> None:
        """Register that this process makes no more commits."""
        if self._file is not None and not self._is_outcome_unknown:
            self._file.write(Commits(self._known, is_final=True))

    def _check_commits(
        self,
        wanted: Sequence[TopicPartition],
        found: Mapping[TopicPartition, Committed],
        spans: Mapping[TopicPartition, OffsetRange],
    ) -> Mapping[TopicPartition, Committed]:
        """Return the committed offsets. Replace outdated ones, and add those that Kafka has lost.

        Old offsets of a recreated topic are not included. If the log ends before records that this
        worker has handled, Kafka was restored or has lost its newest records, so Kafka's offset is
        right.
        """
        known = {
            partition: self._known[partition] for partition in wanted if partition in self._known
        }
        missing = {
            partition: at
            for partition, at in known.items()
            if without_topic_id(at)[0] == self._ids.get(partition.topic, "unknown")
            and _is_older(found.get(partition), at)
        }
        ahead = {
            partition: missing.pop(partition)
            for partition in sorted(missing.keys() & found.keys())
            if handled(missing[partition]) > spans[partition].end
        }
        if missing:
            first = next(iter(missing))
            where = f"{first.topic}[{first.partition}]"
            if self._is_outcome_unknown or not all(p in found or p in known for p in wanted):
                raise BrokerUnavailable(
                    f"Kafka returns no committed offset for {where}, or an outdated one, but this "
                    "worker remembers a later one",
                    hint="restart the broker that coordinates the group, so that it reloads the "
                    f"offsets; if they were deleted on purpose, {self._forget()}",
                )
            log.error(
                "Kafka returns no committed offsets or outdated ones for %d partitions, such as "
                "%s: resuming at the offsets that this worker committed. If they were deleted on "
                "purpose, %s",
                len(missing),
                where,
                self._forget(),
            )
        else:
            self._is_outcome_unknown = False
        for partition, at in ahead.items():
            log.error(
                "%s[%d] ends at offset %d, but was already read up to %d: Kafka has lost records; "
                "resuming at offset %d",
                *partition,
                spans[partition].end,
                handled(at),
                min(found[partition].offset, spans[partition].end),
            )
        found = {**found, **missing}
        self._known = {**known, **found}
        self._note_numbers(found)
        return found

    def _note_numbers(self, commits: Mapping[TopicPartition, Committed]) -> None:
        for partition, at in commits.items():
            self._numbers[partition] = max(_number(at), self._numbers.get(partition, 0))

    def _forget(self) -> str:
        """Return what an operator must do so that this worker forgets its commits."""
        if self._file is None:
            return "restart this service"
        return f"stop this service, delete {self._file.path}, and start it again"

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


def _numbered(at: Committed, topic_id: str, number: int) -> Committed:
    """Prepend the topic's id and the commit's number to the metadata.

    >>> _numbered(Committed(7, '{"watermark":5}'), "abc", 3).metadata
    '{"topic_id":"abc","commit":3,"watermark":5}'
    >>> _numbered(Committed(7, "any text"), "abc", 3).metadata
    '{"topic_id":"abc","commit":3} any text'
    """
    own, rest = f'{{"topic_id":"{topic_id}","commit":{number}', at.metadata
    if len(rest) > 2 and rest.startswith("{"):
        return Committed(at.offset, f"{own},{rest[1:]}")
    return Committed(at.offset, f"{own}}} {rest}" if rest.strip("{}") else f"{own}}}")


def _number(at: Committed | None) -> int:
    """Return a commit's number, or 0 if it has none.

    >>> _number(Committed(7, '{"topic_id":"abc","commit":3}'))
    3
    """
    match = None if at is None else _PREFIX.match(at.metadata)
    return int(match[2] or 0) if match is not None else 0


def _is_older(found: Committed | None, known: Committed) -> bool:
    """Return whether a commit is missing, or precedes the known commit. A commit without a topic id
    was made by a tool that resets offsets, so it is not older.

    >>> known = Committed(7, '{"topic_id":"abc","commit":3}')
    >>> _is_older(Committed(7, '{"topic_id":"abc","commit":2}'), known)
    True
    >>> _is_older(Committed(5), known)
    False
    """
    return found is None or (bool(without_topic_id(found)[0]) and _number(found) < _number(known))


def without_topic_id(at: Committed) -> tuple[str, Committed]:
    """Return the topic's id (empty if unknown) and the checkpoint with the handler's own metadata.

    >>> without_topic_id(Committed(7, '{"topic_id":"abc","commit":3,"watermark":5}'))
    ('abc', Committed(offset=7, metadata='{"watermark":5}'))
    """
    match = _PREFIX.match(at.metadata)
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
