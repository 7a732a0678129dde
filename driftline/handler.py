"""What a service is to the loop: a handler of records, and what it is told of its group.

A handler never sees a broker and reads only the clock it was given, so it is tested with plain
lists. `driftline.loop` runs it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec

from driftline.broker.port import Committed, Message, Outgoing, OutgoingBatch, TopicPartition

Output = Sequence[Outgoing | OutgoingBatch]


class GroupView:
    """Where a group stands, by partition. `positions`: next offset that this worker will read, all
    before it being handled; `ends`: of its partitions, asked of the broker after that."""

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
        """How much this worker has still to read: records, and markers of transactions."""
        return {
            partition: max(0, self.ends[partition] - position)
            for partition, position in self.positions.items()
            if partition in self.ends
        }

    def committed(self) -> Mapping[TopicPartition, Committed]:
        """What the whole group has committed for the inputs, asked of the broker now."""
        return self._committed()


class LogChange(msgspec.Struct, frozen=True):
    """The log of an input partition is not the one that the group had read, or not all of it.

    `start` is where reading goes on. `unread` is the first offset that was deleted before it was
    read; None if none was. `is_new_topic`: the group has read another topic of this name, or none.
    """

    partition: TopicPartition
    topic_id: str
    start: int
    unread: int | None = None
    is_new_topic: bool = False


class Handler(Protocol):
    """A service's logic. It never sees a broker and reads only the clock it was given.

    What it publishes is a function of what it was handed, never of how that was cut into batches.
    """

    @property
    def inputs(self) -> tuple[str, ...]:
        """Topics to consume, as the service's group."""

    @property
    def follows(self) -> tuple[str, ...]:
        """Topics to read whole, by every worker, to their end before the first input."""

    def held_back(self, assigned: frozenset[TopicPartition]) -> frozenset[TopicPartition]:
        """Those of the assigned partitions that are not to be read now; asked at each step.

        `follow`, `tick` and `look` go on meanwhile. To hold a partition back and let it go again
        costs what the client had fetched ahead: not to be done for each batch.
        """

    def follow(self, messages: Sequence[Message]) -> Output:
        """Records of the followed topics, in order."""

    def assigned(
        self, resume: Mapping[TopicPartition, Committed]
    ) -> Mapping[TopicPartition, int] | None:
        """These partitions are now read from these committed positions (offset 0 and no metadata
        where nothing was committed). Earlier state of them is gone.

        May return, for some of them, the offset to read from instead.
        """

    def revoked(self, partitions: Sequence[TopicPartition]) -> None:
        """These partitions are someone else's now: drop their state."""

    def handle(self, messages: Sequence[Message]) -> Output:
        """The records of one poll, each partition in order. Returns what to publish."""

    def log_changed(self, change: LogChange) -> Output:
        """Called after an assignment and before the next records of the partition: its log changed.

        A partition that is assigned for the first time counts as changed. Returns what to publish.
        """

    def refuse(self, message: Message, reason: str) -> Output:
        """Return the dead letter of an input record that `handle` cannot process.

        Called instead of `handle` for a record that made `handle` or `tick` raise; the handler's
        state was rebuilt meanwhile, and it never sees the record otherwise. Later records of the
        partition may have been handled before: the offset to commit must not move back.
        """

    def tick(self) -> Output:
        """Called at each step, also without records: for whatever hangs on time or other work."""

    def look(self, view: GroupView) -> None:
        """Called after an assignment and about once a second, with where the group stands."""

    def holds(self) -> Mapping[TopicPartition, Committed]:
        """Per partition the oldest offset still needed, and how far results were published.

        A partition that is left out commits the next offset to read.
        """

    def close(self) -> None:
        """Free what the handler holds (threads, processes). Safe to call twice."""
