"""Check whether autocorrelation in a series of errors explains an apparent change in its mean.

Input: one model's errors in order, and the variance inflation of the model's held-out errors.
Output: whether autocorrelation explains a change that was detected by a test for independent
errors.
"""

from collections import deque
from typing import Final

import msgspec
import numpy as np

from monitor.decisions.plain_state import Count, State, put, take
from monitor.variance_inflation import variance_inflation

# Number of recent errors to store: twenty batches of 200, the largest size used.
HISTORY: Final = 4_000
# Number of new errors after which the variance inflation is recomputed, which takes about 5 ms.
ASK_EVERY: Final = 200


class AutocorrelationState(State, frozen=True):
    """The state of an `Autocorrelation`. A field that was renamed in the code
    keeps its old name in the snapshot file."""

    variance_inflation: float = msgspec.field(name="inflation")
    history: list[float]
    phases: list[Count]
    own: float
    own_age: Count


class Autocorrelation:
    """Compares the variance inflation of a model's recent errors with the variance inflation of
    the model's held-out errors. Create a new object for each model."""

    def __init__(self, variance_inflation: float = 1.0) -> None:
        self.variance_inflation = variance_inflation  # variance inflation of the held-out errors
        self._history: deque[float] = deque(maxlen=HISTORY)
        self._phases: deque[int] = deque(maxlen=HISTORY)  # the phase of each error in `_history`
        self._own = 1.0  # variance inflation of `_history`, computed by `explains`
        self._own_age = ASK_EVERY  # number of errors since `_own` was computed

    def state(self) -> AutocorrelationState:
        """Return the state as plain data."""
        return take(AutocorrelationState, self)

    def restore(self, state: AutocorrelationState) -> None:
        """Restore a saved state."""
        put(state, self)

    def add(self, value: float, phase: int = 0) -> None:
        """Add an error. `phase` is its phase in a season; without a season, it is 0."""
        self._history.append(value)
        self._phases.append(phase)
        self._own_age += 1

    def explains(self, excess: float) -> bool:
        """Return whether chance explains a log-likelihood ratio that is `excess` times its
        threshold. The threshold already includes the held-out errors' variance inflation. If
        `excess` is more than 1, chance explains the ratio only if the recent errors' variance
        inflation is at least `excess` times the held-out errors' variance inflation."""
        if excess <= 1.0:
            return True
        if self._own_age >= ASK_EVERY:
            errors = np.array(self._history, dtype=np.float64)
            phases = np.array(self._phases, dtype=np.intp)
            self._own = variance_inflation(errors, phases, changing=True)
            self._own_age = 0
        return excess * self.variance_inflation <= self._own
