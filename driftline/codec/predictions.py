"""Predictions, many at once: as inference writes them, and as the monitor reads them.

The encoder splices the scored records in as raw bytes; the decoder gives them as columns. Nothing
is dropped in silence. A stream whose column names msgspec cannot take is read in two steps, which
is slower.
"""

from collections.abc import Sequence
from functools import partial
from operator import attrgetter, is_not
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from driftline.codec.columns import Batch, Rejected
from driftline.codec.decoding import Decoded, decode_each
from driftline.codec.records import RecordCodec
from driftline.codec.values import format_time
from driftline.events import Value, Watermark
from driftline.stream import Stream


class PredictionBatch(msgspec.Struct, frozen=True):
    """What was decoded of the predictions topic.

    `records` are the scored records that this stream file can read, `kept` and `rejected` counted
    among all values; `models`, `sources` (offsets of the scored records) and `predictions` are
    aligned with them. `watermarks`: (index of the value, position).
    """

    records: Batch
    models: list[str]
    sources: list[int]
    predictions: list[Value]
    watermarks: list[tuple[int, int]]


class _Source(msgspec.Struct, frozen=True, gc=False):
    offset: int


class PredictionCodec:
    """Decodes the predictions of one stream."""

    def __init__(self, stream: Stream) -> None:
        self._codec = RecordCodec(stream)
        event: Any = msgspec.defstruct(
            "ScoredRecord",
            [
                ("prediction", Value),
                ("model", str),
                ("source", _Source),
                ("record", self._codec.type or msgspec.Raw),
            ],
            tag_field="type",
            tag="prediction",
            frozen=True,
            gc=False,
        )
        self._decode = msgspec.json.Decoder(event | Watermark).decode

    def decode(self, values: Sequence[bytes | None]) -> PredictionBatch:
        """Decode and check; what cannot be read is among `records.rejected`."""
        found = decode_each(self._decode, values)
        events, kept, rejected = found.items, found.kept, found.rejected
        watermarks: list[tuple[int, int]] = []
        if any(type(event) is Watermark for event in events):
            watermarks = [
                (index, event.position)
                for index, event in zip(kept, events, strict=True)
                if type(event) is Watermark
            ]
            scored = [place for place, event in enumerate(events) if type(event) is not Watermark]
            events, kept = [events[place] for place in scored], [kept[place] for place in scored]
        records = self._records(list(map(attrgetter("record"), events)), kept, rejected)
        if len(records.kept) < len(kept):
            readable = set(records.kept)
            events = [e for index, e in zip(kept, events, strict=True) if index in readable]
        return PredictionBatch(
            records=records,
            models=list(map(attrgetter("model"), events)),
            sources=list(map(attrgetter("source.offset"), events)),
            predictions=list(map(attrgetter("prediction"), events)),
            watermarks=watermarks,
        )

    def _records(self, records: list[Any], kept: list[int], rejected: list[Rejected]) -> Batch:
        if self._codec.type is not None:
            return self._codec.checked(Decoded(records, kept, rejected))
        batch = self._codec.decode(list(map(bytes, records)))
        more = [Rejected(kept[item.index], item.reason) for item in batch.rejected]
        return msgspec.structs.replace(
            batch,
            kept=[kept[place] for place in batch.kept],
            rejected=sorted([*rejected, *more], key=attrgetter("index")),
        )


_is_known = partial(is_not, None)


class PredictionEncoder:
    """Encodes the predictions of one model for records of one topic, a batch at once.

    The scored record is spliced in as its raw bytes. What is written is what `events.Prediction`
    reads; columns are encoded each in one call and put together by a template, at a third of the
    cost of a struct a record. What is the same for all is in the template.
    """

    def __init__(self, model: str, classes: Sequence[str], topic: str) -> None:
        self._model = model
        self._classes = classes
        self._topic = topic

    def encode(
        self,
        partitions: Sequence[int],
        offsets: Sequence[int],
        records: Sequence[bytes | None],
        batch: Batch,
        predictions: Sequence[str] | NDArray[np.float64],
        probabilities: NDArray[np.float64] | None,
    ) -> list[bytes]:
        """Predictions for n ≥ 1 records, all arguments of length n: where each record stands, its
        bytes, what was decoded of it and what the model said."""
        cells: list[Sequence[bytes | None]] = [_texts(batch.ids)]
        template = [b'{"type":"prediction","record_id":"%b","time":']
        if any(map(_is_known, batch.times_us)):
            times = [None if time is None else format_time(time) for time in batch.times_us]
            cells.append(_numbers(times))
            template.append(b"%b")
        else:
            template.append(b"null")
        cells.append(_numbers(batch.rows))
        if isinstance(predictions, np.ndarray):
            cells.append(_numbers(predictions.tolist()))
            template.append(b',"row":%b,"prediction":%b,"scores":')
        else:
            cells.append(_texts(predictions))
            template.append(b',"row":%b,"prediction":"%b","scores":')
        if probabilities is None:
            template.append(b"null")
        else:
            cells.extend(map(_numbers, probabilities.T.tolist()))
            template += [b"{", b",".join(_fixed(name) + b":%b" for name in self._classes), b"}"]
        template += [b',"model":', _fixed(self._model)]
        template += [b',"source":{"topic":', _fixed(self._topic), b',"partition":']
        if partitions.count(partitions[0]) == len(partitions):
            template.append(b"%d" % partitions[0])
        else:
            cells.append(_numbers(partitions))
            template.append(b"%b")
        cells += [_numbers(offsets), records]
        template.append(b',"offset":%b},"record":%b}')
        return list(map(b"".join(template).__mod__, zip(*cells, strict=True)))


def _fixed(text: str) -> bytes:
    """Text in a template."""
    return msgspec.json.encode(text).replace(b"%", b"%%")


def _texts(values: Sequence[str]) -> list[bytes]:
    """Each text in JSON, without its quotes; n ≥ 1."""
    encoded = msgspec.json.encode(values)
    if b"\\" in encoded:  # an escaped quote: `","` may stand inside a text
        return [msgspec.json.encode(value)[1:-1] for value in values]
    return encoded[2:-2].split(b'","')


def _numbers(values: Sequence[float | str | None]) -> list[bytes]:
    """Each number in JSON, or text without comma, with its quotes, or null; n ≥ 1."""
    return msgspec.json.encode(values)[1:-1].split(b",")
