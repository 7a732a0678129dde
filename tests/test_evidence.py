"""The measurements for the documentation: their data sets and their generated data."""

import csv
import gzip

import numpy as np
import pytest

from benchmarks.evidence import __main__ as evidence
from benchmarks.evidence import (
    detectors,
    estimate_sets,
    false_alarms,
    injected_drift,
    injected_shift,
    retraining,
)
from benchmarks.evidence.related import generated, generated_source
from benchmarks.evidence.relations import CalibratedDistance
from benchmarks.evidence.sets import DATA, SETS

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
