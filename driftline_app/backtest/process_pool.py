"""Run a backtest's replays in parallel processes, and collect the results.

Input: jobs. Output: each job's result, in the same order, and progress. After Ctrl-C, the processes
are terminated immediately.
"""

import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import cast

from driftline.errors import DriftlineError
from driftline.interrupts import check
from driftline_app.backtest.policy_runs import Job, Played, play

Progress = Callable[[str, int, int], None]  # job name, rows replayed, total rows


def play_all(jobs: Sequence[Job], processes: int, progress: Progress) -> list[Played]:
    """Run all jobs. Raises DriftlineError if a job fails."""
    # Do not fork: a forked process would lack the threads that libraries have started.
    context = multiprocessing.get_context("spawn")
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
            start_ignoring_interrupts(process)
            theirs.close()  # so that `recv` raises EOFError if the process exits
            workers.append((ours, process))
            next_job(ours)
        while playing:
            check()
            for ready in wait(list(playing)):
                pipe = cast(Connection, ready)
                name = jobs[playing[pipe]].name
                try:
                    message = pipe.recv()
                except EOFError:
                    raise DriftlineError(
                        f"replay {name}: the process exited unexpectedly"
                    ) from None
                if isinstance(message, tuple):
                    progress(name, *message)
                elif isinstance(message, str):
                    raise DriftlineError(f"replay {name}: {message}")
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
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def start_ignoring_interrupts(process: multiprocessing.process.BaseProcess) -> None:
    """Start a process that ignores Ctrl-C, even while it imports modules.

    Ctrl-C reaches all processes in the group. The parent process then terminates its children.
    """
    resource_tracker.ensure_running()  # starting the tracker later would unblock SIGINT
    # The child inherits the signal mask. If Ctrl-C is pressed while SIGINT is blocked, the parent
    # handles it when its own mask is restored.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(pipe: Connection) -> None:
    """In a child process, run one job after another until the parent terminates the process.

    For each job, send progress as `(done, total)`, then the result, or an error as text.
    """

    def progress(done: int, total: int) -> None:
        pipe.send((done, total))

    while True:
        try:
            pipe.send(play(pipe.recv(), progress))
        except DriftlineError as error:
            pipe.send(str(error))
