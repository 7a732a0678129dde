"""Track how far the join has read a partition's two topics, and compute the low watermark.

Input: positions and offsets of the records read and, about once a second, both topics' end offsets.
Output: the low watermark, and the metadata to commit with the offsets. This module never sees the
records themselves.
"""

from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta

from consumers.outcomes.buffer import BEFORE_ALL
from driftline.broker.port import Committed
from driftline.config.stream import Stream
from driftline.config.stream_sections import Axis
from driftline.runtime.partition_clock import ClockState, PartitionClock
from driftline.wire.commit_metadata import Offset, Position, metadata_of
from driftline.wire.events import Log


class JoinCheckpoint(msgspec.Struct, frozen=True, omit_defaults=True):
    """Metadata stored with a committed offset: the join's progress at the commit.

    Records from the committed offset up to `published` are reread only to rebuild state. A field
    that was renamed in the code keeps its old name in the JSON.
    """

    published: Offset = 0  # the first offset not yet handled at the commit
    # Predictions: the largest `source` offset (of a scored record) before the committed offset.
    before: Annotated[int, Meta(ge=-1, le=2**63 - 1)] = -1
    max_position: Position = msgspec.field(name="reached", default=BEFORE_ALL)
    # Labels: predictions below this position no longer wait for labels.
    closed_up_to: Position = msgspec.field(name="passed", default=BEFORE_ALL)
    watermark: Position | None = None  # predictions: watermark that was read but not yet published
    token: str = ""  # identifies the commits that a cache belongs to
    log: str = ""  # predictions: id of the features topic of `before`; empty if unknown
    # The other topic's next offset. It is stored here because Kafka deletes a topic's commits
    # together with the topic.
    beside: Offset = 0

    clock: ClockState = ClockState()  # labels: state of the partition's clock at `published`
    axis: Axis | None = None  # axis of the positions; None in commits made by earlier versions


class TopicProgress:
    """The progress of reading one topic. `resumed`, `at` and `published` never change."""

    def __init__(self, committed: Committed) -> None:
        self.resumed = committed
        self.at = metadata_of(committed, JoinCheckpoint) or JoinCheckpoint()
        # Advanced by the handler, `Spill` and `on_group_progress`.
        self.next_offset = committed.offset
        self.max_position = self.at.max_position  # raised by the join
        self.published = self.at.published  # records before it were handled before a restart
        # The topic's last known end offset; updated by `on_group_progress`.
        self.end = self.published

    @property
    def is_behind(self) -> bool:
        """Return whether records handled before a restart must still be reread."""
        return self.next_offset < self.published

    def raise_max_position(self, position: int) -> None:
        """Raise the max position to `position`, unless it is already larger."""
        if position > self.max_position:
            self.max_position = position

    def commit(self, oldest_needed: int | None, checkpoint: JoinCheckpoint) -> Committed:
        """Return the commit at `oldest_needed`, or at the next offset if no offset is needed."""
        offset = self.next_offset if oldest_needed is None else oldest_needed
        return Committed(offset, msgspec.json.encode(checkpoint).decode())


class ReaderPosition(NamedTuple):
    """The next offset to read, and the partition's end offset. All records before `position` had
    been handled when `end` was fetched."""

    position: int
    end: int


class Barrier(msgspec.Struct):
    """A snapshot of both topics' ends.

    A topic passes the barrier once it has been read up to its end in the snapshot. By then, records
    that the join had read from the other topic before the snapshot have been matched against all
    records up to that end.
    """

    predictions_end: int
    labels_end: int
    labels_read: int  # next offset in the labels topic when the snapshot was taken
    max_position: int  # highest position of a prediction when the snapshot was taken
    watermark: int | None  # the watermark to publish once labels have passed the barrier
    is_passed_by_predictions: bool = False
    is_passed_by_labels: bool = False


class BarrierResult(msgspec.Struct, frozen=True):
    """The records that are fully matched once a topic has passed the barrier."""

    # Labels before this offset were matched against all predictions that the barrier covers.
    labels_before: int | None = None
    # Records before this position were matched against all labels that the barrier covers.
    watermark: int | None = None


class JoinProgress:
    """The progress of a partition's two topics. Only positions advance it, never the wall clock.

    `low_watermark` is the smaller of the two topics' max positions, or `_closed_up_to` if that is
    larger. `_closed_up_to` is the predictions' max position at the last barrier that labels have
    passed.
    """

    def __init__(self, predictions: Committed, labels: Committed, stream: Stream) -> None:
        self._axis = stream.axis
        self.predictions = TopicProgress(predictions)
        self.labels = TopicProgress(labels)
        clock = self.labels.at.clock
        # If no clock state was committed, start the clock at the labels' max position.
        if clock.max_position is None and self.labels.max_position > BEFORE_ALL:
            clock = ClockState(self.labels.max_position)
        self.label_clock = PartitionClock(stream.max_ahead, clock)
        # Largest `source` offset (of a scored record) among the predictions read so far. Raised by
        # the join, reset by `take_log`.
        self.source = self.predictions.at.before
        self._log = self.predictions.at.log  # id of the features topic that `source` refers to
        self._log_offset = -1  # offset of the watermark record that named `_log`
        self.low_watermark = BEFORE_ALL
        self._closed_up_to = self.labels.at.closed_up_to  # raised by `pass_barrier`
        self._watermark = self.predictions.at.watermark  # reset when `pass_barrier` returns it
        # Set by `on_group_progress`, reset when both topics have passed the barrier.
        self._barrier: Barrier | None = None
        self.raise_low_watermark()

    @property
    def is_rebuilding(self) -> bool:
        """Return whether records handled before a restart are still being reread."""
        return self.predictions.is_behind or self.labels.is_behind

    def raise_low_watermark(self) -> None:
        """Update the low watermark after a max position or `_closed_up_to` has increased."""
        predictions, labels = self.predictions.max_position, self.labels.max_position
        both = predictions if predictions < labels else labels
        if both > self.low_watermark or self._closed_up_to > self.low_watermark:
            self.low_watermark = max(both, self._closed_up_to)

    def take_log(self, offset: int, log: Log) -> None:
        """Note that `source` offsets in predictions after `offset` refer to the features topic
        `log`."""
        if log.topic_id != self._log:
            self._log, self._log_offset = log.topic_id, offset
            self.source = log.offset - 1

    def take_watermark(self, position: int) -> None:
        """Note a watermark: no prediction before `position` will follow. `pass_barrier` returns the
        watermark later."""
        self.predictions.raise_max_position(position - 1)
        if self._watermark is None or position > self._watermark:
            self._watermark = position
        self.raise_low_watermark()

    def on_group_progress(self, predictions: ReaderPosition, labels: ReaderPosition) -> bool:
        """Note both topics' reader positions. Return whether a barrier was set."""
        sides = ((self.predictions, predictions), (self.labels, labels))
        for side, reader in sides:
            side.end = reader.end
        if self.is_rebuilding:
            for side, reader in sides:
                if side.is_behind and reader.position >= side.published:
                    side.next_offset = side.published  # retention deleted the unread records
            return False
        for side, reader in sides:
            # Transaction markers may follow the last record.
            side.next_offset = max(side.next_offset, reader.position)
        if self._barrier is not None:
            return False
        self._barrier = Barrier(
            predictions_end=predictions.end,
            labels_end=labels.end,
            labels_read=self.labels.next_offset,
            max_position=self.predictions.max_position,
            watermark=self._watermark,
        )
        return True

    def pass_barrier(self) -> BarrierResult:
        """Return the result if a topic has passed the barrier since the last call.

        Otherwise, return an empty result.
        """
        barrier = self._barrier
        if barrier is None:
            return BarrierResult()
        labels_before = watermark = None
        has_predictions = self.predictions.next_offset >= barrier.predictions_end
        if has_predictions and not barrier.is_passed_by_predictions:
            barrier.is_passed_by_predictions = True
            labels_before = barrier.labels_read
        has_labels = self.labels.next_offset >= barrier.labels_end
        if has_labels and not barrier.is_passed_by_labels:
            barrier.is_passed_by_labels = True
            self._closed_up_to = max(self._closed_up_to, barrier.max_position)
            self.raise_low_watermark()
            watermark = barrier.watermark
            if self._watermark == watermark:
                self._watermark = None
        if barrier.is_passed_by_predictions and barrier.is_passed_by_labels:
            self._barrier = None
        return BarrierResult(labels_before, watermark)

    def offsets_to_commit(
        self, predictions: int | None, before: int | None, labels: int | None, token: str
    ) -> tuple[Committed, Committed]:
        """Return the commits for both topics. `predictions` and `labels` are the oldest offsets
        still needed, or None. `before` is the largest `source` offset before `predictions`."""
        if self.is_rebuilding:
            return self.predictions.resumed, self.labels.resumed
        return (
            self.predictions.commit(
                predictions,
                JoinCheckpoint(
                    published=self.predictions.next_offset,
                    before=self.source if before is None else before,
                    max_position=self.predictions.max_position,
                    watermark=self._watermark,
                    token=token,
                    axis=self._axis,
                    beside=self.labels.next_offset,
                    # If the record that contains this topic id will be reread after a restart,
                    # `before` refers to an older topic.
                    log=self._log if predictions is None or predictions > self._log_offset else "",
                ),
            ),
            self.labels.commit(
                labels,
                JoinCheckpoint(
                    published=self.labels.next_offset,
                    max_position=self.labels.max_position,
                    closed_up_to=self._closed_up_to,
                    token=token,
                    axis=self._axis,
                    beside=self.predictions.next_offset,
                    clock=self.label_clock.state,
                ),
            ),
        )
