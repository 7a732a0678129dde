"""Harm is unknown, and never 0, if a column lies outside of the reference's support."""

import numpy as np
import pytest
from numpy.typing import NDArray

from driftline.config.measure import Metric
from driftline.wire.columns import Columns
from driftline.wire.window_events import MetricEstimate
from monitor.bottom_k_sample import Sample
from monitor.estimates.harm import describe_harm, harm_of
from monitor.estimates.support import Support
from tests.monitor.estimates.test_estimates import World, by_metric, made

Floats = NDArray[np.float64]
COLOURS = np.array(["red", "blue", None], dtype=object)


def columns(count: int, temperature: Floats | None = None) -> Columns:
    rng = np.random.default_rng(count)
    found = rng.normal(20.0, 5.0, count) if temperature is None else temperature
    return Columns(
        {"temperature": found, "load": rng.exponential(size=count)},
        {"colour": COLOURS[rng.integers(0, 3, count)]},
    )


def unsupported(window: Columns) -> tuple[str, ...]:
    return Support(columns(2_000)).unsupported(window)


def test_a_window_like_the_reference_is_supported() -> None:
    assert unsupported(columns(1_000)) == ()
    assert unsupported(columns(40)) == ()


def test_a_moderate_shift_within_the_range_is_supported() -> None:
    assert unsupported(columns(1_000, np.random.default_rng(1).normal(23.0, 4.0, 1_000))) == ()


def test_a_column_in_another_unit_is_unsupported() -> None:
    fahrenheit = columns(1_000).numbers["temperature"] * 1.8 + 32.0
    assert unsupported(columns(1_000, fahrenheit)) == ("temperature",)


def test_a_frozen_column_is_unsupported() -> None:
    assert unsupported(columns(1_000, np.full(1_000, 20.0))) == ("temperature",)


def test_a_column_that_is_missing_or_has_unknown_categories_is_unsupported() -> None:
    window = columns(1_000)
    temperature = window.numbers["temperature"]
    temperature[::10] = np.nan
    window.categories["colour"][:100] = "green"
    assert unsupported(window) == ("temperature", "colour")


@by_metric
def test_the_harm_of_a_window_in_another_unit_is_unknown(metric: Metric) -> None:
    world = World(3)
    estimator = made(metric, world.reference(metric))
    window, _ = world.window(metric, 500)
    known = estimator.estimate(window, 500)
    assert known is not None
    assert (known.unsupported, harm_of(known)) == ((), 0.0)
    moved = Columns({"x": window.columns["x"] * 1.8 + 32.0}, window.columns.categories)
    estimate = estimator.estimate(Sample(moved, window.predictions, window.scores), 500)
    assert estimate is not None
    assert estimate.unsupported == ("x",)
    assert harm_of(estimate) is None
    assert describe_harm(estimate).startswith("harm unknown until labels arrive")


def test_the_harm_is_related_to_a_floor_if_there_were_almost_no_errors() -> None:
    estimate = MetricEstimate("accuracy", 0.96, 0.95, 0.97, 1.0, floor=0.05)
    assert harm_of(estimate) == pytest.approx(0.8)
    assert "%" not in describe_harm(estimate)
