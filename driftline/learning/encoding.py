"""Turn columns into the matrix that a model reads, in the same way in training and serving.

Input: `Columns`. Output: float32 matrices, and a frozen `FeatureSchema` that is learned from the
training data and stored in the package of the model. Labels are only used to list the classes.
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

MISSING: Final = ""  # the level of a missing category
# Each level has a column, which costs memory and time in every model. A model learns little from
# values beyond the hundred most frequent ones.
MAX_LEVELS: Final = 100
# The schema also lists this many rarer values, so that they do not count as unseen. A column with
# more values is free text rather than a category.
MAX_RARE: Final = 10_000

# Models reject infinite values. They calculate in float32, in which a value minus the mean must be
# finite as well. Half of the largest float32 ensures both.
_LARGEST: Final = float(np.finfo(np.float32).max) / 2


class FeatureSpec(msgspec.Struct, frozen=True):
    """The encoding of one feature.

    The `levels` of a category are the values that have their own column, sorted; `""` is the level
    for missing values. `rare` are further values of the training data, without a column. `impute`
    is the median of a number, which replaces missing values.
    """

    name: str
    kind: Kind
    levels: tuple[str, ...] = ()
    impute: float | None = None
    derived: bool = False
    rare: tuple[str, ...] = ()


class FeatureSchema(msgspec.Struct, frozen=True):
    """All features, declared ones before derived ones, and the sorted classes."""

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
        # A set makes this fast, because few labels are distinct. It is used only if all labels are
        # texts: True and 1 are equal and would be merged, although their texts differ.
        known = set(labels) if set(map(type, labels)) == {str} else labels
        classes = tuple(sorted({text(label) for label in known}))
    return FeatureSchema(tuple(features), classes)


def _number(name: str, values: NDArray[np.float64], *, derived: bool = False) -> FeatureSpec:
    known = values[~np.isnan(values)]
    # A column without any value carries no information, so any constant will do.
    median = float(np.median(known)) if len(known) else 0.0
    return FeatureSpec(name, "number", impute=median, derived=derived)


def _category(name: str, values: NDArray[np.object_]) -> FeatureSpec:
    counts = Counter(MISSING if value is None else value for value in values)
    # Ties are broken by name, so that the same data give the same schema.
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
    """Encode many batches with one schema. The look-up tables are built only once."""

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
        """Return for each category column a mask (n,) of values that training data did not have.

        A missing value never counts as unseen.
        """
        return {
            name: np.array([value not in known for value in columns.categories[name]], dtype=bool)
            for name, known in self._known.items()
        }


def encode_matrix(schema: FeatureSchema, columns: Columns) -> NDArray[np.float32]:
    """Return the matrix (n, width), float32, with the columns of `matrix_columns`.

    Numbers are unchanged up to ±1.7e38 and clipped beyond it. The median replaces missing ones.
    Categories are one-hot encoded over their levels. The columns of an unseen or rare value are all
    zero. A missing value has the level `""` if the training data had missing values, and otherwise
    only zeros.
    """
    return MatrixEncoder(schema).encode(columns)
