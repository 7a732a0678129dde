"""Generate a stream of machine sensor values for the benchmarks.

Input: the number of features and the number of records. Output: the stream file, a CSV file for
training, and encoded records and labels with `@row` and `@at`, as Driftline's producers write them.
The output is the same in every run.
"""

import csv
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

CLASSES = ("failing", "sound")
SENSORS = 1000  # number of distinct keys
TRAINING_ROWS = 5000
_NAMES = ("temperature", "pressure", "vibration", "current")
_CHUNK = 10_000


class EncodedRecord(msgspec.Struct, frozen=True):
    """An encoded feature record and its encoded label, whose `@at` equals the record's `@row`."""

    key: bytes
    value: bytes
    label: bytes


class Plan(msgspec.Struct, frozen=True):
    """The definition of a stream that a benchmark uses.

    rule: number of the rule that determines the labels. A model trained under one rule predicts
    poorly under another. window: number of records in each of the monitor's windows.
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
        """The feature names."""
        return tuple(
            _NAMES[i] if i < len(_NAMES) else f"channel_{i:02d}" for i in range(self.features)
        )

    def toml(self) -> str:
        """Return the stream file's text."""
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

    def records(self, count: int, start: int = 0) -> Iterator[EncodedRecord]:
        """Yield `count` records, numbered from `start`.

        Each number always gives the same record.
        """
        encode = msgspec.json.encode
        for first in range(start - start % _CHUNK, start + count, _CHUNK):
            values, states = self._chunk(first)
            for i, (row, state) in enumerate(zip(values.tolist(), states, strict=True), first):
                if not start <= i < start + count:
                    continue
                id_, sensor = f"r-{i:09d}", f"s-{i * 7919 % SENSORS:04d}"
                named = dict(zip(self.columns, row, strict=True))
                yield EncodedRecord(
                    key=sensor.encode(),
                    value=encode({"id": id_, "sensor": sensor, **named, "@row": i}),
                    label=encode({"id": id_, "sensor": sensor, "state": state, "@at": i}),
                )

    def write_training(self, path: Path, rule: int) -> None:
        """Write a CSV file of labelled rows that do not occur in the stream."""
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
    """Draw values of shape (rows, features) and each row's label.

    The values are rounded to four decimals, like sensor readings.
    """
    values = random.normal(size=(rows, features)) * 10 + 50
    weights = np.random.default_rng((3, rule)).normal(size=features)
    noise = random.normal(size=rows) * 0.3 * np.linalg.norm(weights)
    fails = (values - 50) @ weights / 10 + noise > 0
    return values.round(4), [CLASSES[0] if failing else CLASSES[1] for failing in fails.tolist()]
