"""Choose the Kafka topic to pause when the join reads one of its two topics too far ahead.

Input: the offsets and positions up to which each topic was read, and both topics' end offsets.
Output: the topic to pause until the other topic catches up. The choice affects memory and speed,
never the results.
"""

from collections import deque

from consumers.outcomes.buffer import BEFORE_ALL
from consumers.outcomes.low_watermark import TopicProgress

# The number of (offset, position) pairs to keep per topic. The offsets of successive pairs are
# at least 1/16 of `slack` apart, so 64 pairs span about four times `slack`, or more.
_MARKS = 64
_MARKS_OF_SLACK = 16
# A paused topic resumes when its lead has dropped to 1/4 of `slack`. Refetching the paused topic's
# records takes milliseconds, during which the join can still read records of the other topic.
_SLACK_LEFT = 4


class _ReadHistory:
    """A topic's positions at a sample of the offsets read so far."""

    def __init__(self) -> None:
        self._position = BEFORE_ALL  # position of the last record read
        self._offset = 0  # offset of the last record read
        self._marks: deque[tuple[int, int]] = deque(maxlen=_MARKS)  # (offset, position)

    def note(self, first: int, last: int, position: int, step: int) -> None:
        """Note that offsets `first` to `last` were read, and the last record is at `position`."""
        if not self._marks:
            self._marks.append((first, BEFORE_ALL))
        if last - self._marks[-1][0] >= step:
            self._marks.append((last, position))
        self._offset, self._position = last, position

    def records_ahead_of(self, other: "_ReadHistory") -> int:
        """Return the number of records by which this topic is ahead of the other topic.

        A single record with a wrong position distorts the result for at most one batch.
        """
        if not self._marks or self._position <= other._position:
            return 0
        offsets = (
            offset for offset, position in reversed(self._marks) if position <= other._position
        )
        return self._offset - next(offsets, self._marks[0][0])


class Backpressure:
    """Keeps the join from reading one topic more than `slack` records ahead of the other."""

    def __init__(self, predictions: TopicProgress, labels: TopicProgress) -> None:
        self.slack = 0  # set by `PartitionJoin.limit_memory` after each assignment
        self._sides = ((predictions, labels), (labels, predictions))
        self._histories = {predictions: _ReadHistory(), labels: _ReadHistory()}
        self._paused: TopicProgress | None = None  # the last result of `topic_to_pause`

    def read(self, side: TopicProgress, first: int, last: int, position: int) -> None:
        """Note that offsets `first` to `last` were read, and the last record is at `position`."""
        self._histories[side].note(first, last, position, self.slack // _MARKS_OF_SLACK)

    def topic_to_pause(self) -> TopicProgress | None:
        """Return the topic to pause, or None. A topic is paused only while the other topic has
        unread records."""
        self._paused = next(
            (side for side, other in self._sides if self._must_wait(side, other)), None
        )
        return self._paused

    def _must_wait(self, side: TopicProgress, other: TopicProgress) -> bool:
        if other.next_offset >= other.end:
            return False  # the other topic has no more records
        if side.is_behind != other.is_behind:
            return other.is_behind  # pause new records until the other topic has been reread
        slack = self.slack // _SLACK_LEFT if side is self._paused else self.slack
        return self._histories[side].records_ahead_of(self._histories[other]) > slack
