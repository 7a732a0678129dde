"""Define the base class of services, which the loop runs (`driftline.runtime.loop`).

A handler never sees a broker and reads only the clock that it was given, so tests can pass it plain
lists.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

import msgspec

from driftline.broker.port import Committed, Message, Outgoing, OutgoingBatch, TopicPartition

Output = Sequence[Outgoing | OutgoingBatch]


class GroupProgress:
    """The progress of a group. `positions`: the next offset to read in each partition of this
    worker; all records before it were handled. `ends`: the log ends, fetched after the positions.
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
        """Return the number of unread offsets (records and markers) of each partition."""
        return {
            partition: max(0, self.ends[partition] - position)
            for partition, position in self.positions.items()
            if partition in self.ends
        }

    def committed(self) -> Mapping[TopicPartition, Committed]:
        """Fetch what the whole group has committed for its input topics. Raises BrokerError."""
        return self._committed()


class LogChange(msgspec.Struct, frozen=True):
    """A change of an input partition's log since the group last read it.

    Also: a broadcast topic that was created again while this worker ran, before it is read.

    Reading resumes at `start`. `unread` is the first offset that was deleted before it was read, or
    None if nothing was lost. `is_new_topic`: the group is not known to have read this topic.
    """

    partition: TopicPartition
    topic_id: str
    start: int
    unread: int | None = None
    is_new_topic: bool = False


class Handler(ABC):
    """The logic of a service. What it publishes must not depend on how records are batched.

    A subclass defines `inputs`, `handle` and `reject`, and overrides the other methods that it
    needs. Each step of the loop calls them in the order in which they are listed here.
    """

    @property
    @abstractmethod
    def inputs(self) -> tuple[str, ...]:
        """Return the topics to consume as the service's group."""

    @property
    def broadcast_topics(self) -> tuple[str, ...]:
        """Return the topics that each worker reads completely. They are read to their end before
        any input."""
        return ()

    def on_broadcast(self, messages: Sequence[Message]) -> Output:
        """Process records of broadcast topics, each partition in order. Return what to publish."""
        return ()

    def paused_partitions(self, assigned: frozenset[TopicPartition]) -> frozenset[TopicPartition]:
        """Return the assigned partitions that must not be read now (back-pressure).

        `on_broadcast`, `on_tick` and `on_group_progress` are still called while partitions are
        paused. Pausing a partition discards the records that the client has prefetched, so do not
        pause for single batches.
        """
        return frozenset()

    def on_assigned(
        self, resume: Mapping[TopicPartition, Committed]
    ) -> Mapping[TopicPartition, int] | None:
        """Rebuild the state of these partitions, which are read from these checkpoints.

        If nothing was committed, the checkpoint is the start of the log, without metadata. Return
        other offsets to read from, if needed. State from an earlier assignment is gone.
        """
        return None

    def on_revoked(self, partitions: Sequence[TopicPartition]) -> None:
        """Drop the state of these partitions. This worker no longer reads them, or reads them again
        after a failure."""
        return

    def on_log_change(self, change: LogChange) -> Output:
        """Process a change of a partition's log, before its next records. Return what to publish.

        A partition for which the group has committed nothing counts as changed.
        """
        return ()

    @abstractmethod
    def handle(self, messages: Sequence[Message]) -> Output:
        """Process a batch, each partition in order. Return what to publish."""

    @abstractmethod
    def reject(self, message: Message, reason: str) -> Output:
        """Return the dead letter of an input record that cannot be processed.

        Called instead of `handle` for a record that made `handle` or `on_tick` raise, or whose
        results are too large to send. The handler's state has been rebuilt without this record.
        Later records of the partition may have been handled already, so the offset to commit must
        not decrease.
        """

    def on_group_progress(self, progress: GroupProgress) -> None:
        """Process the group's progress. Called after an assignment and about once a second."""
        return

    def on_tick(self) -> Output:
        """Return what timers and background work publish. Called after each `handle`, and in each
        step without records."""
        return ()

    def offsets_to_commit(self) -> Mapping[TopicPartition, Committed]:
        """Return the oldest offsets still needed, with metadata on how far results are published.

        For a partition that is left out, the loop commits the next offset to handle.
        """
        return {}

    def on_committed(self) -> None:
        """Store what must never be ahead of a commit, such as a cache or a snapshot.

        Called after the offsets of the last `offsets_to_commit` were committed, and never after a
        commit that failed. Raises TransactionAborted if the state must be rebuilt.
        """
        return

    def close(self) -> None:
        """Free resources, such as threads and processes. Safe to call twice."""
        return
