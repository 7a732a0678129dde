"""Drift is injected as documented, and alarms are counted according to the protocol."""

import gzip
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from benchmarks.evidence import injected_drift, injected_shift
from benchmarks.evidence.injected_drift import (
    Alarms,
    Trial,
    alarms_of_evidently,
    alarms_of_river,
    inject,
)
from benchmarks.evidence.injected_shift import Found, Task, distances, power, shuffled
from benchmarks.evidence.injection import Learner, Table, listed, warm_up, watch

ROWS = 2_000


def table(rows: int = ROWS, columns: int = 3, seed: int = 0) -> Table:
    """Return normal columns. The class is the sign of the first, and the last numbers the rows."""
    x = np.random.default_rng(seed).normal(size=(rows, columns))
    x[:, -1] = np.arange(rows)
    labels = np.where(x[:, 0] > 0, "up", "down").astype(object)
    return Table(tuple(f"x{place}" for place in range(columns)), x, labels, ("down", "up"))


@pytest.mark.parametrize("type_", injected_drift.TYPES)
@pytest.mark.parametrize("width", [0, 400])
def test_only_rows_since_the_onset_drift_and_the_same_seed_gives_the_same_rows(
    type_: str, width: int
) -> None:
    source = table()
    first, again = (inject(source, type_, width, np.random.default_rng(3)) for _ in range(2))
    assert first.onset == again.onset
    assert (first.table.x == again.table.x).all()
    assert ROWS * 0.5 <= first.onset <= ROWS * 0.8
    before = first.rows < first.onset
    assert before.sum() == first.onset
    original = first.table.x[before, -1].astype(int)
    assert (first.table.x[before] == source.x[original]).all()
    assert (first.table.labels[before] == source.labels[original]).all()
    assert len(set(original)) == first.onset


@pytest.mark.parametrize("seed", range(4))
def test_each_type_of_drift_changes_what_its_name_says(seed: int) -> None:
    found = {
        type_: inject(table(), type_, 0, np.random.default_rng(seed))
        for type_ in injected_drift.TYPES
    }
    after = {
        type_: one.table.take(np.flatnonzero(one.rows >= one.onset)) for type_, one in found.items()
    }
    onset, lasts = (one := found["class prior"]).onset, ROWS - one.onset
    assert all(one.onset == onset for one in found.values())
    assert len(set(after["swapped labels"].labels)) == 1
    share = min((after["class prior"].labels == name).mean() for name in ("down", "up"))
    assert share == pytest.approx(0.2, abs=0.05)
    assert len(after["class prior"].x) == pytest.approx(lasts * 0.625, abs=0.06 * lasts)
    highest = after["filtered rows"].x.max(axis=0)
    assert (highest <= np.median(table().x, axis=0)).sum() == 1
    sums = [after[name].x.sum(axis=1) for name in ("permuted columns", "swapped labels")]
    assert sums[0] == pytest.approx(sums[1])


def test_a_gradual_drift_affects_more_and_more_rows() -> None:
    found = inject(table(20_000), "swapped labels", 4_000, np.random.default_rng(1))
    turned = found.table.labels != np.where(found.table.x[:, 0] > 0, "up", "down")
    shares = turned[found.onset : found.onset + 4_000].reshape(4, -1).mean(axis=1)
    # One of two equally frequent classes is swapped.
    assert shares == pytest.approx(np.array([0.125, 0.375, 0.625, 0.875]) / 2, abs=0.04)
    assert turned[found.onset + 4_000 :].mean() == pytest.approx(0.5, abs=0.03)


def test_every_alarm_in_the_detection_window_is_true_and_every_other_is_false() -> None:
    trials = [
        Alarms(1_000, 1_500, {"d": (900, 1_000, 1_100, 1_101)}),  # two true, two false
        Alarms(1_000, 1_500, {"d": (999,)}),  # missed
    ]
    result = injected_drift.summed(trials, "d", 100, 2_000)
    assert (result.true, result.false, result.found, result.trials) == (2, 3, 1, 2)
    precision, recall = 2 / 5, 2 / 3
    assert result.f1 == pytest.approx(2 * precision * recall / (precision + recall))
    assert result.delays == (0,)
    assert result.false_per_1000 == pytest.approx(1.0)
    assert result.false_in_50_trials == pytest.approx(3 * 25 / 2)


def test_a_detector_learns_of_late_labels_later() -> None:
    errors = np.repeat([0.0, 1.0], 500)
    (prompt,) = alarms_of_river("ADWIN", errors, 0)
    (late,) = alarms_of_river("ADWIN", errors, 300)
    assert 500 < prompt < 700
    assert late == prompt + 300


def test_a_window_is_an_alarm_of_evidently_only_after_an_unflagged_window() -> None:
    rng = np.random.default_rng(0)
    reference, x = rng.normal(size=(5_000, 4)), rng.normal(size=(8_000, 4))
    x[2_000:4_000, 0] += 1.0
    x[6_000:8_000, :2] += 1.0
    assert list(alarms_of_evidently(reference, x, 1_000, 0.0)) == [2_999, 6_999]
    assert list(alarms_of_evidently(reference, x, 1_000, 0.5)) == [6_999]


def test_the_monitor_names_a_shifted_column_and_finds_errors_when_their_labels_arrive() -> None:
    source = table(4_500)
    source = msgspec.structs.replace(
        source, x=source.x[:, :2], names=source.names[:2], labels=source.labels.copy()
    )
    source.x[3_000:, 1] += 2.0
    swapped = source.labels[3_000:]
    source.labels[3_000:] = np.where(swapped == "up", "down", "up")
    old, new = source.take(slice(1_500)), source.take(slice(1_500, None))
    learner = Learner(source.names, source.classes)
    reference = warm_up(learner, old)
    stream = injected_drift.stream_of(source, "small_set", 500)
    scored = learner.score(new.x)
    opened = {}
    for delay in (None, 0, 400):
        events = watch(stream, reference, new, scored, first=1_500, delay=delay)
        opened[delay] = {event.kind: event for event in events if event.action == "opened"}
        assert opened[delay]["data"].columns == ("x1",)
        assert opened[delay]["data"].position == 3_500
    assert "performance" not in opened[None]
    prompt, late = (opened[delay]["performance"].position for delay in (0, 400))
    assert 3_000 < prompt <= 3_500
    assert 300 <= late - prompt <= 500


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=30),
    st.lists(st.integers(0, 9), min_size=5, max_size=5),
)
def test_the_oracles_distance_is_that_of_kolmogorov_and_smirnov(
    reference: list[int], window: list[int]
) -> None:
    old, new = np.array(reference, dtype=float), np.array(window, dtype=float)
    (found,) = distances(old, new, len(window))
    assert found == pytest.approx(ks_2samp(old, new).statistic)


def test_the_oracle_finds_what_exceeds_its_quantile_only_with_the_shift() -> None:
    def one(distance: float, before: float, *, named: bool = False, was: bool = False) -> Found:
        return Found("x", named, was, distance, before)

    result = power(
        [one(0.3, 0.1, named=True), one(0.3, 0.25, named=True, was=True), one(0.15, 0.1)],
        np.linspace(0.0, 0.2, 101).tolist(),
        rate=0.01,
    )
    assert result.threshold == pytest.approx(0.198)
    assert result.oracle == result.driftline == pytest.approx(1 / 3)
    assert result.named_before == pytest.approx(1 / 3)


def test_shuffling_keeps_blocks_whole() -> None:
    rows = shuffled(103, 10, (0, 0, 1)).reshape(-1, 10)
    assert (np.diff(rows, axis=1) == 1).all()
    assert sorted(rows[:, 0]) == list(range(0, 100, 10))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a small set that replaces `noaa_weather`."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "noaa_weather").mkdir()
    small = table(1_200, columns=4)
    with gzip.open(folder / "noaa_weather" / "data.csv.gz", "wt") as text:
        text.write("one,two,three,rain\n")
        for row, label in zip(small.x.tolist(), small.labels.tolist(), strict=True):
            text.write(",".join(f"{value:.6f}" for value in row[:3]) + f",{int(label == 'up')}\n")
    return folder


def test_each_detector_gets_a_result_for_each_type_of_drift(data: Path) -> None:
    detectors = (*injected_drift.DRIFTLINE, "PageHinkley", *injected_drift.EVIDENTLY)
    base = Trial("noaa_weather", "class prior", "gradual", "late", (0,), data, detectors)
    with ThreadPoolExecutor(1) as pool:
        results = injected_drift.measure(base, 1, pool)
    assert tuple(results) == detectors
    for of_types in results.values():
        assert [(one.trials, one.watched, one.total) for one in of_types] == [(1, 900, 1_200)] * 4


def test_a_large_shift_of_a_column_is_found_by_driftline_and_by_the_oracle(data: Path) -> None:
    base = Task("noaa_weather", "stream", (), 2, 4.0, 0, data)
    with ThreadPoolExecutor(1) as pool:
        found = injected_shift.measure(base, pool)
    assert [one.column for one in found] == ["one", "two", "three"]
    for one in found:
        assert (one.trials, one.driftline, one.oracle, one.named_before) == (2, 1.0, 1.0, 0.0)
        assert 0.0 < one.threshold < 0.5
        assert one.nulls == 17 * 4


def test_an_unknown_name_in_a_list_is_rejected(capsys: pytest.CaptureFixture[str]) -> None:
    assert listed("a", "b")("b,a") == ("b", "a")
    with pytest.raises(SystemExit):
        injected_shift.main(["--sets", "elec2,elec3", "--data", str(Path("nowhere"))])
    assert "elec3" in capsys.readouterr().err
