"""Run the services as separate processes, which can be killed and restarted.

In: a site. Out: processes. Each slot has one log, to which every process in the slot appends.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from driftline.ops.processes import folder_of, read_state
from driftline.ops.status import INPUTS
from driftline.wire.topics import SERVICES, Service
from tests.faults.entry import VARIABLE, Inside
from tests.faults.site import Site

# A folder with other code of Driftline for the services only, such as that of an earlier commit.
CODE: Final = "FAULTS_CODE"
_ENTRY: Final = Path(__file__).with_name("entry.py")
# Imports take seconds, or a multiple of that with many processes on few cores.
_START_PATIENCE_S: Final = 180.0
# Time to commit, leave the group and cancel a training.
_STOP_PATIENCE_S: Final = 40.0
_LOOK_EVERY_S: Final = 0.05
# A process that ends by itself is restarted after 1 s, then 2 s, 4 s and so on up to this.
_MOST_BACK_OFF_S: Final = 10.0


class Slot(NamedTuple):
    """Worker number `number` of a service."""

    service: Service
    number: int

    def __str__(self) -> str:
        return f"{self.service}-{self.number}"


class Workers:
    """All workers of a site. Several threads may call the methods, but only one per service."""

    def __init__(self, site: Site, inside: Inside | None = None) -> None:
        self.fallen: list[str] = []  # processes that ended by themselves, with the exit code
        self.stubborn: list[str] = []  # processes that did not shut down cleanly on SIGTERM
        self.killed: list[str] = []
        self._site = site
        self._inside = inside
        self._noted: set[int] = set()  # ids of processes that are already in `fallen`
        self._falls: dict[Slot, int] = {}  # number of times that it ended by itself
        self._start_s: dict[Slot, float] = {}  # when a process that ended by itself is restarted
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
        """Start a worker as `driftline up` does, in a session of its own."""
        code, added = os.environ.get(CODE), dict[str, str]()
        program: tuple[str, ...] = ("-m", "driftline_app.cli")
        if code:
            program, added = ("-P", *program), {"PYTHONPATH": code}
        if self._inside is not None:
            program = ("-P", str(_ENTRY))
            added = {
                "PYTHONPATH": code or str(_ENTRY.parents[2]),
                VARIABLE: msgspec.json.encode(self._inside).decode(),
            }
        command = (sys.executable, *program, slot.service, str(self._site.file))
        with (self.logs / f"{slot}.log").open("ab") as log:
            process = subprocess.Popen(
                (*command, "--slot", str(slot.number)),
                env={**os.environ, **self._site.environment, **added},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        with self._lock:
            self._processes[slot] = process

    def start_all(self) -> None:
        """Start all workers and wait until each has joined its group. Raises RuntimeError."""
        for slot in self.slots:
            self.start(slot)
        for slot in self.slots:
            self.wait_until_it_runs(slot)

    def wait_until_it_runs(self, slot: Slot) -> None:
        """Wait until the worker's state file shows that it has joined. Raises RuntimeError."""
        folder = folder_of(self._site.settings, self._site.stream)
        deadline_s = time.monotonic() + _START_PATIENCE_S
        process = self._processes[slot]
        while True:
            said = read_state(folder, slot.service, slot.number)
            if said is not None and said.pid == process.pid and said.state != "starting":
                return
            if process.poll() is not None or time.monotonic() > deadline_s:
                raise RuntimeError(f"{slot} did not start; see {self.logs / f'{slot}.log'}")
            time.sleep(_LOOK_EVERY_S)  # wait for another process, which reports in its file

    def kill(self, slot: Slot) -> None:
        """Kill a worker with SIGKILL. Its child processes survive, as in a real crash."""
        with self._lock:
            process = self._processes[slot]
            self._note_if_it_fell(slot, process)
            process.kill()
            process.wait()
            self.killed.append(str(slot))

    def revive(self) -> None:
        """Restart processes that ended by themselves, as a supervisor does, and note them."""
        with self._lock:
            now_s = time.monotonic()
            for slot, process in tuple(self._processes.items()):
                if slot in self._start_s:
                    if now_s >= self._start_s[slot]:
                        del self._start_s[slot]
                        self.start(slot)
                elif self._note_if_it_fell(slot, process):
                    falls = self._falls[slot] = self._falls.get(slot, 0) + 1
                    self._start_s[slot] = now_s + min(2.0 ** (falls - 1), _MOST_BACK_OFF_S)

    def process(self, slot: Slot) -> subprocess.Popen[bytes]:
        """Return the current process of a slot."""
        with self._lock:
            return self._processes[slot]

    def stop(self, slot: Slot) -> None:
        """Send SIGTERM to a worker and wait for its end."""
        with self._lock:
            process = self._processes[slot]
            if self._note_if_it_fell(slot, process):
                return
            del self._processes[slot]
        process.terminate()
        self._await_end(slot, process, _STOP_PATIENCE_S)

    def left_out(self) -> list[str]:
        """Return a text for each worker that does not run and for missing partitions."""
        folder = folder_of(self._site.settings, self._site.stream)
        wrong, held = [], dict.fromkeys(SERVICES, 0)
        for slot in self.slots:
            process, said = self._processes.get(slot), read_state(folder, *slot)
            if process is None or process.poll() is not None:
                wrong.append(f"{slot} does not run at the end")
            elif said is None or said.pid != process.pid or said.state != "running":
                wrong.append(f"{slot} is {said.state if said else 'silent'} at the end")
            else:
                held[slot.service] += said.partitions
        partitions = {topic.role: topic.partitions for topic in self._site.topics.plan()}
        for service, roles in INPUTS.items():
            due = sum(partitions[role] for role in roles)
            if held[service] != due and not wrong:
                wrong.append(f"{service} holds {held[service]} of {due} partitions at the end")
        return wrong

    def stop_all(self) -> None:
        """Send SIGTERM to all workers, and kill those that do not end in time."""
        processes = dict(self._processes)
        running = {
            slot: process
            for slot, process in processes.items()
            if process.poll() is None or not self._note_if_it_fell(slot, process)
        }
        for process in running.values():
            process.terminate()
        deadline_s = time.monotonic() + _STOP_PATIENCE_S
        for slot, process in running.items():
            self._await_end(slot, process, max(0.1, deadline_s - time.monotonic()))
        self._processes.clear()

    def _await_end(self, slot: Slot, process: subprocess.Popen[bytes], patience_s: float) -> None:
        try:
            code = process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self.stubborn.append(f"{slot} did not end within {_STOP_PATIENCE_S:g} s of SIGTERM")
            process.kill()
            process.wait()
        else:
            if code and code != -signal.SIGKILL:
                self.stubborn.append(f"{slot} ended with code {code} at SIGTERM")

    def _note_if_it_fell(self, slot: Slot, process: subprocess.Popen[bytes]) -> bool:
        code = process.poll()
        if code is None or code == -signal.SIGKILL:
            return False
        if process.pid not in self._noted:
            self._noted.add(process.pid)
            self.fallen.append(f"{slot} ended by itself with code {code}")
        return True
