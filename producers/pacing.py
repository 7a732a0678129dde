"""Limit a playback to a number of records per second, using the caller's clock and sleep."""

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from driftline.clock import Clock
from driftline.errors import SettingsError
from producers.playback import Play

# Shorter waits are skipped, because frequent wake-ups cost too much CPU time. The average rate
# stays the same, because the next wait is longer.
_LEAST_SLEEP_S: Final = 0.005


def paced(
    plays: Iterable[Play],
    records_per_s: float | None,
    *,
    clock: Clock,
    sleep: Callable[[float], object],
) -> Iterator[Play]:
    """Yield the items of `plays`, but at most `records_per_s` feature records per second.

    None means no limit. Labels do not count towards the rate. Raises SettingsError if the rate is
    not above 0.
    """
    if records_per_s is None:
        yield from plays
        return
    if not records_per_s > 0:
        raise SettingsError(f"the rate must be above 0 records per second, got {records_per_s}")
    started_s = clock.monotonic()
    records = 0
    for play in plays:
        if play.kind == "record":
            wait_s = started_s + records / records_per_s - clock.monotonic()
            if wait_s >= _LEAST_SLEEP_S:
                sleep(wait_s)
            records += 1
        yield play
