"""Use state files to find a stream's services on this machine and to judge their health.

Input: the folder of the state files, and the current time. Output: `Workers`: each worker, and any
problems found. This module does not connect to the broker.
"""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Literal

import msgspec

from driftline.clock import rfc3339
from driftline.ops.health import judge, seconds_since
from driftline.ops.processes import (
    Process,
    ServiceState,
    read_processes,
    read_states,
    read_supervisor,
    unreadable,
)
from driftline.wire.topics import SERVICES, Service

# Maximum time that a service may take to start. Just importing scikit-learn, pandas and Evidently
# takes about 10 s on two slow cores.
START_PATIENCE_S = 90.0
UNSUPERVISED = (
    "the supervisor has ended: services keep running, but are not restarted; "
    "`driftline up` starts another one"
)


class Worker(msgspec.Struct, frozen=True):
    """A service process, with its last state and its health."""

    state: ServiceState
    alive: bool
    problem: str | None = None  # why the worker is unhealthy
    restarts: int = 0
    outdated: bool = False  # whether the worker started with an earlier version of the stream file

    @property
    def name(self) -> str:
        return f"{self.state.service}-{self.state.slot}"


class Workers(msgspec.Struct, frozen=True):
    """All workers of a stream on this machine."""

    folder: Path  # folder of the state files and logs
    workers: tuple[Worker, ...]
    supervisor: Literal["running", "ended", "none"]
    unreadable: tuple[str, ...] = ()  # the state files that cannot be read, and why

    def problems(self) -> Iterator[str]:
        """Yield a message for each problem. If all four services are healthy, yield nothing."""
        yield from self.unreadable
        if self.supervisor == "ended":
            yield UNSUPERVISED
        missing = self.missing()
        if len(missing) == len(SERVICES):
            yield "no service is running; `driftline up` starts them"
            return
        for service in missing:
            yield f"no worker of {service} is running"
        for worker in self.workers:
            if worker.problem:
                yield f"{worker.name} {worker.problem}"

    def missing(self) -> tuple[Service, ...]:
        """Return the services that have neither a running worker nor a worker with a problem."""
        here = {worker.state.service for worker in self.workers if worker.alive or worker.problem}
        return tuple(service for service in SERVICES if service not in here)


def look_at_workers(folder: Path, digest: str | None, *, now: datetime) -> Workers:
    """Inspect all workers. `digest` is the stream file's digest, or None if it is unknown."""
    damaged = tuple(unreadable(folder))
    processes = {process.name: process for process in read_processes(folder)}
    states = {f"{state.service}-{state.slot}": state for state in read_states(folder)}
    workers = []
    for name in (*processes, *(name for name in states if name not in processes)):
        process = processes.get(name)
        state = states.get(name)
        if state is None or (process is not None and state.pid != process.pid):
            assert process is not None
            state = _unwritten_state(process, now)
        alive = process.alive if process is not None else state.alive
        workers.append(
            Worker(
                state=state,
                alive=alive,
                problem=_problem(process, state, alive, now),
                restarts=process.restarts if process is not None else 0,
                outdated=alive and digest is not None and state.stream_digest not in (None, digest),
            )
        )
    order = {service: number for number, service in enumerate(SERVICES)}
    workers.sort(key=lambda worker: (order[worker.state.service], worker.state.slot))
    is_supervised = read_supervisor(folder) is not None
    return Workers(
        folder=folder,
        workers=tuple(workers),
        supervisor="running" if is_supervised else "ended" if processes else "none",
        unreadable=damaged,
    )


def _problem(
    process: Process | None, state: ServiceState, alive: bool, now: datetime
) -> str | None:
    """Return why a worker is unhealthy, or None if it is healthy or was stopped on purpose."""
    if process is not None and process.crash_looping:
        again = f", next start at {process.retry}" if process.retry else ""
        return f"keeps crashing, {process.failures} times in a row{again}: {process.error}"
    if not alive:
        if process is not None and process.retry:
            return f"has ended, next start at {process.retry}: {process.error}"
        if state.state == "stopped" and process is None:
            return None
        return f"has failed: {state.error}" if state.error else "was killed"
    if state.state == "starting" and seconds_since(state.started, now) <= START_PATIENCE_S:
        return None
    found = judge(state, now=now)
    if not found.healthy:
        return f"is unhealthy: {found.reason}"
    return None if state.problem is None else f"reports: {state.problem}"


def _unwritten_state(process: Process, now: datetime) -> ServiceState:
    """Return a provisional state for a process that has not written its own state yet."""
    moment = rfc3339(now.timestamp())
    return ServiceState(
        service=process.service,
        slot=process.slot,
        pid=process.pid,
        born=process.born,
        state="starting" if process.alive else "failed",
        started=moment,
        updated=moment,
        error=None if process.alive else process.error,
    )
