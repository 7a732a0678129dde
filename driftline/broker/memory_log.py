"""Store the in-memory broker's partition logs, topics and groups, and save them to files.

Input: messages that producers append, or saved files. Output: messages for consumers, and one file
per partition plus an index. The same content always produces the same bytes. The logs have no
retention and no compaction, and this module starts no threads.
"""

import struct
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import msgspec

from driftline.broker.limits import topic_bytes
from driftline.broker.port import Committed, Headers, Message, TopicPartition
from driftline.errors import BrokerError

# Kafka's defaults for the topic settings that Driftline reads.
TOPIC_DEFAULTS: Mapping[str, str] = {
    "cleanup.policy": "delete",
    "compression.type": "producer",
    "max.message.bytes": "1048588",
    "message.timestamp.type": "CreateTime",
    "min.insync.replicas": "1",
    "retention.bytes": "-1",
    "retention.ms": "604800000",
}
# Number of records per frame in a log file. A frame takes a few MB, so its length prefix is
# negligible.
_FRAME_RECORDS = 4096
_LENGTH = struct.Struct(">I")
_END = struct.Struct(">Q")

_Row = tuple[int, int, bytes | None, bytes | None, Headers]  # offset, time, key, value, headers
_encode_rows = msgspec.msgpack.Encoder().encode
_decode_rows = msgspec.msgpack.Decoder(list[_Row]).decode


class PartitionLog:
    """One partition's log. `entries[offset]` is a message, or None for a transaction marker, an
    aborted record or a deleted record."""

    __slots__ = ("entries", "open", "start")

    def __init__(self) -> None:
        self.entries: list[Message | None] = []
        self.start = 0  # records before this offset were deleted
        self.open: dict[str, list[int]] = {}  # offsets in open transactions, by transactional id

    def stable_end(self) -> int:
        """Return the last stable offset, before which all transactions have ended."""
        if not self.open:
            return len(self.entries)
        return min(offsets[0] for offsets in self.open.values())


class TopicLogs(msgspec.Struct, frozen=True):
    """A topic's partition logs, and the settings that the topic was created with."""

    logs: tuple[PartitionLog, ...]
    config: Mapping[str, str]
    max_bytes: int
    id: str


class Member:
    """A consumer in a group.

    `generation` is the generation of the member's assignment, or -1 if the member has none.
    """

    __slots__ = ("generation", "id", "topics")

    def __init__(self, member_id: str, topics: Sequence[str]) -> None:
        self.id = member_id
        self.topics = topics
        self.generation = -1


class Group:
    """A consumer group: committed offsets, members, and the classic eager rebalance.

    A rebalance starts when a member joins or leaves. In its next poll, each member gives up its
    partitions from the previous generation. The rebalance ends when all members have done so.
    """

    def __init__(self) -> None:
        self.committed: dict[TopicPartition, Committed] = {}
        self.members: dict[str, Member] = {}
        self.assignment: dict[str, list[TopicPartition]] = {}
        self.generation = 0
        self.rebalancing = False

    def join(self, member: Member) -> None:
        """Add a member and start a rebalance."""
        self.members[member.id] = member
        self.rebalancing = True

    def leave(self, member: Member) -> None:
        """Remove a member and start a rebalance among the remaining members."""
        if self.members.pop(member.id, None) is not None:
            self.rebalancing = bool(self.members)

    def settle(self, partitions: Mapping[str, int]) -> None:
        """End the rebalance if all members have given up their partitions.

        `partitions` contains each topic's partition count.
        """
        if self.rebalancing and all(
            member.generation != self.generation for member in self.members.values()
        ):
            self.generation += 1
            self.assignment = assign_ranges(self.members.values(), partitions)
            self.rebalancing = False

    def check_member(self, member_id: str, generation: int) -> None:
        """Raise BrokerError if this consumer may not commit.

        A current member may commit. A consumer outside the group, whose `member_id` is empty, may
        commit only while the group has no members.
        """
        if member_id == "":
            if self.members:
                raise BrokerError("only members may commit while the consumer group has members")
        elif member_id not in self.members or generation != self.generation:
            raise BrokerError(
                "the group has rebalanced since this consumer was assigned its partitions",
                hint="poll again; uncommitted records will be read again",
            )


def assign_ranges(
    members: Collection[Member], partitions: Mapping[str, int]
) -> dict[str, list[TopicPartition]]:
    """Assign partitions like Kafka's range assignor.

    Each member gets consecutive partitions of each topic, in the order of the member ids. If
    several topics have the same members and partition count, a member gets the same partition
    numbers in each of them.
    """
    assignment: dict[str, list[TopicPartition]] = {member.id: [] for member in members}
    topics = sorted({topic for member in members for topic in member.topics})
    for topic in topics:
        ids = sorted(member.id for member in members if topic in member.topics)
        each, more = divmod(partitions.get(topic, 0), len(ids))
        first = 0
        for index, member_id in enumerate(ids):
            count = each + (index < more)
            assignment[member_id] += [
                TopicPartition(topic, partition) for partition in range(first, first + count)
            ]
            first += count
    return assignment


# Topic names that Kafka accepts. They become part of file paths, so the pattern allows no slash.
_TopicName = Annotated[str, msgspec.Meta(pattern=r"^(?!\.{1,2}\Z)[A-Za-z0-9._-]{1,249}\Z")]


class _SavedTopic(msgspec.Struct, frozen=True):
    name: _TopicName
    partitions: int
    config: dict[str, str]
    id: str = ""
    starts: tuple[int, ...] = ()  # start offset of each partition; empty if all are 0


class _SavedOffset(msgspec.Struct, frozen=True):
    group: str
    topic: str
    partition: int
    offset: int
    metadata: str


class _SavedIndex(msgspec.Struct, frozen=True):
    topics: list[_SavedTopic]
    groups: list[_SavedOffset]


def save(folder: Path, topics: Mapping[str, TopicLogs], groups: Mapping[str, Group]) -> None:
    """Write `index.json`, and a file `TOPIC-PARTITION.log` for each partition. Records in open
    transactions are saved as aborted."""
    folder.mkdir(parents=True, exist_ok=True)
    index = _SavedIndex(
        topics=[
            _SavedTopic(
                name,
                len(topic.logs),
                dict(sorted(topic.config.items())),
                topic.id,
                tuple(log.start for log in topic.logs),
            )
            for name, topic in sorted(topics.items())
        ],
        groups=[
            _SavedOffset(name, *partition, *position)
            for name, group in sorted(groups.items())
            for partition, position in sorted(group.committed.items())
        ],
    )
    for name, topic in topics.items():
        for partition, log in enumerate(topic.logs):
            _save_log(folder / f"{name}-{partition}.log", log)
    text = msgspec.json.format(msgspec.json.encode(index))
    (folder / "index.json").write_bytes(text)


def load(folder: Path) -> tuple[dict[str, TopicLogs], dict[str, Group]]:
    """Read the files that `save` wrote. Raises BrokerError for missing or invalid files."""
    try:
        index = msgspec.json.decode((folder / "index.json").read_bytes(), type=_SavedIndex)
        topics = {
            saved.name: TopicLogs(
                tuple(
                    _load_log(folder / f"{saved.name}-{partition}.log", saved.name, partition)
                    for partition in range(saved.partitions)
                ),
                saved.config,
                topic_bytes(saved.config),
                saved.id,
            )
            for saved in index.topics
        }
        for saved in index.topics:
            for log, start in zip(topics[saved.name].logs, saved.starts, strict=False):
                log.start = start
    except (OSError, msgspec.MsgspecError, struct.error) as error:
        raise BrokerError(
            f"{folder} does not contain saved topics: {error}",
            hint="use the folder of a finished run",
        ) from error
    groups: dict[str, Group] = {}
    for row in index.groups:
        committed = groups.setdefault(row.group, Group()).committed
        committed[TopicPartition(row.topic, row.partition)] = Committed(row.offset, row.metadata)
    return topics, groups


def _save_log(path: Path, log: PartitionLog) -> None:
    """Write the log's end offset, then its records in frames. Each frame starts with its length."""
    undecided = {offset for offsets in log.open.values() for offset in offsets}
    with path.open("wb") as file:
        file.write(_END.pack(len(log.entries)))
        for first in range(0, len(log.entries), _FRAME_RECORDS):
            rows: list[_Row] = [
                (entry.offset, entry.timestamp_ms, entry.key, entry.value, entry.headers)
                for entry in log.entries[first : first + _FRAME_RECORDS]
                if entry is not None and entry.offset not in undecided
            ]
            frame = _encode_rows(rows)
            file.write(_LENGTH.pack(len(frame)))
            file.write(frame)


def _load_log(path: Path, topic: str, partition: int) -> PartitionLog:
    log = PartitionLog()
    with path.open("rb") as file:
        (end,) = _END.unpack(file.read(_END.size))
        log.entries = [None] * end
        while prefix := file.read(_LENGTH.size):
            (length,) = _LENGTH.unpack(prefix)
            for offset, timestamp_ms, key, value, headers in _decode_rows(file.read(length)):
                log.entries[offset] = Message(
                    topic, partition, offset, key, value, headers, timestamp_ms
                )
    return log
