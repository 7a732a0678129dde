"""Compute a partition's max position so that no single record can advance it far.

Input: the positions of a partition's records, in log order. Output: the max position, and the
records that are implausibly far ahead of it. The result depends only on the partition's records,
not on batches, restarts, other partitions or the wall clock. This module performs no I/O.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Final

import msgspec
import numpy as np
from msgspec import Meta

from driftline.wire.commit_metadata import Position, Step

# The number of consecutive records that must be ahead before the clock accepts them. With ten, a
# stream that was silent for a month continues after ten records. If a producer with a wrong clock
# sends a third of a partition's records, a run of ten such records occurs once in 60,000 records.
# A run of nine has no effect.
AGREEING: Final = 10
# In a sparse partition, the step from one record to the next may exceed any fixed limit. So a step
# is also plausible if it is at most `_LONGER` times the longest of the last `_STEPS` steps. A gap
# between independent records exceeds this limit only once in 10^5 records.
_LONGER: Final = 4
_STEPS: Final = 8
# Limits for the axis (event time or rows) that the stream's windows do not use. Cooldowns and
# budgets may be measured on that axis, but there is no window length to serve as its limit.
MAX_AHEAD_US: Final = 7 * 86_400_000_000
MAX_AHEAD_ROWS: Final = 1_000_000


class ClockState(msgspec.Struct, frozen=True, omit_defaults=True):
    """A clock's state between two records, stored in a commit's metadata."""

    # The largest accepted position. In JSON, this field still has its original name, `reached`.
    max_position: Position | None = msgspec.field(name="reached", default=None)
    steps: tuple[Step, ...] = ()  # the most recent forward steps, at most `_STEPS`
    # Positions of consecutive records that are ahead and not yet accepted.
    ahead: Annotated[tuple[Position, ...], Meta(max_length=AGREEING)] = ()


class PartitionClock:
    """One partition's clock.

    A record is ahead if its position exceeds the largest accepted position both by more than
    `max_ahead` and by more than four times the longest recent step. Such records advance the clock
    only when `AGREEING` of them are consecutive. The first record cannot be compared with earlier
    records, so it is ahead if its position exceeds `latest_start`.

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
        # The first record's largest plausible position, or None if unknown. Set by the clock's
        # owner.
        self.latest_start: int | None = None

    @property
    def state(self) -> ClockState:
        """Return the state from which another clock can continue."""
        return ClockState(self.max_position, tuple(self._steps), tuple(self._ahead))

    def take(self, positions: Sequence[int]) -> list[int]:
        """Process the next records' positions. Return the indices of records that are ahead."""
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
        """Process the next record's position. Return False if the record is ahead."""
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
        """Advance to the records that are ahead, up to the first implausible step between them.

        Return the clock's new max position.
        """
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
        # Also store the leap as a step. If event times are whole days, the next is usually as long.
        if leap:
            self._steps.insert(0, leap)
        self._ahead = [position for position in self._ahead if position > self.max_position]
        return self.max_position
