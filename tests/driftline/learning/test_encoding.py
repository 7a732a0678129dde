"""The matrix that a model gets is the same in training and in serving."""

import numpy as np

from driftline.config.stream import loads
from driftline.learning.encoding import (
    MAX_LEVELS,
    MatrixEncoder,
    encode_matrix,
    fit_schema,
    matrix_columns,
)
from driftline.wire.columns import Columns

STREAM = loads("""
version = 1
name = "paint"
task = "classification"
target = "sold"
derived = { double = "price * 2" }
[features]
price = "number"
colour = "category"
""")


def columns(prices: list[float], colours: list[str | None]) -> Columns:
    price = np.array(prices)
    return Columns(
        {"price": price, "double": price * 2}, {"colour": np.array(colours, dtype=object)}
    )


def test_missing_numbers_become_the_median_and_categories_are_one_hot() -> None:
    train = columns([1.0, np.nan, 3.0], ["red", None, "blue"])
    schema = fit_schema(STREAM, train, ["yes", "no", "yes"])
    assert schema.classes == ("no", "yes")
    assert [spec.name for spec in schema.features] == ["price", "colour", "double"]
    assert matrix_columns(schema) == ("price", "colour=", "colour=blue", "colour=red", "double")
    matrix = encode_matrix(schema, columns([np.nan, 5.0, 1.0], ["red", None, "green"]))
    assert matrix.dtype == np.float32
    assert matrix.tolist() == [
        [2.0, 0.0, 0.0, 1.0, 4.0],
        [5.0, 1.0, 0.0, 0.0, 10.0],
        [1.0, 0.0, 0.0, 0.0, 2.0],
    ]


def test_the_difference_of_two_encoded_numbers_is_a_finite_float32() -> None:
    largest = 3.4028234663852886e38
    schema = fit_schema(STREAM, columns([0.0, 1.0], ["red", "red"]), ["a", "b"])
    given = columns([largest, -largest, np.inf, 1e38], ["red", "red", "red", "red"])
    price = encode_matrix(schema, given)[:, 0]
    assert np.isfinite(price[0] - price[1])
    assert price[2] == price[0] > price[3] == np.float32(1e38)


def test_a_missing_category_is_all_zeros_if_none_was_missing_in_training() -> None:
    schema = fit_schema(STREAM, columns([1.0, 2.0], ["red", "blue"]), ["a", "b"])
    assert encode_matrix(schema, columns([1.0], [None])).tolist() == [[1.0, 0.0, 0.0, 2.0]]
    assert MatrixEncoder(schema).unseen(columns([1.0], [None]))["colour"].tolist() == [False]


def test_only_frequent_categories_get_columns_but_rare_ones_are_not_unseen() -> None:
    colours = [f"c{i:03d}" for i in range(150)] + [f"c{i:03d}" for i in range(50, 150)]
    schema = fit_schema(STREAM, columns([1.0] * 250, list(colours)), ["a", "b"] * 125)
    colour = schema.features[1]
    assert colour.levels == tuple(f"c{i:03d}" for i in range(50, 50 + MAX_LEVELS))
    assert len(colour.rare) == 50
    mask = MatrixEncoder(schema).unseen(columns([1.0] * 3, ["c000", "c140", "new"]))
    assert mask["colour"].tolist() == [False, False, True]


def test_numbers_beyond_float32_stay_finite() -> None:
    schema = fit_schema(STREAM, columns([1.0], ["red"]), ["a"])
    assert np.isfinite(encode_matrix(schema, columns([1e300], ["red"]))).all()


def test_the_same_data_in_another_order_give_the_same_schema() -> None:
    train = columns([1.0, 2.0, 3.0, 4.0], ["b", "a", "b", "c"])
    turned = train.take([3, 1, 0, 2])
    labels = ["x", "y", "x", "z"]
    assert fit_schema(STREAM, train, labels) == fit_schema(STREAM, turned, labels[::-1])
