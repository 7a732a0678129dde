"""Which of the two topics of a partition is not to be read now, because it is far ahead.

In: how far each was read, by offsets and positions, and where it is known to end. Out: the one that
waits until the other has caught up. Memory and speed hang on it, never what is published.
"""

from collections import deque

from consumers.pending import BEFORE_ALL
from consumers.progress import Side

# Places that are remembered of a topic: a batch of the loop or a part of the slack apart, whichever
# is more, and reaching back over several times the slack.
_MARKS = 64
_MARKS_OF_SLACK = 16
# Whoever waited goes on when it is ahead by this part of the slack: the other has something to read
# until the first records are there again, which takes milliseconds.
_SLACK_LEFT = 4


class _Way:
    """The way through a topic: at which offsets it reached which positions."""

    def __init__(self) -> None:
        self._position = BEFORE_ALL  # of the last record
        self._offset = 0
        self._marks: deque[tuple[int, int]] = deque(maxlen=_MARKS)  # (offset, position)

    def go(self, first: int, last: int, position: int, step: int) -> None:
        """Records from offset `first` to `last` were read; the last one stands at `position`."""
        if not self._marks:
            self._marks.append((first, BEFORE_ALL))
        if last - self._marks[-1][0] >= step:
            self._marks.append((last, position))
        self._offset, self._position = last, position

    def ahead_of(self, other: "_Way") -> int:
        """How many records were read since the position at which the other is. A record that stands
        far from its time misleads for one batch at most."""
        if not self._marks or self._position <= other._position:
            return 0
        passed = (
            offset for offset, position in reversed(self._marks) if position <= other._position
        )
        return self._offset - next(passed, self._marks[0][0])


class Pace:
    """Keeps the reading of both topics in step, `slack` records apart at most."""

    def __init__(self, predictions: Side, labels: Side) -> None:
        self.slack = 0
        self._sides = ((predictions, labels), (labels, predictions))
        self._ways = {predictions: _Way(), labels: _Way()}
        self._waiting: Side | None = None

    def read(self, side: Side, first: int, last: int, position: int) -> None:
        """Records of a topic were read, from offset `first` to `last`, which is at `position`."""
        self._ways[side].go(first, last, position, self.slack // _MARKS_OF_SLACK)

    def waiting(self) -> Side | None:
        """The topic that is not to be read now; the other one has something to read then."""
        self._waiting = next(
            (side for side, other in self._sides if self._waits(side, other)), None
        )
        return self._waiting

    def _waits(self, side: Side, other: Side) -> bool:
        if other.next_offset >= other.end:
            return False
        if side.is_behind != other.is_behind:
            return other.is_behind  # what is new is kept until all that is old was read again
        slack = self.slack // _SLACK_LEFT if side is self._waiting else self.slack
        return self._ways[side].ahead_of(self._ways[other]) > slack
