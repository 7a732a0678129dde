"""Read records from the in-memory broker, either as a group member or from given offsets.

Input: topics to read as a group member, or partitions with start offsets. Output: committed
messages.
"""

from collections.abc import Iterable, Mapping, Sequence

from driftline.broker.memory_log import Group, Member
from driftline.broker.memory_state import MemoryState
from driftline.broker.port import Committed, Message, Rebalanced, TopicPartition
from driftline.errors import BrokerError, OffsetOutOfRange


class MemoryConsumer:
    """Implement `port.Consumer` on a MemoryBroker's state."""

    def __init__(self, state: MemoryState, group: str | None, member_id: str) -> None:
        self._state = state
        self._group_name = group
        self._member = Member(member_id, ())
        self._positions: dict[TopicPartition, int] = {}  # next offsets; replaced by each assignment
        self._order: list[TopicPartition] = []  # the assigned partitions, rotated by each poll
        self._paused: set[TopicPartition] = set()  # cleared by each assignment
        # Rebalance callbacks. Set by `subscribe`, reset to None by `close` and `abandon`.
        self._assigned: Rebalanced | None = None
        self._revoked: Rebalanced | None = None

    def subscribe(
        self, topics: Sequence[str], *, assigned: Rebalanced, revoked: Rebalanced
    ) -> None:
        with self._state.changed:
            for topic in topics:
                self._state.topic(topic)
            self._member.topics = tuple(topics)
            self._assigned, self._revoked = assigned, revoked
            self._group().join(self._member)
            self._state.changed.notify_all()

    def assign(self, offsets: Mapping[TopicPartition, int]) -> None:
        with self._state.changed:
            for partition in offsets:
                self._state.log(partition)
            self._take_over(offsets)

    def poll(self, *, max_records: int, timeout_s: float) -> list[Message]:
        state = self._state
        deadline = state.clock.monotonic() + timeout_s
        with state.changed:
            while True:
                if self._assigned is not None:
                    self._rebalance(self._assigned)
                batch = self._read(max_records)
                left_s = deadline - state.clock.monotonic()
                if batch or not state.waits or left_s <= 0:
                    return batch
                state.waiting += 1
                try:
                    state.changed.wait(left_s)
                finally:
                    state.waiting -= 1

    def assignment(self) -> frozenset[TopicPartition]:
        return frozenset(self._positions)

    def position(self, partition: TopicPartition) -> int:
        return self._positions[self._own(partition)]

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self._positions[self._own(partition)] = offset

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        self._paused.update(self._own(partition) for partition in partitions)

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        self._paused.difference_update(partitions)

    def committed(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, Committed]:
        with self._state.changed:
            known = self._group().committed
            return {partition: known[partition] for partition in partitions if partition in known}

    def commit(self, offsets: Mapping[TopicPartition, Committed]) -> None:
        with self._state.changed:
            self._group().check_member(*self._identity())
            for partition in offsets:
                self._state.log(partition)
            self._group().committed.update(offsets)

    def group_metadata(self) -> object:
        self._group()
        return (self._group_name, *self._identity())

    def ends(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        state = self._state
        with state.changed:
            return {p: state.stable_end(state.log(p)) for p in partitions}

    def close(self) -> None:
        with self._state.changed:
            if self._revoked is not None:
                self._give_up()
                self._group().leave(self._member)
                self._assigned = self._revoked = None
                self._state.changed.notify_all()
            self._take_over({})

    def abandon(self) -> None:
        with self._state.changed:
            if self._revoked is not None:
                self._group().leave(self._member)
                self._assigned = self._revoked = None
                self._state.changed.notify_all()
            self._take_over({})

    def _group(self) -> Group:
        if self._group_name is None:
            raise BrokerError("this consumer has no group", hint="create it with a group name")
        return self._state.group(self._group_name)

    def _identity(self) -> tuple[str, int]:
        return (self._member.id if self._revoked else "", self._member.generation)

    def _own(self, partition: TopicPartition) -> TopicPartition:
        if partition not in self._positions:
            raise BrokerError(f"partition not assigned: {partition.topic}-{partition.partition}")
        return partition

    def _rebalance(self, assigned: Rebalanced) -> None:
        group = self._group()
        if group.rebalancing:
            self._give_up()
            group.settle(self._state.counts())
            self._state.changed.notify_all()
        if group.rebalancing or self._member.generation == group.generation:
            return
        gained = group.assignment[self._member.id]
        self._member.generation = group.generation
        known = group.committed
        self._take_over(
            {p: known[p].offset if p in known else self._state.log(p).start for p in gained}
        )
        assigned(gained)

    def _give_up(self) -> None:
        try:
            if self._member.generation == self._group().generation:
                assert self._revoked is not None
                self._revoked(sorted(self._positions))
        finally:
            self._member.generation = -1
            self._take_over({})

    def _take_over(self, offsets: Mapping[TopicPartition, int]) -> None:
        self._positions = dict(offsets)
        self._order = sorted(offsets)
        self._paused.clear()

    def _read(self, max_records: int) -> list[Message]:
        batch: list[Message] = []
        positions = self._positions
        for partition in self._order:
            if partition in self._paused:
                continue
            log = self._state.log(partition)
            end = self._state.stable_end(log) if log.open else len(log.entries)
            position = positions[partition]
            if not log.start <= position <= len(log.entries):
                if self._revoked is None:
                    position = log.start  # without a group, resume at the earliest record
                elif batch:
                    continue  # return the records read so far; the next call raises the error
                else:
                    raise OffsetOutOfRange(*partition)
            while position < end and len(batch) < max_records:
                chunk = log.entries[position : min(end, position + max_records - len(batch))]
                position += len(chunk)
                batch += [entry for entry in chunk if entry is not None]
            positions[partition] = position
        if self._order:
            self._order.append(self._order.pop(0))
        return batch
