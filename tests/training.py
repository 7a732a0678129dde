"""Outcomes and trained models for tests: small, fast and reproducible."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from driftline.broker.port import TopicPartition
from driftline.clock import ManualClock
from driftline.config.settings import Settings, load_settings
from driftline.config.stream import Stream, loads
from driftline.wire.events import Outcome, RetrainRequest, Source, Value
from trainer.first import TrainedModel, train_first

CLASSIFICATION = loads("""
version = 1
name = "paint"
task = "classification"
target = "sold"
features = { price = "number", size = { kind = "number", min = 0 }, colour = "category" }
derived = { per_size = "price / size" }
record = { id = "id" }
retrain = { train_on = 1000, min_outcomes = 100 }
models = { candidates = ["logistic_regression", "decision_tree"] }
""")
REGRESSION = msgspec.structs.replace(
    CLASSIFICATION,
    task="regression",
    metric="mae",
    models=msgspec.structs.replace(
        CLASSIFICATION.models, candidates=("linear_regression", "decision_tree")
    ),
)
CLOCK = ManualClock(1_700_000_000.0)


def with_candidates(stream: Stream, *names: str, **changes: Any) -> Stream:
    """Return the stream with other candidates and other settings in [models]."""
    models = msgspec.structs.replace(stream.models, candidates=names, **changes)
    return msgspec.structs.replace(stream, models=models)


def settings(folder: Path) -> Settings:
    """Return settings whose paths are all inside `folder`."""
    return load_settings({"DRIFTLINE_HOME": str(folder), "DRIFTLINE_CLIENT": "memory"})


def record(i: int, *, seed: int = 0) -> bytes:
    """Return record number `i`."""
    random = np.random.default_rng([seed, i])
    return msgspec.json.encode(
        {
            "id": f"r{i}",
            "@row": i,
            "price": round(float(random.normal(10, 2)), 3),
            "size": round(float(random.uniform(1, 5)), 3),
            "colour": ("red", "green", "blue")[int(random.integers(3))],
        }
    )


def label(stream: Stream, value: bytes, *, turned: bool = False) -> Value:
    """Return a record's label: expensive items are sold, or cheap ones if `turned`."""
    fields = msgspec.json.decode(value)
    worth = fields["price"] + (1.0 if fields["colour"] == "red" else 0.0)
    if stream.task == "regression":
        return float(-worth if turned else worth)
    return "yes" if (worth > 10.3) != turned else "no"


def outcome(
    stream: Stream, i: int, *, turned: bool = False, revision: int = 0, truth: Value | None = None
) -> Outcome:
    """Return the outcome of record `i`."""
    value = record(i)
    known = label(stream, value, turned=turned) if truth is None else truth
    return Outcome(
        record_id=f"r{i}",
        time=None,
        row=i,
        prediction=known,
        scores=None,
        model="sha256:" + "0" * 64,
        source=Source("paint.features", 0, i),
        record=msgspec.Raw(value),
        label=known,
        label_time=None,
        label_row=i,
        revision=revision,
    )


class Outcomes:
    """A log of outcomes that is a list."""

    def __init__(self, outcomes: Sequence[Outcome] = ()) -> None:
        self.outcomes = list(outcomes)

    def read(self, start: Mapping[TopicPartition, int] | None = None) -> Iterator[Outcome]:
        return iter(self.outcomes)

    def ends(self) -> Mapping[TopicPartition, int]:
        return {TopicPartition("paint.outcomes", 0): len(self.outcomes)}

    def count(self) -> int:
        return len(self.outcomes)


def first_model(stream: Stream, folder: Path, rows: int = 300, **options: Any) -> TrainedModel:
    """Train a first model on the records up to number `rows`."""
    records = [record(i) for i in range(rows)]
    return train_first(
        stream,
        records,
        [label(stream, value) for value in records],
        settings=settings(folder),
        clock=CLOCK,
        **options,
    )


def request(**changes: Any) -> RetrainRequest:
    """Return a manual retrain request with these changes."""
    plain = RetrainRequest(
        id="retrain-1", cause="manual", caused_by=(), reason="by hand", position=None, since=None
    )
    return msgspec.structs.replace(plain, **changes)
