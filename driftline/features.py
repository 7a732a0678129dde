"""From columns to the matrix that a model reads: learnt once in training, the same in serving.

In: `Columns` and, once, the training data. Out: a frozen `FeatureSchema` (kept in the model's
package) and float32 matrices. It never looks at labels except to name the classes.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from driftline.codec.records import Columns, text
from driftline.stream import Kind, Stream

MISSING: Final = ""  # the level of a missing category
# A column of its own costs memory and time in every model; beyond the hundred most frequent
# values of a category there is little to learn from each.
MAX_LEVELS: Final = 100
# Values that are remembered so as not to be called unseen. More are no category but free text.
MAX_RARE: Final = 10_000

_F32: Final = float(np.finfo(np.float32).max)


class FeatureSpec(msgspec.Struct, frozen=True):
    """One feature as the model takes it.

    `levels` (categories): values with a column of their own, sorted; `""` stands for missing.
    `rare`: further values of the training data, known but without a column. `impute` (numbers):
    the median, put where a value is missing.
    """

    name: str
    kind: Kind
    levels: tuple[str, ...] = ()
    impute: float | None = None
    derived: bool = False
    rare: tuple[str, ...] = ()


class FeatureSchema(msgspec.Struct, frozen=True):
    """All features, declared ones first, then derived; and the classes, sorted."""

    features: tuple[FeatureSpec, ...]
    classes: tuple[str, ...] = ()


def fit_schema(stream: Stream, columns: Columns, labels: Sequence[str | float]) -> FeatureSchema:
    """Learn medians, levels and classes from training data.

    >>> from driftline.stream import loads
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
        # Of a hundred thousand labels few are different; numbers and truths are equal, their texts
        # are not.
        known = set(labels) if set(map(type, labels)) == {str} else labels
        classes = tuple(sorted({text(label) for label in known}))
    return FeatureSchema(tuple(features), classes)


def _number(name: str, values: NDArray[np.float64], *, derived: bool = False) -> FeatureSpec:
    known = values[~np.isnan(values)]
    # A column that is missing everywhere tells nothing: any constant will do.
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
    """Names of the matrix's columns: `name` of a number, `name=level` of a category's levels."""
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
    """`encode_matrix` with its look-up tables built once: for serving, batch after batch."""

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
        """The matrix (n, width), float32."""
        matrix = np.zeros((len(columns), self.width), dtype=np.float32)
        at = 0
        for spec in self.schema.features:
            if spec.kind == "number":
                values = columns.numbers[spec.name]
                missing = np.isnan(values)
                if missing.any():
                    values = np.where(missing, spec.impute or 0.0, values)
                # What float32 cannot hold would become infinite, which models refuse.
                matrix[:, at] = np.clip(values, -_F32, _F32)
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
        """For each category column: which values (n,) were not in the training data."""
        return {
            name: np.array([value not in known for value in columns.categories[name]], dtype=bool)
            for name, known in self._known.items()
        }


def encode_matrix(schema: FeatureSchema, columns: Columns) -> NDArray[np.float32]:
    """The matrix (n, width), float32, in the order of `matrix_columns`.

    Numbers as they are, the median where missing. Categories one-hot over their levels: an unseen
    or rare value is all zeros; a missing one has level `""` if training data had missing ones,
    else zeros.
    """
    return MatrixEncoder(schema).encode(columns)


def unseen_mask(schema: FeatureSchema, columns: Columns) -> dict[str, NDArray[np.bool_]]:
    """For each category column: which values (n,) were not in the training data. Missing is not
    unseen."""
    return MatrixEncoder(schema).unseen(columns)
