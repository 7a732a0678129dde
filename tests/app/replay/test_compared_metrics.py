"""The metric over time, in blocks of rows."""

import pytest

from driftline_app.replay.compared_metrics import ComparedPredictors


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
    compared = ComparedPredictors("accuracy", "classification", ("loop",))
    for row in range(rows):
        compared.add(row, "a", {"loop": "a" if row < rows - 1 else "b"})
    found, values = compared.over_time(10)
    assert found == ends
    size = ends[-1] - ([-1, *ends])[-2]
    assert values["loop"][-1] == pytest.approx(1 - 1 / size)
