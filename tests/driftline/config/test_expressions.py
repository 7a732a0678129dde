"""Expressions of derived features: what is allowed, and the same value wherever it is computed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftline.config.expressions import Expression
from driftline.errors import DataError

KINDS = {"a": "number", "b": "number", "col 1": "number", "colour": "category"}
NUMBERS = {
    "a": np.array([1.0, 4.0, np.nan]),
    "b": np.array([2.0, 0.0, 1.0]),
    "col 1": np.array([3.0, 3.0, 3.0]),
}
CATEGORIES = {"colour": np.array(["red", None, "blue"], dtype=object)}


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("a + b", [3.0, 4.0, np.nan]),
        ("`col 1` * 2", [6.0, 6.0, 6.0]),
        ("a ** 0.5 // 1 % 2", [1.0, 0.0, np.nan]),
        ("where(b > 1, 10, -b)", [10.0, 0.0, -1.0]),
        ("(b > 0) + (b > 1)", [2.0, 0.0, 1.0]),
        ("~(b == 1) & (b < 5) | (b > 9)", [1.0, 1.0, 0.0]),
        ("colour == 'red'", [1.0, 0.0, 0.0]),
        ("where(colour != 'red', b, 7)", [7.0, 0.0, 1.0]),
        ("round(sqrt(a), 1) + abs(-b)", [3.0, 2.0, np.nan]),
        ("minimum(a, maximum(b, 2))", [1.0, 2.0, np.nan]),
    ],
)
def test_expressions_compute_the_expected_values(text: str, values: list[float]) -> None:
    result = Expression(text, KINDS).evaluate(NUMBERS, CATEGORIES)
    np.testing.assert_array_equal(result, np.array(values))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a.real", "uses Attribute"),
        ("a[0]", "uses Subscript"),
        ("open('x')", "calls 'open'"),
        ("__import__('os')", "calls '__import__'"),
        ("(lambda: 1)()", "uses Call"),
        ("[x for x in a]", "uses ListComp"),
        ("f'{a}'", "uses JoinedStr"),
        ("a if b else a", "uses IfExp"),
        ("sqrt(a, b)", "calls sqrt with 2 arguments, not 1"),
        ("minimum(a, b, a)", "calls minimum with 3 arguments, not 2"),
        ("maximum(a, out=b)", "uses Call"),
        ("maximum(*a)", "calls maximum with 1 arguments"),
        ("a and b", "uses and/or"),
        ("0 < a < b", "chains comparisons"),
        ("1 + 1", "uses no column"),
        ("colour + 1", "outside of a comparison"),
        ("colour == a", "compares text"),
        ("'x'", "has text outside"),
        ("True * a", "has True"),
        ("1" * 400 + " * a", "above 1e300"),
        ("a; b", "is not an expression"),
        ("", "is not an expression"),
        ("(" * 300 + "a" + ")" * 300, "is not an expression"),
        ("a +" * 1000 + "a", "longer than"),
        ("round(a, b)", "cannot be computed"),
        ("c", "'c', which is not a declared feature"),
    ],
)
def test_other_expressions_are_rejected_with_a_reason(text: str, problem: str) -> None:
    with pytest.raises(DataError) as caught:
        Expression(text, KINDS)
    assert problem in caught.value.message


def test_an_error_for_a_misspelt_column_suggests_the_most_similar_name() -> None:
    with pytest.raises(DataError) as caught:
        Expression("coluor == 'red'", KINDS)
    assert "did you mean 'colour'?" in str(caught.value)


def test_evaluating_an_expression_never_changes_the_columns() -> None:
    before = {name: values.copy() for name, values in NUMBERS.items()}
    for text in ("a", "-a", "a * 1", "where(b > 0, a, b)"):
        result = Expression(text, KINDS).evaluate(NUMBERS, CATEGORIES)
        result[:] = 99.0
    for name, values in before.items():
        np.testing.assert_array_equal(NUMBERS[name], values)


finite = st.floats(allow_nan=False, allow_infinity=False, width=32)


@given(st.lists(st.tuples(finite, finite), min_size=1, max_size=40))
def test_one_record_gets_the_same_value_alone_and_in_a_batch(
    rows: list[tuple[float, float]],
) -> None:
    expression = Expression(
        "log1p(abs(a)) * sin(b) + where(a > b, exp(b / 1e38), a % 7)",
        {"a": "number", "b": "number"},
    )
    a, b = (np.array(values) for values in zip(*rows, strict=True))
    together = expression.evaluate({"a": a, "b": b}, {})
    alone = [
        expression.evaluate({"a": a[i : i + 1], "b": b[i : i + 1]}, {})[0] for i in range(len(rows))
    ]
    np.testing.assert_array_equal(together, np.array(alone))
