"""Moves silent partitions on, so that windows can close while one of them has nothing to say.

In: the positions that are read, and how far the other workers of the group are. Out: watermarks
for partitions that have been silent for `windows.idle` while the stream went on. A watermark is a
record like any other: whoever reads the topic again sees time pass at the same places.
"""

from collections.abc import Iterable, Mapping

import msgspec

from driftline.broker.port import Committed, TopicPartition
from driftline.clock import Clock
from driftline.loop import GroupView
from driftline.stream import Stream

# A stream whose newest record is no older than this when it is read is live: its event time goes on
# with the clock. A recorded one that is played back is not.
_LIVE_WITHIN_S = 60.0


class Reached(msgspec.Struct, frozen=True, omit_defaults=True):
    """Metadata beside a committed offset of the features topic."""

    watermark: int | None = None


class _Partition:
    def __init__(self, committed: Committed, now_s: float) -> None:
        at = msgspec.json.decode(committed.metadata or "{}", type=Reached)
        self.watermark = at.watermark
        self.next_offset = committed.offset
        self.silent_since_s = now_s
        self.lag: int | None = None


class IdlePartitions:
    """The partitions of one inference worker, and what it knows of the others."""

    def __init__(self, stream: Stream, clock: Clock) -> None:
        self._clock = clock
        self._by_time = stream.axis == "time"
        self._idle_s = (stream.windows.idle.us or 0) / 1e6
        # On the row axis the record after the largest is the first that may still come.
        self._ahead = (0 if self._by_time else 1) - stream.lateness
        self._reached: int | None = None  # watermark of the partition that is furthest on
        self._live_at_s: float | None = None  # when that was read, if the stream is live
        self._own: dict[int, _Partition] = {}

    def assigned(self, resume: Mapping[TopicPartition, Committed]) -> None:
        """These partitions are this worker's now."""
        now_s = self._clock.monotonic()
        for (_, partition), committed in resume.items():
            own = self._own[partition] = _Partition(committed, now_s)
            self._reach(own.watermark)

    def revoked(self, partitions: Iterable[TopicPartition]) -> None:
        """These partitions are someone else's now."""
        for partition in partitions:
            self._own.pop(partition.partition, None)

    def read(self, partition: int, next_offset: int) -> None:
        """Records of a partition came, up to this offset."""
        own = self._own[partition]
        own.next_offset = next_offset
        own.silent_since_s = self._clock.monotonic()

    def scored(self, partition: int, position: int) -> None:
        """The largest position among records of a partition that were scored."""
        own = self._own[partition]
        watermark = position + self._ahead
        if own.watermark is None or watermark > own.watermark:
            own.watermark = watermark
        if self._reach(watermark):
            delay_s = self._clock.time() - position / 1e6
            is_live = self._by_time and abs(delay_s) <= _LIVE_WITHIN_S
            self._live_at_s = self._clock.monotonic() if is_live else None

    def look(self, view: GroupView) -> None:
        """Learn how far the others are, if that matters now."""
        for (_, partition), lag in view.lags.items():
            own = self._own.get(partition)
            if own is not None and lag != own.lag:
                if own.lag is not None and lag > own.lag:  # something came that is not read yet
                    own.silent_since_s = self._clock.monotonic()
                own.lag = lag
        if self._silent():
            for committed in view.committed().values():
                at = msgspec.json.decode(committed.metadata or "{}", type=Reached)
                self._reach(at.watermark)

    def watermarks(self) -> list[tuple[int, int]]:
        """(partition, watermark) of those to be moved on now."""
        reached = self._reached
        if reached is None:
            return []
        if self._live_at_s is not None:
            reached += int((self._clock.monotonic() - self._live_at_s) * 1e6)
        moved = [
            (partition, reached)
            for partition, own in self._silent()
            if own.watermark is None or own.watermark < reached
        ]
        for partition, watermark in moved:
            own = self._own[partition]
            own.watermark = watermark
            # A live stream that is silent as a whole moves once in `idle`, not at every step.
            own.silent_since_s = self._clock.monotonic()
        return moved

    def holds(self, topic: str) -> dict[TopicPartition, Committed]:
        """What to commit: the next offset, and beside it the watermark."""
        return {
            TopicPartition(topic, partition): Committed(
                own.next_offset, msgspec.json.encode(Reached(own.watermark)).decode()
            )
            for partition, own in self._own.items()
        }

    def _silent(self) -> list[tuple[int, _Partition]]:
        now_s = self._clock.monotonic()
        return [
            (partition, own)
            for partition, own in sorted(self._own.items())
            if now_s - own.silent_since_s >= self._idle_s
        ]

    def _reach(self, watermark: int | None) -> bool:
        """Whether this is further than any partition was."""
        if watermark is None or (self._reached is not None and watermark <= self._reached):
            return False
        self._reached = watermark
        return True
