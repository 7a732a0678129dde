"""Builders for tests of the monitor: a small stream, its messages, and references of models."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from driftline.broker.port import Message
from driftline.config.stream import Stream, loads
from driftline.errors import PackageNotFound
from driftline.models.package_reference import Reference
from driftline.wire.columns import Columns
from driftline.wire.envelope import encode
from driftline.wire.events import Gap, Outcome, Prediction, RejectedRecord, Source, Value, Watermark
from driftline.wire.events import Log as EventLog
from driftline.wire.topics import Topics
from driftline.wire.values import format_time


def small_stream(**sections: str) -> Stream:
    """Return a stream with one number, one category, windows of 40 rows and 2 partitions.

    Each argument is the TOML text of a section.
    """
    defaults = {
        "features": 'x = "number"\ncolour = "category"',
        "windows": "records = 40\nmin_records = 10",
        "kafka": "partitions = 2",
        "retrain": "min_outcomes = 10",
    }
    body = "\n".join(f"[{name}]\n{text}" for name, text in (defaults | sections).items())
    return loads(f'version = 1\nname = "small"\ntask = "classification"\ntarget = "good"\n{body}\n')


def columns(x: Sequence[float], colour: Sequence[str | None]) -> Columns:
    values = np.empty(len(colour), dtype=object)
    values[:] = colour
    return Columns({"x": np.array(x, dtype=np.float64)}, {"colour": values})


def reference(
    data: Columns, predictions: Sequence[Value], errors: Sequence[float] = ()
) -> Reference:
    said: Any = np.empty(len(predictions), dtype=object)
    said[:] = predictions
    if predictions and not isinstance(predictions[0], str):
        said = said.astype(np.float64)
    return Reference(
        columns=data,
        positions=np.arange(len(data)),
        predictions=said,
        held_labels=said[:0],
        held_predictions=said[:0],
        held_scores=None,
        errors=np.array(errors, dtype=np.float64),
        levels={
            name: tuple(sorted({value for value in values if value is not None}))
            for name, values in data.categories.items()
        },
        ranges={},
    )


class Packages:
    """References by model, without packages."""

    def __init__(self, references: Mapping[str, Reference]) -> None:
        self._references = references

    def reference(self, digest: str) -> Reference:
        try:
            return self._references[digest]
        except KeyError:
            raise PackageNotFound(f"no package {digest}") from None


class Log:
    """The topics that a monitor reads, filled by the test. On the time axis, a row's number is its
    millisecond."""

    def __init__(self, stream: Stream) -> None:
        self.topics = Topics(stream)
        self._by_time = stream.axis == "time"
        self.messages: dict[tuple[str, int], list[Message]] = {}
        self._sources: dict[int, int] = {}  # the last source offset by partition

    def prediction(
        self,
        row: int,
        *,
        partition: int = 0,
        model: str = "a",
        said: Value = "yes",
        source: int | None = None,
        scores: dict[str, float] | None = None,
        **record: object,
    ) -> None:
        if source is None:
            source = self._sources.get(partition, -1) + 1
        self._sources[partition] = source
        own = {"@row": row, "x": 0.0, "colour": "red", **record}
        self._append(
            self.topics.predictions,
            partition,
            Prediction(
                record_id=str(row),
                time=self._time(row),
                row=row,
                prediction=said,
                scores=scores,
                model=model,
                source=Source("small.features", partition, source),
                record=msgspec.Raw(msgspec.json.encode(own)),
            ),
        )

    def dead_letter(
        self, row: int | None, *, partition: int = 0, watermark: int | None = None
    ) -> None:
        """Write the record that inference publishes for a dead letter; `row` may be unreadable."""
        unit = 1000 if self._by_time else 1
        source = self._sources[partition] = self._sources.get(partition, -1) + 1
        refused = RejectedRecord(source, None if row is None else row * unit)
        reached = None if watermark is None else watermark * unit
        self._append(self.topics.predictions, partition, Watermark(reached, dead_letter=refused))

    def gap(self, *, start: int, end: int, watermark: int, partition: int = 0) -> None:
        """Write the record that inference publishes for offsets that were deleted unread."""
        self._sources[partition] = end - 1
        mark = Watermark(watermark, gaps=(Gap(partition, start, end),))
        self._append(self.topics.predictions, partition, mark)

    def lost(self, topic: str, *, start: int, end: int, partition: int = 0) -> None:
        """Write the record that outcomes or the monitor publishes for deleted offsets."""
        mark = Watermark(None, gaps=(Gap(partition, start, end, topic),))
        self._append(self.topics.outcomes, partition, mark)

    def rejected_label(
        self, row: int | None, *, partition: int = 0, watermark: int | None = None
    ) -> None:
        """Write the record that outcomes publishes for a label that became a dead letter."""
        own = self.messages.get((self.topics.outcomes, partition), [])
        mark = Watermark(watermark, dead_letter=RejectedRecord(len(own), row))
        self._append(self.topics.outcomes, partition, mark)

    def new_topic(self, topic_id: str, *, partition: int, unread: int) -> None:
        """Write the record that inference publishes after the features topic was recreated."""
        self._sources[partition] = -1
        mark = Watermark(None, log=EventLog(topic_id, 0), gaps=(Gap(partition, unread),))
        self._append(self.topics.predictions, partition, mark)

    def redeliver(self, partition: int, first: int) -> None:
        """Write the predictions from an offset on again, like the successor of a killed worker."""
        own = self.messages[self.topics.predictions, partition]
        for message in list(own[first:]):
            own.append(msgspec.structs.replace(message, offset=len(own)))

    def outcome(
        self,
        row: int,
        *,
        partition: int = 0,
        model: str = "a",
        said: Value = "yes",
        label: Value = "yes",
        at: int | None = None,
        revision: int = 0,
        scores: dict[str, float] | None = None,
    ) -> None:
        self._append(
            self.topics.outcomes,
            partition,
            Outcome(
                record_id=str(row),
                time=self._time(row),
                row=row,
                prediction=said,
                scores=scores,
                model=model,
                source=Source("small.features", partition, row),
                record=msgspec.Raw(b"{}"),
                label=label,
                label_time=self._time(row if at is None else at),
                label_row=row if at is None else at,
                revision=revision,
            ),
        )

    def watermark(self, topic: str, position: int, *, partition: int = 0) -> None:
        self._append(topic, partition, Watermark(position * (1000 if self._by_time else 1)))

    def _time(self, row: int) -> str | None:
        return format_time(row * 1000) if self._by_time else None

    def _append(self, topic: str, partition: int, event: Prediction | Outcome | Watermark) -> None:
        own = self.messages.setdefault((topic, partition), [])
        own.append(Message(topic, partition, len(own), None, encode(event)))
