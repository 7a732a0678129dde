"""Every detector: finds a rise, ignores a fall, is bounded, pickled, and begins anew."""

import pickle
import random

import pytest

from driftline.stream import Task
from monitor.detectors import DETECTORS, REMEMBERED, ErrorDetector, Rise

every = pytest.mark.parametrize("name", list(DETECTORS))
TASKS: tuple[Task, ...] = ("classification", "regression")


def errors(task: Task, level: float, count: int, seed: int) -> list[float]:
    """0 and 1, or absolute errors in some unit; `level` is their mean share."""
    rng = random.Random(seed)
    if task == "classification":
        return [float(rng.random() < level) for _ in range(count)]
    return [rng.expovariate(1.0) * level * 1000.0 for _ in range(count)]


def feed(detector: ErrorDetector, values: list[float], pane: int = 50) -> list[tuple[int, Rise]]:
    """(values read, rise) of each find."""
    found = []
    for start in range(0, len(values), pane):
        detector.update(values[start : start + pane])
        if detector.rise is not None:
            found.append((min(start + pane, len(values)), detector.rise))
    return found


@pytest.mark.parametrize("task", TASKS)
@every
def test_a_rise_is_found_and_dated(name: str, task: Task) -> None:
    values = errors(task, 0.1, 1000, 1) + errors(task, 0.6, 1000, 2)
    found = feed(ErrorDetector(name, task), values)
    assert found
    read, rise = found[0]
    assert 1000 < read <= 1500
    assert abs(read - rise.ago - 1000) <= 50
    assert rise.after > rise.before


@pytest.mark.parametrize("task", TASKS)
@every
def test_a_fall_is_no_drift(name: str, task: Task) -> None:
    values = errors(task, 0.6, 1000, 3) + errors(task, 0.1, 1500, 4)
    found = feed(ErrorDetector(name, task), values)
    assert [read for read, _ in found if read > 1000] == []


@every
def test_errors_of_one_level_raise_next_to_no_alarm(name: str) -> None:
    alarms = sum(
        len(feed(ErrorDetector(name, "classification"), errors("classification", 0.15, 1500, seed)))
        for seed in range(4)
    )
    assert alarms <= 1


@every
def test_panes_of_any_size_find_the_same(name: str) -> None:
    values = errors("classification", 0.1, 800, 5) + errors("classification", 0.7, 400, 6)

    def dates(pane: int) -> list[int]:
        found = feed(ErrorDetector(name, "classification"), values, pane)
        return [read - rise.ago for read, rise in found][:1]

    assert dates(1) == dates(37) == dates(400)


@every
def test_a_pickled_detector_goes_on_where_it_was(name: str) -> None:
    detector = ErrorDetector(name, "regression")
    feed(detector, errors("regression", 0.1, 900, 7))
    restored = pickle.loads(pickle.dumps(detector))
    rest = errors("regression", 0.6, 600, 8)
    assert feed(restored, rest) == feed(detector, rest)


@every
def test_memory_is_bounded(name: str) -> None:
    detector = ErrorDetector(name, "classification")
    feed(detector, errors("classification", 0.2, 1500, 9))
    small = len(pickle.dumps(detector))
    feed(detector, errors("classification", 0.2, 3000, 10))
    # Nine bytes a remembered value, and ADWIN's buckets, which grow with the logarithm.
    assert len(pickle.dumps(detector)) < 1.2 * small + 9 * REMEMBERED


@every
def test_reset_forgets(name: str) -> None:
    detector = ErrorDetector(name, "classification")
    feed(detector, errors("classification", 0.1, 1000, 11))
    detector.reset()
    assert feed(detector, errors("classification", 0.6, 800, 12)) == []


def test_a_regression_error_has_any_unit() -> None:
    values = errors("regression", 0.1, 600, 13) + errors("regression", 0.5, 300, 14)
    found = feed(ErrorDetector("adwin", "regression"), values)
    scaled = feed(ErrorDetector("adwin", "regression"), [value * 2**30 for value in values])
    assert found
    assert scaled == found


def test_ddm_warns_before_it_alarms() -> None:
    detector = ErrorDetector("ddm", "classification")
    warned = []
    for value in errors("classification", 0.1, 600, 1) + errors("classification", 0.3, 400, 2):
        detector.update([value])
        warned.append(detector.warning)
        if detector.drift:
            break
    assert detector.drift
    assert any(warned[600:])
