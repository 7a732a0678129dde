"""Define the services' clocks: the system clock, and a manual one for tests and `driftline run`."""

import time
from datetime import UTC, datetime
from typing import Protocol


def rfc3339(seconds: float, precision: str = "seconds") -> str:
    """Format a Unix time as RFC 3339, in UTC. `precision` is passed to `isoformat` as `timespec`.

    >>> rfc3339(1.5), rfc3339(1.5, "milliseconds")
    ('1970-01-01T00:00:01Z', '1970-01-01T00:00:01.500Z')
    """
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec=precision)[:-6] + "Z"


class Clock(Protocol):
    """A source of wall time, for timestamps, and monotonic time, for waits; both in seconds."""

    def time(self) -> float: ...

    def monotonic(self) -> float: ...


class SystemClock:
    """The operating system's clock."""

    def time(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()


class ManualClock:
    """A clock that changes only when `advance` is called.

    >>> clock = ManualClock(start_s=100.0)
    >>> clock.advance(2.5)
    >>> clock.time(), clock.monotonic()
    (102.5, 102.5)
    """

    def __init__(self, start_s: float = 0.0) -> None:
        self._now_s = start_s

    def time(self) -> float:
        return self._now_s

    def monotonic(self) -> float:
        return self._now_s

    def advance(self, seconds: float) -> None:
        """Advance the clock by `seconds`. Raises ValueError if `seconds` is negative."""
        if seconds < 0:
            raise ValueError(f"a clock cannot go back: {seconds}")
        self._now_s += seconds
