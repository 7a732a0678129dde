"""Choose which of the two topics of a partition to pause, because it is far ahead of the other.

Input: how far each topic was read, by offsets and positions, and where it ends. Output: the topic
to pause until the other has caught up. The choice affects memory and speed, never the results.
"""

from collections import deque

from consumers.outcomes.buffer import BEFORE_ALL
from consumers.outcomes.low_watermark import TopicProgress

# The number of marks per topic. They are at least 1/16 of the slack apart, so 64 of them reach
# back over four times the slack.
_MARKS = 64
_MARKS_OF_SLACK = 16
# A paused topic resumes when its lead is down to 1/4 of the slack. Fetching its records again takes
# milliseconds, in which the other topic still has records to read.
_SLACK_LEFT = 4


class _ReadHistory:
    """The positions of a topic at some of the offsets that were read."""

    def __init__(self) -> None:
        self._position = BEFORE_ALL  # position of the last record that was read
        self._offset = 0  # offset of the same record
        self._marks: deque[tuple[int, int]] = deque(maxlen=_MARKS)  # (offset, position)

    def note(self, first: int, last: int, position: int, step: int) -> None:
        """Note that offsets `first` to `last` were read. `position` is that of the last record."""
        if not self._marks:
            self._marks.append((first, BEFORE_ALL))
        if last - self._marks[-1][0] >= step:
            self._marks.append((last, position))
        self._offset, self._position = last, position

    def records_ahead_of(self, other: "_ReadHistory") -> int:
        """Return how many records were read since this topic was at the other's position. A single
        record with a wrong position distorts this for one batch at most."""
        if not self._marks or self._position <= other._position:
            return 0
        offsets = (
            offset for offset, position in reversed(self._marks) if position <= other._position
        )
        return self._offset - next(offsets, self._marks[0][0])


class Backpressure:
    """Limits how far the reader of one topic gets ahead of the other, to `slack` records."""

    def __init__(self, predictions: TopicProgress, labels: TopicProgress) -> None:
        self.slack = 0  # set by `PartitionJoin.limit_memory` after each assignment
        self._sides = ((predictions, labels), (labels, predictions))
        self._histories = {predictions: _ReadHistory(), labels: _ReadHistory()}
        self._paused: TopicProgress | None = None  # the last result of `topic_to_pause`

    def read(self, side: TopicProgress, first: int, last: int, position: int) -> None:
        """Note that offsets `first` to `last` of a topic were read, the last at `position`."""
        self._histories[side].note(first, last, position, self.slack // _MARKS_OF_SLACK)

    def topic_to_pause(self) -> TopicProgress | None:
        """Return the topic to pause, or None. The other topic always has records to read then."""
        self._paused = next(
            (side for side, other in self._sides if self._must_wait(side, other)), None
        )
        return self._paused

    def _must_wait(self, side: TopicProgress, other: TopicProgress) -> bool:
        if other.next_offset >= other.end:
            return False  # the other topic has no more records
        if side.is_behind != other.is_behind:
            return other.is_behind  # new records wait until the other topic is rebuilt
        slack = self.slack // _SLACK_LEFT if side is self._paused else self.slack
        return self._histories[side].records_ahead_of(self._histories[other]) > slack
