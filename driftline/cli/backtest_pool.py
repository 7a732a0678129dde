"""Plays of a backtest in processes of their own, as many at once as there are cores.

In: jobs. Out: what came of each, in their order, and progress. Whoever interrupts gets the prompt
back at once: the processes end with this one.
"""

import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import cast

from driftline.cli.backtest_runs import Job, Played, play
from driftline.errors import DriftlineError

Tell = Callable[[str, int, int], None]  # name of the play, rows done, of how many


def play_all(jobs: Sequence[Job], processes: int, tell: Tell) -> list[Played]:
    """Play all jobs. Raises DriftlineError, the first that a play ended with."""
    context = multiprocessing.get_context("spawn")  # fork and threads of libraries do not mix
    waiting = list(enumerate(jobs))
    workers: list[tuple[Connection, multiprocessing.process.BaseProcess]] = []
    playing: dict[Connection, int] = {}
    results: dict[int, Played] = {}

    def next_job(pipe: Connection) -> None:
        if waiting:
            playing[pipe], job = waiting.pop(0)
            pipe.send(job)

    try:
        for _ in range(min(processes, len(jobs))):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs,), daemon=True)
            start_deaf(process)
            theirs.close()  # so that the pipe ends when the process does
            workers.append((ours, process))
            next_job(ours)
        while playing:
            for ready in wait(list(playing)):
                pipe = cast(Connection, ready)
                name = jobs[playing[pipe]].name
                try:
                    message = pipe.recv()
                except EOFError:
                    raise DriftlineError(f"playing {name}: its process has died") from None
                if isinstance(message, tuple):
                    tell(name, *message)
                elif isinstance(message, str):
                    raise DriftlineError(f"playing {name}: {message}")
                else:
                    results[playing.pop(pipe)] = message
                    next_job(pipe)
    finally:
        for pipe, worker in workers:
            worker.terminate()
            worker.join()
            pipe.close()
    return [results[number] for number in range(len(jobs))]


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def start_deaf(process: multiprocessing.process.BaseProcess) -> None:
    """Start a process that does not hear Ctrl-C, which reaches the whole group, not even while it
    imports: this one ends it."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # inherited
    try:
        process.start()
    finally:
        signal.signal(signal.SIGINT, before)


def _work(pipe: Connection) -> None:
    """In the process: play one job after the other, send progress as (done, total), then the result
    or what is wrong. The parent ends it."""

    def progress(done: int, total: int) -> None:
        pipe.send((done, total))

    while True:
        try:
            pipe.send(play(pipe.recv(), progress))
        except DriftlineError as error:
            pipe.send(str(error))
