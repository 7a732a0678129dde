"""Harm is the increase of the error that the interval shows; it is part of the severity."""

import pytest

from driftline.config.measure import Metric
from driftline.wire.events import DriftEvent
from driftline.wire.window_events import ColumnResult, DataGroup, DataWindow, MetricEstimate
from monitor.decisions.decider import Decider
from monitor.error_scale import MAX_INCREASE
from monitor.estimates.harm import describe_harm, harm_of
from tests.monitor.streams import small_stream


@pytest.mark.parametrize(
    ("metric", "value", "low", "high", "reference", "harm"),
    [
        ("accuracy", 0.8, 0.75, 0.85, 0.9, 1.0),
        ("accuracy", 0.8, 0.7, 0.9, 0.9, 0.0),  # the increase may be chance
        ("accuracy", 0.95, 0.93, 0.97, 0.9, 0.0),  # the error decreased
        ("f1_macro", 0.5, 0.4, 0.6, 1.0, MAX_INCREASE),  # there were no errors
        ("mae", 3.0, 2.5, 3.5, 2.0, 0.5),
        ("rmse", 3.0, 1.5, 4.5, 2.0, 0.0),
        ("mae", 1.0, 0.5, 1.5, 0.0, MAX_INCREASE),
        ("mae", 1.0, 0.5, 1.5, 1e-9, MAX_INCREASE),  # a base near 0
        ("log_loss", 0.6, 0.5, 0.7, 0.4, 0.5),
        ("average_precision", 0.4, 0.3, 0.5, 0.7, 1.0),
    ],
)
def test_harm_is_the_increase_of_the_error_that_the_interval_shows(
    metric: Metric, value: float, low: float, high: float, reference: float, harm: float
) -> None:
    assert harm_of(MetricEstimate(metric, value, low, high, reference)) == pytest.approx(harm)


def test_an_increase_from_a_base_near_0_is_described_by_both_values() -> None:
    near = MetricEstimate("mae", 1.5, 1.0, 2.0, 1e-12, floor=0.1)
    assert describe_harm(near) == "estimated error rose from 1e-12 to 1.5"


def drift(estimate: MetricEstimate | None) -> dict[str, DriftEvent]:
    """Return by kind the events of a window in which column, prediction and quality drifted."""
    x = ColumnResult("x", "number", "ks", 0.0, 0.25, drifted=True, missing=5, quality=("missing",))
    said = ColumnResult("good", "category", "chisquare", 0.0, 0.5, drifted=True)
    group = DataGroup("a", 100, 100, tested=True, columns=(x,), prediction=said, estimate=estimate)
    window = DataWindow(
        id="w", index=0, start=0, end=40, records=100, late=0, row=39, time=None, groups=(group,)
    )
    events = Decider(small_stream()).read(window)
    return {event.kind: event for event in events if isinstance(event, DriftEvent)}


def test_events_of_a_data_window_contain_the_harm_and_add_it_to_the_severity() -> None:
    events = drift(MetricEstimate("accuracy", 0.8, 0.75, 0.85, 0.9))
    assert {kind: event.harm for kind, event in events.items()} == {
        "data": 1.0, "prediction": 1.0, "quality": 1.0
    }  # fmt: skip
    assert events["data"].severity == 1.25
    assert events["prediction"].severity == 1.5
    assert events["quality"].severity == 0.05
    assert events["data"].message.endswith("; estimated error rose by 100%, from 0.1 to 0.2")


@pytest.mark.parametrize(
    ("estimate", "harm"), [(MetricEstimate("accuracy", 0.9, 0.85, 0.95, 0.9), 0.0), (None, None)]
)
def test_the_severity_of_a_shift_without_harm_is_its_size(
    estimate: MetricEstimate | None, harm: float | None
) -> None:
    events = drift(estimate)
    assert {event.harm for event in events.values()} == {harm}
    assert events["data"].severity == 0.25
