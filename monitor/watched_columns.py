"""List the columns that the monitor tests for drift, and drop missing values from NumPy arrays."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from driftline.config.stream import Stream
from driftline.config.stream_sections import Feature, Kind


class WatchedColumn(NamedTuple):
    """A column that the monitor tests for drift. `feature` is None for derived columns."""

    name: str
    kind: Kind
    feature: Feature | None


def watched(stream: Stream) -> tuple[WatchedColumn, ...]:
    """Return the columns to test: all derived columns, and all declared columns except those with
    `watch = false`."""
    declared = [
        WatchedColumn(name, feature.kind, feature)
        for name, feature in stream.inputs.items()
        if feature.watch
    ]
    return (*declared, *(WatchedColumn(name, "number", None) for name in stream.derived))


def present(values: NDArray[Any]) -> NDArray[Any]:
    """Return the values that are neither NaN nor None."""
    if values.dtype.kind == "f":
        keep = ~np.isnan(values)
    else:
        keep = np.array([value is not None for value in values], dtype=bool)
    found: NDArray[Any] = values[keep]
    return found
