"""How far the join has come in the two topics of a partition, and what time has passed by that.

In: positions and offsets of what is read, and now and then how much there is still to read. Out:
the floor, the position that has been passed for good, and what to commit beside the offsets. It
knows no record.
"""

from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta

from consumers.pending import BEFORE_ALL
from driftline.broker.port import Committed
from driftline.commit_metadata import Offset, Position, metadata_of
from driftline.events import Log
from driftline.partition_clock import ClockState, PartitionClock


class Resume(msgspec.Struct, frozen=True, omit_defaults=True):
    """Metadata beside a committed offset: what had been done before it was committed.

    Records from the committed offset up to `published` are read again only to rebuild state.
    """

    published: Offset = 0  # next offset that had not been handled
    before: Annotated[
        int, Meta(ge=-1, le=2**63 - 1)
    ] = -1  # predictions: largest source offset before the committed offset
    reached: Position = BEFORE_ALL  # largest position
    passed: Position = (
        BEFORE_ALL  # labels: position below which predictions wait for labels no more
    )
    watermark: Position | None = None  # predictions: one that was read and not yet passed on
    token: str = ""  # which commits a cache belongs to
    log: str = ""  # predictions: id of the topic that `before` is an offset of; empty: unknown
    # Next offset of the other topic. Kafka forgets what was committed of a topic with the topic.
    beside: Offset = 0

    clock: ClockState = ClockState()  # labels: of those before `published`


class Side:
    """How far one of the two topics was read."""

    def __init__(self, committed: Committed) -> None:
        self.resumed = committed
        self.at = metadata_of(committed, Resume) or Resume()
        self.next_offset = committed.offset
        self.reached = self.at.reached
        self.published = self.at.published  # what stands before it was published before a restart
        self.end = self.published  # records stand up to here, or did

    @property
    def is_behind(self) -> bool:
        """Whether records that had been handled before a restart are still to be read."""
        return self.next_offset < self.published

    def reach(self, position: int) -> None:
        """A record with this position was read."""
        if position > self.reached:
            self.reached = position

    def commit(self, held: int | None, resume: Resume) -> Committed:
        """Hold this offset, or nothing."""
        offset = self.next_offset if held is None else held
        return Committed(offset, msgspec.json.encode(resume).decode())


class Stand(NamedTuple):
    """Where the reader of a partition stands: all before `position` was handled, and `end` was
    where the partition ended, asked for after that."""

    position: int
    end: int


class Fence(msgspec.Struct):
    """A moment. Once each topic is read up to where it ended then, what had been read of the other
    has met everything that was published by that moment."""

    predictions_end: int
    labels_end: int
    labels_read: int
    reached: int
    watermark: int | None
    is_passed_by_predictions: bool = False
    is_passed_by_labels: bool = False


class Passed(msgspec.Struct, frozen=True):
    """What a fence has found out."""

    labels_before: int | None = None  # these have met what there was: count from here
    watermark: int | None = None  # all that was there before this position is joined


class Progress:
    """Both topics of a partition. Time passes by their positions, never by a clock.

    `floor`: the position that both topics have reached, or the predictions alone had reached when
    all labels that were published by then had been read.
    """

    def __init__(self, predictions: Committed, labels: Committed, max_ahead: int) -> None:
        self.predictions = Side(predictions)
        self.labels = Side(labels)
        clock = self.labels.at.clock
        if clock.reached is None and self.labels.reached > BEFORE_ALL:  # committed without a clock
            clock = ClockState(self.labels.reached)
        self.label_clock = PartitionClock(max_ahead, clock)
        self.source = self.predictions.at.before  # largest source offset of a prediction
        self._log = self.predictions.at.log
        self._log_offset = -1  # of the watermark record that named it
        self.floor = BEFORE_ALL
        self._passed = self.labels.at.passed
        self._watermark = self.predictions.at.watermark
        self._fence: Fence | None = None
        self.raise_floor()

    @property
    def is_rebuilding(self) -> bool:
        """Whether state from before a restart is still being read."""
        return self.predictions.is_behind or self.labels.is_behind

    def raise_floor(self) -> None:
        """A side has reached a new position."""
        predictions, labels = self.predictions.reached, self.labels.reached
        both = predictions if predictions < labels else labels
        if both > self.floor or self._passed > self.floor:
            self.floor = max(both, self._passed)

    def take_log(self, offset: int, log: Log) -> None:
        """Predictions after this offset are of another log of features, unless it is known."""
        if log.topic_id != self._log:
            self._log, self._log_offset = log.topic_id, offset
            self.source = log.offset - 1

    def take_watermark(self, position: int) -> None:
        """No prediction before this position is to come; it is passed on in time."""
        self.predictions.reach(position - 1)
        if self._watermark is None or position > self._watermark:
            self._watermark = position
        self.raise_floor()

    def look(self, predictions: Stand, labels: Stand) -> bool:
        """Take note of how much there is still to read; returns whether a fence was put up."""
        sides = ((self.predictions, predictions), (self.labels, labels))
        for side, stand in sides:
            side.end = stand.end
        if self.is_rebuilding:
            for side, stand in sides:
                if side.is_behind and stand.position >= side.published:
                    side.next_offset = side.published  # retention has taken the last old ones
            return False
        for side, stand in sides:
            # Behind the last record there may be markers of transactions.
            side.next_offset = max(side.next_offset, stand.position)
        if self._fence is not None:
            return False
        self._fence = Fence(
            predictions_end=predictions.end,
            labels_end=labels.end,
            labels_read=self.labels.next_offset,
            reached=self.predictions.reached,
            watermark=self._watermark,
        )
        return True

    def pass_fence(self) -> Passed:
        """What the fence says by now, each thing once."""
        fence = self._fence
        if fence is None:
            return Passed()
        labels_before = watermark = None
        has_predictions = self.predictions.next_offset >= fence.predictions_end
        if has_predictions and not fence.is_passed_by_predictions:
            fence.is_passed_by_predictions = True
            labels_before = fence.labels_read
        has_labels = self.labels.next_offset >= fence.labels_end
        if has_labels and not fence.is_passed_by_labels:
            fence.is_passed_by_labels = True
            self._passed = max(self._passed, fence.reached)
            self.raise_floor()
            watermark = fence.watermark
            if self._watermark == watermark:
                self._watermark = None
        if fence.is_passed_by_predictions and fence.is_passed_by_labels:
            self._fence = None
        return Passed(labels_before, watermark)

    def hold(
        self, predictions: int | None, before: int | None, labels: int | None, token: str
    ) -> tuple[Committed, Committed]:
        """What to commit for both topics, their oldest offsets still needed given (None: none is);
        `before`: largest source offset before that of predictions."""
        if self.is_rebuilding:
            return self.predictions.resumed, self.labels.resumed
        return (
            self.predictions.commit(
                predictions,
                Resume(
                    published=self.predictions.next_offset,
                    before=self.source if before is None else before,
                    reached=self.predictions.reached,
                    watermark=self._watermark,
                    token=token,
                    beside=self.labels.next_offset,
                    # Where its name is read again, what came before was of another log.
                    log=self._log if predictions is None or predictions > self._log_offset else "",
                ),
            ),
            self.labels.commit(
                labels,
                Resume(
                    published=self.labels.next_offset,
                    reached=self.labels.reached,
                    passed=self._passed,
                    token=token,
                    beside=self.predictions.next_offset,
                    clock=self.label_clock.state,
                ),
            ),
        )
