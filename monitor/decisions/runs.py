"""Errors that come in runs: whether they explain what a test found that takes them for independent.

In: the errors of one model in order, and what its held-out errors say. Out: yes or no.
"""

from collections import deque
from typing import Final

import numpy as np

from monitor.decisions.keep import Count, State, put, take
from monitor.reference.dependence import inflation_between_changes

# Values remembered: twenty of the longest batches.
HISTORY: Final = 4_000
# What they say is asked for anew after so many values.
ASK_EVERY: Final = 32


class RunsState(State, frozen=True):
    """What `Runs` remembers."""

    inflation: float
    history: list[float]
    own: float
    own_age: Count


class Runs:
    """How much the mean of one model's errors varies more than that of independent ones: by what is
    told of the held-out errors, of which there are few, and by its errors since."""

    def __init__(self, inflation: float = 1.0) -> None:
        self.inflation = inflation
        self._history: deque[float] = deque(maxlen=HISTORY)
        self._own = 1.0
        self._own_age = ASK_EVERY  # values since that was found

    def state(self) -> RunsState:
        """What is remembered, as data."""
        return take(RunsState, self)

    def restore(self, state: RunsState) -> None:
        """Go on from there."""
        put(state, self)

    def add(self, value: float) -> None:
        """Take in an error."""
        self._history.append(value)
        self._own_age += 1

    def explain(self, excess: float) -> bool:
        """Whether chance explains a logarithm of a ratio that is `excess` times its threshold.

        Up to the threshold it does, which allows for the inflation that was told; and beyond it
        where the model's errors come in longer runs than that, for both grow alike.
        """
        if excess <= 1.0:
            return True
        if self._own_age >= ASK_EVERY:
            self._own = inflation_between_changes(np.array(self._history))
            self._own_age = 0
        return excess * self.inflation <= self._own
