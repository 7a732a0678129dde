"""Simulate a Kafka broker in memory, for `driftline run` and fast tests.

Input: a clock for timestamps. Output: clients that behave like Apache Kafka clients, with fencing,
size limits, and transactions whose markers occupy offsets. The broker has no network, threads,
compaction or retention, and never evicts a group member.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from driftline.broker import memory_log
from driftline.broker.limits import MAX_MESSAGE_BYTES, topic_bytes
from driftline.broker.memory_consumer import MemoryConsumer
from driftline.broker.memory_log import TOPIC_DEFAULTS, PartitionLog, TopicLogs
from driftline.broker.memory_producer import MemoryProducer
from driftline.broker.memory_state import MemoryState
from driftline.broker.port import Committed, NewTopic, OffsetRange, TopicInfo, TopicPartition
from driftline.clock import Clock
from driftline.errors import BrokerError

_LEGAL_NAME = re.compile(r"[A-Za-z0-9._-]{1,249}")


class MemoryBroker:
    """A broker inside this process. Its clients may run in several threads.

    A poll waits for records only if the broker uses the system clock. With any other clock, a poll
    returns immediately, because such a clock does not advance during a call.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._state = MemoryState(clock)

    @property
    def max_message_bytes(self) -> int:
        return MAX_MESSAGE_BYTES

    def consumer(
        self,
        group: str | None = None,
        *,
        client_id: str = "driftline",
        instance_id: str | None = None,
    ) -> MemoryConsumer:
        with self._state.changed:
            self._state.clients += 1
            return MemoryConsumer(self._state, group, f"{client_id}-{self._state.clients:09d}")

    def producer(
        self,
        transactional_id: str | None = None,
        *,
        transaction_timeout_s: float = 10.0,
        client_id: str = "driftline",
        gapless: bool = False,
    ) -> MemoryProducer:
        return MemoryProducer(self._state, transactional_id, transaction_timeout_s)

    def admin(self) -> "MemoryAdmin":
        return MemoryAdmin(self._state)

    def save(self, folder: Path) -> None:
        """Write all topics and committed offsets to `folder`.

        The same content always produces the same bytes.
        """
        with self._state.changed:
            memory_log.save(folder, self._state.topics, self._state.groups)

    @classmethod
    def load(cls, folder: Path, clock: Clock | None = None) -> "MemoryBroker":
        """Create a broker from files that `save` wrote.

        Raises BrokerError for missing or invalid files.
        """
        broker = cls(clock)
        state = broker._state
        state.topics, state.groups = memory_log.load(folder)
        state.created = max(
            # Topics saved by earlier versions have no id.
            (int(topic.id.rpartition("-")[2] or 0) for topic in state.topics.values()),
            default=0,
        )
        return broker

    def truncate(self, partition: TopicPartition, start: int) -> None:
        """Delete a partition's records before offset `start`, as retention does."""
        with self._state.changed:
            log = self._state.log(partition)
            log.start = min(max(start, log.start), len(log.entries))
            log.entries[: log.start] = [None] * log.start
            self._state.changed.notify_all()


class MemoryAdmin:
    """Administer a MemoryBroker's topics and groups."""

    def __init__(self, state: MemoryState) -> None:
        self._state = state

    def describe(self, topics: Iterable[str] | None = None) -> dict[str, TopicInfo]:
        with self._state.changed:
            known = self._state.topics
            return {
                name: TopicInfo(
                    name, len(known[name].logs), {**TOPIC_DEFAULTS, **known[name].config}
                )
                for name in (sorted(known) if topics is None else topics)
                if name in known
            }

    def topic_ids(self, topics: Iterable[str]) -> dict[str, str]:
        with self._state.changed:
            known = self._state.topics
            return {name: known[name].id for name in topics if name in known}

    def create(self, topics: Iterable[NewTopic]) -> None:
        with self._state.changed:
            for topic in topics:
                if not _LEGAL_NAME.fullmatch(topic.name):
                    raise BrokerError(
                        f"{topic.name!r} is not a valid topic name",
                        hint="use up to 249 letters, digits, dots, dashes and underscores",
                    )
                if topic.partitions < 1:
                    raise BrokerError(f"topic {topic.name!r} needs at least one partition")
                if topic.name in self._state.topics:
                    raise BrokerError(f"topic {topic.name!r} already exists")
                logs = tuple(PartitionLog() for _ in range(topic.partitions))
                config = dict(topic.config)
                self._state.created += 1
                identity = f"memory-{self._state.created}"
                self._state.topics[topic.name] = TopicLogs(
                    logs, config, topic_bytes(config), identity
                )

    def delete(self, topics: Iterable[str]) -> None:
        with self._state.changed:
            for topic in topics:
                self._state.topics.pop(topic, None)
                # As in Kafka, also delete the topic's committed offsets.
                for group in self._state.groups.values():
                    for partition in [p for p in group.committed if p.topic == topic]:
                        del group.committed[partition]

    def offsets(self, topic: str) -> dict[TopicPartition, OffsetRange]:
        with self._state.changed:
            return {
                TopicPartition(topic, partition): OffsetRange(
                    log.start, self._state.stable_end(log)
                )
                for partition, log in enumerate(self._state.topic(topic).logs)
            }

    def group_offsets(self, group: str) -> dict[TopicPartition, Committed]:
        with self._state.changed:
            found = self._state.groups.get(group)
            return dict(found.committed) if found else {}

    def group_members(self, group: str) -> int:
        with self._state.changed:
            found = self._state.groups.get(group)
            return len(found.members) if found else 0

    def close(self) -> None:
        """Do nothing, because this client holds no resources."""
