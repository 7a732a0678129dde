"""Compute watermarks for idle partitions of the features topic, so that windows can close.

Input: record positions, and the watermarks committed by the group's other workers. Output:
watermarks for partitions that have had no records for `windows.idle`. An idle partition advances
only to the largest watermark that any partition had `windows.idle` ago, so that records in transit
do not arrive late. The handler publishes each watermark as a record, so that all readers advance
the partition at the same offset.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from driftline.broker.port import Committed, TopicPartition
from driftline.clock import Clock
from driftline.config.stream import Stream
from driftline.config.stream_sections import Axis
from driftline.runtime.handler import GroupProgress
from driftline.runtime.partition_clock import (
    MAX_AHEAD_ROWS,
    MAX_AHEAD_US,
    ClockState,
    PartitionClock,
)
from driftline.wire.commit_metadata import Offset, Position, metadata_of

# A stream is live if its newest record is at most this old when inference reads the record. Event
# time advances with the wall clock in a live stream, but not in replayed data.
_LIVE_WITHIN_S = 60.0


class InferenceCheckpoint(msgspec.Struct, frozen=True, omit_defaults=True):
    """Metadata stored with a committed offset of the features topic.

    At that offset, `clock` is the state of the partition's clock on the windows' axis, and
    `other_clock` is the state of its clock on the other axis.
    """

    watermark: Position | None = None
    clock: ClockState = ClockState()
    other_clock: ClockState = ClockState()
    # Partition 0 only: all unreadable `models` records before this offset have become dead letters.
    models: Offset = 0
    sequence: Offset = 0  # sequence number of the newest champion pointer seen so far
    champion: str | None = None  # digest of the model in the newest champion pointer
    axis: Axis | None = None  # axis of the positions; None in commits made by earlier versions


class _Partition:
    def __init__(self, stream: Stream, committed: Committed, now_s: float) -> None:
        at = metadata_of(committed, InferenceCheckpoint) or InferenceCheckpoint()
        self.watermark = at.watermark  # advanced by records, dead letters and idle time
        # The watermark after the last prediction or idle advance. Dead letters do not raise it.
        self.published_watermark = at.watermark
        clock = at.clock
        if clock.max_position is None and at.watermark is not None:  # no clock state was committed
            clock = ClockState(at.watermark)
        self.clock = PartitionClock(stream.max_ahead, clock)
        other = MAX_AHEAD_ROWS if stream.axis == "time" else MAX_AHEAD_US
        self.other_clock = PartitionClock(other, at.other_clock)
        self.next_offset = committed.offset
        self.since_s = now_s  # time at which records were last read
        # Time of the first read after the last prediction. Set by `read`, reset by `scored`.
        self.rejecting_since_s: float | None = None
        # `on_group_progress` sets the next three attributes.
        self.lag: int | None = None
        self.end: int | None = None
        self.is_caught_up = False  # whether all records before the previous `end` were handled


class IdlePartitions:
    """Tracks the partitions of one inference worker, and the largest watermark of all workers."""

    def __init__(self, stream: Stream, clock: Clock) -> None:
        self._clock = clock
        self._stream = stream
        self._by_time = stream.axis == "time"
        self._idle_s = (stream.windows.idle.us or 0) / 1e6
        self._watermark_offset = stream.watermark_offset
        # The (time, watermark) of each increase in the largest watermark. `_raise_front` adds
        # increases, and `_front_at` removes increases that are too old to matter.
        self._front: deque[tuple[float, int]] = deque()
        self._is_live = False  # updated whenever this worker's records raise the largest watermark
        # `_ticked_s` is the time of the last call to `watermarks`. `_looked_s` is the time of the
        # last call to `watermarks` before the latest `on_group_progress`.
        self._ticked_s = self._looked_s = clock.monotonic()
        self._own: dict[int, _Partition] = {}  # added by `on_assigned`, removed by `on_revoked`
        # The largest plausible position of a partition's first record, or None if unknown. The
        # inference handler sets it whenever a new model starts to serve.
        self.latest_start: int | None = None

    def on_assigned(self, resume: Mapping[TopicPartition, Committed]) -> None:
        """Start tracking these partitions."""
        now_s = self._clock.monotonic()
        for (_, partition), committed in resume.items():
            own = self._own[partition] = _Partition(self._stream, committed, now_s)
            self._raise_front(own.watermark)

    def on_revoked(self, partitions: Iterable[TopicPartition]) -> None:
        """Stop tracking these partitions."""
        for partition in partitions:
            self._own.pop(partition.partition, None)

    def read(self, partition: int, next_offset: int) -> None:
        """Note that a partition's records before `next_offset` were read."""
        own = self._own[partition]
        own.next_offset = max(next_offset, own.next_offset)
        own.since_s = self._clock.monotonic()
        if own.rejecting_since_s is None:
            own.rejecting_since_s = own.since_s

    def wait(self) -> None:
        """Reset the idle time of each partition. Called while there is no model to score with."""
        now_s = self._clock.monotonic()
        for own in self._own.values():
            own.since_s = now_s
            if own.rejecting_since_s is not None:
                own.rejecting_since_s = now_s

    def ahead(
        self, partition: int, positions: Sequence[int | None], others: Sequence[int | None]
    ) -> list[int]:
        """Update a partition's clocks with its next records. Return the indices of records that are
        implausibly far ahead.

        A record can be ahead of earlier records on the windows' axis (`positions`) or on the
        other axis (`others`).
        """
        own = self._own[partition]
        own.clock.latest_start = self.latest_start
        found = _take(own.clock, positions)
        further = _take(own.other_clock, others)
        return sorted({*found, *further}) if further else found

    def scored(self, partition: int, position: int | None) -> None:
        """Note that a partition's records were scored. `position` is their largest accepted
        position, or None if no position was accepted."""
        own = self._own[partition]
        own.rejecting_since_s = None
        if position is not None:
            self._advance(own, position)
        own.published_watermark = own.watermark

    def rejected(self, partition: int, position: int | None) -> int | None:
        """Note a dead letter's position, if any, and return the partition's watermark.

        A partition that has produced only dead letters for `windows.idle` is treated as idle.
        Otherwise, the join and the outcome windows would wait for predictions that never arrive.
        """
        own = self._own[partition]
        if position is not None:
            self._advance(own, position)
        return own.watermark

    def on_group_progress(self, progress: GroupProgress) -> None:
        """Note how many records of each partition are still unread.

        If a partition has had no records for half of `windows.idle`, also fetch the watermarks
        committed by the group's workers.
        """
        now_s = self._clock.monotonic()
        self._looked_s = self._ticked_s  # `progress` was fetched after `_ticked_s`
        for (topic, partition), lag in progress.lags.items():
            if (own := self._own.get(partition)) is not None:
                own.lag = lag
                at = TopicPartition(topic, partition)
                own.is_caught_up = own.end is not None and progress.positions[at] >= own.end
                own.end = progress.ends[at]
        if any(now_s - own.since_s >= self._idle_s / 2 for own in self._own.values()):
            for committed in progress.committed().values():
                self._raise_front(
                    (metadata_of(committed, InferenceCheckpoint) or InferenceCheckpoint()).watermark
                )

    def watermarks(self) -> list[tuple[int, int]]:
        """Return (partition, watermark) for each idle partition to advance now.

        Idle time is measured up to the last `on_group_progress`, not up to the present, because a
        partition that seems idle to a delayed worker may have many unread records.
        """
        self._ticked_s = self._clock.monotonic()
        front = self._front_at(self._looked_s - self._idle_s)
        if front is None:
            return []
        moved = []
        for partition, own in sorted(self._own.items()):
            if self._is_silent(own) and (
                own.published_watermark is None or own.published_watermark < front
            ):
                own.published_watermark = front
                own.watermark = front if own.watermark is None else max(own.watermark, front)
                moved.append((partition, front))
        return moved

    def _is_silent(self, own: _Partition) -> bool:
        """Return whether the partition had only rejected records, or none, for `windows.idle`."""
        if own.lag == 0 and self._looked_s - own.since_s >= self._idle_s:
            return True
        rejecting_s = own.rejecting_since_s
        return (
            rejecting_s is not None
            and own.is_caught_up
            and self._looked_s - rejecting_s >= self._idle_s
        )

    def offsets_to_commit(
        self, topic: str, *, models: int = 0, sequence: int = 0, champion: str | None = None
    ) -> dict[TopicPartition, Committed]:
        """Return the offsets to commit. Their metadata is an `InferenceCheckpoint`."""
        return {
            TopicPartition(topic, partition): Committed(
                own.next_offset,
                msgspec.json.encode(
                    InferenceCheckpoint(
                        own.watermark,
                        own.clock.state,
                        own.other_clock.state,
                        models=models if partition == 0 else 0,
                        sequence=sequence,
                        champion=champion,
                        axis=self._stream.axis,
                    )
                ).decode(),
            )
            for partition, own in self._own.items()
        }

    def _advance(self, own: _Partition, position: int) -> None:
        watermark = position + self._watermark_offset
        if own.watermark is None or watermark > own.watermark:
            own.watermark = watermark
        if self._raise_front(watermark):
            delay_s = self._clock.time() - position / 1e6
            self._is_live = self._by_time and abs(delay_s) <= _LIVE_WITHIN_S

    def _raise_front(self, watermark: int | None) -> bool:
        """Note a watermark. Return whether it is a new maximum across all partitions."""
        if watermark is None or (self._front and watermark <= self._front[-1][1]):
            return False
        now_s = self._clock.monotonic()
        grain_s = max(self._idle_s / 20, 0.001)  # at most one `_front` entry in this interval
        if self._front and self._front[-1][0] // grain_s == now_s // grain_s:
            self._front.pop()
        self._front.append((now_s, watermark))
        return True

    def _front_at(self, at_s: float) -> int | None:
        """Return the largest watermark of all partitions at time `at_s`, or None if unknown."""
        while len(self._front) > 1 and self._front[1][0] <= at_s:
            self._front.popleft()
        if not self._front or self._front[0][0] > at_s:
            return None
        since_s, watermark = self._front[0]
        if self._is_live and len(self._front) == 1:
            # Advance in steps of `windows.idle`, so that a silent stream gets few watermarks.
            step_s = max(self._idle_s, 0.001)
            watermark += int((at_s - since_s) // step_s * step_s * 1e6)
        return watermark


def _take(clock: PartitionClock, positions: Sequence[int | None]) -> list[int]:
    """Pass all positions except None to `clock.take`. Return the indices of positions that are
    implausibly far ahead."""
    if None not in positions:
        return clock.take(positions)  # type: ignore[arg-type]  # no position is None here
    places = [place for place, position in enumerate(positions) if position is not None]
    known = [position for position in positions if position is not None]
    return [places[at] for at in clock.take(known)]
