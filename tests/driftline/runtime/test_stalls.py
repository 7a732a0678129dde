"""A worker's clients have stalled if they make no progress for 30 s, although they could."""

import pytest

from driftline.broker.port import TopicPartition
from driftline.clock import ManualClock
from driftline.errors import Stuck
from driftline.runtime.stalls import PATIENCE_S, StallDetector

A, B = TopicPartition("in", 0), TopicPartition("in", 1)
SECONDS = int(PATIENCE_S)


class Worker:
    """A worker that checks its positions once a second."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.detector = StallDetector(self.clock)
        self.end, self.paused = 9, False

    def stay_at(self, position: int, seconds: int, *, step_s: int = 1) -> bool:
        """Check at this position until the time has passed. Return the last check's result."""
        is_behind = self._check(position)
        for _ in range(seconds // step_s):
            self.clock.advance(step_s)
            is_behind = self._check(position)
        return is_behind

    def _check(self, position: int) -> bool:
        paused = {A} if self.paused else set()
        return self.detector.check(
            {A: position, B: 3}, {A: self.end, B: 3}, paused, is_assigned=True
        )

    def stay_unassigned(self, seconds: int) -> None:
        for _ in range(seconds):
            self.clock.advance(1)
            self.detector.check({}, {}, (), is_assigned=False)


@pytest.fixture
def worker() -> Worker:
    return Worker()


@pytest.mark.parametrize("step_s", [1, 10])
def test_unread_records_that_are_not_read_are_an_error(worker: Worker, step_s: int) -> None:
    assert worker.stay_at(5, SECONDS - step_s, step_s=step_s)
    with pytest.raises(Stuck, match="no records arrive"):
        worker.stay_at(5, step_s, step_s=step_s)


def test_new_clients_are_not_replaced_again_at_the_same_positions(worker: Worker) -> None:
    with pytest.raises(Stuck):
        worker.stay_at(5, SECONDS)
    worker.detector.restart()
    assert worker.stay_at(5, 3 * SECONDS)
    with pytest.raises(Stuck):
        worker.stay_at(6, SECONDS)


@pytest.mark.parametrize(("end", "paused"), [(5, False), (9, True)])
def test_a_worker_that_has_nothing_to_read_is_not_stalled(
    worker: Worker, end: int, paused: bool
) -> None:
    worker.end, worker.paused = end, paused
    assert not worker.stay_at(5, 3 * SECONDS)


def test_progress_and_new_clients_start_the_measurement_again(worker: Worker) -> None:
    worker.stay_at(5, SECONDS - 1)
    worker.stay_at(6, SECONDS - 1)
    worker.detector.restart()
    worker.clock.advance(2)
    assert worker.stay_at(6, SECONDS - 1)


def test_a_suspended_process_has_not_waited(worker: Worker) -> None:
    worker.stay_at(5, 1)
    worker.clock.advance(20 * PATIENCE_S)
    assert worker.stay_at(5, SECONDS - 12)


def test_a_worker_without_an_assignment_is_stalled(worker: Worker) -> None:
    worker.stay_unassigned(SECONDS)
    worker.stay_at(5, 0)
    worker.stay_unassigned(SECONDS - 1)
    with pytest.raises(Stuck, match="completes no assignment"):
        worker.stay_unassigned(1)
