"""Predictions as the monitor reads them: many at once, with the scored records as columns.

In: values of the `predictions` topic. Out: one batch; nothing is dropped in silence. A stream whose
column names msgspec cannot take is read in two steps, which is slower.
"""

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import msgspec

from driftline.codec.columns import Batch, Rejected
from driftline.codec.decoding import Decoded, decode_each
from driftline.codec.records import RecordCodec
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
