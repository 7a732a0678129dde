"""Define the base class of service handlers, which `driftline.runtime.loop` runs on Kafka.

Input: batches of messages. Output: records to publish and offsets to commit. A handler has no
access to a broker, and its only clock is the one passed to it, so tests can call it with plain
lists.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

import msgspec

from driftline.broker.port import Committed, Message, Outgoing, OutgoingBatch, TopicPartition

Output = Sequence[Outgoing | OutgoingBatch]


class GroupProgress:
    """A consumer group's progress.

    `positions` contains the next offset to read in each of this worker's partitions. All records
    before that offset have been handled. `ends` contains the log ends, fetched after the positions.
    """

    def __init__(
        self,
        positions: Mapping[TopicPartition, int],
        ends: Mapping[TopicPartition, int],
        committed: Callable[[], Mapping[TopicPartition, Committed]],
    ) -> None:
        self.positions = positions
        self.ends = ends
        self._committed = committed

    @property
    def lags(self) -> Mapping[TopicPartition, int]:
        """Return each partition's number of unread offsets, including transaction markers."""
        return {
            partition: max(0, self.ends[partition] - position)
            for partition, position in self.positions.items()
            if partition in self.ends
        }

    def committed(self) -> Mapping[TopicPartition, Committed]:
        """Fetch the whole group's checkpoints for its input topics. Raises BrokerError."""
        return self._committed()


class LogChange(msgspec.Struct, frozen=True):
    """A change in an input partition's log since the group last read it.

    It can also report that a broadcast topic was recreated while this worker was running. Reading
    resumes at `start`. `unread` is the first offset that was deleted before it was read, or None if
    nothing was lost. `is_new_topic` is True unless the group is known to have read this topic.
    """

    partition: TopicPartition
    topic_id: str
    start: int
    unread: int | None = None
    is_new_topic: bool = False


class Handler(ABC):
    """A service's logic. Its results must not depend on how records are batched.

    A subclass defines `inputs`, `handle` and `reject`, and overrides any other methods it needs.
    Each step of the loop calls the methods in the order in which they are listed here.
    """

    @property
    @abstractmethod
    def inputs(self) -> tuple[str, ...]:
        """Return the topics that the service's group consumes."""

    @property
    def broadcast_topics(self) -> tuple[str, ...]:
        """Return the topics that every worker reads in full. They are read to their end before the
        first input record."""
        return ()

    def on_broadcast(self, messages: Sequence[Message]) -> Output:
        """Process broadcast records, which are in order within each partition. Return the records
        to publish."""
        return ()

    def paused_partitions(self, assigned: frozenset[TopicPartition]) -> frozenset[TopicPartition]:
        """Return the assigned partitions that must not be read now (back-pressure).

        `on_broadcast`, `on_tick` and `on_group_progress` are still called while partitions are
        paused. Pausing a partition discards its prefetched records, so do not pause it for just one
        batch.
        """
        return frozenset()

    def on_assigned(
        self, resume: Mapping[TopicPartition, Committed]
    ) -> Mapping[TopicPartition, int] | None:
        """Rebuild the state of newly assigned partitions from the checkpoints in `resume`.

        If a partition has no committed offset, its checkpoint is the start of its log, without
        metadata. To start reading at other offsets, return them. State from an earlier assignment
        has already been dropped.
        """
        return None

    def on_revoked(self, partitions: Sequence[TopicPartition]) -> None:
        """Drop these partitions' state. This worker either no longer reads the partitions or will
        read them again after a failure."""
        return

    def on_log_change(self, change: LogChange) -> Output:
        """Process a change in a partition's log, before the partition's next records.

        Return the records to publish. Also called for a partition without a committed offset.
        """
        return ()

    @abstractmethod
    def handle(self, messages: Sequence[Message]) -> Output:
        """Process a batch, which is in order within each partition. Return the records to
        publish."""

    @abstractmethod
    def reject(self, message: Message, reason: str) -> Output:
        """Return the dead letter for an input record that cannot be processed.

        Called instead of `handle` if the record made `handle` or `on_tick` raise an error, or if
        its results are too large to send. The handler's state has been rebuilt without this record.
        Later records in the partition may already have been handled, so the offset to commit must
        not decrease.
        """

    def on_group_progress(self, progress: GroupProgress) -> None:
        """Process the group's progress. Called after an assignment and about once a second."""
        return

    def on_tick(self) -> Output:
        """Run timers and collect the results of background work. Return the records to publish.

        Called after each `handle`, and in each step without records.
        """
        return ()

    def offsets_to_commit(self) -> Mapping[TopicPartition, Committed]:
        """Return each partition's oldest offset that is still needed, with metadata on how far its
        results have been published.

        For an omitted partition, the loop commits the next offset to handle.
        """
        return {}

    def on_committed(self) -> None:
        """Save state that must never be ahead of a commit, such as a cache or a snapshot.

        Called after each successful commit, and never after a failed commit. Raises
        TransactionAborted if the handler's state must be rebuilt.
        """
        return

    def close(self) -> None:
        """Free resources, such as threads and processes. Safe to call twice."""
        return
