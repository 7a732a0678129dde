"""Track the max position of a partition, so that no single record can advance it far.

Input: the positions of the records of a partition, in its order. Output: which of them are
implausibly far ahead. The result depends only on the records of the partition, not on batches,
restarts, other partitions or the wall clock.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Final

import msgspec
import numpy as np
from msgspec import Meta

from driftline.wire.commit_metadata import Position, Step

# The number of consecutive records that must be ahead until the clock accepts them. So a stream
# that was silent for a month continues after ten records. If a producer with a wrong clock sends a
# third of the partition's records, ten of them are consecutive once in 60,000 records. Nine
# consecutive ones have no effect.
AGREEING: Final = 10
# In a partition with few records, a step from one to the next may be longer than any fixed limit.
# So a step is also plausible up to `_LONGER` times the longest of the last `_STEPS` steps. Gaps
# between independent records are longer once in 10^5.
_LONGER: Final = 4
_STEPS: Final = 8
# The limits for the axis that windows do not use. Cooldowns and budgets may be measured on it, and
# there is no window whose length could be the limit.
MAX_AHEAD_US: Final = 7 * 86_400_000_000
MAX_AHEAD_ROWS: Final = 1_000_000


class ClockState(msgspec.Struct, frozen=True, omit_defaults=True):
    """The state of a clock between two records, stored in the metadata of a commit."""

    # The largest accepted position. The field keeps its first name in the JSON.
    max_position: Position | None = msgspec.field(name="reached", default=None)
    steps: tuple[Step, ...] = ()  # the last steps forward, at most `_STEPS`
    # Positions of the consecutive records ahead, until they are accepted.
    ahead: Annotated[tuple[Position, ...], Meta(max_length=AGREEING)] = ()


class PartitionClock:
    """The clock of one partition.

    A record is ahead if its position exceeds the largest accepted position by more than
    `max_ahead`, or by more than four times the longest recent step if that is larger. Records
    ahead advance the clock only when `AGREEING` of them are consecutive. The first record has no
    earlier ones to compare it with: it is ahead if its position exceeds `latest_start`.

    >>> clock = PartitionClock(max_ahead=100)
    >>> clock.take([1, 2, 9_999, 3]), clock.max_position
    ([2], 3)
    >>> clock.take(list(range(5_000, 5_020)))
    [0, 1, 2, 3, 4, 5, 6, 7, 8]
    >>> clock.max_position
    5019
    """

    def __init__(self, max_ahead: int, state: ClockState | None = None) -> None:
        state = state or ClockState()
        self.max_position = state.max_position
        self._max_ahead = max_ahead
        self._steps = list(state.steps)
        self._ahead = list(state.ahead)
        # The largest plausible position of the first record, None if unknown. Set by the owner.
        self.latest_start: int | None = None

    @property
    def state(self) -> ClockState:
        """Return the state for a clock that continues from here."""
        return ClockState(self.max_position, tuple(self._steps), tuple(self._ahead))

    def take(self, positions: Sequence[int]) -> list[int]:
        """Take the positions of the next records; return the indices of those that are ahead."""
        if not positions:
            return []
        if not self._ahead and (self.max_position is not None or self._may_start_at(positions[0])):
            start = positions[0] if self.max_position is None else self.max_position
            max_positions = np.maximum.accumulate(np.array([start, *positions], dtype=np.int64))
            steps = np.diff(max_positions)
            if steps.max() <= self._max_ahead:
                self.max_position = int(max_positions[-1])
                forward = steps[steps > 0][-_STEPS:].tolist()
                self._steps = [*self._steps, *forward][-_STEPS:]
                return []
        return [place for place, position in enumerate(positions) if not self.believes(position)]

    def believes(self, position: int) -> bool:
        """Take the position of the next record; return False if the record is ahead."""
        if self.max_position is None:
            if self._may_start_at(position):
                self._ahead.clear()
                self.max_position = position
                return True
        elif position <= self.max_position + self._limit():
            self._ahead.clear()
            if position > self.max_position:
                self._steps = [*self._steps, position - self.max_position][-_STEPS:]
                self.max_position = position
            return True
        self._ahead.append(position)
        if len(self._ahead) < AGREEING:
            return False
        return position <= self._agree()

    def _may_start_at(self, position: int) -> bool:
        return self.latest_start is None or position <= self.latest_start

    def _limit(self) -> int:
        return max(self._max_ahead, _LONGER * max(self._steps, default=0))

    def _agree(self) -> int:
        """Advance to the records ahead, as far as the steps between them are plausible. Return the
        position that the clock then has."""
        ordered = sorted(self._ahead)
        # Use the smaller half of the gaps, because some of these positions may be wrong.
        gaps = sorted(b - a for a, b in pairwise(ordered))
        leap = 0 if self.max_position is None else ordered[0] - self.max_position
        self._steps = [gap for gap in gaps[: AGREEING // 2] if gap > 0]
        limit = self._limit()
        self.max_position = ordered[0]
        for position in ordered[1:]:
            if position > self.max_position + limit:
                break
            self.max_position = position
        # Store this leap as a step, too. If times are dates, the step to the next day is as long.
        if leap:
            self._steps.insert(0, leap)
        self._ahead = [position for position in self._ahead if position > self.max_position]
        return self.max_position
