"""Faults that come in runs are counted as runs."""

import numpy as np
import pytest
from numpy.typing import NDArray

from monitor.reference.quality import (
    Before,
    before,
    faults_of_numbers,
    levels_seen_once,
    rising,
    rows_per_run,
    unseen_levels,
)

Flags = NDArray[np.bool_]


def runs(rng: np.random.Generator, rows: int, gap: float = 1500.0) -> Flags:
    """Return faults in runs of 10 to 200 rows."""
    fault = np.zeros(rows, dtype=bool)
    at = 0
    while at < rows:
        at += int(rng.exponential(gap))
        length = int(rng.integers(10, 201))
        fault[at : at + length] = True
        at += length
    return fault


def rises(fault: Flags, known: tuple[Before, ...], records: int, level: float) -> bool:
    return bool(rising((int(fault.sum()), 0, 0), len(fault), known, records, level))


@pytest.mark.parametrize("size", [500, 2000])
def test_missing_values_in_runs_do_not_rise_by_chance(size: int) -> None:
    found = windows = 0
    for seed in range(40):
        fault = runs(np.random.default_rng(seed), 20_000)
        values = np.where(fault, np.nan, 0.0)
        known = before(faults_of_numbers(values[:10_000], None))
        for start in range(10_000, 20_000, size):
            windows += 1
            found += rises(fault[start : start + size], known, 10_000, 1e-4)
    assert found / windows < 0.01


def test_more_missing_values_in_runs_are_found() -> None:
    rng = np.random.default_rng(0)
    known = before(faults_of_numbers(np.where(runs(rng, 10_000), np.nan, 0.0), None))
    assert rises(runs(rng, 5000, gap=50.0), known, 10_000, 1e-4)
    assert rises(np.ones(500, dtype=bool), known, 10_000, 1e-4)


def test_independent_faults_count_as_single_rows() -> None:
    rng = np.random.default_rng(0)
    for share in (0.001, 0.02, 0.5):
        assert rows_per_run(rng.random(10_000) < share) == pytest.approx(1.0, abs=0.15)
    assert rows_per_run(np.zeros(100, dtype=bool)) == 1.0
    assert rows_per_run(np.ones(100, dtype=bool)) == 1.0


def test_unseen_categories_are_expected_if_the_reference_keeps_bringing_new_ones() -> None:
    batches = np.repeat(np.array([f"b{n}" for n in range(100)], dtype=object), 50)
    stations = np.resize(np.array(["a", "b", None], dtype=object), 5000)
    constant = np.full(5000, "a", dtype=object)
    assert levels_seen_once(batches).mean() == pytest.approx(0.99)
    assert levels_seen_once(stations).sum() == 0
    assert levels_seen_once(constant).sum() == 0


def test_the_most_frequent_unseen_categories_are_named() -> None:
    values = np.array(["new", "a", "new", "x" * 1000], dtype=object)
    found = unseen_levels(values, np.array([True, False, True, True]))
    assert [(level.level, level.records) for level in found] == [("new", 2), ("x" * 64, 1)]
