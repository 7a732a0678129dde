"""The contract of detectors: they find only increases, with an onset, for any batch sizes."""

import itertools
import pickle
import random

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driftline.config.stream_sections import Task
from monitor.decisions.autocorrelation_check import HISTORY, Autocorrelation
from monitor.decisions.detectors import (
    DETECTORS,
    REMEMBERED,
    SCALE_VALUES,
    DetectorState,
    ErrorDetector,
    Increase,
)
from monitor.variance_inflation import variance_inflation

every = pytest.mark.parametrize("name", list(DETECTORS))
TASKS: tuple[Task, ...] = ("classification", "regression")
tasks = pytest.mark.parametrize("task", TASKS)
OWN = ["glr", "stepd"]


def errors(task: Task, level: float, count: int, seed: int) -> list[float]:
    """Return errors: 0 or 1 with mean `level`, or absolute errors with mean 1,000 × `level`."""
    rng = random.Random(seed)
    if task == "classification":
        return [float(rng.random() < level) for _ in range(count)]
    return [rng.expovariate(1.0) * level * 1000.0 for _ in range(count)]


def feed(
    detector: ErrorDetector, values: list[float], pane: int = 50
) -> list[tuple[int, Increase]]:
    """Return (values read, increase) of each finding."""
    found = []
    for start in range(0, len(values), pane):
        detector.update(values[start : start + pane])
        found += [(min(start + pane, len(values)), increase) for increase in detector.increases]
    return found


def dated(found: list[tuple[int, Increase]]) -> list[tuple[int, float, float]]:
    """Return (onset, mean before, mean after) of each finding."""
    return [(read - increase.ago, increase.before, increase.after) for read, increase in found]


@tasks
@every
def test_an_increase_is_found_with_its_onset(name: str, task: Task) -> None:
    values = errors(task, 0.1, 1000, 1) + errors(task, 0.6, 1000, 2)
    found = feed(ErrorDetector(name, task), values)
    assert found
    read, increase = found[0]
    assert 1000 < read <= 1500
    assert abs(read - increase.ago - 1000) <= 100
    assert increase.after > increase.before


@tasks
@every
def test_a_decrease_is_not_drift(name: str, task: Task) -> None:
    values = errors(task, 0.6, 500, 3) + errors(task, 0.1, 1500, 4)
    found = feed(ErrorDetector(name, task), values)
    assert [read for read, _ in found if read > 500] == []


@pytest.mark.parametrize("name", ["glr", "stepd", "adwin", "page_hinkley"])
def test_an_increase_is_found_after_a_long_enough_decrease(name: str) -> None:
    levels = ((0.5, 1000), (0.1, 4000), (0.4, 600))
    values = [x for i, (level, n) in enumerate(levels) for x in errors(TASKS[0], level, n, i)]
    places = [place for place, _, _ in dated(feed(ErrorDetector(name, "classification"), values))]
    assert places
    assert abs(places[-1] - 5000) <= 150


@tasks
@every
def test_errors_of_a_constant_level_raise_almost_no_alarm(name: str, task: Task) -> None:
    alarms = [
        increase
        for seed in range(4)
        for increase in feed(ErrorDetector(name, task), errors(task, 0.15, 1500, seed))
    ]
    assert len(alarms) <= 1


@pytest.mark.parametrize("level", [0.01, 0.1, 0.4])
@tasks
def test_the_likelihood_ratio_keeps_its_rate_of_false_alarms(task: Task, level: float) -> None:
    alarms = sum(
        len(feed(ErrorDetector("glr", task), errors(task, level, 10_000, seed), 500))
        for seed in range(4)
    )
    assert alarms == 0  # 40,000 values; one in 200,000 is expected


def in_runs(task: Task, level: float, count: int, seed: int) -> list[float]:
    """Return autocorrelated errors: most equal their neighbour, and one in five is drawn anew."""
    rng = random.Random(seed)
    values = errors(task, level, count, seed)
    for row in range(1, count):
        if rng.random() < 0.8:
            values[row] = values[row - 1]
    return values


@tasks
def test_autocorrelated_errors_raise_no_more_alarms_than_independent_ones(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    def alarms(variance_inflation: float) -> int:
        return sum(
            len(
                feed(
                    ErrorDetector("glr", task, variance_inflation),
                    in_runs(task, 0.2, 5_000, seed),
                    500,
                )
            )
            for seed in range(4)
        )

    held_out = variance_inflation(np.array(in_runs(task, 0.2, 2_000, 99)))
    from_themselves = alarms(1.0)
    monkeypatch.setattr(Autocorrelation, "add", lambda self, value, phase: None)
    assert alarms(held_out) <= 2, "known from training"
    assert alarms(1.0) > max(10, 4 * from_themselves)


def test_a_decrease_explained_by_autocorrelation_does_not_lower_the_usual_level(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usual, dry, worse = [0.0, 0.0, 0.0, 0.0, 1.0] * 120, [0.0] * 140, [1.0, 1.0, 1.0, 0.0] * 60

    def before(explained: float) -> float:
        monkeypatch.setattr(Autocorrelation, "explains", lambda self, excess: excess <= explained)
        detector = ErrorDetector("glr", "classification")
        detector.update([*usual, *dry, *worse])
        return detector.increases[0].before

    assert before(1.0) < 0.05, "errors come one by one: there are none any more"
    assert before(3.0) == pytest.approx(0.18, abs=0.03)


@pytest.mark.parametrize(
    "levels",
    [
        ((0.4, 1000), (0.1, 900), (0.25, 800)),
        ((0.1, 1500), (0.4, 500), (0.1, 900), (0.3, 800)),
        ((0.1, 3000), (0.13, 500), (0.1, 4000), (0.25, 800)),
    ],
)
@tasks
def test_an_earlier_change_does_not_hide_the_next_one(
    task: Task, levels: tuple[tuple[float, int], ...]
) -> None:
    for seed in range(3):
        values = [
            value
            for place, (level, count) in enumerate(levels)
            for value in errors(task, level, count, 100 * seed + place)
        ]
        place, _, _ = dated(feed(ErrorDetector("glr", task), values, 50))[-1]
        assert abs(place - (len(values) - levels[-1][1])) <= 100


@tasks
def test_an_increase_of_autocorrelated_errors_is_found(task: Task) -> None:
    held_out = variance_inflation(np.array(in_runs(task, 0.1, 2_000, 99)))
    for seed in range(3):
        values = in_runs(task, 0.1, 3_000, seed) + in_runs(task, 0.5, 1_500, seed + 10)
        place, _, _ = dated(feed(ErrorDetector("glr", task, held_out), values, 50))[-1]
        assert abs(place - 3_000) <= 200


@tasks
@every
@settings(max_examples=4)
@given(cuts=st.lists(st.integers(0, 1200), max_size=12))
def test_the_findings_do_not_depend_on_the_batches(name: str, task: Task, cuts: list[int]) -> None:
    values = errors(task, 0.1, 500, 5) + errors(task, 0.7, 300, 6) + errors(task, 0.95, 400, 6)
    detector = ErrorDetector(name, task)
    found = []
    edges = [0, *sorted(cuts), len(values)]
    for start, end in itertools.pairwise(edges):
        detector.update(values[start:end])
        found += [(end, increase) for increase in detector.increases]
    assert dated(found) == dated(feed(ErrorDetector(name, task), values, 50))


@tasks
@pytest.mark.parametrize("name", OWN)
def test_a_detector_continues_from_the_restored_state_of_another(name: str, task: Task) -> None:
    for count in (SCALE_VALUES // 2, 700):
        detector = ErrorDetector(name, task, 1.5)
        feed(detector, errors(task, 0.1, count, 7))
        encoded = msgspec.msgpack.encode(detector.state())
        restored = ErrorDetector(name, task)
        restored.restore(msgspec.msgpack.decode(encoded, type=DetectorState))
        assert msgspec.msgpack.encode(restored.state()) == encoded
        rest = errors(task, 0.1, 300, 7) + errors(task, 0.6, 400, 8)
        assert feed(restored, rest) == feed(detector, rest)
        assert msgspec.msgpack.encode(restored.state()) == msgspec.msgpack.encode(detector.state())


@every
def test_memory_does_not_grow_with_the_number_of_values(name: str) -> None:
    detector = ErrorDetector(name, "classification")
    sizes = []
    for i in range(10):
        feed(detector, errors("classification", 0.05 + 0.03 * (i % 3), 10_000, i), 10_000)
        sizes.append(len(pickle.dumps(detector)))
    # Nine bytes for each stored value, two for its phase, and the table of pieces.
    assert max(sizes) < 9 * REMEMBERED + 11 * HISTORY + 20_000
    assert sizes[-1] < 1.3 * sizes[1] + 2_000


@every
def test_memory_is_bounded_for_an_error_that_never_stops_growing(name: str) -> None:
    detector = ErrorDetector(name, "regression")
    for start in range(0, 20_000, 1_000):
        detector.update([(start + i) ** 1.5 for i in range(1_000)])
    assert len(pickle.dumps(detector)) < 9 * REMEMBERED + 11 * HISTORY + 20_000


@tasks
@every
def test_a_detector_after_a_reset_behaves_like_a_new_one(name: str, task: Task) -> None:
    used = ErrorDetector(name, task)
    feed(used, errors(task, 0.1, 500, 11))
    used.reset()
    values = errors(task, 0.5, 400, 12) + errors(task, 0.9, 300, 13)
    assert not used.drift
    assert feed(used, values) == feed(ErrorDetector(name, task), values)


@every
def test_a_higher_level_after_a_reset_is_not_an_increase(name: str) -> None:
    detector = ErrorDetector(name, "classification")
    feed(detector, errors("classification", 0.1, 1000, 11))
    detector.reset()
    assert feed(detector, errors("classification", 0.6, 800, 12)) == []


@pytest.mark.parametrize("unit", [2.0**-60, 2.0**30, 2.0**400])
@every
def test_the_unit_of_regression_errors_does_not_matter(name: str, unit: float) -> None:
    values = errors("regression", 0.1, 600, 13) + errors("regression", 0.5, 300, 14)
    found = feed(ErrorDetector(name, "regression"), values)
    scaled = feed(ErrorDetector(name, "regression"), [value * unit for value in values])
    assert found
    assert dated(scaled) == [(place, a * unit, b * unit) for place, a, b in dated(found)]


@pytest.mark.parametrize("name", ["glr", "stepd", "adwin"])
@tasks
def test_the_first_errors_of_a_model_without_errors_are_drift(name: str, task: Task) -> None:
    values = [0.0] * 1500 + errors(task, 0.3, 500, 15)
    found = dated(feed(ErrorDetector(name, task), values))
    # The usual size of absolute errors is unknown until some have occurred.
    assert task == "regression" or abs(found[0][0] - 1500) <= 100
    assert [increase for increase in found if increase[0] < 1400] == []


@every
def test_a_single_extreme_error_is_not_drift(name: str) -> None:
    values = errors("regression", 0.1, 800, 16)
    values[600] = 1e12
    assert feed(ErrorDetector(name, "regression"), values) == []


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


@pytest.mark.parametrize("name", ["glr", "stepd"])
def test_our_own_detectors_warn_before_they_alarm(name: str) -> None:
    detector = ErrorDetector(name, "classification")
    values = errors("classification", 0.1, 1000, 1) + errors("classification", 0.2, 600, 2)
    warned = []
    for value in values:
        detector.update([value])
        if detector.drift:
            break
        warned.append(detector.warning)
    assert detector.drift
    assert any(warned[1000:])
    assert not detector.warning  # it has started again
