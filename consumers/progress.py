"""How far the join has come in the two topics of a partition, and what time has passed by that.

In: positions and offsets of what is read, and now and then how much there is still to read. Out:
the floor, the position that has been passed for good, and what to commit beside the offsets. It
knows no record.
"""

import msgspec

from consumers.pending import BEFORE_ALL
from driftline.broker.port import Committed
from driftline.clock import Clock


class Resume(msgspec.Struct, frozen=True, omit_defaults=True):
    """Metadata beside a committed offset: what had been done before it was committed.

    Records from the committed offset up to `published` are read again only to rebuild state.
    """

    published: int = 0  # next offset that had not been handled
    before: int = -1  # predictions: largest source offset before the committed offset
    reached: int = BEFORE_ALL  # largest position
    passed: int = BEFORE_ALL  # labels: position below which predictions wait for labels no more
    watermark: int | None = None  # predictions: one that was read and not yet passed on
    token: str = ""  # which commits a cache belongs to


class Side:
    """How far one of the two topics was read."""

    def __init__(self, committed: Committed, now_s: float) -> None:
        self.resumed = committed
        self.at = msgspec.json.decode(committed.metadata or "{}", type=Resume)
        self.next_offset = committed.offset
        self.reached = self.at.reached
        self.heard_s = now_s  # when it was last read
        self.published = self.at.published  # what stands before it was published before a restart

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


class Fence(msgspec.Struct):
    """A moment. Once each topic is read up to where it ended then, what had been read of the other
    has met everything that was published by that moment."""

    at_s: float
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

    def __init__(self, clock: Clock, idle_s: float, predictions: Committed, labels: Committed):
        self._clock = clock
        self._idle_s = idle_s
        self.predictions = Side(predictions, clock.monotonic())
        self.labels = Side(labels, clock.monotonic())
        self.source = self.predictions.at.before  # largest source offset of a prediction
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

    def take_watermark(self, position: int) -> None:
        """No prediction before this position is to come; it is passed on in time."""
        self.predictions.reach(position - 1)
        if self._watermark is None or position > self._watermark:
            self._watermark = position
        self.raise_floor()

    def look(self, predictions_lag: int | None, labels_lag: int | None) -> bool:
        """Take note of how much there is still to read; returns whether a fence was put up."""
        for side, lag in ((self.predictions, predictions_lag), (self.labels, labels_lag)):
            if lag == 0 and side.is_behind:
                side.next_offset = side.published  # retention has taken the last old ones
        if predictions_lag is None or labels_lag is None:
            return False
        if self.is_rebuilding or self._fence is not None:
            return False
        self._fence = Fence(
            at_s=self._clock.monotonic(),
            predictions_end=self.predictions.next_offset + predictions_lag,
            labels_end=self.labels.next_offset + labels_lag,
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
        if not fence.is_passed_by_predictions and self._is_past(
            self.predictions, fence.predictions_end, fence.at_s
        ):
            fence.is_passed_by_predictions = True
            labels_before = fence.labels_read
        if not fence.is_passed_by_labels and self._is_past(
            self.labels, fence.labels_end, fence.at_s
        ):
            fence.is_passed_by_labels = True
            self._passed = max(self._passed, fence.reached)
            self.raise_floor()
            watermark = fence.watermark
            if self._watermark == watermark:
                self._watermark = None
        if fence.is_passed_by_predictions and fence.is_passed_by_labels:
            self._fence = None
        return Passed(labels_before, watermark)

    def _is_past(self, side: Side, end: int, since_s: float) -> bool:
        # An end that is never reached is that of a transaction that was aborted.
        silent_s = self._clock.monotonic() - max(since_s, side.heard_s)
        return side.next_offset >= end or silent_s >= self._idle_s

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
                ),
            ),
            self.labels.commit(
                labels,
                Resume(
                    published=self.labels.next_offset,
                    reached=self.labels.reached,
                    passed=self._passed,
                    token=token,
                ),
            ),
        )
