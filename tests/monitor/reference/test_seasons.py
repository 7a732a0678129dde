"""Seasons are found with their exact period, removed, and take no power from any column."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from driftline.config.stream import Stream
from driftline.wire.columns import Columns
from driftline.wire.events import DriftEvent
from driftline.wire.window_events import DataGroup, DataWindow
from monitor.bottom_k_sample import Sample
from monitor.decisions.decider import Decider
from monitor.reference.histograms import Histograms
from monitor.reference.judge import Judge
from monitor.reference.profile import ReferenceProfile
from monitor.reference.seasons import MIN_PERIODS, find_season
from monitor.reference.thresholds import ThresholdCalibration
from tests.monitor.streams import reference, small_stream

HOUR = 3_600_000_000
ROWS = np.arange(8000)

Floats = NDArray[np.float64]


def seasonal(period: float, size: float = 0.7, rows: int = 8000, seed: int = 0) -> Floats:
    noise = np.random.default_rng(seed).normal(size=rows)
    found: Floats = size * np.sin(2 * np.pi * np.arange(rows) / period) + noise
    return found


@pytest.mark.parametrize("period", [7, 24, 288, 1440])
def test_a_season_is_found_with_its_exact_period(period: int) -> None:
    season = find_season(seasonal(period), ROWS + 123_456, (1,))
    assert season is not None
    assert season.period == period
    assert 0 < season.error < 0.02 * period


def test_a_week_with_a_daily_pattern_is_one_season() -> None:
    hours = np.arange(8000)
    values = seasonal(24) + 0.7 * (hours // 24 % 7 < 5)
    season = find_season(values, hours * HOUR, (24 * HOUR, HOUR))
    assert season is not None
    assert season.period == 7 * 24 * HOUR


def test_missing_records_do_not_change_the_period() -> None:
    kept = np.flatnonzero(np.random.default_rng(1).random(8000) < 0.9)
    season = find_season(seasonal(24)[kept], kept * HOUR, (24 * HOUR, HOUR))
    assert season is not None
    assert season.period == 24 * HOUR
    assert season.rows == pytest.approx(24 * 0.9, rel=0.02)


@settings(max_examples=20, deadline=None)
@given(memory=st.sampled_from([0.0, 0.5, 0.95, 0.99, 1.0]), seed=st.integers(0, 1_000))
def test_autocorrelation_is_not_a_season(memory: float, seed: int) -> None:
    from scipy.signal import lfilter

    values = lfilter([1.0], [1.0, -memory], np.random.default_rng(seed).normal(size=4000))
    assert find_season(values, ROWS[:4000], (1,)) is None


def test_too_few_periods_and_constant_values_are_not_a_season() -> None:
    assert find_season(seasonal(8000 / (MIN_PERIODS - 1)), ROWS, (1,)) is None
    assert find_season(np.zeros(8000), ROWS, (1,)) is None
    assert find_season(seasonal(24), np.zeros(8000, dtype=np.int64), (1,)) is None
    assert find_season(np.empty(0), ROWS[:0], (1,)) is None


@pytest.mark.parametrize("size", [50, 500])
def test_a_window_shorter_than_its_season_is_compared_at_equal_phases(size: int) -> None:
    values, period = seasonal(1440, size=2.0, rows=12_000), 1440
    known = Histograms([values[:8000]], positions=ROWS)
    assert known.seasons[0].period == period
    thresholds = ThresholdCalibration(known, rate=0.005).of(size)
    assert thresholds.alarm is not None
    scores, shifted = (
        [
            thresholds.scores(known.distances(known.count([own], at), known.total))[0]
            for start in range(8000, 8000 + 2 * period, 240)
            for at in [np.arange(start, start + size)]
            for own in [values[at] + by]
        ]
        for by in (0.0, float(values.std()))
    )
    assert np.mean(np.array(scores) >= thresholds.warning) < 0.1
    assert np.mean(np.array(shifted) >= thresholds.alarm) > 0.9


def test_categories_with_a_season_are_compared_at_equal_phases() -> None:
    rng, rows = np.random.default_rng(0), np.arange(10_000)
    share = np.where(rows % 1000 < 500, 0.9, 0.1)
    values = np.where(rng.random(10_000) < share, "day", "night").astype(object)
    known = Histograms([values[:8000]], positions=rows[:8000])
    thresholds = ThresholdCalibration(known, rate=0.005).of(250)
    assert thresholds.alarm is not None
    at = np.arange(9000, 9250)
    same, changed = values[at], np.where(rng.random(250) < 0.5, "day", "night").astype(object)
    scores = [
        thresholds.scores(known.distances(known.count([own], at), known.total))[0]
        for own in (same, changed)
    ]
    assert scores[0] < thresholds.warning < thresholds.alarm < scores[1]


# ---- the whole way from records to events --------------------------------------------------------

COLUMNS = ("x0", "x1", "x2", "x3", "x4", "load_kw")
STREAM = small_stream(
    features="\n".join(f'{name} = "number"' for name in COLUMNS), windows="records = 1000"
)


def judged(stream: Stream, data: dict[str, Floats], start: int) -> tuple[DataGroup, DataWindow]:
    """Test the window of 1,000 rows at `start` against the first 8,000 rows."""
    answers = np.resize(np.array(["yes", "no"], dtype=object), 16_000)
    known = reference(
        Columns({name: values[:8000] for name, values in data.items()}, {}), answers[:8000].tolist()
    )
    at = np.arange(start, start + 1000)
    current = Columns({name: values[at] for name, values in data.items()}, {})
    sample = Sample(current, answers[at], positions=at)
    group = Judge(stream).test("a", 1000, sample, ReferenceProfile(stream, known))
    window = DataWindow(
        f"w{start}", start // 1000, start, start + 1000, 1000, 0, start + 999, None, (group,)
    )
    return group, window


def test_a_shift_is_found_in_the_first_window_despite_another_columns_season() -> None:
    rng = np.random.default_rng(0)
    data = {name: rng.normal(size=16_000) for name in COLUMNS}
    data["load_kw"] += 0.5 * np.sin(2 * np.pi * np.arange(16_000) / 24)
    data["x0"][10_000:] += 1.5
    decider = Decider(STREAM)
    opened = []
    for start in range(8000, 11_000, 1000):
        group, window = judged(STREAM, data, start)
        assert group.limits is not None
        assert (group.limits.uncalibrated, group.limits.insensitive) == ((), ())
        events = [event for event in decider.read(window) if isinstance(event, DriftEvent)]
        opened += [(event.position, event.columns) for event in events]
    assert opened == [(11_000, ("x0",))]


def test_a_column_that_is_too_slow_for_its_reference_is_named_in_the_window() -> None:
    rng = np.random.default_rng(0)
    data = {name: rng.normal(size=16_000) for name in COLUMNS}
    data["x4"] += 5 * np.sin(2 * np.pi * np.arange(16_000) / 5000)
    group, _ = judged(STREAM, data, 8000)
    assert group.limits is not None
    assert group.limits.uncalibrated == ("x4",)
    assert group.limits.insensitive == ("x4",)
