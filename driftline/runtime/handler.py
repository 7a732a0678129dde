"""Define the interface between a service and the loop that runs it (`driftline.runtime.loop`).

A handler never sees a broker and reads only the clock that it was given, so tests can pass it plain
lists.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec

from driftline.broker.port import Committed, Message, Outgoing, OutgoingBatch, TopicPartition

Output = Sequence[Outgoing | OutgoingBatch]


class GroupView:
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


class Handler(Protocol):
    """The logic of a service. What it publishes must not depend on how records are batched."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Return the topics to consume as the service's group."""

    @property
    def follows(self) -> tuple[str, ...]:
        """Return the broadcast topics. Each worker reads them to their end before any input."""

    def held_back(self, assigned: frozenset[TopicPartition]) -> frozenset[TopicPartition]:
        """Return the assigned partitions to pause now. Called in each step.

        `follow`, `tick` and `look` are still called while partitions are paused. Pausing a
        partition discards what the client has prefetched of it, so do not pause for single batches.
        """

    def follow(self, messages: Sequence[Message]) -> Output:
        """Process records of broadcast topics, each partition in order. Return what to publish."""

    def assigned(
        self, resume: Mapping[TopicPartition, Committed]
    ) -> Mapping[TopicPartition, int] | None:
        """Rebuild the state of these partitions, which are read from these checkpoints.

        If nothing was committed, the checkpoint is the start of the log, without metadata. Return
        other offsets to read from, if needed. State from an earlier assignment is gone.
        """

    def revoked(self, partitions: Sequence[TopicPartition]) -> None:
        """Drop the state of these partitions. This worker no longer reads them."""

    def handle(self, messages: Sequence[Message]) -> Output:
        """Process a batch, each partition in order. Return what to publish."""

    def log_changed(self, change: LogChange) -> Output:
        """Process a change of a partition's log, before its next records. Return what to publish.

        A partition for which the group has committed nothing counts as changed.
        """

    def refuse(self, message: Message, reason: str) -> Output:
        """Return the dead letter of an input record that cannot be processed.

        Called instead of `handle` for a record that made `handle` or `tick` raise, or whose results
        are too large to send. The handler's state has been rebuilt without this record. Later
        records of the partition may have been handled already, so the offset to commit must not
        decrease.
        """

    def tick(self) -> Output:
        """Return what timers and background work publish. Called after each `handle`, and in each
        step without records."""

    def look(self, view: GroupView) -> None:
        """Process the group's progress. Called after an assignment and about once a second."""

    def holds(self) -> Mapping[TopicPartition, Committed]:
        """Return the oldest offsets still needed, with metadata on how far results are published.

        For a partition that is left out, the loop commits the next offset to handle.
        """

    def close(self) -> None:
        """Free resources, such as threads and processes. Safe to call twice."""
