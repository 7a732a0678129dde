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

from benchmarks.evidence.monitored import PredictedRows, drift_events, reference_of
from benchmarks.evidence.sets import DataSet
from driftline.config.stream import Stream
from driftline.models.package_reference import Reference
from driftline.wire.columns import Columns
from driftline.wire.events import DriftEvent

Floats = NDArray[np.float64]
Labels = NDArray[np.object_]

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
    reference = reference_of(
        "classification", _predicted(table, learner.test_then_train(table)), first=0
    )
    newest = learner.score(table.x[-len(reference.predictions) :])
    return msgspec.structs.replace(reference, predictions=newest.predictions)


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
    labelled = 0 if delay is None else max(0, len(table.x) - delay)
    rows = _predicted(table, scored)
    return drift_events(stream, reference, rows, first, labelled=labelled, delay=delay or 0)


def _predicted(table: Table, scored: Scored) -> PredictedRows:
    columns = {name: table.x[:, at].copy() for at, name in enumerate(table.names)}
    return PredictedRows(
        Columns(columns, {}), scored.predictions, table.labels, scored.scores, table.classes
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
