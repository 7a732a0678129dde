"""Encode columns as a model's feature matrix, in the same way for training and for serving.

Input: `Columns`. Output: float32 matrices, and a frozen `FeatureSchema` that is learned from the
training data and stored in the model's package. Labels are used only to list the classes.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from driftline.config.stream import Stream
from driftline.config.stream_sections import Kind
from driftline.wire.columns import Columns
from driftline.wire.values import text

MISSING: Final = ""  # the level that represents missing values of a category
# The largest number of levels per category. Each level is a matrix column, which costs memory and
# time in every model. A model learns little from values beyond the hundred most frequent.
MAX_LEVELS: Final = 100
# The largest number of rarer values that the schema lists per category, so that they are not
# reported as unseen. A column with even more values is free text rather than a category.
MAX_RARE: Final = 10_000

# Models reject infinite values. They also subtract the mean in float32, and the difference must be
# finite. Values are therefore clipped to half of the largest float32 value.
_LARGEST: Final = float(np.finfo(np.float32).max) / 2


class FeatureSpec(msgspec.Struct, frozen=True):
    """The encoding of one feature.

    For a categorical feature, `levels` are the sorted values that have their own matrix columns;
    the level `""` represents missing values. `rare` contains other values from the training data,
    which have no columns. For a number, `impute` is the median, which replaces missing values.
    """

    name: str
    kind: Kind
    levels: tuple[str, ...] = ()
    impute: float | None = None
    derived: bool = False
    rare: tuple[str, ...] = ()


class FeatureSchema(msgspec.Struct, frozen=True):
    """A model's features, declared ones before derived ones, and its classes in sorted order."""

    features: tuple[FeatureSpec, ...]
    classes: tuple[str, ...] = ()


def fit_schema(stream: Stream, columns: Columns, labels: Sequence[str | float]) -> FeatureSchema:
    """Learn medians, levels and classes from training data.

    >>> from driftline.config.stream import loads
    >>> stream = loads('''
    ... version = 1
    ... name = "paint"
    ... task = "classification"
    ... target = "sold"
    ... features = { price = "number", colour = "category" }
    ... ''')
    >>> columns = Columns(
    ...     {"price": np.array([1.0, np.nan, 3.0])},
    ...     {"colour": np.array(["red", None, "blue"], dtype=object)},
    ... )
    >>> schema = fit_schema(stream, columns, ["yes", "no", "yes"])
    >>> matrix_columns(schema)
    ('price', 'colour=', 'colour=blue', 'colour=red')
    >>> encode_matrix(schema, columns)[1]
    array([2., 1., 0., 0.], dtype=float32)
    """
    features = [
        _number(name, columns.numbers[name])
        if spec.kind == "number"
        else _category(name, columns.categories[name])
        for name, spec in stream.inputs.items()
    ]
    features += [_number(name, columns.numbers[name], derived=True) for name in stream.derived]
    classes: tuple[str, ...] = ()
    if stream.task == "classification":
        # There are few distinct labels, so a set avoids most calls to `text`. Use a set only if all
        # labels are strings, because a set would merge True and 1, whose texts differ.
        known = set(labels) if set(map(type, labels)) == {str} else labels
        classes = tuple(sorted({text(label) for label in known}))
    return FeatureSchema(tuple(features), classes)


def _number(name: str, values: NDArray[np.float64], *, derived: bool = False) -> FeatureSpec:
    known = values[~np.isnan(values)]
    # A column without any values carries no information, so any constant will do.
    median = float(np.median(known)) if len(known) else 0.0
    return FeatureSpec(name, "number", impute=median, derived=derived)


def _category(name: str, values: NDArray[np.object_]) -> FeatureSpec:
    counts = Counter(MISSING if value is None else value for value in values)
    # Break ties by name, so that the same data always give the same schema.
    frequent = sorted(counts, key=lambda level: (-counts[level], level))
    return FeatureSpec(
        name,
        "category",
        levels=tuple(sorted(frequent[:MAX_LEVELS])),
        rare=tuple(sorted(frequent[MAX_LEVELS : MAX_LEVELS + MAX_RARE])),
    )


def matrix_columns(schema: FeatureSchema) -> tuple[str, ...]:
    """Return the names of the matrix columns: `name` for a number, `name=level` for each level."""
    return tuple(
        column
        for spec in schema.features
        for column in (
            (spec.name,)
            if spec.kind == "number"
            else tuple(f"{spec.name}={level}" for level in spec.levels)
        )
    )


class MatrixEncoder:
    """Encode many batches with one schema. The lookup tables are built only once."""

    def __init__(self, schema: FeatureSchema) -> None:
        self.schema = schema
        self.width = len(matrix_columns(schema))
        self._places: dict[str, dict[str | None, int]] = {}
        self._known: dict[str, frozenset[str | None]] = {}
        for spec in schema.features:
            if spec.kind == "category":
                places: dict[str | None, int] = {
                    level: place for place, level in enumerate(spec.levels)
                }
                if MISSING in places:
                    places[None] = places[MISSING]
                self._places[spec.name] = places
                self._known[spec.name] = frozenset((*spec.levels, *spec.rare, None))

    def encode(self, columns: Columns) -> NDArray[np.float32]:
        """Return the matrix (n, width), float32. Raises KeyError if a feature has no column."""
        matrix = np.zeros((len(columns), self.width), dtype=np.float32)
        at = 0
        for spec in self.schema.features:
            if spec.kind == "number":
                values = columns.numbers[spec.name]
                missing = np.isnan(values)
                if missing.any():
                    values = np.where(missing, spec.impute or 0.0, values)
                matrix[:, at] = np.clip(values, -_LARGEST, _LARGEST)
                at += 1
            else:
                place = self._places[spec.name].get
                found = np.array(
                    [place(value, -1) for value in columns.categories[spec.name]], dtype=np.intp
                )
                hit = np.flatnonzero(found >= 0)
                matrix[hit, at + found[hit]] = 1.0
                at += len(spec.levels)
        return matrix

    def unseen(self, columns: Columns) -> dict[str, NDArray[np.bool_]]:
        """Return a mask (n,) for each category column: true for values not in the training data.

        For a missing value, the mask is always false.
        """
        return {
            name: np.array([value not in known for value in columns.categories[name]], dtype=bool)
            for name, known in self._known.items()
        }


def encode_matrix(schema: FeatureSchema, columns: Columns) -> NDArray[np.float32]:
    """Return the matrix (n, width), float32, with the columns of `matrix_columns`.

    Numbers are clipped to ±1.7e38, and missing numbers are replaced with the median. Categories are
    one-hot encoded over their levels. For an unseen or rare value, all columns of the category are
    zero. A missing value is encoded as the level `""` if the training data had missing values;
    otherwise all columns of the category are zero.
    """
    return MatrixEncoder(schema).encode(columns)
