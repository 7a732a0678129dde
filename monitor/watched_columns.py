"""List the watched columns of a stream, and select the values that are not missing."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from driftline.config.stream import Stream
from driftline.config.stream_sections import Feature, Kind


class WatchedColumn(NamedTuple):
    """A column that is tested. `feature` is None for derived columns."""

    name: str
    kind: Kind
    feature: Feature | None


def watched(stream: Stream) -> tuple[WatchedColumn, ...]:
    """Return the columns to test: declared ones unless `watch = false`, and all derived ones."""
    declared = [
        WatchedColumn(name, feature.kind, feature)
        for name, feature in stream.inputs.items()
        if feature.watch
    ]
    return (*declared, *(WatchedColumn(name, "number", None) for name in stream.derived))


def present(values: NDArray[Any]) -> NDArray[Any]:
    """Return the values that are not missing."""
    if values.dtype.kind == "f":
        keep = ~np.isnan(values)
    else:
        keep = np.array([value is not None for value in values], dtype=bool)
    found: NDArray[Any] = values[keep]
    return found
