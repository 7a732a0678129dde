"""Describe the data sets that the measurements read: column roles, block lengths, known changes.

The data files are not part of the project. Each set is a folder with a README. Each measurement's
module describes how it uses the data sets.
"""

from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.evidence.drifting import ConceptChange

DATA: Final = Path(__file__).resolve().parents[3] / "shared" / "data"


class DataSet(msgspec.Struct, frozen=True):
    """A data set with its rows in stream order.

    drop: columns that are not features, because they reveal the target or only encode the time.
    """

    name: str  # the data set's folder name
    target: str
    drop: tuple[str, ...] = ()
    time: str | None = None
    id: str | None = None
    block: int = 1  # block length in records; records within a block may be autocorrelated
    rows: int | None = None  # number of rows before the inputs drift, if known
    changes: tuple[ConceptChange, ...] = ()  # known concept changes

    @property
    def no_features(self) -> tuple[str, ...]:
        """The columns that are neither features nor the target."""
        return (*self.drop, *(name for name in (self.time, self.id) if name is not None))

    def file(self, data: Path = DATA) -> Path:
        """Return the path of the data file. `data` is the folder that holds all data sets."""
        return data / self.name / "data.csv.gz"


_DAY: Final = 24  # records per day, for hourly records


def _abrupt(*rows: int) -> tuple[ConceptChange, ...]:
    return tuple(ConceptChange(row, 0) for row in rows)


SETS: Final = {
    item.name: item
    for item in (
        DataSet(
            "airlines_delayed_labels",
            "ValueToPredict",
            drop=("Year", "Month"),
            time="timeStamp",
            id="instanceId",
        ),
        DataSet(
            "bike_sharing",
            "cnt",
            drop=("instant", "dteday", "yr", "casual", "registered", "high_demand"),
            block=_DAY,
        ),
        DataSet(
            "california_housing_nml",
            "clf_target",
            drop=("y_pred", "y_pred_proba"),
            time="timestamp",
            id="id",
        ),
        DataSet(
            "car_loan_nml",
            "repaid",
            drop=("y_pred", "y_pred_proba"),
            time="timestamp",
            id="id",
            rows=75_000,
            changes=_abrupt(75_000),
        ),
        DataSet("circle_menelaus", "y", changes=(ConceptChange(1_000, 250),)),
        # In elec2, three columns are constant before the change.
        DataSet("elec2", "class", drop=("date",), block=2 * _DAY, changes=_abrupt(17_424)),
        DataSet("metro_traffic", "traffic_volume", drop=("heavy",), time="date_time", block=_DAY),
        DataSet("noaa_weather", "rain", block=30),  # one row per day, so a block is a month
        DataSet("phishing_sites", "target"),
        DataSet("sea_abrupt", "y", changes=_abrupt(12_500, 25_000, 37_500)),
        DataSet(
            "thu_mixed_0101_gradual",
            "class",
            changes=tuple(ConceptChange(row, 1_000) for row in (9_500, 20_000, 30_500)),
        ),
        DataSet("thu_sine_0123_abrupto", "class", changes=_abrupt(10_000, 20_000, 30_000)),
    )
}


def shuffled_blocks(rng: np.random.Generator, rows: int, block: int) -> NDArray[np.int64]:
    """Return the indices of the rows in whole blocks of `block` rows, in random order.

    Rows after the last whole block are left out.
    """
    order = rng.permutation(rows // block)[:, None] * block + np.arange(block)
    return order.ravel()
