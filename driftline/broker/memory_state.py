"""Store the state that an in-memory broker's clients share: topics, groups, transaction owners.

Input: a clock. Output: topics, logs and groups by name, and each partition's last stable offset.
Clients must hold the lock `changed` while they use the state.
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
        """Abort any open transaction and reject all later transactions."""


class MemoryState:
    """A MemoryBroker's topics, groups and transactional ids, with its clock and lock."""

    def __init__(self, clock: Clock | None) -> None:
        self.clock = clock or SystemClock()
        self.waits = isinstance(self.clock, SystemClock)  # whether polls wait for records
        # Guards the broker's state. Notified after each change that waiting polls must check.
        self.changed = threading.Condition(threading.RLock())
        self.topics: dict[str, TopicLogs] = {}
        self.groups: dict[str, Group] = {}  # created on first use
        self.owners: dict[str, TransactionOwner] = {}  # newest producer by transactional id
        self.clients = 0  # number of consumers created so far
        self.created = 0  # the number in the newest topic id
        self.waiting = 0  # number of threads waiting in a poll

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
        """Return each topic's partition count."""
        return {name: len(topic.logs) for name, topic in self.topics.items()}

    def stable_end(self, log: PartitionLog) -> int:
        """Abort transactions that have timed out, then return the last stable offset."""
        for transactional_id in list(log.open):
            self.owners[transactional_id].expire()
        return log.stable_end()
