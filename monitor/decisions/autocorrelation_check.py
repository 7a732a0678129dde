"""Decide whether autocorrelation in a sequence of errors explains what an independence test found.

Input: one model's errors in order, and the variance inflation of its held-out errors. Output: True
if autocorrelation explains the finding of a test that assumes independent errors.
"""

from collections import deque
from typing import Final

import msgspec
import numpy as np

from monitor.decisions.plain_state import Count, State, put, take
from monitor.reference.autocorrelation import variance_inflation_between_changes

# Number of recent errors to store: twenty batches of the largest size.
HISTORY: Final = 4_000
# Number of new errors after which the variance inflation is computed again.
ASK_EVERY: Final = 32


class AutocorrelationState(State, frozen=True):
    """The state of an `Autocorrelation`. A renamed field keeps its original name in the file."""

    variance_inflation: float = msgspec.field(name="inflation")
    history: list[float]
    own: float
    own_age: Count


class Autocorrelation:
    """The variance inflation of one model's mean error, estimated from the model's few held-out
    errors and from its errors in service. Each model needs a new object."""

    def __init__(self, variance_inflation: float = 1.0) -> None:
        self.variance_inflation = variance_inflation  # variance inflation of the held-out errors
        self._history: deque[float] = deque(maxlen=HISTORY)
        self._own = 1.0  # variance inflation of `_history`, computed by `explains`
        self._own_age = ASK_EVERY  # number of errors since `_own` was computed

    def state(self) -> AutocorrelationState:
        """Return the state as plain data."""
        return take(AutocorrelationState, self)

    def restore(self, state: AutocorrelationState) -> None:
        """Restore a saved state."""
        put(state, self)

    def add(self, value: float) -> None:
        """Add an error."""
        self._history.append(value)
        self._own_age += 1

    def explains(self, excess: float) -> bool:
        """Return whether chance explains a log-likelihood ratio of `excess` times its threshold.
        The threshold already includes the held-out errors' variance inflation. If the ratio exceeds
        the threshold, chance explains it only if the recent errors' variance inflation is at least
        `excess` times the held-out errors' variance inflation."""
        if excess <= 1.0:
            return True
        if self._own_age >= ASK_EVERY:
            self._own = variance_inflation_between_changes(np.array(self._history))
            self._own_age = 0
        return excess * self.variance_inflation <= self._own
