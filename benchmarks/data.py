"""The stream that is measured: sensors of a machine, JSON records of four to thirty numbers.

In: how many features, how many records. Out: the stream file, a CSV to train on, and the same
records and labels each time, as Driftline's producers stamp them.
"""

import csv
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

CLASSES = ("failing", "sound")
SENSORS = 1000  # keys
TRAINING_ROWS = 5000
_NAMES = ("temperature", "pressure", "vibration", "current")
_CHUNK = 10_000


class Record(msgspec.Struct, frozen=True):
    """A feature record on its way, and its label, which follows at once."""

    key: bytes
    value: bytes
    label: bytes


class Plan(msgspec.Struct, frozen=True):
    """A stream to measure with.

    `rule`: which records fail; another number is another rule, so that a model of the one is wrong
    about the other. `window`: records in a window of the monitor.
    """

    name: str
    features: int
    partitions: int = 1
    delivery: str = "at_least_once"
    candidate: str = "logistic_regression"
    window: int = 100_000
    train_on: int = 50_000
    tune: bool = False
    rule: int = 0

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the features."""
        return tuple(
            _NAMES[i] if i < len(_NAMES) else f"channel_{i:02d}" for i in range(self.features)
        )

    def toml(self) -> str:
        """The stream file."""
        features = "\n".join(f'{name} = "number"' for name in self.columns)
        return f"""\
version = 1
name = "{self.name}"
task = "classification"
target = "state"

[record]
id = "id"
key = "sensor"

[features]
{features}

[windows]
records = {self.window}

[labels]
horizon = {2 * self.window}

[retrain]
policy = "never"
train_on = {self.train_on}

[models]
candidates = ["{self.candidate}"]
tune = {"true" if self.tune else "false"}

[kafka]
partitions = {self.partitions}
inference_delivery = "{self.delivery}"
"""

    def records(self, count: int, start: int = 0) -> Iterator[Record]:
        """`count` records from number `start` on, the same for the same numbers."""
        encode = msgspec.json.encode
        for first in range(start - start % _CHUNK, start + count, _CHUNK):
            values, states = self._chunk(first)
            for i, (row, state) in enumerate(zip(values.tolist(), states, strict=True), first):
                if not start <= i < start + count:
                    continue
                id_, sensor = f"r-{i:09d}", f"s-{i * 7919 % SENSORS:04d}"
                named = dict(zip(self.columns, row, strict=True))
                yield Record(
                    key=sensor.encode(),
                    value=encode({"id": id_, "sensor": sensor, **named, "@row": i}),
                    label=encode({"id": id_, "sensor": sensor, "state": state, "@at": i}),
                )

    def write_training(self, path: Path, rule: int) -> None:
        """A CSV of labelled rows, from before the stream begins."""
        with path.open("w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(("id", "sensor", *self.columns, "state"))
            values, states = _draw(np.random.default_rng(1), TRAINING_ROWS, self.features, rule)
            for i, (row, state) in enumerate(zip(values.tolist(), states, strict=True)):
                rows.writerow((f"t-{i:06d}", f"s-{i % SENSORS:04d}", *row, state))

    def _chunk(self, first: int) -> tuple[NDArray[np.float64], list[str]]:
        return _draw(np.random.default_rng((2, first)), _CHUNK, self.features, self.rule)


def _draw(
    random: np.random.Generator, rows: int, features: int, rule: int
) -> tuple[NDArray[np.float64], list[str]]:
    """Values (rows, features) with four digits, as sensors give them, and the states."""
    values = random.normal(size=(rows, features)) * 10 + 50
    weights = np.random.default_rng((3, rule)).normal(size=features)
    noise = random.normal(size=rows) * 0.3 * np.linalg.norm(weights)
    fails = (values - 50) @ weights / 10 + noise > 0
    return values.round(4), [CLASSES[0] if failing else CLASSES[1] for failing in fails.tolist()]
