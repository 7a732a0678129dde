"""Slows a playback down to so many records a second, by a clock and a sleep that are passed in."""

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from driftline.clock import Clock
from driftline.errors import SettingsError
from producers.playback import Play

# Sleeping for less costs more in wake-ups than the evenness is worth; the average rate holds.
_LEAST_SLEEP_S: Final = 0.005


def paced(
    plays: Iterable[Play],
    records_per_s: float | None,
    *,
    clock: Clock,
    sleep: Callable[[float], object],
) -> Iterator[Play]:
    """The same items, at most `records_per_s` feature records a second; None: as they come.

    Labels follow their records and are not counted. Raises SettingsError for a rate of 0 or less.
    """
    if records_per_s is None:
        yield from plays
        return
    if not records_per_s > 0:
        raise SettingsError(f"the rate must be above 0 records a second, got {records_per_s}")
    started_s = clock.monotonic()
    records = 0
    for play in plays:
        if play.kind == "record":
            wait_s = started_s + records / records_per_s - clock.monotonic()
            if wait_s >= _LEAST_SLEEP_S:
                sleep(wait_s)
            records += 1
        yield play
