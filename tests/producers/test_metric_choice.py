"""`init` proposes a metric that suits the target, and explains it."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from driftline.config.measure import Measure
from driftline.config.stream import loads
from producers.csv_files import CsvSource
from producers.draft import draft
from producers.metric_choice import metric_for_classes, metric_for_numbers, too_few_positives
from producers.profile import look


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({"no": 60, "yes": 40}, Measure("accuracy")),
        ({"no": 80, "yes": 20}, Measure("accuracy")),
        ({"no": 90, "yes": 10}, Measure("roc_auc", positive="yes")),
        ({"no": 995, "yes": 5}, Measure("average_precision", positive="yes")),
        ({"yes": 995, "no": 5}, Measure("average_precision", positive="no")),
        ({"a": 85, "b": 10, "c": 5}, Measure("balanced_accuracy")),
        ({"a": 50, "b": 45, "c": 5}, Measure("accuracy")),
        ({"a": 9}, Measure("accuracy")),
    ],
)
def test_the_metric_for_classes_depends_on_their_shares(
    counts: dict[str, int], expected: Measure
) -> None:
    labels = [name for name, count in counts.items() for _ in range(count)]
    choice = metric_for_classes(labels)
    assert choice.measure == expected
    assert "%" in choice.reason


def test_the_metric_for_numbers_depends_on_their_skew() -> None:
    rng = np.random.default_rng(0)
    targets = {
        "mae": [rng.normal(size=500), rng.exponential(size=500), rng.lognormal(0, 2, 500) - 5],
        "rmsle": [rng.lognormal(0, 2, 500), np.append(np.zeros(300), rng.exponential(size=200))],
    }
    for name, samples in targets.items():
        for values in samples:
            assert metric_for_numbers(values.tolist()).measure == Measure(name)  # type: ignore[arg-type]


def test_a_target_that_is_mostly_0_is_explained() -> None:
    choice = metric_for_numbers([0.0] * 60 + [3.0] * 40)
    assert choice.reason == (
        "60% of the values are 0, so always predicting 0 would have the best mae"
    )


def test_windows_with_few_positive_records_are_reported() -> None:
    choice = metric_for_classes(["no"] * 990 + ["yes"] * 10)
    assert too_few_positives(choice, 1000) == ""
    assert "at least 1,000 records" in too_few_positives(choice, 999)
    assert too_few_positives(metric_for_classes(["a", "b"]), 10) == ""


def test_the_draft_for_a_rare_class_explains_its_metric(tmp_path: Path) -> None:
    lines = [f"{i % 97},{i * 31 % 89},{'fraud' if i % 200 == 0 else 'ok'}" for i in range(4000)]
    path = tmp_path / "d.csv.gz"
    path.write_bytes(gzip.compress("\n".join(["x,z,y", *lines, ""]).encode()))
    text = draft(look(CsvSource(path), "y"), "d")
    assert loads(text).judged_by == Measure("average_precision", positive="fraud")
    assert (
        "\n# only 0.5% of the labels are 'fraud': always predicting 'ok' has an accuracy of 99.5%\n"
        in text
    )
    assert "about 1 of 'fraud' in a window; a useful metric needs at least 2,000 records" in text
