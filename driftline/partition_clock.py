"""How far one partition has come, as its own records agree: no single record moves this clock far.

In: the positions of a partition's records, in its order. Out: which of them lie implausibly far
ahead. The answer is a function of the partition's records alone: neither batches nor restarts, nor
other partitions, nor the wall clock play a part.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Final

import msgspec
import numpy as np
from msgspec import Meta

from driftline.commit_metadata import Position, Step

# So many records in a row must be ahead until they are believed: a stream that was silent for a
# month goes on after as many. A producer whose clock is ahead, and whose records are a third of a
# partition's, gets as many in a row once in 60,000 records; nine in a row are harmless.
AGREEING: Final = 10
# In a partition with few records, steps from one to the next are longer than any fixed limit. A
# step is plausible up to this multiple of the longest of the last ones, which gaps between
# independent records exceed once in 10^5.
_LONGER: Final = 4
_STEPS: Final = 8
# The limits on the axis that windows are not on, by which cooldowns and budgets are measured: there
# is no window there to measure by.
MAX_AHEAD_US: Final = 7 * 86_400_000_000
MAX_AHEAD_ROWS: Final = 1_000_000


class ClockState(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a clock must remember from one record to the next; for the metadata of a commit."""

    reached: Position | None = None  # the largest position that is believed
    steps: tuple[Step, ...] = ()  # the last ones forward, at most `_STEPS`
    # Positions of the last records, if all are ahead.
    ahead: Annotated[tuple[Position, ...], Meta(max_length=AGREEING)] = ()


class PartitionClock:
    """Follows one partition. A record is ahead if it lies more than `max_ahead` after the largest
    position that is believed; it moves the clock only with `AGREEING` of them in a row.

    >>> clock = PartitionClock(max_ahead=100)
    >>> clock.take([1, 2, 9_999, 3]), clock.reached
    ([2], 3)
    >>> clock.take(list(range(5_000, 5_020)))
    [0, 1, 2, 3, 4, 5, 6, 7, 8]
    >>> clock.reached
    5019
    """

    def __init__(self, max_ahead: int, state: ClockState | None = None) -> None:
        state = state or ClockState()
        self.reached = state.reached
        self._max_ahead = max_ahead
        self._steps = list(state.steps)
        self._ahead = list(state.ahead)

    @property
    def state(self) -> ClockState:
        """What a clock that goes on from here must know."""
        return ClockState(self.reached, tuple(self._steps), tuple(self._ahead))

    def take(self, positions: Sequence[int]) -> list[int]:
        """Follow the next records; returns the places of those that are ahead, in order."""
        if not positions:
            return []
        if not self._ahead:
            start = positions[0] if self.reached is None else self.reached
            reached = np.maximum.accumulate(np.array([start, *positions], dtype=np.int64))
            steps = np.diff(reached)
            if steps.max() <= self._max_ahead:
                self.reached = int(reached[-1])
                forward = steps[steps > 0][-_STEPS:].tolist()
                self._steps = [*self._steps, *forward][-_STEPS:]
                return []
        return [place for place, position in enumerate(positions) if not self.believes(position)]

    def believes(self, position: int) -> bool:
        """Follow the next record; returns whether it is not ahead."""
        if self.reached is None:
            self.reached = position
            return True
        if position <= self.reached + self._limit():
            self._ahead.clear()
            if position > self.reached:
                self._steps = [*self._steps, position - self.reached][-_STEPS:]
                self.reached = position
            return True
        self._ahead.append(position)
        if len(self._ahead) < AGREEING:
            return False
        self._agree()
        return position <= self.reached

    def _limit(self) -> int:
        return max(self._max_ahead, _LONGER * max(self._steps, default=0))

    def _agree(self) -> None:
        """Go on where the records ahead are, as far as most of them are neighbours."""
        ordered = sorted(self._ahead)
        # The smaller half of the gaps: some of these records may be wrong themselves.
        gaps = sorted(b - a for a, b in pairwise(ordered))
        leap = ordered[0] - (self.reached or 0)
        self._steps = [gap for gap in gaps[: AGREEING // 2] if gap > 0]
        limit = self._limit()
        self.reached = ordered[0]
        for position in ordered[1:]:
            if position > self.reached + limit:
                break
            self.reached = position
        # Where times are dates, the leap to the next day is a step like those to come.
        self._steps.insert(0, leap)
        self._ahead = [position for position in self._ahead if position > self.reached]
