"""The metric over time, in blocks of rows."""

import pytest

from driftline.config.measure import Measure
from driftline_app.replay.compared_metrics import Answer, ComparedPredictors, repeated


@pytest.mark.parametrize(
    ("rows", "ends"),
    [
        (30, [9, 19, 29]),
        (34, [9, 19, 33]),  # four rows alone would be a spike
        (35, [9, 19, 29, 34]),
        (4, [3]),
    ],
)
def test_the_last_block_takes_few_rows_that_are_left_over(rows: int, ends: list[int]) -> None:
    compared = ComparedPredictors(Measure("accuracy"), ("loop",))
    for row in range(rows):
        compared.add(row, "a", {"loop": Answer("a" if row < rows - 1 else "b")})
    found, values = compared.over_time(10)
    assert found == ends
    size = ends[-1] - ([-1, *ends])[-2]
    assert values["loop"][-1] == pytest.approx(1 - 1 / size)


def test_blocks_without_the_positive_class_have_no_metric_and_no_part_in_the_gain() -> None:
    measure = Measure("roc_auc", positive="a")
    compared = ComparedPredictors(measure, ("loop", "static"))
    for row in range(300):
        label = "a" if row < 100 and row % 2 else "b"
        score = 0.9 if label == "a" else 0.1
        loop = Answer(label, {"a": score, "b": 1.0 - score})
        compared.add(row, label, {"loop": loop, "static": repeated("b")})
    ends, values = compared.over_time(100)
    assert ends == [99, 199, 299]
    assert values == {"loop": [1.0, None, None], "static": [0.5, None, None]}
    assert compared.gain("loop", "static") == (0.5, 0.0)


def test_the_metric_of_answers_without_probabilities_is_unknown() -> None:
    compared = ComparedPredictors(Measure("log_loss"), ("loop",))
    compared.add(0, "a", {"loop": Answer("a", {"a": 0.5, "b": 0.5})})
    assert compared.metric("loop") == pytest.approx(0.6931, abs=1e-4)
    compared.add(1, "a", {"loop": Answer("a")})
    assert compared.metric("loop") is None
