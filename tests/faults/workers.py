"""The services of a run as processes of their own, that can be killed and started again.

In: a site. Out: processes with a log per slot, to the end of which each successor writes.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from typing import Final, NamedTuple

from driftline.processes import folder_of, read_state
from driftline.topics import SERVICES, Service
from tests.faults.site import Site

# Importing takes seconds; with many processes on few cores, a multiple of that.
_START_PATIENCE_S: Final = 180.0
# Commits, leaves its group, and gives up a training under way.
_STOP_PATIENCE_S: Final = 40.0
_LOOK_EVERY_S: Final = 0.05


class Slot(NamedTuple):
    """Worker number `number` of a service."""

    service: Service
    number: int

    def __str__(self) -> str:
        return f"{self.service}-{self.number}"


class Workers:
    """All workers of a site. Methods may be called from several threads, one thread per service."""

    def __init__(self, site: Site) -> None:
        self.fallen: list[str] = []  # what ended by itself, and how
        self.killed: list[str] = []
        self._site = site
        self._processes: dict[Slot, subprocess.Popen[bytes]] = {}
        self._lock = threading.RLock()
        self.logs = site.folder / "logs"
        self.logs.mkdir(exist_ok=True)
        self.slots = tuple(
            Slot(service, number)
            for service in SERVICES
            for number in range(site.scenario.slots(service))
        )

    def start(self, slot: Slot) -> None:
        """Start it as `driftline up` does, in a session of its own."""
        command = (sys.executable, "-m", "driftline.cli", slot.service, str(self._site.file))
        with (self.logs / f"{slot}.log").open("ab") as log:
            process = subprocess.Popen(
                (*command, "--slot", str(slot.number)),
                env={**os.environ, **self._site.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        with self._lock:
            self._processes[slot] = process

    def start_all(self) -> None:
        """Start all and wait until each has joined its group. Raises RuntimeError."""
        for slot in self.slots:
            self.start(slot)
        for slot in self.slots:
            self.wait_until_it_runs(slot)

    def wait_until_it_runs(self, slot: Slot) -> None:
        """Wait for the state file to say that it has joined. Raises RuntimeError."""
        folder = folder_of(self._site.settings, self._site.stream)
        deadline_s = time.monotonic() + _START_PATIENCE_S
        process = self._processes[slot]
        while True:
            said = read_state(folder, slot.service, slot.number)
            if said is not None and said.pid == process.pid and said.state != "starting":
                return
            if process.poll() is not None or time.monotonic() > deadline_s:
                raise RuntimeError(f"{slot} does not start; see {self.logs / f'{slot}.log'}")
            time.sleep(_LOOK_EVERY_S)  # another process is awaited; it tells by its file

    def kill(self, slot: Slot) -> None:
        """kill -9; its children are left, as they would be."""
        with self._lock:
            process = self._processes[slot]
            self._note_if_it_fell(slot, process)
            process.kill()
            process.wait()
            self.killed.append(str(slot))

    def revive(self) -> None:
        """Start again what ended by itself, as a supervisor would; `fallen` tells of it."""
        with self._lock:
            for slot, process in tuple(self._processes.items()):
                if self._note_if_it_fell(slot, process):
                    self.start(slot)

    def stop_all(self) -> None:
        """Ask all to end, and kill what does not, with the children that killed ones left."""
        processes = dict(self._processes)
        for slot, process in processes.items():
            if not self._note_if_it_fell(slot, process):
                process.terminate()
        deadline_s = time.monotonic() + _STOP_PATIENCE_S
        for slot, process in processes.items():
            try:
                code = process.wait(max(0.1, deadline_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                self.fallen.append(f"{slot} did not end within {_STOP_PATIENCE_S:g} s of SIGTERM")
                process.kill()
                process.wait()
            else:
                if code:
                    self.fallen.append(f"{slot} ended with code {code} at SIGTERM")
        self._processes.clear()

    def _note_if_it_fell(self, slot: Slot, process: subprocess.Popen[bytes]) -> bool:
        code = process.poll()
        if code is None or code == -signal.SIGKILL:
            return False
        self.fallen.append(f"{slot} ended by itself with code {code}")
        return True
