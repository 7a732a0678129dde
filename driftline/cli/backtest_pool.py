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
    running: dict[Connection, tuple[int, multiprocessing.process.BaseProcess]] = {}
    results: dict[int, Played] = {}
    try:
        while waiting or running:
            while waiting and len(running) < processes:
                number, job = waiting.pop(0)
                ours, theirs = context.Pipe(duplex=False)
                started = context.Process(target=_work, args=(job, theirs), daemon=True)
                started.start()
                theirs.close()  # so that the pipe ends when the process does
                running[ours] = (number, started)
            for ready in wait(list(running)):
                pipe = cast(Connection, ready)
                number, process = running[pipe]
                try:
                    message = pipe.recv()
                except EOFError:
                    process.join()
                    raise DriftlineError(
                        f"playing {jobs[number].name} ended with code {process.exitcode}"
                    ) from None
                if isinstance(message, tuple):
                    tell(jobs[number].name, *message)
                    continue
                if isinstance(message, str):
                    raise DriftlineError(f"playing {jobs[number].name}: {message}")
                results[number] = message
                del running[pipe]
                process.join()
                pipe.close()
    finally:
        for _, process in running.values():
            process.terminate()
        for pipe, (_, process) in running.items():
            process.join()
            pipe.close()
    return [results[number] for number in range(len(jobs))]


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _work(job: Job, pipe: Connection) -> None:
    """In the process: play, send progress as (done, total), then the result or what is wrong."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this one
    try:
        pipe.send(play(job, lambda done, total: pipe.send((done, total))))
    except DriftlineError as error:
        pipe.send(str(error))
    finally:
        pipe.close()
