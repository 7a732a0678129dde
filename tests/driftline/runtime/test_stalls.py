"""A worker's clients have stalled if they make no progress for about 30 s, although they could."""

import pytest

from driftline.broker.port import TopicPartition
from driftline.errors import Stuck
from driftline.runtime.stalls import PATIENT_CHECKS, StallDetector

A, B = TopicPartition("in", 0), TopicPartition("in", 1)


def check(
    detector: StallDetector, times: int, position: int, *, end: int = 9, paused: bool = False
) -> bool:
    is_behind = False
    for _ in range(times):
        is_behind = detector.check(
            {A: position, B: 3}, {A: end, B: 3}, {A} if paused else (), is_assigned=True
        )
    return is_behind


def test_unread_records_that_are_not_read_are_an_error() -> None:
    detector = StallDetector()
    assert check(detector, PATIENT_CHECKS, 5)
    with pytest.raises(Stuck, match="no records arrive"):
        check(detector, 1, 5)


def test_new_clients_are_not_replaced_again_at_the_same_positions() -> None:
    detector = StallDetector()
    for _ in range(2):
        detector.restart()
        check(detector, PATIENT_CHECKS, 5)
        with pytest.raises(Stuck):
            check(detector, 1, 5)
        detector.restart()
        assert check(detector, 3 * PATIENT_CHECKS, 5)
        check(detector, PATIENT_CHECKS, 6)
        with pytest.raises(Stuck):
            check(detector, 1, 6)


@pytest.mark.parametrize(("end", "paused"), [(5, False), (9, True)])
def test_a_worker_that_has_nothing_to_read_is_not_stalled(end: int, paused: bool) -> None:
    assert not check(StallDetector(), 3 * PATIENT_CHECKS, 5, end=end, paused=paused)


def test_progress_and_new_clients_start_the_count_again() -> None:
    detector = StallDetector()
    check(detector, PATIENT_CHECKS, 5)
    check(detector, PATIENT_CHECKS, 6)
    detector.restart()
    assert check(detector, PATIENT_CHECKS, 6)


def test_a_worker_without_an_assignment_is_stalled() -> None:
    detector = StallDetector()
    for is_assigned in (False, True, False):
        for _ in range(PATIENT_CHECKS - 1):
            assert not detector.check({}, {}, (), is_assigned=is_assigned)
    with pytest.raises(Stuck, match="assigns no partitions"):
        detector.check({}, {}, (), is_assigned=False)
