"""Describe a run under faults: data, workers, and how often each service is killed."""

import csv
from pathlib import Path
from typing import Final

import msgspec

from driftline.config.stream_sections import Client, Delivery
from driftline.wire.topics import SERVICES, Service
from producers.river_sets import TARGET, open_river

# Number of SEA concepts in a run. They cause drift, decisions and requests throughout it.
_CONCEPTS: Final = 8


class Data(msgspec.Struct, frozen=True):
    """A data set, with the arguments for `driftline init` and `driftline train`."""

    source: str
    name: str
    init: tuple[str, ...]
    warm_up: int  # number of first rows that train the first model
    rows: int  # including the warm-up


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """One run. `kills` are moments per service; at some moments two processes are killed."""

    data: Data
    client: Client
    seed: int = 0
    partitions: int = 4
    workers: int = 2
    delivery: Delivery = "exactly_once"
    retraining: bool = True
    overlap: int = 1  # number of windows that contain each record
    kills: dict[Service, int] = {}
    idle_s: int = 3
    replication: int = 1  # replication factor of every topic
    horizon: int | None = None  # of labels, in records; half of all without
    label_delay: int = 50  # in records, for data without a time

    def slots(self, service: Service) -> int:
        """Return the number of workers. One trainer is enough: requests have one partition."""
        return 1 if service == "trainer" else self.workers

    @property
    def lives(self) -> int:
        """Return the number of moments at which a worker is killed."""
        return sum(self.kills.get(service, 0) for service in SERVICES)

    @property
    def words(self) -> str:
        """Return a description in one line."""
        return (
            f"{self.data.name}, {self.client}, {self.partitions} partitions, {self.workers} workers"
            f", {self.delivery}, retraining {'on' if self.retraining else 'off'}"
            f"{f', windows overlap {self.overlap}×' if self.overlap > 1 else ''}"
            f", {self.lives} kills, seed {self.seed}"
        )


def sea(folder: Path, records: int, *, warm_up: int = 2000) -> Data:
    """Write records of River's SEA generator with changing concepts to a file in `folder`."""
    path, rows = folder / f"sea-{records}.csv", warm_up + records
    if not path.exists():
        # Write to another file first: another run may read this one meanwhile.
        part = path.with_suffix(".part")
        with part.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("salt", "sand", "silt", TARGET))
            for concept in range(_CONCEPTS):
                length = rows * (concept + 1) // _CONCEPTS - rows * concept // _CONCEPTS
                source = open_river(f"river:SEA:variant={concept % 4},seed={concept},n={length}")
                for row in source.rows():
                    assert isinstance(row, dict)
                    writer.writerow(
                        (*(f"{row[name]:.4f}" for name in ("0", "1", "2")), int(row[TARGET]))
                    )
        part.replace(path)
    return Data(str(path), "sea", ("--target", TARGET), warm_up, rows)


def file(path: Path, *, rows: int | None = None) -> Data:
    """Return a known data set by its folder, which is named `elec2` or `car_loan_nml`."""
    known: dict[str, tuple[str, int]] = {
        "elec2": ("--target class", 45_312),
        "car_loan_nml": (
            "--target repaid --id id --time timestamp --drop y_pred --drop y_pred_proba",
            100_000,
        ),
    }
    init, all_rows = known[path.name]
    length = min(all_rows, rows or all_rows)
    name, warm_up = path.name.replace("_", "-"), length // 10
    return Data(str(path / "data.csv.gz"), name, tuple(init.split()), warm_up, length)
