"""The measurements for the documentation: their data sets and their generated data."""

import csv
import gzip
from pathlib import Path

import msgspec
import numpy as np
import pytest

from benchmarks.evidence import __main__ as evidence
from benchmarks.evidence import (
    checkouts,
    detectors,
    estimate_sets,
    event_rates,
    false_alarms,
    injected_drift,
    injected_shift,
    observations,
    observed_streams,
    oracle,
    retraining,
    series,
    stationary,
)
from benchmarks.evidence.related import generated, generated_source
from benchmarks.evidence.relations import CalibratedDistance
from benchmarks.evidence.sets import DATA, SETS
from driftline.config.stream import loads

HERE = pytest.mark.skipif(not DATA.is_dir(), reason=f"no data in {DATA}")


@HERE
@pytest.mark.parametrize("name", SETS)
def test_a_data_set_has_the_named_columns(name: str) -> None:
    item = SETS[name]
    with gzip.open(item.file(), "rt", newline="") as text:
        columns = next(csv.reader(text))
    assert {item.target, *item.no_features} <= set(columns)
    assert item.target not in item.no_features
    assert len(columns) > len(item.no_features) + 1


def test_measurements_use_only_known_data_sets_and_each_only_once() -> None:
    for names in (
        [*false_alarms.TUNED_ON, *false_alarms.OTHERS],
        [*retraining.NAMES],
        [item.name for item in estimate_sets.LABELLED],
        [file.name for file in detectors.FILES],
        [*injected_drift.WITHIN],
        [*injected_shift.NAMES],
    ):
        assert len(names) == len(set(names))
        assert set(names) <= set(SETS)


@pytest.mark.parametrize("name", evidence.names())
def test_each_measurement_has_a_help_text_and_a_json_option(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        evidence.run([name, "--help"])
    assert ended.value.code == 0
    assert "--json" in capsys.readouterr().out


def test_no_single_generated_column_drifts() -> None:
    source = generated_source(0)
    for number, draw in enumerate(source.changes.values()):
        for old, new in zip(
            source.reference, draw(np.random.default_rng(number), 10_000), strict=True
        ):
            if old.dtype.kind == "f":
                assert np.quantile(new, (0.1, 0.5, 0.9)) == pytest.approx(
                    np.quantile(old, (0.1, 0.5, 0.9)), abs=0.1
                )
            else:
                assert np.unique(new, return_counts=True)[1] / len(new) == pytest.approx(
                    [0.2] * 5, abs=0.02
                )


def test_generated_columns_have_the_stated_correlations() -> None:
    def correlation(columns: list[np.ndarray], one: int, other: int) -> float:
        return float(np.corrcoef(columns[one], columns[other])[0, 1])

    rng = np.random.default_rng(0)
    quiet, changed = (
        generated(rng, 20_000),
        generated(rng, 20_000, pair=0.5, turned=-0.4, category=0.0, xor=True),
    )
    assert correlation(quiet, 0, 1) == pytest.approx(0.0, abs=0.03)
    assert correlation(changed, 0, 1) == pytest.approx(0.5, abs=0.03)
    assert correlation(quiet, 2, 3) == pytest.approx(0.4, abs=0.03)
    assert correlation(changed, 2, 3) == pytest.approx(-0.4, abs=0.03)
    assert abs(quiet[4][quiet[16] == "a"].mean()) > 0.5
    assert abs(changed[4][changed[16] == "a"].mean()) < 0.1
    assert (changed[5] * changed[6] * changed[7] > 0).all()
    assert correlation(changed, 5, 7) == pytest.approx(0.0, abs=0.03)


def test_column_pairs_find_a_correlation_that_single_columns_do_not() -> None:
    rng = np.random.default_rng(0)
    windows = generated(rng, 2_000), generated(rng, 1_000), generated(rng, 1_000, pair=0.5)
    reference, quiet, changed = [[columns[at] for at in (0, 1, 16)] for columns in windows]
    for paired, ratio in ((True, 2.0), (False, 1.0)):
        watch = CalibratedDistance(reference, 1_000, paired=paired)
        scores = watch.score(quiet), watch.score(changed)
        assert (scores[1] > ratio * max(1.0, scores[0])) is paired


# ---- observations --------------------------------------------------------------------------------


def test_every_observation_has_streams_or_a_recorded_case() -> None:
    numbers = [item.number for item in observations.OBSERVATIONS]
    assert numbers == sorted(set(numbers))
    assert {*numbers} - {*observed_streams.GENERATORS} == {9}
    assert {*observed_streams.GENERATORS} <= {*numbers}


@pytest.mark.parametrize("number", observed_streams.GENERATORS)
def test_an_observations_streams_are_reproducible_and_their_stream_files_are_valid(
    number: int,
) -> None:
    for stream, again in zip(
        observed_streams.streams_of(number, 1), observed_streams.streams_of(number, 1), strict=True
    ):
        loaded = loads(stream.stream_file())
        assert {*stream.columns} == {*loaded.inputs, loaded.target}
        # The first window after the warm-up is complete.
        assert stream.warm_up % loaded.window_size == 0
        for name, values in stream.columns.items():
            assert np.array_equal(values, again.columns[name], equal_nan=values.dtype.kind == "f")


def test_a_checkout_replays_a_written_stream(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=900)
    x[600:] += 3.0
    x[10] = np.nan
    labels = np.where(rng.random(900) < 0.5, "n", "p")
    columns = {"x": x, "c": np.tile(["a", "b"], 450), "y": labels}
    stream = observed_streams.ObservedStream(
        "small", columns, "classification", observed_streams.sections(100), 500
    )
    data, stream_file = stream.write(tmp_path)
    ran = checkouts.run(
        checkouts.HERE, data, stream_file, tmp_path / "home", warmup=stream.warm_up_share
    )
    assert ran.result["records"] == 400
    (event,) = checkouts.opened(ran.drift("data"), "x")
    assert event["position"] == 700


def test_positions_with_an_open_event_are_counted_once() -> None:
    def change(id: str, action: str, position: int) -> dict[str, object]:
        return {"id": id, "action": action, "position": position, "columns": ["x"]}

    events = [
        change("a", "opened", 10),
        change("b", "opened", 20),
        change("a", "resolved", 30),
        change("b", "resolved", 40),
        change("c", "opened", 70),
    ]
    assert checkouts.open_positions(events, 100) == 60
    assert [event["id"] for event in checkouts.opened(events)] == ["a", "b", "c"]
    assert checkouts.opened(events, "z") == []


# ---- event rates ---------------------------------------------------------------------------------


def test_runs_have_the_stated_share_and_lengths() -> None:
    mask = series.in_runs(np.random.default_rng(0), 200_000, 0.1, 10, 200)
    assert mask.mean() == pytest.approx(0.1, abs=0.02)
    edges = np.flatnonzero(np.diff(mask.astype(int)))
    lengths = np.diff(edges)[int(mask[0]) :: 2]
    assert lengths.min() >= 10
    assert lengths.max() <= 200
    run = series.runs(np.random.default_rng(0), 10_000, 20, 50)
    assert np.bincount(run)[run[0] + 1 : run[-1]].min() >= 20
    assert np.bincount(run).max() <= 50


def test_an_autoregressive_series_has_unit_variance_and_the_stated_correlation() -> None:
    values = series.autoregressive(np.random.default_rng(0), 200_000, 0.9)
    assert values.std() == pytest.approx(1.0, abs=0.03)
    assert np.corrcoef(values[1:], values[:-1])[0, 1] == pytest.approx(0.9, abs=0.01)


@pytest.mark.parametrize("name", stationary.names(Path("no data")))
def test_a_stationary_source_fits_its_stream_file(name: str) -> None:
    source = stationary.source(name, Path("no data"))
    stream = loads(source.stream_file(500))
    drawn = source.draw(np.random.default_rng(0), 3_000)
    again = source.draw(np.random.default_rng(0), 3_000)
    columns = drawn.rows.columns
    assert {*columns.numbers} == {n for n, f in stream.inputs.items() if f.kind == "number"}
    assert {*columns.categories} == {n for n, f in stream.inputs.items() if f.kind == "category"}
    assert len(drawn.rows) == 3_000
    assert np.array_equal(drawn.rows.labels, again.rows.labels)
    for season, values in drawn.seasons.items():
        assert np.std(columns.numbers[season] - values) == pytest.approx(1.0, abs=0.1)


def test_a_shifted_column_is_found_by_the_monitor_and_by_the_oracle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(oracle, "ORACLE_WINDOWS", 500)
    source = stationary.source("season-24", Path("no data"))
    source = msgspec.structs.replace(source, reference=2_000)
    row = event_rates.measure(source, 200, 3, 3)
    assert (row.references, row.windows, row.trials) == (1, 3, 1)
    assert row.alarms <= sum(row.events.values())
    assert row.found_by_oracle == 1
    # Without a shift, an oracle that knows the season has an alarm in at most 0.5% of the windows.
    rng = np.random.default_rng(1)
    test = oracle.Oracle(source, 200, 10, rng)
    drawn = [source.draw(rng, 2_400) for _ in range(100)]
    assert sum(test.finds(each, "x3") for each in drawn) <= 3


def test_the_upper_bound_is_that_of_clopper_and_pearson() -> None:
    assert event_rates.upper_bound(0, 3_000) == pytest.approx(0.00123, abs=1e-5)
    assert event_rates.upper_bound(15, 3_000) == pytest.approx(0.00823, abs=1e-5)
    assert event_rates.upper_bound(7, 7) == 1.0
