"""Predictions of one partition as arrays: what was scored, by which model, where it stands.

In: messages. Out: `Scored`. What cannot be read is said in the log and left out.
"""

import logging
from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from driftline.broker.port import Message
from driftline.codec.columns import Columns
from driftline.codec.predictions import PredictionCodec
from driftline.events import Value
from driftline.stream import Stream
from monitor.progress import BEFORE_ALL, Arrivals, Ints

log = logging.getLogger(__name__)

_value, _offset = attrgetter("value"), attrgetter("offset")


class Scored(msgspec.Struct, frozen=True):
    """Arrays of length n; `arrivals` has the watermark records too, in their places."""

    arrivals: Arrivals
    ids: list[str]
    models: list[str]
    offsets: Ints
    positions: Ints
    rows: Ints  # BEFORE_ALL where there is none
    times_us: Ints  # as rows
    columns: Columns
    predictions: NDArray[Any]  # object (class names) or float64

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, at: NDArray[np.intp]) -> "Scored":
        """The records at these places."""
        return Scored(
            self.arrivals,
            [self.ids[place] for place in at],
            [self.models[place] for place in at],
            self.offsets[at],
            self.positions[at],
            self.rows[at],
            self.times_us[at],
            self.columns.take(at),
            self.predictions[at],
        )


class ScoredReader:
    """Decodes the predictions of one stream."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._codec = PredictionCodec(stream)

    def read(self, messages: Sequence[Message]) -> Scored:
        """Decode messages of one partition, in its order."""
        found = self._codec.decode(list(map(_value, messages)))
        records = found.records
        for rejected in records.rejected:
            message = messages[rejected.index]
            where = f"{message.topic}[{message.partition}]@{message.offset}"
            log.warning("prediction %s cannot be read, left out: %s", where, rejected.reason)
        all_offsets = ints(list(map(_offset, messages)))
        offsets = all_offsets if len(records) == len(messages) else all_offsets[records.kept]
        rows, times_us = optional_ints(records.rows), optional_ints(records.times_us)
        positions = rows if self._stream.axis == "row" else times_us
        arrivals = Arrivals(offsets, positions, None, ints(found.sources))
        if found.watermarks:
            marks = [(messages[index].offset, position) for index, position in found.watermarks]
            arrivals = with_marks(arrivals, marks)
        return Scored(
            arrivals,
            records.ids,
            found.models,
            offsets,
            positions,
            rows,
            times_us,
            records.columns,
            self._predictions(found.predictions),
        )

    def _predictions(self, values: Sequence[Value]) -> NDArray[Any]:
        if self._stream.task == "regression":
            return np.array(values, dtype=np.float64)
        names = np.empty(len(values), dtype=object)
        names[:] = values
        return names


def by_model(models: list[str]) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Each model, and where it stands in the list (n,); at least one."""
    first = models[0]
    if models.count(first) == len(models):
        yield first, np.ones(len(models), dtype=bool)
        return
    codes: dict[str, int] = {}
    of = np.array([codes.setdefault(model, len(codes)) for model in models])
    for model, code in codes.items():
        yield model, of == code


def with_marks(arrivals: Arrivals, marks: Sequence[tuple[int, int]]) -> Arrivals:
    """Records and watermarks (offset, position) together, by offset."""
    offsets = np.concatenate([arrivals.offsets, ints([offset for offset, _ in marks])])
    positions = np.concatenate([arrivals.positions, ints([position for _, position in marks])])
    is_mark = np.arange(len(offsets)) >= len(arrivals.offsets)
    order = np.argsort(offsets)
    sources = arrivals.sources
    if sources is not None:
        sources = np.concatenate([sources, np.full(len(marks), -1)])[order]
    return Arrivals(offsets[order], positions[order], is_mark[order], sources)


def ints(values: Sequence[int]) -> Ints:
    """As int64 (n,), also of nothing."""
    return np.array(values, dtype=np.int64)


def optional_ints(values: Sequence[int | None]) -> Ints:
    """As int64 (n,), BEFORE_ALL for None."""
    if None in values:
        values = [BEFORE_ALL if value is None else value for value in values]
    return np.array(values, dtype=np.int64)


def largest(values: Ints, known: int | None = None) -> int | None:
    """The largest of what is there, and of what was known."""
    found = int(values.max(initial=BEFORE_ALL))
    return max(
        (value for value in (known, found) if value is not None and value > BEFORE_ALL),
        default=None,
    )
