"""Inject drift into data sets, and watch the rows with Driftline's monitor on an in-memory broker.

Input: a data set with numeric columns and class labels. Output: the drift events that the monitor
publishes. The model is River's Hoeffding tree, which learns row by row. No package is written: the
monitor reads the model's reference from memory.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.evidence.sets import DataSet
from driftline.broker.memory import MemoryBroker
from driftline.broker.port import Outgoing
from driftline.broker.scan import ranges, scan
from driftline.clock import ManualClock
from driftline.config.stream import Stream
from driftline.models.package_reference import MAX_REFERENCE_ROWS, Reference
from driftline.runtime.loop import Loop
from driftline.wire.columns import Columns
from driftline.wire.envelope import drift_decoder, encode
from driftline.wire.events import DriftEvent, Outcome, Prediction, Source
from driftline.wire.topics import Topics, apply
from monitor.service import MonitorHandler

Floats = NDArray[np.float64]
Labels = NDArray[np.object_]

MODEL: Final = "hoeffding-tree"
# The newest fifth of the warm-up rows gives the held-out errors. The tree predicts each of these
# rows before it learns from the row.
HELD_OUT: Final = 0.2
LISTED: Final = "separated by commas; default: all"  # help for an option with the type `listed`


class Table(msgspec.Struct, frozen=True):
    """Rows in order: `x` (n, columns) and class names `labels` (n,). `classes` is sorted."""

    names: tuple[str, ...]
    x: Floats
    labels: Labels
    classes: tuple[str, ...]

    def take(self, rows: NDArray[np.int64] | slice) -> "Table":
        """Return the rows at these indices, in this order."""
        return msgspec.structs.replace(self, x=self.x[rows], labels=self.labels[rows])


class Scored(msgspec.Struct, frozen=True):
    """The model's `predictions` (n,) and `scores` (n, classes), the classes' probabilities."""

    predictions: Labels
    scores: Floats


def read_table(item: DataSet, data: Path, names: Sequence[str] | None = None) -> Table:
    """Read the columns in `names`, or without `names` all columns except the target."""
    import pandas as pd

    table = pd.read_csv(item.file(data))
    labels = table.pop(item.target).astype(str).to_numpy(dtype=object)
    names = tuple(map(str, table.columns)) if names is None else tuple(names)
    x = table[list(names)].to_numpy(dtype=np.float64)
    return Table(names, x, labels, tuple(sorted(set(labels.tolist()))))


class Learner:
    """River's Hoeffding tree with default settings, as a model with class names and scores."""

    def __init__(self, names: Sequence[str], classes: Sequence[str]) -> None:
        from river.tree import HoeffdingTreeClassifier

        self._names = names
        self._classes = classes
        self._tree: Any = HoeffdingTreeClassifier()

    def score(self, x: Floats) -> Scored:
        """Predict rows (n, columns) without learning from them."""
        return self._scored([self._probabilities(row) for row in self._dicts(x)])

    def test_then_train(self, table: Table, *, delay: int = 0) -> Scored:
        """Predict each row, and learn from its label `delay` rows later."""
        scores = []
        rows = list(zip(self._dicts(table.x), table.labels.tolist(), strict=True))
        for at, (row, _) in enumerate(rows):
            scores.append(self._probabilities(row))
            if at >= delay:
                self._tree.learn_one(*rows[at - delay])
        return self._scored(scores)

    def _dicts(self, x: Floats) -> Iterator[dict[str, float]]:
        return (dict(zip(self._names, row, strict=True)) for row in x.tolist())

    def _probabilities(self, row: dict[str, float]) -> list[float]:
        found = self._tree.predict_proba_one(row)
        return [found.get(name, 0.0) for name in self._classes]

    def _scored(self, probabilities: list[list[float]]) -> Scored:
        scores = np.array(probabilities).reshape(-1, len(self._classes))
        return Scored(np.array(self._classes, dtype=object)[scores.argmax(axis=1)], scores)


def warm_up(learner: Learner, table: Table) -> Reference:
    """Train the learner on the warm-up rows, and return its reference as a package would have."""
    tested = learner.test_then_train(table)
    held = slice(len(table.x) - int(HELD_OUT * len(table.x)), None)
    newest = slice(-MAX_REFERENCE_ROWS, None)
    predictions = tested.predictions[held]
    return Reference(
        columns=_columns(table.names, table.x[newest]),
        positions=np.arange(len(table.x))[newest],
        predictions=learner.score(table.x[newest]).predictions,
        held_labels=table.labels[held],
        held_predictions=predictions,
        held_scores=tested.scores[held],
        errors=(predictions != table.labels[held]).astype(np.float64),
        levels={},
        ranges={
            name: (float(values.min()), float(values.max()))
            for name, values in zip(table.names, table.x.T, strict=True)
        },
        classes=table.classes,
        held_columns=_columns(table.names, table.x[held][newest]),
        rows=len(table.x),
    )


def _columns(names: Sequence[str], x: Floats) -> Columns:
    return Columns({name: x[:, at].copy() for at, name in enumerate(names)}, {})


class _OneReference:
    """The source of the only model's reference."""

    def __init__(self, reference: Reference) -> None:
        self._reference = reference

    def reference(self, digest: str) -> Reference:
        return self._reference


def watch(
    stream: Stream,
    reference: Reference,
    table: Table,
    scored: Scored,
    *,
    first: int,
    delay: int | None = None,
) -> list[DriftEvent]:
    """Let a monitor read the rows, and return the drift events in the order of publication.

    first: the record number of the first row; the others follow. delay: each label becomes known
    this many rows after its record; None if there are no labels. An event's `position` is the
    record number after which the event was published: the end of the window or pane that caused
    it, on the axis of label arrival for performance events.
    """
    one_partition = msgspec.structs.replace(stream.kafka, partitions=1)
    stream = msgspec.structs.replace(stream, kafka=one_partition)
    topics, clock = Topics(stream), ManualClock()
    broker = MemoryBroker(clock)
    apply(broker.admin(), topics)
    producer = broker.producer()
    loop = Loop(
        MonitorHandler(stream, _OneReference(reference)),
        broker,
        group="monitor",
        delivery="exactly_once",
        clock=clock,
        commit_interval_s=0,
    )
    predictions = list(_predictions(topics, table, scored, first))
    for at, prediction in enumerate(predictions):
        producer.send(Outgoing(topics.predictions, encode(prediction), partition=0))
        if delay is not None and at >= delay:
            outcome = _outcome(predictions[at - delay], table.labels[at - delay], first + at)
            producer.send(Outgoing(topics.outcomes, encode(outcome), partition=0))
        if (at + 1) % stream.window_size == 0 or at + 1 == len(predictions):
            while loop.step(0):
                pass
    loop.close()
    written = [m for batch in scan(broker, ranges(broker, [topics.drift])) for m in batch]
    return [drift_decoder.decode(message.value or b"") for message in written]


def _predictions(topics: Topics, table: Table, scored: Scored, first: int) -> Iterator[Prediction]:
    rows = zip(table.x.tolist(), scored.predictions.tolist(), scored.scores.tolist(), strict=True)
    for at, (row, prediction, scores) in enumerate(rows):
        record = {"@row": first + at} | dict(zip(table.names, row, strict=True))
        yield Prediction(
            record_id=str(first + at),
            time=None,
            row=first + at,
            prediction=prediction,
            scores=dict(zip(table.classes, scores, strict=True)),
            model=MODEL,
            source=Source(topics.features, 0, at),
            record=msgspec.Raw(msgspec.json.encode(record)),
        )


def _outcome(prediction: Prediction, label: str, known_at: int) -> Outcome:
    return Outcome(
        record_id=prediction.record_id,
        time=None,
        row=prediction.row,
        prediction=prediction.prediction,
        scores=prediction.scores,
        model=prediction.model,
        source=prediction.source,
        record=prediction.record,
        label=label,
        label_time=None,
        label_row=known_at,
        revision=0,
    )


def listed(*known: str) -> Any:
    """Return an `argparse` type: names from `known`, separated by commas."""

    def names(text: str) -> tuple[str, ...]:
        found = tuple(text.split(","))
        if unknown := set(found) - set(known):
            raise ValueError(f"unknown: {', '.join(sorted(unknown))}")
        return found

    names.__name__ = f"list of {', '.join(known)}"  # argparse shows this name in its errors
    return names
