"""Decode one partition's predictions from Kafka messages into arrays of models and positions.

Input: messages from `predictions`. Output: `Scored`, which is enough to count each record in its
window, and `Details` of records that may be in a sample. Decoding columns is slow, so only these
records' columns are decoded, unless most records are needed.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from driftline.broker.port import Message, Messages
from driftline.config.stream import Stream
from driftline.logs import alike
from driftline.wire.batch_decoding import Decoded, decode_each
from driftline.wire.columns import Columns
from driftline.wire.events import Offset, RowNumber, Value, Watermark
from driftline.wire.feature_records import RecordCodec
from driftline.wire.topics import Topics
from monitor.class_scores import ClassScores
from monitor.panes import Arrivals, Ints
from monitor.partition_windows.read_events import (
    Marks,
    Positions,
    flags,
    ints,
    read_events,
    with_marks,
)

log = logging.getLogger(__name__)

_one_scores = msgspec.json.Decoder(dict[str, float] | None)
_all_scores = msgspec.json.Decoder(list[dict[str, float] | None])


class _Source(msgspec.Struct, frozen=True, gc=False):
    offset: Offset


class Read(msgspec.Struct, frozen=True, gc=False, tag_field="type", tag="prediction"):
    """The fields of a prediction that the monitor needs. The prediction's feature record is not
    decoded."""

    record_id: str
    time: str | None
    row: RowNumber | None
    prediction: Value
    model: str
    source: _Source
    record: msgspec.Raw
    scores: msgspec.Raw = msgspec.Raw(b"null")
    ahead: bool = False


class Scored(msgspec.Struct, frozen=True):
    """Predictions as arrays and lists of length n. `arrivals` also contains watermark records."""

    arrivals: Arrivals
    events: list[Read]
    ids: list[str]
    models: list[str]
    offsets: Ints
    positions: Positions
    whole: bool  # True if the predictions' feature records were also decoded

    def __len__(self) -> int:
        return len(self.events)


class Details(NamedTuple):
    """The inputs, predictions and scores of m records whose columns match the stream file."""

    at: NDArray[np.intp]  # (m,) indices of the records in `Scored`
    columns: Columns
    predictions: NDArray[Any]  # (m,) object (class names) or float64
    scores: ClassScores  # class scores of the m records


class ScoredReader:
    """Decodes one stream's predictions."""

    def __init__(self, stream: Stream) -> None:
        self._codec = RecordCodec(stream)
        self._topic = Topics(stream).predictions
        self._by_row = stream.axis == "row"
        self._is_number = stream.task == "regression"
        self._light = msgspec.json.Decoder(Read | Watermark).decode
        self._whole: Callable[[bytes], Any] | None = None
        if self._codec.type is not None:
            inside: Any = msgspec.defstruct(
                "Whole", [("record", self._codec.type)], bases=(Read,), tag="prediction"
            )
            self._whole = msgspec.json.Decoder(inside | Watermark).decode

    def read(self, messages: Sequence[Message], *, whole: bool = False) -> Scored:
        """Decode one partition's messages, which must be in log order. If `whole` is True, also
        decode the predictions' feature records, which is faster if most of them will be needed.
        `whole` does not affect the results."""
        found = Messages.of(messages)
        if whole and self._whole is not None:
            decoded = decode_each(self._whole, found.values)
            # An event is counted even if its columns are unreadable, so decode again without
            # columns.
            if not decoded.rejected:
                return read_events(found, decoded, partial(self._scored, True))
        decoded = decode_each(self._light, found.values)
        return read_events(found, decoded, partial(self._scored, False))

    def _scored(
        self, whole: bool, events: list[Read], offsets: Sequence[int], marks: Marks
    ) -> Scored:
        positions = Positions.of(
            [event.row for event in events], [event.time for event in events], by_row=self._by_row
        )
        arrivals = Arrivals(
            ints(offsets),
            positions.on_axis,
            None,
            ints([event.source.offset for event in events]),
            ahead=flags([event.ahead for event in events]),
        )
        return Scored(
            with_marks(arrivals, marks),
            events,
            [event.record_id for event in events],
            [event.model for event in events],
            arrivals.offsets,
            positions,
            whole,
        )

    def details(self, scored: Scored, partition: int, at: NDArray[np.intp]) -> Details:
        """Return the details of all readable records at the indices `at` (k,)."""
        events = scored.events
        if len(at) < len(events):
            events = [events[place] for place in at.tolist()]
        records: list[Any] = [event.record for event in events]
        if scored.whole:
            batch = self._codec.checked(Decoded(records, list(range(len(records))), []))
        else:
            batch = self._codec.decode(list(map(bytes, records)))
        for rejected in batch.rejected:
            where = f"{self._topic}[{partition}]@{scored.offsets[at[rejected.index]]}"
            log.warning(
                "%s is counted, but not sampled: %s",
                where,
                rejected.reason,
                extra=alike(rejected.reason),
            )
        if batch.rejected:
            at, events = at[batch.kept], [events[place] for place in batch.kept]
        values = [event.prediction for event in events]
        if self._is_number:
            none = ClassScores.none(len(values))
            return Details(at, batch.columns, np.array(values, dtype=np.float64), none)
        names = np.empty(len(values), dtype=object)
        names[:] = values
        scores = ClassScores.of(_decode_scores([event.scores for event in events]))
        return Details(at, batch.columns, names, scores)


def _decode_scores(raw: Sequence[msgspec.Raw]) -> Sequence[Mapping[str, float] | None]:
    """Return each record's scores by class, or None if the record's scores are invalid."""
    try:  # one call for all scores is three times as fast as one call per record
        return _all_scores.decode(b"[" + b",".join(map(bytes, raw)) + b"]")
    except msgspec.DecodeError:
        return [_scores_or_none(value) for value in raw]


def _scores_or_none(raw: msgspec.Raw) -> Mapping[str, float] | None:
    try:
        found: Mapping[str, float] | None = _one_scores.decode(raw)
    except msgspec.DecodeError:
        return None
    return found
