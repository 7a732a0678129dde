"""The measurements behind the documentation: what they say of data sets, and what they generate."""

import csv
import gzip

import pytest

from benchmarks.evidence import __main__ as evidence
from benchmarks.evidence import detectors, estimate_sets, false_alarms, retraining
from benchmarks.evidence.sets import DATA, SETS

HERE = pytest.mark.skipif(not DATA.is_dir(), reason=f"no data in {DATA}")


@HERE
@pytest.mark.parametrize("name", SETS)
def test_a_set_has_the_columns_that_are_named(name: str) -> None:
    item = SETS[name]
    with gzip.open(item.file(), "rt", newline="") as text:
        columns = next(csv.reader(text))
    assert {item.target, *item.no_features} <= set(columns)
    assert item.target not in item.no_features
    assert len(columns) > len(item.no_features) + 1


def test_measurements_take_each_set_once_and_know_it() -> None:
    for names in (
        [*false_alarms.TUNED_ON, *false_alarms.OTHERS],
        [*retraining.NAMES],
        [item.name for item in estimate_sets.LABELLED],
        [file.name for file in detectors.FILES],
    ):
        assert len(names) == len(set(names))
        assert set(names) <= set(SETS)


@pytest.mark.parametrize("name", evidence.names())
def test_each_measurement_explains_itself_and_writes_its_numbers(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        evidence.run([name, "--help"])
    assert ended.value.code == 0
    assert "--json" in capsys.readouterr().out
