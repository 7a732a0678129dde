"""The scale of errors keeps severities and percentages meaningful near an error of zero."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftline.config.measure import Measure
from monitor.error_scale import (
    MAX_INCREASE,
    clipping_level,
    describe_increase,
    error_scale,
    floor_of,
    known_scale,
    relative_increase,
)


def test_the_scale_of_0_1_errors_is_one() -> None:
    assert error_scale(Measure("accuracy"), np.zeros(10), np.array(["a"] * 10, dtype=object)) == 1.0


def test_the_scale_of_a_ranking_is_one_because_its_losses_are_shares() -> None:
    measure = Measure("roc_auc", positive="a")
    assert error_scale(measure, np.full(10, 0.1), np.array(["a"] * 10, dtype=object)) == 1.0


def test_the_scale_of_other_losses_of_classes_comes_from_the_losses_alone() -> None:
    labels = np.array(["a", "b"] * 250, dtype=object)
    assert error_scale(Measure("log_loss"), np.full(500, 0.3), labels) == pytest.approx(0.3)


def test_the_scale_of_logarithmic_errors_is_in_the_unit_of_logarithms() -> None:
    labels = np.random.default_rng(0).uniform(0.0, 1e6, size=500)
    scale = error_scale(Measure("rmsle"), np.full(500, 1e-9), labels)
    assert scale is not None
    assert scale < 0.2


def test_the_scale_of_mostly_zero_errors_lies_among_the_other_errors() -> None:
    rng = np.random.default_rng(0)
    amounts = rng.exponential(size=2_000) * (rng.random(2_000) < 0.05)
    assert 1.5 < clipping_level(amounts) < 4.0


def test_the_scale_of_rounding_errors_comes_from_the_labels() -> None:
    labels = np.random.default_rng(0).normal(100.0, 20.0, size=500)
    scale = error_scale(Measure("mae"), np.full(500, 1e-14), labels)
    assert scale == pytest.approx(0.1 * 16.0, rel=0.1)  # a normal deviation of 20


def test_the_scale_is_unknown_without_any_variation() -> None:
    assert error_scale(Measure("mae"), np.zeros(50), np.ones(50)) is None
    assert error_scale(Measure("mae"), np.empty(0), np.empty(0)) is None


def test_a_scale_that_was_not_published_follows_from_the_mean_error() -> None:
    assert known_scale(Measure("accuracy"), None, None) == 1.0
    assert known_scale(Measure("mae"), 3.0, 1.0) == 3.0
    assert known_scale(Measure("mae"), None, 1.0) == pytest.approx(5.3)
    assert known_scale(Measure("mae"), None, None) is None


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_relative_increase_is_at_most_twenty(before: float, after: float) -> None:
    assert relative_increase(before, after, floor_of(1.0)) <= MAX_INCREASE


def test_a_percentage_is_printed_only_if_the_earlier_error_is_not_close_to_zero() -> None:
    assert "%" in describe_increase(0.1, 0.2, 0.05)
    assert describe_increase(1e-17, 0.3, 0.05) == "error rose from 1e-17 to 0.3"
