"""Ctrl-C ends a command, whatever it is doing at that moment."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from driftline.ops.processes import born

PRESS = "os.kill(os.getpid(), signal.SIGINT)"
HEAD = """
import os, signal, sys, time
from driftline.interrupts import catch, check, pressed
signal.signal(signal.SIGINT, signal.default_int_handler)
"""


def ended(code: str, *, head: str = HEAD) -> tuple[int, str]:
    """Run code in a process. Return its exit code and what it wrote to standard error."""
    done = subprocess.run(
        [sys.executable, "-c", head + code],
        env=os.environ | {"DRIFTLINE_HOME": "/nowhere"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stderr


IN_A_DESTRUCTOR = f"""
class Late:
    def __del__(self):
        {PRESS}
catch()
try:
    Late()
    for _ in range(500):
        time.sleep(0.01)
except KeyboardInterrupt:
    sys.exit(130)
"""
SUPPRESSED = f"""
catch()
try:
    {PRESS}
except:
    pass
try:
    check()
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize("code", [IN_A_DESTRUCTOR, SUPPRESSED])
def test_an_interrupt_that_is_dropped_or_suppressed_is_raised_again(code: str) -> None:
    assert ended(code) == (130, "")


def test_a_second_interrupt_ends_the_process_and_its_children_at_once() -> None:
    code = f"""
import multiprocessing
catch()
child = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,), daemon=True)
child.start()
print(child.pid, file=sys.stderr)
try:
    {PRESS}
finally:
    {PRESS}
    time.sleep(60)
"""
    exit_code, error = ended(code)
    pid, message = error.split("\n", 1)

    assert (exit_code, message) == (130, "interrupted again: ended without cleaning up\n")
    deadline_s = time.monotonic() + 10
    while born(int(pid)) is not None:
        assert time.monotonic() < deadline_s, "the child still runs"
        time.sleep(0.01)  # until the kernel has ended it


def test_other_errors_in_destructors_are_still_reported() -> None:
    exit_code, error = ended("catch()\nclass A:\n    def __del__(self): 1 / 0\nA()")

    assert exit_code == 0
    assert "ZeroDivisionError" in error


def test_a_process_that_ignores_ctrl_c_still_does() -> None:
    code = f"signal.signal(signal.SIGINT, signal.SIG_IGN); catch(); {PRESS}; assert not pressed()"
    assert ended(code) == (0, "")


def test_no_loop_ends_without_an_interrupt() -> None:
    assert ended("catch(); check(); assert not pressed()") == (0, "")


@pytest.mark.parametrize("then", ["pass", "raise ImportError('numpy failed')"])
def test_an_interrupt_during_the_imports_prints_no_traceback(then: str) -> None:
    code = f"""
class Presses:
    def find_spec(self, name, *_):
        if name == "driftline_app.cli.main":
            try:
                {PRESS}
            finally:
                {then}
sys.meta_path.insert(0, Presses())
from driftline_app.cli.entry import start
start()
"""
    assert ended(code) == (130, "interrupted\n")


def test_an_interrupt_in_a_destructor_of_a_library_ends_a_run(tmp_path: Path) -> None:
    code = f"""
from zipfile import ZipFile
real = ZipFile.__del__
def late(self):
    ZipFile.__del__ = real
    {PRESS}
ZipFile.__del__ = late
os.environ["DRIFTLINE_HOME"] = {str(tmp_path)!r}
sys.argv = ["driftline", "demo", "--limit", "1500"]
from driftline_app.cli.main import main
main()
"""
    exit_code, error = ended(code)

    assert (exit_code, error) == (130, "interrupted: this run was not saved\n")
    assert list((tmp_path / "runs").iterdir()) == []
