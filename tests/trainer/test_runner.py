"""Runners return the same result from this thread and from a process, even if it dies."""

import os
import signal
import subprocess
import sys
import time
from multiprocessing.connection import wait
from pathlib import Path

import pytest

from driftline.clock import ManualClock
from driftline.errors import BrokerUnavailable
from tests.training import request
from trainer.compare import ComparisonResult
from trainer.retrain import TrainingJob, TrainingResult
from trainer.runner import LONGEST_SILENCE_S, InlineRunner, Job, ProcessRunner
from trainer.search import Progress

JOB = TrainingJob(request(), None, "2024-01-01T00:00:00Z")


def train(job: Job, progress: Progress) -> TrainingResult:
    assert isinstance(job, TrainingJob)
    progress("training", 1, 2)
    return TrainingResult(reason=f"done {job.request.id}")


def unreachable(_job: Job, _progress: Progress) -> TrainingResult:
    raise BrokerUnavailable("nobody answers")


def die(_job: Job, _progress: Progress) -> TrainingResult:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


def hang(_job: Job, progress: Progress) -> TrainingResult:
    progress("started", 0, 1)
    signal.pause()
    raise AssertionError("unreachable")


def result_of(runner: ProcessRunner) -> TrainingResult | ComparisonResult:
    """Poll like a loop, and wait for the pipe in between."""
    until_s = time.monotonic() + 60
    while (result := runner.poll()) is None:
        assert time.monotonic() < until_s, "no result within a minute"
        assert runner._pipe is not None
        wait([runner._pipe], timeout=5)
    return result


def test_a_synchronous_runner_returns_its_result_once() -> None:
    steps: list[str] = []
    runner = InlineRunner(train, lambda step, done, total: steps.append(f"{step} {done}/{total}"))
    assert runner.poll() is None
    runner.start(JOB)
    assert runner.poll() == TrainingResult(reason="done retrain-1")
    assert runner.poll() is None
    assert steps == ["training 1/2"]
    runner.start(JOB)
    runner.cancel()
    assert runner.poll() is None


def test_a_process_returns_its_result_once_and_reports_progress() -> None:
    steps: list[str] = []
    runner = ProcessRunner(train, lambda step, done, total: steps.append(f"{step} {done}/{total}"))
    runner.start(JOB)
    assert result_of(runner) == TrainingResult(reason="done retrain-1")
    assert runner.poll() is None
    assert steps == ["training 1/2"]


def test_after_a_broker_error_in_the_process_the_job_must_be_retried() -> None:
    runner = ProcessRunner(unreachable)
    runner.start(JOB)
    assert result_of(runner) == TrainingResult(reason="nobody answers", passes=True)


def test_a_process_that_hangs_is_ended() -> None:
    clock = ManualClock()
    runner = ProcessRunner(hang, monotonic_s=clock.monotonic)
    runner.start(JOB)
    assert runner._pipe is not None
    assert wait([runner._pipe], timeout=60), "it reports its start"
    assert runner.poll() is None
    clock.advance(LONGEST_SILENCE_S - 1)
    assert runner.poll() is None
    clock.advance(1)
    assert runner.poll() == TrainingResult(reason="training failed: no progress for 6 hours")
    assert runner.poll() is None


def test_the_death_of_the_process_is_returned_as_a_result() -> None:
    runner = ProcessRunner(die)
    runner.start(JOB)
    assert result_of(runner).reason == "training failed: its process exited with code -9"


def test_a_training_can_be_cancelled() -> None:
    started: list[str] = []
    runner = ProcessRunner(hang, lambda step, _done, _total: started.append(step))
    runner.start(JOB)
    while not started:
        assert runner._pipe is not None
        wait([runner._pipe], timeout=60)
        assert runner.poll() is None
    process = runner._process
    assert process is not None
    pid = process.pid
    assert pid is not None
    runner.cancel()
    assert runner.poll() is None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    runner.cancel()


_START_AND_BE_KILLED = """
import os, signal
from tests.trainer.test_runner import JOB, hang
from trainer.runner import ProcessRunner
runner = ProcessRunner(hang)
runner.start(JOB)
while not runner._pipe.poll(60):
    raise SystemExit("it did not start")
print(runner._process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_training_process_ends_if_its_service_is_killed() -> None:
    killed = subprocess.run(
        [sys.executable, "-c", _START_AND_BE_KILLED],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    until_s = time.monotonic() + 60
    while is_running(int(killed.stdout)):
        assert time.monotonic() < until_s, "it still trains after a minute"
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    """Return whether a process is running; a zombie does not count."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"
