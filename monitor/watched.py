"""Which columns of a stream are watched, and what they hold.

In: a stream file, columns. Out: names and kinds; values of a column, those that are missing left
out if need be.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from driftline.codec.columns import Columns
from driftline.stream import Feature, Kind, Stream


class Watched(NamedTuple):
    """A column that is tested; `feature` is None for derived ones."""

    name: str
    kind: Kind
    feature: Feature | None


def watched(stream: Stream) -> tuple[Watched, ...]:
    """The columns to test: declared ones unless `watch = false`, and all derived ones."""
    declared = [
        Watched(name, feature.kind, feature)
        for name, feature in stream.inputs.items()
        if feature.watch
    ]
    return (*declared, *(Watched(name, "number", None) for name in stream.derived))


def values_of(columns: Columns, name: str) -> NDArray[Any]:
    """The values of a column that there is, number or category."""
    return columns.numbers[name] if name in columns.numbers else columns.categories[name]


def present(values: NDArray[Any]) -> NDArray[Any]:
    """Those that are not missing."""
    if values.dtype.kind == "f":
        keep = ~np.isnan(values)
    else:
        keep = np.array([value is not None for value in values], dtype=bool)
    found: NDArray[Any] = values[keep]
    return found
