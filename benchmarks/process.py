"""Start and stop a measured program's process, and read its CPU time and memory from /proc.

This module works only on Linux.
"""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

_STOP_TIMEOUT_S = 20.0
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


class BenchmarkError(Exception):
    """A measurement failed; the message contains the reason."""


class MeasuredProcess:
    """One running program. Its output goes to a log file, which error messages quote."""

    def __init__(
        self, name: str, command: Sequence[str], *, environment: Mapping[str, str], log: Path
    ) -> None:
        self.name = name
        self._log = log
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                cwd=Path(__file__).parents[1],
            )
        self._proc = Path("/proc") / str(self._process.pid)

    def check(self) -> None:
        """Raise BenchmarkError if the program has exited."""
        if (code := self._process.poll()) is not None:
            raise BenchmarkError(f"{self.name} ended with {code}:\n{self.log_end()}")

    def cpu_s(self) -> float:
        """Return the CPU seconds that all threads have used, in user and kernel mode.

        The resolution is 10 ms.
        """
        fields = (self._proc / "stat").read_bytes().rpartition(b")")[2].split()
        return (int(fields[11]) + int(fields[12])) * _TICK_S

    def memory_bytes(self) -> int:
        """Return the program's current resident memory."""
        return self._status(b"VmRSS:")

    def peak_bytes(self) -> int:
        """Return the program's peak resident memory."""
        return self._status(b"VmHWM:")

    def wait(self, timeout_s: float) -> None:
        """Wait for the program to exit. Stop it if it is still running after the timeout."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.stop()

    def log_end(self) -> str:
        """Return the last 15 lines of the log."""
        return "\n".join(self._log.read_text("utf-8", "replace").splitlines()[-15:])

    def stop(self) -> None:
        """Send SIGTERM, so that the program leaves its consumer group.

        Kill the program if it has not exited after 20 s.
        """
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            deadline = time.monotonic() + _STOP_TIMEOUT_S
            while self._process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.05)
            self._process.kill()
        self._process.wait()

    def _status(self, field: bytes) -> int:
        for line in (self._proc / "status").read_bytes().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) * 1024
        raise BenchmarkError(
            f"{self.name} is exiting: no {field.decode()} in /proc:\n{self.log_end()}"
        )
