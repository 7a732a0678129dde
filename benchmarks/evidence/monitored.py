"""Let a monitor read generated predictions and outcomes, in memory and without other services.

Input: a model's reference, and the rows after it. Output: the drift events of the monitor. The
predictions are given, so that neither training nor inference takes time.
"""

from collections.abc import Iterator
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.evidence.drifting import Floats
from driftline.broker.memory import MemoryBroker
from driftline.broker.port import Outgoing
from driftline.broker.scan import ranges, scan
from driftline.clock import ManualClock
from driftline.config.measure import default_measure
from driftline.config.stream import Stream
from driftline.config.stream_sections import Task
from driftline.learning.metrics import Answers, losses
from driftline.models.package_reference import MAX_REFERENCE_ROWS, Reference
from driftline.runtime.loop import Loop
from driftline.wire.columns import Columns
from driftline.wire.envelope import drift_decoder, encode
from driftline.wire.events import DriftEvent, Outcome, Prediction, Source
from driftline.wire.topics import Topics, apply
from monitor.service import MonitorHandler

MODEL: Final = "sha256:" + "0" * 64
HELD_OUT: Final = 0.2  # the default `[models] holdout`
# Number of records per batch. It does not affect the result.
_BATCH: Final = 5_000


class PredictedRows(msgspec.Struct, frozen=True):
    """Rows with predictions and labels, all of length n.

    `scores` (n, k) are in the order of `classes`. Regression has no scores.
    """

    columns: Columns
    predictions: NDArray[Any]
    labels: NDArray[Any]
    scores: Floats | None = None
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.columns)

    def take(self, at: slice | NDArray[np.intp]) -> "PredictedRows":
        """Return the rows at these indices."""
        return PredictedRows(
            self.columns.take(at),
            self.predictions[at],
            self.labels[at],
            None if self.scores is None else self.scores[at],
            self.classes,
        )


def reference_of(task: Task, rows: PredictedRows, first: int) -> Reference:
    """Return the reference of a model that was trained on these rows, which start at `first`.

    The newest fifth of the rows is held out, as in training.
    """
    kept = rows.take(slice(max(0, len(rows) - MAX_REFERENCE_ROWS), None))
    held = rows.take(slice(len(rows) - round(HELD_OUT * len(rows)), None))
    numbers, categories = rows.columns.numbers, rows.columns.categories
    return Reference(
        columns=kept.columns,
        positions=first + np.arange(len(rows) - len(kept), len(rows)),
        predictions=kept.predictions,
        held_labels=held.labels,
        held_predictions=held.predictions,
        held_scores=held.scores,
        errors=losses(default_measure(task), held.labels, Answers(held.predictions)),
        levels={
            name: tuple(sorted({value for value in values if value is not None}))
            for name, values in categories.items()
        },
        ranges={
            name: (float(np.nanmin(values)), float(np.nanmax(values)))
            for name, values in numbers.items()
        },
        classes=rows.classes,
        held_columns=held.columns,
        rows=len(rows),
    )


def drift_events(
    stream: Stream,
    reference: Reference,
    rows: PredictedRows,
    first: int,
    *,
    labelled: int,
    delay: int = 0,
) -> list[DriftEvent]:
    """Return a monitor's drift events, in order, for rows that start at `first`.

    Only the first `labelled` rows get a label, which becomes known `delay` rows after its record.
    The stream needs one partition.
    """
    broker, topics, clock = MemoryBroker(ManualClock()), Topics(stream), ManualClock()
    apply(broker.admin(), topics)
    producer = broker.producer()
    for prediction in _predictions(rows, first, topics.features):
        producer.send(Outgoing(topics.predictions, encode(prediction), partition=0))
    for outcome in _outcomes(rows.take(slice(labelled)), first, topics.features, delay):
        producer.send(Outgoing(topics.outcomes, encode(outcome), partition=0))
    loop = Loop(
        MonitorHandler(stream, _Packages(reference)),
        broker,
        group="evidence",
        delivery="exactly_once",
        clock=clock,
        commit_interval_s=0,
        max_records=_BATCH,
    )
    while loop.step(0):
        pass
    loop.close()
    return [
        drift_decoder.decode(message.value or b"")
        for batch in scan(broker, ranges(broker, [topics.drift]))
        for message in batch
    ]


class _Packages:
    """The only model's reference."""

    def __init__(self, reference: Reference) -> None:
        self._reference = reference

    def reference(self, digest: str) -> Reference:
        return self._reference


def _predictions(rows: PredictedRows, first: int, topic: str) -> Iterator[Prediction]:
    columns = {**rows.columns.numbers, **rows.columns.categories}
    names = ("@row", *columns)
    values = zip(
        range(first, first + len(rows)), *(own.tolist() for own in columns.values()), strict=True
    )
    for common, row in zip(_common(rows, first, topic), values, strict=True):
        # NaN is encoded as null.
        record = msgspec.json.encode(dict(zip(names, row, strict=True)))
        yield Prediction(**common, record=msgspec.Raw(record))


def _outcomes(rows: PredictedRows, first: int, topic: str, delay: int) -> Iterator[Outcome]:
    for common, label in zip(_common(rows, first, topic), rows.labels.tolist(), strict=True):
        # The monitor does not read the features of outcomes.
        yield Outcome(
            **common,
            record=msgspec.Raw(b"{}"),
            label=label,
            label_time=None,
            label_row=common["row"] + delay,
            revision=0,
        )


def _common(rows: PredictedRows, first: int, topic: str) -> Iterator[dict[str, Any]]:
    """Yield the fields that a row's prediction and its outcome share."""
    scores = [None] * len(rows) if rows.scores is None else rows.scores.tolist()
    for place, (prediction, own) in enumerate(zip(rows.predictions.tolist(), scores, strict=True)):
        yield {
            "record_id": str(first + place),
            "time": None,
            "row": first + place,
            "prediction": prediction,
            "scores": None if own is None else dict(zip(rows.classes, own, strict=True)),
            "model": MODEL,
            "source": Source(topic, 0, place),
        }
