"""The watch finds increases of the error in seasonal, mostly-zero and correlated errors."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from driftline.config.measure import Measure
from driftline.config.stream import Stream, loads
from driftline.wire.window_events import PerformancePane
from monitor.decisions.error_watch import ErrorWatch
from monitor.decisions.event_lifecycle import Finding
from monitor.error_scale import MAX_INCREASE, error_scale
from monitor.variance_inflation import variance_inflation

Floats = NDArray[np.float64]
PANE = 50
DAY = 1_440


def stream(task: str = "classification", drift: str = "") -> Stream:
    return loads(
        f'version = 1\nname = "s"\ntask = "{task}"\ntarget = "y"\n'
        f'[features]\nx = "number"\n[windows]\nrecords = {20 * PANE}\n[drift]\n{drift}\n'
    )


def watch(
    of: Stream,
    errors: Floats,
    held_out: Floats | None = None,
    scale: float | None = None,
    pane: int = PANE,
) -> list[tuple[int, Finding]]:
    """Return each finding with the number of errors read so far."""
    watching = ErrorWatch(of)
    found: list[tuple[int, Finding]] = []
    inflation = 1.0 if held_out is None else variance_inflation(held_out)
    for start in range(0, len(errors) - pane + 1, pane):
        end = start + pane
        event = PerformancePane(
            id=f"p{start}",
            index=start // pane,
            start=start,
            end=end,
            model="a",
            records=pane,
            errors=tuple(errors[start:end].tolist()),
            reference_error=None if held_out is None else float(held_out.mean()),
            first_position=start,
            last_position=end - 1,
            row=end - 1,
            time=None,
            error_inflation=inflation,
            error_scale=scale,
        )
        if (finding := watching.update(event)) is not None:
            found.append((end, finding))
    return found


def drawn(seed: int, rates: Floats) -> Floats:
    return (np.random.default_rng(seed).random(len(rates)) < rates).astype(np.float64)


def of_the_day(days: float) -> Floats:
    """Return error rates: 6 of 24 hours are harder."""
    minutes = np.arange(int(days * DAY)) % DAY
    return (
        np.where(minutes // 60 % 4 == 3, 0.35, 0.05) + 0.1 * np.sin(2 * np.pi * minutes / DAY) ** 2
    )


# ---- seasons ------------------------------------------------------------------------------------


def test_a_stated_season_of_the_errors_is_not_drift() -> None:
    for seed in range(3):
        assert watch(stream(drift=f"block = {DAY}"), drawn(seed, of_the_day(6))) == []
    assert watch(stream(), drawn(0, of_the_day(6))), "without the season, it looks like drift"


@pytest.mark.parametrize("hour", [0.0, 0.15, 0.6])
def test_an_increase_of_seasonal_errors_is_found_within_a_day(hour: float) -> None:
    rates = of_the_day(7)
    change = int((4 + hour) * DAY)
    rates[change:] += 0.15
    found = watch(stream(drift=f"block = {DAY}"), drawn(1, rates))
    assert [read > change for read, _ in found[:1]] == [True]
    read, finding = found[0]
    assert read < change + DAY / 2
    assert finding.onset is not None
    assert abs(finding.onset - change) < 250
    assert finding.detector == "glr"


def test_a_season_that_fits_into_two_panes_has_no_phases() -> None:
    rates = np.where(np.arange(4_000) % 24 < 8, 0.4, 0.05)
    rates[3_000:] += 0.2
    (first, _), *_ = watch(stream(drift="block = 24"), drawn(2, rates))
    assert 3_000 < first <= 3_300


# ---- absolute errors ----------------------------------------------------------------------------


def amounts(seed: int, count: int, share: float = 0.05, size: float = 1.0) -> Floats:
    """Return errors that are rounding noise, except for a share of amounts."""
    rng = np.random.default_rng(seed)
    large = rng.lognormal(0.0, 0.8, count) * size
    return np.where(rng.random(count) < share, large, rng.random(count) * 1e-15)


def dry_first(seed: int, count: int) -> Floats:
    """Return such errors, of which the first 150 are rounding noise."""
    errors = amounts(seed, count)
    errors[:150] = 1e-16
    return errors


def test_mostly_zero_errors_are_not_drift_although_the_first_errors_are_all_zero() -> None:
    held_out = amounts(99, 2_000)
    scale = error_scale(Measure("mae"), held_out, held_out)
    for seed in range(4):
        assert watch(stream("regression"), dry_first(seed, 10_000), held_out, scale) == []
        assert watch(stream("regression"), dry_first(seed, 10_000), held_out) == [], "no scale"


def test_more_frequent_amounts_are_found_with_a_meaningful_severity() -> None:
    held_out = amounts(99, 2_000)
    errors = np.concatenate((dry_first(1, 6_000), amounts(2, 3_000, share=0.15)))
    scale = error_scale(Measure("mae"), held_out, held_out)
    (read, finding), *_ = watch(stream("regression"), errors, held_out, scale)
    assert 6_000 < read <= 7_500
    assert 0.1 < finding.severity < 3.0
    assert "%" not in finding.message


def test_an_increase_from_no_errors_at_all_has_a_severity_that_can_be_compared() -> None:
    errors = np.concatenate((np.zeros(2_000), drawn(3, np.full(1_000, 0.2))))
    (_, finding), *_ = watch(stream(), errors)
    assert finding.severity < MAX_INCREASE
    assert finding.message.startswith("error rose from 0 to 0.")


def test_rounding_noise_that_grows_is_not_drift() -> None:
    noise = np.concatenate((np.full(2_000, 1e-16), np.full(2_000, 1e-13)))
    labels = np.random.default_rng(0).normal(size=500)
    scale = error_scale(Measure("mae"), np.full(500, 1e-16), labels)
    assert watch(stream("regression"), noise, None, scale) == []


# ---- correlated errors and the budget -----------------------------------------------------------


def in_blocks(seed: int, count: int, block: int) -> Floats:
    """Return errors whose rate of 20% differs between blocks by a standard deviation of 10%."""
    rates = np.random.default_rng([seed, block]).beta(3.0, 12.0, count // block + 1)
    return drawn(seed, np.repeat(rates, block)[:count])


@pytest.mark.parametrize("block", [1, 50])
def test_stationary_errors_raise_no_alarm_in_eighty_windows(block: int) -> None:
    alarms: Sequence[object] = [
        finding
        for seed in range(4)
        for finding in watch(stream(), in_blocks(seed, 20_000, block), in_blocks(9, 2_000, block))
    ]
    assert len(alarms) == 0  # the detectors may raise one in 1,000 windows


def test_a_lower_false_alarm_rate_needs_more_evidence() -> None:
    def delay(rate: float) -> float:
        of = stream(drift=f"false_alarm_rate = {rate}")
        errors = [drawn(seed, np.repeat([0.1, 0.2], [3_000, 3_000])) for seed in range(10)]
        return float(np.median([watch(of, each)[0][0] for each in errors]))

    assert 3_000 < delay(0.05) < delay(1e-6)
