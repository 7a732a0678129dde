"""End a process whose loop hangs, so that its supervisor starts it again.

Most calls of the clients have time limits, but a client library may still hang, and so may a model
store or a custom model. A hung loop would otherwise wait forever. Input: a beat after each turn of
the loop. Output: after a long silence, the stacks of all threads, and the end of the process.
"""

import faulthandler
import logging
import os
import threading
from collections.abc import Callable
from typing import Final

from driftline.clock import Clock

log = logging.getLogger(__name__)

# The longest turns take about two minutes: all of the clients' time limits in a row.
LONGEST_TURN_S: Final = 300.0
# The exit code after a hang: EX_SOFTWARE in BSD's sysexits.h.
HUNG: Final = 70
_CHECK_EVERY_S: Final = 1.0
# Between two checks, no more than this counts as silence. If more time has passed, the whole
# process was suspended.
_LONGEST_CHECK_S: Final = 5.0


class Watchdog:
    """Calls `on_hang` if there is no beat for `limit_s` seconds."""

    def __init__(
        self, clock: Clock, on_hang: Callable[[str], None], *, limit_s: float = LONGEST_TURN_S
    ) -> None:
        self._clock = clock
        self._on_hang = on_hang
        self._limit_s = limit_s
        self._beats = 0
        self._seen = 0  # number of beats at the last check
        self._checked_s = clock.monotonic()
        self._silent_s = 0.0

    def beat(self) -> None:
        """Report that the loop has completed a turn."""
        self._beats += 1

    def check(self) -> bool:
        """Return whether the loop hangs. Call this every second."""
        now_s = self._clock.monotonic()
        waited_s = min(now_s - self._checked_s, _LONGEST_CHECK_S)
        self._checked_s = now_s
        if self._beats != self._seen:
            self._seen = self._beats
            self._silent_s = 0.0
        else:
            self._silent_s += waited_s
        return self._silent_s >= self._limit_s

    def start(self) -> None:
        """Check in a thread until the process ends."""
        threading.Thread(target=self._run, name="driftline-watchdog", daemon=True).start()

    def _run(self) -> None:
        pause = threading.Event()
        while not self.check():
            pause.wait(_CHECK_EVERY_S)
        self._on_hang(f"the loop has not completed a turn for {self._limit_s:.0f} s")


def end_process(reason: str) -> None:
    """Log the reason, print the stacks of all threads to standard error, and end the process."""
    try:
        log.error("%s; ending this process, so that it is started again", reason)
        faulthandler.dump_traceback(all_threads=True)
    finally:
        os._exit(HUNG)  # a normal exit would wait for the thread that hangs
