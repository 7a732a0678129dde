"""The baseline of a run is the best constant answer by the stream's metric."""

import msgspec
import numpy as np
import pytest

from driftline.config.measure import Measure
from driftline.config.stream_sections import Task
from driftline_app.replay.first_model import prior_answer
from tests.measures import MEASURES
from tests.training import CLASSIFICATION, REGRESSION

LABELS = ["a"] * 2 + ["b"] * 6 + ["c"] * 2
NUMBERS = [0.0, 1.0, 1.0, 2.0, 30.0]
BASE = {"classification": CLASSIFICATION, "regression": REGRESSION}


def prior(measure: Measure, task: Task, labels: list[str] | list[float]) -> object:
    stream = msgspec.structs.replace(BASE[task], metric=measure)
    return prior_answer(stream, labels).prediction


@pytest.mark.parametrize(
    ("measure", "expected"),
    [
        (Measure("accuracy"), "b"),
        (Measure("log_loss"), "b"),
        (MEASURES["f1"], "a"),  # the other classes would have an F1 of 0
        (Measure("cost", costs={"a": {"b": 100.0, "c": 0.0}, "b": {"c": 0.5}}), "c"),
    ],
)
def test_the_class_is_the_most_frequent_or_the_best_for_f1_and_cost(
    measure: Measure, expected: str
) -> None:
    assert prior(measure, "classification", LABELS) == expected


def test_the_scores_are_the_shares_of_the_classes() -> None:
    stream = msgspec.structs.replace(CLASSIFICATION, metric=MEASURES["roc_auc"])
    assert prior_answer(stream, LABELS).scores == {"a": 0.2, "b": 0.6, "c": 0.2}


@pytest.mark.parametrize(
    ("measure", "expected"),
    [
        (Measure("mae"), 1.0),
        (Measure("rmse"), 6.8),
        (Measure("pinball_loss", quantile=0.75), 2.0),
        (Measure("rmsle"), float(np.exp(np.mean(np.log1p(NUMBERS))) - 1.0)),
    ],
)
def test_the_number_minimises_the_metric(measure: Measure, expected: float) -> None:
    assert prior(measure, "regression", NUMBERS) == pytest.approx(expected)
