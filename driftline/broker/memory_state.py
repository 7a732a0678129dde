"""The state that the clients of one in-memory broker share: topics, groups, owners of transactions.

Input: a clock. Output: topics, logs and groups by name, and the last stable offset of a partition.
Clients hold the lock `changed` while they use it.
"""

import threading
from typing import Protocol

from driftline.broker.limits import unknown_topic
from driftline.broker.memory_log import Group, PartitionLog, TopicLogs
from driftline.broker.port import TopicPartition
from driftline.clock import Clock, SystemClock
from driftline.errors import BrokerError


class TransactionOwner(Protocol):
    """A producer with a transactional id."""

    def expire(self) -> None:
        """Fence the producer if its open transaction has timed out."""

    def fence(self) -> None:
        """Abort the open transaction and reject all later ones."""


class MemoryState:
    """Topics, groups and transactional ids of a MemoryBroker, with its clock and lock."""

    def __init__(self, clock: Clock | None) -> None:
        self.clock = clock or SystemClock()
        self.waits = isinstance(self.clock, SystemClock)  # whether a poll waits for records
        # Guards the state of the broker. Notified when a waiting poll may find something new.
        self.changed = threading.Condition(threading.RLock())
        self.topics: dict[str, TopicLogs] = {}
        self.groups: dict[str, Group] = {}  # made at the first use
        self.owners: dict[str, TransactionOwner] = {}  # newest producer by transactional id
        self.clients = 0  # consumers made so far
        self.created = 0  # the number in the newest topic id
        self.waiting = 0  # threads that wait in a poll

    def topic(self, name: str) -> TopicLogs:
        topic = self.topics.get(name)
        if topic is None:
            raise unknown_topic(name)
        return topic

    def log(self, partition: TopicPartition) -> PartitionLog:
        logs = self.topic(partition.topic).logs
        if not 0 <= partition.partition < len(logs):
            raise BrokerError(f"topic {partition.topic!r} has no partition {partition.partition}")
        return logs[partition.partition]

    def group(self, name: str) -> Group:
        return self.groups.setdefault(name, Group())

    def counts(self) -> dict[str, int]:
        """Return the number of partitions by topic."""
        return {name: len(topic.logs) for name, topic in self.topics.items()}

    def stable_end(self, log: PartitionLog) -> int:
        """Abort transactions that have timed out, then return the last stable offset."""
        for transactional_id in list(log.open):
            self.owners[transactional_id].expire()
        return log.stable_end()
