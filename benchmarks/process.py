"""A program under measurement: started, sampled and stopped from outside. Linux alone (/proc)."""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

_STOP_TIMEOUT_S = 20.0
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


class BenchmarkError(Exception):
    """A measurement that cannot be made, and why."""


class Measured:
    """One running program. Its output goes to a log file, whose end errors show."""

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
        """Raise BenchmarkError if it has ended."""
        if (code := self._process.poll()) is not None:
            raise BenchmarkError(f"{self.name} ended with {code}:\n{self.log_end()}")

    def cpu_s(self) -> float:
        """CPU time of all its threads so far, in user and kernel mode, in seconds (to 10 ms)."""
        fields = (self._proc / "stat").read_bytes().rpartition(b")")[2].split()
        return (int(fields[11]) + int(fields[12])) * _TICK_S

    def memory_bytes(self) -> int:
        """What it has in memory now."""
        return self._status(b"VmRSS:")

    def peak_bytes(self) -> int:
        """The most that it ever had in memory."""
        return self._status(b"VmHWM:")

    def wait(self, timeout_s: float) -> None:
        """Wait until it ends by itself; stop it after the timeout."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.stop()

    def log_end(self) -> str:
        """The last lines that it wrote."""
        return "\n".join(self._log.read_text("utf-8", "replace").splitlines()[-15:])

    def stop(self) -> None:
        """End it, kindly first, so that it leaves its consumer group."""
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
        raise BenchmarkError(f"{self.name} has no {field.decode()} any more:\n{self.log_end()}")
