"""Two data sources from the Iris data set: its 150 flowers, and a longer stream with sensor drift.

The columns of both sources match the stream file `producers/iris.toml`.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np

from producers.rows import Change, Row

STREAM_FILE: Final = Path(__file__).with_name("iris.toml")

_COLUMNS: Final = ("sepal_length", "sepal_width", "petal_length", "petal_width")
_START: Final = datetime(2025, 1, 6, 8, tzinfo=UTC)
_SCALE: Final = 0.6  # ratio of measured to true petal length once the sensor has drifted
_SEED: Final = 7


class Iris:
    """Fisher's 150 flowers, one per second, sorted by species as in scikit-learn."""

    name: Final = "iris"
    textual: Final = False

    def count(self) -> int:
        return 150

    def rows(self) -> Iterator[Row]:
        flowers, species = _load()
        for place, (flower, kind) in enumerate(zip(flowers.tolist(), species, strict=True)):
            yield _row(place, flower, kind)


class IrisDrift:
    """Flowers drawn with replacement from Fisher's 150 flowers, one per second, with sensor drift.

    From the middle row on, petal lengths are measured at 60% of their true value, as if the camera
    had been knocked. A model trained on earlier rows then classifies many virginica as versicolor:
    its accuracy falls from .98 to between .68 and .80, depending on the kind of model. A model
    trained on the new measurements is as accurate as the first model was before the drift.

    records: the number of rows. The same flowers are drawn every time.

    >>> first = next(IrisDrift(records=10).rows())
    >>> sorted(first)[:3]
    ['flower_id', 'measured_at', 'petal_length']
    """

    name: Final = "iris-drift"
    textual: Final = False

    def __init__(self, records: int = 6000) -> None:
        self._records = records

    @property
    def drift_row(self) -> int:
        """The first row (counted from 0) that is measured with the drifted sensor."""
        return self._records // 2

    @property
    def changes(self) -> tuple[Change, ...]:
        """The one change in this source: the camera was knocked."""
        detail = f"petal lengths are measured {1 - _SCALE:.0%} too short"
        return (Change(self.drift_row, "the camera was knocked", detail),)

    def count(self) -> int:
        return self._records

    def rows(self) -> Iterator[Row]:
        flowers, species = _load()
        drawn = np.random.default_rng(_SEED).integers(0, len(flowers), self._records)
        petal_length = _COLUMNS.index("petal_length")
        for row, place in enumerate(drawn.tolist()):
            flower = flowers[place].tolist()
            if row >= self.drift_row:
                # The sensor reports centimetres with two decimal places.
                flower[petal_length] = round(flower[petal_length] * _SCALE, 2)
            yield _row(row, flower, species[place])


def _load() -> tuple[Any, list[str]]:
    from sklearn.datasets import load_iris

    iris = load_iris()
    return iris.data, [str(iris.target_names[place]) for place in iris.target]


def _row(number: int, flower: list[float], species: str) -> Row:
    measured_at = (_START + timedelta(seconds=number)).isoformat()[:-6] + "Z"
    return {
        "flower_id": f"flower-{number:06d}",
        "measured_at": measured_at,
        **dict(zip(_COLUMNS, flower, strict=True)),
        "species": species,
    }
