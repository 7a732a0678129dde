"""Run a job in the calling thread (`driftline run`, tests) or in a separate process.

Input: a training or a comparison. Output: the job's result, returned by `poll`. With a separate
process, the service's loop keeps polling the broker during the training. If polling stopped, the
consumer group would evict the worker, and the training would restart again and again.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Protocol

from driftline.errors import BrokerError
from trainer.compare import ComparisonJob, ComparisonResult
from trainer.retrain import TrainingJob, TrainingResult
from trainer.search import Progress, no_progress

Job = TrainingJob | ComparisonJob
Result = TrainingResult | ComparisonResult
# Runs a job. The result of a job that has failed may always be a `TrainingResult`.
RunJob = Callable[[Job, Progress], Result]

# A training reports its progress before each fit. A fit that takes longer than this hangs, or would
# keep all later requests waiting.
LONGEST_SILENCE_S = 6 * 3600.0
# After SIGTERM, a training process has this long to exit before it is killed.
_END_S = 5.0


class Runner(Protocol):
    """Runs one job at a time."""

    def start(self, job: Job) -> None:
        """Start a job. No other job may be running."""

    def poll(self) -> Result | None:
        """Return the job's result in the first call after it is available, otherwise None."""

    def cancel(self) -> None:
        """Stop the current job, if any, without returning a result, and free its resources."""


class InlineRunner:
    """Works in the calling thread when `poll` is called."""

    def __init__(self, work: RunJob, progress: Progress = no_progress) -> None:
        self._work = work
        self._progress = progress
        self._job: Job | None = None  # set by `start`, reset by `poll` and `cancel`

    def start(self, job: Job) -> None:
        self._job = job

    def poll(self) -> Result | None:
        if self._job is None:
            return None
        job, self._job = self._job, None
        return self._work(job, self._progress)

    def cancel(self) -> None:
        self._job = None


class ProcessRunner:
    """Works in a spawned process. `work` must be picklable.

    If the process dies (for example, when memory runs out), the result's reason contains the
    exit code. A process that reports no progress for `LONGEST_SILENCE_S` is killed.
    """

    def __init__(
        self,
        work: RunJob,
        progress: Progress = no_progress,
        *,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._work = work
        self._progress = progress
        self._monotonic_s = monotonic_s
        self._heard_s = monotonic_s()  # when the process last reported progress
        self._context = multiprocessing.get_context("spawn")  # client threads do not survive a fork
        # `start` sets both attributes, and `cancel` resets them. `poll` calls `cancel` after it has
        # received the result.
        self._process: multiprocessing.process.BaseProcess | None = None
        self._pipe: Connection | None = None

    def start(self, job: Job) -> None:
        self._pipe, theirs = self._context.Pipe(duplex=False)
        self._process = self._context.Process(
            target=_work, args=(self._work, job, theirs), name="driftline-training", daemon=True
        )
        self._process.start()
        self._heard_s = self._monotonic_s()
        theirs.close()  # so that the pipe closes when the process exits

    def poll(self) -> Result | None:
        if self._pipe is None:
            return None
        try:
            while self._pipe.poll():
                message = self._pipe.recv()
                self._heard_s = self._monotonic_s()
                if isinstance(message, tuple):
                    self._progress(*message)
                    continue
                self.cancel()
                result: Result = message
                return result
        except EOFError:
            code = self._exit_code()
            self.cancel()
            return TrainingResult(reason=f"training failed: its process exited with code {code}")
        if self._monotonic_s() - self._heard_s >= LONGEST_SILENCE_S:
            self.cancel()
            hours = LONGEST_SILENCE_S / 3600
            return TrainingResult(reason=f"training failed: no progress for {hours:g} hours")
        return None

    def cancel(self) -> None:
        if self._process is not None and self._process.is_alive():
            self._process.terminate()
            self._process.join(_END_S)
            if self._process.is_alive():
                self._process.kill()
                self._process.join()
        if self._process is not None:
            self._process.close()
        if self._pipe is not None:
            self._pipe.close()
        self._process = self._pipe = None

    def _exit_code(self) -> int | None:
        if self._process is None:
            return None
        self._process.join(_END_S)
        return self._process.exitcode


def _work(work: RunJob, job: Job, pipe: Connection) -> None:
    """Work in the child process. Send the progress, then the result."""
    # Ctrl-C reaches every process in the process group, but the service decides when to stop this
    # process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def progress(step: str, done: int, total: int) -> None:
        pipe.send((step, done, total))

    try:
        pipe.send(work(job, progress))
    except BrokerError as error:
        pipe.send(_to_repeat(job, error))
    finally:
        pipe.close()


def _to_repeat(job: Job, error: BrokerError) -> Result:
    if isinstance(job, ComparisonJob):
        return ComparisonResult("open", error.message, rows=job.looked, passes=True)
    return TrainingResult(reason=error.message, passes=True)


def _end_with_parent() -> None:
    """Exit when the service exits, because the restarted service runs the training again."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
