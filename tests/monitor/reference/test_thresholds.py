"""Thresholds keep the promised rate of false events for any columns and autocorrelation."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from monitor.reference.histograms import Histograms
from monitor.reference.thresholds import IN_A_ROW, MIN_BLOCKS, ThresholdCalibration

RATE = 0.05  # high, so that few windows are enough to check it
SIZE = 200
WINDOWS = 40
REFERENCES = 15

Columns = list[NDArray[np.float64]]


def independent(rng: np.random.Generator, rows: int) -> Columns:
    """Return different columns: one is a flag, two are equal, and one hardly ever changes."""
    normal = rng.normal(size=rows)
    return [
        normal,
        2 * normal,
        rng.exponential(size=rows),
        (rng.random(rows) < 0.3).astype(np.float64),
        (rng.random(rows) < 0.002).astype(np.float64),
    ]


def dependent(rng: np.random.Generator, rows: int) -> Columns:
    """Return autoregressive columns, in which a deviation lasts for about ten rows."""
    steps = rng.normal(size=(2, rows + 200))
    for row in range(1, rows + 200):
        steps[:, row] += 0.8 * steps[:, row - 1]
    return list(steps[:, 200:])


def events_a_window(draw: Callable[[np.random.Generator, int], Columns]) -> float:
    """Return the share of windows with an event, over many references and windows after each."""
    found = 0
    for seed in range(REFERENCES):
        data = draw(np.random.default_rng(seed), 3000 + WINDOWS * SIZE)
        known = Histograms([column[:3000] for column in data])
        thresholds = ThresholdCalibration(known, rate=RATE).of(SIZE)
        assert thresholds.calibrated.all()
        assert thresholds.alarm is not None
        starts = range(3000, len(data[0]), SIZE)
        counts = np.stack([known.count([c[at : at + SIZE] for c in data]) for at in starts], axis=1)
        scores = thresholds.scores(known.distances(counts, known.total[:, None]))
        warned = scores >= thresholds.warning
        again = [warned[:, max(0, n - IN_A_ROW + 1) : n].any(axis=1) for n in range(WINDOWS)]
        evidence = (scores >= thresholds.alarm) | (warned & np.stack(again, axis=1))
        found += int(evidence.any(axis=0).sum())
    return found / (REFERENCES * WINDOWS)


@pytest.mark.parametrize("draw", [independent, dependent])
def test_windows_without_drift_open_no_more_events_than_the_set_rate(
    draw: Callable[[np.random.Generator, int], Columns],
) -> None:
    # 600 windows, of which those of one reference are correlated: the share is known to ±0.02.
    assert 0.005 < events_a_window(draw) < RATE + 0.02


def test_autocorrelation_increases_the_thresholds() -> None:
    rng = np.random.default_rng(0)
    series = dependent(rng, 4000)
    shuffled = [rng.permutation(values) for values in series]
    wide, narrow = (
        ThresholdCalibration(Histograms(columns), rate=RATE).of(SIZE)
        for columns in (series, shuffled)
    )
    assert (wide.scale > 1.5 * narrow.scale).all()


def test_the_same_reference_gives_the_same_thresholds() -> None:
    data = independent(np.random.default_rng(0), 1000)
    one, other = (ThresholdCalibration(Histograms(data), rate=RATE).of(SIZE) for _ in range(2))
    assert one.scale.tolist() == other.scale.tolist()
    assert (one.warning, one.alarm) == (other.warning, other.alarm)


def test_a_lower_rate_and_smaller_windows_give_higher_thresholds() -> None:
    known = Histograms(independent(np.random.default_rng(0), 2000))
    usual, strict = (ThresholdCalibration(known, rate=rate).of(SIZE) for rate in (0.01, 0.0001))
    assert usual.alarm is not None
    assert strict.alarm is not None
    assert usual.warning < strict.warning < strict.alarm
    assert usual.warning < usual.alarm < strict.alarm
    assert (ThresholdCalibration(known, rate=0.01).of(50).scale > usual.scale).all()


def test_a_reference_too_short_for_its_blocks_gives_no_alarm_threshold() -> None:
    slow = np.sin(np.arange(2000) / 300)
    known = Histograms([slow])
    calibration = ThresholdCalibration(known, rate=RATE)
    assert calibration.dependence[0].block * MIN_BLOCKS > known.records
    assert calibration.uncalibrated == [0]
    thresholds = calibration.of(100)
    assert thresholds.alarm is None
    own = known.counts(np.arange(0, 2000, 100), np.arange(100, 2001, 100))
    scores = thresholds.scores(known.distances(own, known.total[:, None] - own))
    assert scores.max() < thresholds.warning


def test_a_given_block_length_is_used() -> None:
    known = Histograms([np.sin(np.arange(10_000) / 50)])
    assert ThresholdCalibration(known, rate=RATE, block=314).of(100).calibrated.all()


def test_windows_larger_than_the_reference_have_thresholds_too() -> None:
    known = Histograms(independent(np.random.default_rng(0), 300))
    assert ThresholdCalibration(known, rate=RATE).of(10_000).calibrated.all()
    assert ThresholdCalibration(Histograms([np.arange(10.0)]), rate=RATE).of(100).warning > 0


def test_a_change_of_a_constant_column_is_an_alarm() -> None:
    rng = np.random.default_rng(0)
    known = Histograms([np.zeros(1000), rng.normal(size=1000)])
    thresholds = ThresholdCalibration(known, rate=0.005).of(500)
    assert thresholds.alarm is not None
    changed = known.count([np.repeat([0.0, 1.0], [480, 20]), rng.normal(size=500)])
    scores = thresholds.scores(known.distances(changed, known.total))
    assert scores[0] > thresholds.alarm
    assert scores[1] < thresholds.alarm


def test_constant_columns_without_a_change_are_not_drift() -> None:
    known = Histograms([np.zeros(1000)])
    for block in (1, 500):
        thresholds = ThresholdCalibration(known, rate=0.005, block=block).of(100)
        scores = thresholds.scores(known.distances(known.count([np.zeros(100)]), known.total))
        assert scores.max() < thresholds.warning


def test_a_column_that_cannot_be_calibrated_affects_no_other_column() -> None:
    rng = np.random.default_rng(0)
    data = [rng.normal(size=2000) for _ in range(3)]
    slow = np.sin(np.arange(2000) / 300)
    alone = ThresholdCalibration(Histograms(data, paired=3), rate=RATE).of(SIZE)
    mixed = ThresholdCalibration(Histograms([*data, slow], paired=4), rate=RATE).of(SIZE)
    pairs = [True, True, False, True, False, False]  # 0-1, 0-2, 0-3, 1-2, 1-3, 2-3
    assert mixed.calibrated.tolist() == [True] * 3 + [False] + pairs
    assert mixed.scale[:3] == pytest.approx(alone.scale[:3])
    assert (mixed.warning, mixed.alarm) == pytest.approx((alone.warning, alone.alarm), rel=0.02)


def test_a_column_that_cannot_be_calibrated_is_never_an_alarm_and_named_if_insensitive() -> None:
    rng = np.random.default_rng(0)
    known = Histograms([rng.normal(size=2000), np.sin(np.arange(2000) / 300)])
    thresholds = ThresholdCalibration(known, rate=RATE).of(SIZE)
    assert thresholds.alarm is not None
    assert thresholds.insensitive.tolist() == [False, True]
    scores = thresholds.scores(np.full(2, 10.0))
    assert scores[0] > thresholds.alarm
    assert scores[1] == thresholds.warning


def test_columns_with_different_blocks_keep_their_own_scales() -> None:
    rng = np.random.default_rng(0)
    (slow, _), quick = dependent(rng, 4000), rng.normal(size=4000)
    both = ThresholdCalibration(Histograms([slow, quick]), rate=RATE).of(SIZE)
    each = [ThresholdCalibration(Histograms([own]), rate=RATE).of(SIZE) for own in (slow, quick)]
    assert both.scale == pytest.approx([own.scale[0] for own in each], rel=0.05)


def stations(rng: np.random.Generator, rows: int) -> NDArray[np.object_]:
    """Return one of 20 stations, in runs of 10 to 200 rows."""
    lengths = rng.integers(10, 200, size=rows // 10)
    names = np.array([f"s{n}" for n in range(20)], dtype=object)
    return np.repeat(rng.choice(names, size=len(lengths)), lengths)[:rows]


def test_categories_in_runs_open_no_more_events_than_the_set_rate() -> None:
    found = 0
    for seed in range(REFERENCES):
        values = stations(np.random.default_rng(seed), 8000 + WINDOWS * SIZE)
        known = Histograms([values[:8000]])
        thresholds = ThresholdCalibration(known, rate=RATE).of(SIZE)
        assert thresholds.alarm is not None
        starts = range(8000, len(values), SIZE)
        counts = np.stack([known.count([values[at : at + SIZE]]) for at in starts], axis=1)
        scores = thresholds.scores(known.distances(counts, known.total[:, None]))[0]
        warned = scores >= thresholds.warning
        again = np.array([warned[max(0, n - IN_A_ROW + 1) : n].any() for n in range(WINDOWS)])
        found += int(((scores >= thresholds.alarm) | (warned & again)).sum())
    assert found / (REFERENCES * WINDOWS) < RATE + 0.02
