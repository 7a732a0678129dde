"""Moves silent partitions on, so that windows can close while one of them has nothing to say.

In: the positions that are read, and how far the other workers of the group are. Out: watermarks
for partitions that have been silent for `windows.idle`: they follow to where the furthest partition
was that long ago, so that records on their way are not late. A watermark is a record like any
other: whoever reads the topic again sees time pass at the same places.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from driftline.broker.port import Committed, TopicPartition
from driftline.clock import Clock
from driftline.commit_metadata import Offset, Position, metadata_of
from driftline.handler import GroupView
from driftline.partition_clock import (
    MAX_AHEAD_ROWS,
    MAX_AHEAD_US,
    ClockState,
    PartitionClock,
)
from driftline.stream import Stream

# A stream whose newest record is no older than this when it is read is live: its event time goes on
# with the clock. A recorded one that is played back is not.
_LIVE_WITHIN_S = 60.0


class Reached(msgspec.Struct, frozen=True, omit_defaults=True):
    """Metadata beside a committed offset of the features topic. `clock` and `other_clock`: of the
    records before that offset, on the axis of windows and on the other one."""

    watermark: Position | None = None
    clock: ClockState = ClockState()
    other_clock: ClockState = ClockState()
    models: Offset = 0  # partition 0: unreadable records of `models` before it are dead letters
    sequence: Offset = 0  # of the champion's newest pointer that was seen, and its model
    champion: str | None = None


class _Partition:
    def __init__(self, stream: Stream, committed: Committed, now_s: float) -> None:
        at = metadata_of(committed, Reached) or Reached()
        self.watermark = at.watermark
        self.passed_on = at.watermark  # the part of it that predictions and silence account for
        clock = at.clock
        if clock.reached is None and at.watermark is not None:  # committed without a clock
            clock = ClockState(at.watermark)
        self.clock = PartitionClock(stream.max_ahead, clock)
        other = MAX_AHEAD_ROWS if stream.axis == "time" else MAX_AHEAD_US
        self.other_clock = PartitionClock(other, at.other_clock)
        self.next_offset = committed.offset
        self.since_s = now_s  # silent since
        self.refusing_since_s: float | None = (
            None  # the first dead letter after the last prediction
        )
        self.lag: int | None = None  # unknown
        self.end: int | None = None  # when the broker was last asked
        self.is_caught_up = False  # everything up to the end before that one was handled


class IdlePartitions:
    """The partitions of one inference worker, and what it knows of the others."""

    def __init__(self, stream: Stream, clock: Clock) -> None:
        self._clock = clock
        self._stream = stream
        self._by_time = stream.axis == "time"
        self._idle_s = (stream.windows.idle.us or 0) / 1e6
        # On the row axis the record after the largest is the first that may still come.
        self._ahead = (0 if self._by_time else 1) - stream.lateness
        self._front: deque[tuple[float, int]] = deque()  # when, largest watermark of all partitions
        self._is_live = False
        self._ticked_s = self._looked_s = clock.monotonic()
        self._own: dict[int, _Partition] = {}

    def assigned(self, resume: Mapping[TopicPartition, Committed]) -> None:
        """These partitions are this worker's now."""
        now_s = self._clock.monotonic()
        for (_, partition), committed in resume.items():
            own = self._own[partition] = _Partition(self._stream, committed, now_s)
            self._reach(own.watermark)

    def revoked(self, partitions: Iterable[TopicPartition]) -> None:
        """These partitions are someone else's now."""
        for partition in partitions:
            self._own.pop(partition.partition, None)

    def read(self, partition: int, next_offset: int) -> None:
        """Records of a partition came, up to this offset."""
        own = self._own[partition]
        own.next_offset = max(next_offset, own.next_offset)
        own.since_s = self._clock.monotonic()
        if own.refusing_since_s is None:
            own.refusing_since_s = own.since_s  # until `scored` is called

    def wait(self) -> None:
        """Nothing is read now, so no partition is silent."""
        now_s = self._clock.monotonic()
        for own in self._own.values():
            own.since_s = now_s
            if own.refusing_since_s is not None:
                own.refusing_since_s = now_s

    def ahead(
        self, partition: int, positions: Sequence[int | None], others: Sequence[int | None]
    ) -> list[int]:
        """The places of the next records of a partition that lie implausibly far ahead of those
        before them, on the axis of windows or on the other one (None: not there)."""
        own = self._own[partition]
        found = _take(own.clock, positions)
        further = _take(own.other_clock, others)
        return sorted({*found, *further}) if further else found

    def scored(self, partition: int, position: int | None) -> None:
        """The largest position among records of a partition that were scored, None if none of
        theirs is believed."""
        own = self._own[partition]
        own.refusing_since_s = None
        if position is not None:
            self._advance(own, position)
        own.passed_on = own.watermark

    def refused(self, partition: int, position: int | None) -> int | None:
        """Take in the position of a dead letter, if it has one; return the partition's watermark.

        A partition that brings only dead letters counts as silent after `windows.idle`: the join
        and windows of outcomes wait for predictions, which do not come.
        """
        own = self._own[partition]
        if position is not None:
            self._advance(own, position)
        return own.watermark

    def look(self, view: GroupView) -> None:
        """Learn what there is still to read, and how far the others are, if that matters now."""
        now_s = self._clock.monotonic()
        self._looked_s = self._ticked_s  # the broker was asked after that
        for (topic, partition), lag in view.lags.items():
            if (own := self._own.get(partition)) is not None:
                own.lag = lag
                at = TopicPartition(topic, partition)
                own.is_caught_up = own.end is not None and view.positions[at] >= own.end
                own.end = view.ends[at]
        if any(now_s - own.since_s >= self._idle_s / 2 for own in self._own.values()):
            for committed in view.committed().values():
                self._reach((metadata_of(committed, Reached) or Reached()).watermark)

    def watermarks(self) -> list[tuple[int, int]]:
        """(partition, watermark) of those to be moved on now.

        Seen from when the broker was last asked what there is: a worker that was held up since then
        may have much to read of a partition that it takes for silent.
        """
        self._ticked_s = self._clock.monotonic()
        reached = self._front_at(self._looked_s - self._idle_s)
        if reached is None:
            return []
        moved = []
        for partition, own in sorted(self._own.items()):
            if self._is_silent(own) and (own.passed_on is None or own.passed_on < reached):
                own.passed_on = reached
                own.watermark = reached if own.watermark is None else max(own.watermark, reached)
                moved.append((partition, reached))
        return moved

    def _is_silent(self, own: _Partition) -> bool:
        """Whether nothing came for `windows.idle`, or nothing but dead letters."""
        if own.lag == 0 and self._looked_s - own.since_s >= self._idle_s:
            return True
        refusing_s = own.refusing_since_s
        return (
            refusing_s is not None
            and own.is_caught_up
            and self._looked_s - refusing_s >= self._idle_s
        )

    def holds(
        self, topic: str, *, models: int = 0, sequence: int = 0, champion: str | None = None
    ) -> dict[TopicPartition, Committed]:
        """What to commit: the next offset, and beside it the watermark and what `models` said."""
        return {
            TopicPartition(topic, partition): Committed(
                own.next_offset,
                msgspec.json.encode(
                    Reached(
                        own.watermark,
                        own.clock.state,
                        own.other_clock.state,
                        models=models if partition == 0 else 0,
                        sequence=sequence,
                        champion=champion,
                    )
                ).decode(),
            )
            for partition, own in self._own.items()
        }

    def _advance(self, own: _Partition, position: int) -> None:
        watermark = position + self._ahead
        if own.watermark is None or watermark > own.watermark:
            own.watermark = watermark
        if self._reach(watermark):
            delay_s = self._clock.time() - position / 1e6
            self._is_live = self._by_time and abs(delay_s) <= _LIVE_WITHIN_S

    def _reach(self, watermark: int | None) -> bool:
        """Whether this is further than any partition was."""
        if watermark is None or (self._front and watermark <= self._front[-1][1]):
            return False
        now_s = self._clock.monotonic()
        grain_s = max(self._idle_s / 20, 0.001)  # so the history is short
        if self._front and self._front[-1][0] // grain_s == now_s // grain_s:
            self._front.pop()
        self._front.append((now_s, watermark))
        return True

    def _front_at(self, at_s: float) -> int | None:
        """How far the furthest partition was at that time."""
        while len(self._front) > 1 and self._front[1][0] <= at_s:
            self._front.popleft()
        if not self._front or self._front[0][0] > at_s:
            return None
        since_s, watermark = self._front[0]
        if self._is_live and len(self._front) == 1:
            # In whole `idle`s: a stream that is silent need not be told of every microsecond.
            step_s = max(self._idle_s, 0.001)
            watermark += int((at_s - since_s) // step_s * step_s * 1e6)
        return watermark


def _take(clock: PartitionClock, positions: Sequence[int | None]) -> list[int]:
    """`PartitionClock.take` of those that are there."""
    if None not in positions:
        return clock.take(positions)  # type: ignore[arg-type]  # there is no None
    places = [place for place, position in enumerate(positions) if position is not None]
    known = [position for position in positions if position is not None]
    return [places[at] for at in clock.take(known)]
