"""A process whose loop hangs is ended."""

import subprocess
import sys

from driftline.clock import ManualClock
from driftline.runtime.watchdog import HUNG, Watchdog


def ignored(reason: str) -> None:
    """Ignore a hang."""


def test_a_loop_hangs_if_it_does_not_beat_within_the_limit() -> None:
    clock = ManualClock()
    watchdog = Watchdog(clock, ignored, limit_s=30.0)
    for _ in range(100):
        clock.advance(1.0)
        watchdog.beat()
        assert not watchdog.check()
    for _ in range(29):
        clock.advance(1.0)
        assert not watchdog.check()
    clock.advance(1.0)
    assert watchdog.check()


def test_time_in_which_the_process_was_suspended_does_not_count() -> None:
    clock = ManualClock()
    watchdog = Watchdog(clock, ignored, limit_s=30.0)
    clock.advance(3600.0)
    assert not watchdog.check()


def test_a_process_that_hangs_ends_and_prints_where() -> None:
    program = """
import time
from driftline.clock import SystemClock
from driftline.runtime.watchdog import Watchdog, end_process

def waits_forever():
    time.sleep(600)

Watchdog(SystemClock(), end_process, limit_s=2.0).start()
waits_forever()
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == HUNG
    assert "waits_forever" in done.stderr
    assert "the loop has not completed a turn" in done.stderr
