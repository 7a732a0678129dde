"""Inference: feature records in, predictions out, by the champion of the `models` topic.

What cannot be scored becomes a dead letter. A new champion is verified, warmed up and checked
before it answers, between two batches; one that fails is refused and the old one serves on. It
never trains, never sees labels, and imports no pandas, Evidently or River.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence

import msgspec
import numpy as np

from driftline.broker.port import Committed, Message, Outgoing, TopicPartition
from driftline.clock import Clock
from driftline.codec.envelope import dead_letter, encode
from driftline.codec.records import Batch, RecordCodec, format_time
from driftline.errors import DataError, PackageError
from driftline.events import Prediction, Source, Watermark
from driftline.features import MatrixEncoder
from driftline.models.catalog import Catalog
from driftline.models.load import Models
from driftline.models.score import Model
from driftline.stream import Stream
from driftline.topics import MAX_RECORD_BYTES, Topics

log = logging.getLogger(__name__)

# What Kafka adds around one record in a batch of its own, generously.
_MAX_PREDICTION_BYTES = MAX_RECORD_BYTES - 1024


class InferenceHandler:
    """Scores feature records. See `driftline.loop.Handler` for what each method owes."""

    def __init__(self, stream: Stream, models: Models, clock: Clock) -> None:
        self._stream = stream
        self._topics = Topics(stream)
        self._models = models
        self._clock = clock
        self._codec = RecordCodec(stream)
        self._catalog = Catalog()
        self._refused: dict[str, str] = {}  # digest → why
        self._model: Model | None = None
        self._encoder: MatrixEncoder | None = None  # knows the categories that the model knows
        self._idle = _IdlePartitions(stream, clock)

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self._topics.features,)

    @property
    def follows(self) -> tuple[str, ...]:
        return (self._topics.models,)

    @property
    def ready(self) -> bool:
        return self._model is not None

    @property
    def model(self) -> str | None:
        """Digest of the model that answers; None while there is none."""
        return self._model.digest if self._model else None

    @property
    def refused(self) -> Mapping[str, str]:
        """Models that were not let in, and why."""
        return self._refused

    def follow(self, messages: Sequence[Message]) -> Sequence[Outgoing]:
        letters = []
        for message in messages:
            try:
                self._catalog.apply(message)
            except DataError as error:
                letters.append(self._refuse(message, error.message))
        self._swap()
        return letters

    def assigned(self, resume: Mapping[TopicPartition, Committed]) -> None:
        self._idle.assigned(partition.partition for partition in resume)

    def revoked(self, partitions: Sequence[TopicPartition]) -> None:
        self._idle.revoked(partition.partition for partition in partitions)

    def handle(self, messages: Sequence[Message]) -> Sequence[Outgoing]:
        if self._model is None:
            raise RuntimeError("records were handed over although there is no model yet")
        output: list[Outgoing] = []
        batch = self._codec.decode([message.value for message in messages])
        for rejected in batch.rejected:
            output.append(self._refuse(messages[rejected.index], rejected.reason))
        if batch.kept:
            output.extend(self._score(self._model, messages, batch))
        return output

    def tick(self) -> Sequence[Outgoing]:
        return [
            Outgoing(
                topic=self._topics.predictions,
                partition=partition,
                value=encode(Watermark(position=position)),
            )
            for partition, position in self._idle.watermarks()
        ]

    def holds(self) -> Mapping[TopicPartition, Committed]:
        return {}

    def close(self) -> None:
        pass

    # ---- scoring --------------------------------------------------------------------------------

    def _score(self, model: Model, messages: Sequence[Message], batch: Batch) -> list[Outgoing]:
        output: list[Outgoing] = []
        unseen = self._unseen(batch)
        scores = model.predict(batch.columns)
        predictions = scores.predictions
        values = predictions.tolist() if isinstance(predictions, np.ndarray) else predictions
        names = model.schema.classes
        rows = None if scores.probabilities is None else scores.probabilities.tolist()
        topic, digest = self._topics.predictions, model.digest
        positions = batch.positions(self._stream.axis)
        for i, index in enumerate(batch.kept):
            message = messages[index]
            self._idle.seen(message.partition, positions[i])
            if i in unseen:
                output.append(self._refuse(message, unseen[i]))
                continue
            time_us = batch.times_us[i]
            value = encode(
                Prediction(
                    record_id=batch.ids[i],
                    time=None if time_us is None else format_time(time_us),
                    row=batch.rows[i],
                    prediction=values[i],
                    scores=None if rows is None else dict(zip(names, rows[i], strict=True)),
                    model=digest,
                    source=Source(message.topic, message.partition, message.offset),
                    record=msgspec.Raw(message.value or b""),
                )
            )
            if len(value) + len(message.key or b"") > _MAX_PREDICTION_BYTES:
                reason = f"prediction too large: {len(value)} bytes with the record inside"
                output.append(self._refuse(message, reason))
                continue
            output.append(
                Outgoing(topic=topic, key=message.key, value=value, partition=message.partition)
            )
        return output

    def _unseen(self, batch: Batch) -> dict[int, str]:
        """Rows with a category that the model does not know, if such are to be refused."""
        if self._encoder is None or self._stream.record.unseen == "score":
            return {}
        found: dict[int, str] = {}
        for column, mask in self._encoder.unseen(batch.columns).items():
            for i in np.flatnonzero(mask):
                value = batch.columns.categories[column][i]
                found.setdefault(int(i), f"unseen category: column {column!r} is {value!r}")
        return found

    def _refuse(self, message: Message, reason: str) -> Outgoing:
        return dead_letter(self._topics.deadletters, message, reason=reason, service="inference")

    # ---- models ---------------------------------------------------------------------------------

    def _swap(self) -> None:
        """Let the champion answer if it is good; else the present model stays.

        With none present (after a restart), the champion's ancestors are tried, newest first.
        """
        digest = self._catalog.champion_digest
        while digest is not None and digest != self.model:
            announced = self._catalog.announcements.get(digest)
            if digest not in self._refused and announced is not None:
                try:
                    model = self._models.load(announced)
                    model.warm_up()
                    model.check()
                except PackageError as error:
                    self._refused[digest] = error.message
                    serving = self.model or "none"
                    log.error("model %s refused: %s; serving: %s", digest, error, serving)
                else:
                    log.info("model %s answers, instead of %s", digest, self.model or "none")
                    self._model = model
                    self._encoder = MatrixEncoder(model.schema)
            if self._model is not None:
                return
            digest = announced.parent if announced else None


class _IdlePartitions:
    """Finds partitions that went silent while others moved on, so that windows can close."""

    def __init__(self, stream: Stream, clock: Clock) -> None:
        self._clock = clock
        self._idle_s = (stream.windows.idle.us or 0) / 1e6
        # On the row axis the record after the largest is the first that may still come.
        self._ahead = (1 if stream.axis == "row" else 0) - stream.lateness
        self._reached: int | None = None  # watermark of the partition that is furthest on
        self._at: dict[int, int] = {}  # partition → its own watermark
        self._since_s: dict[int, float] = {}  # partition → when it was last heard of

    def assigned(self, partitions: Iterable[int]) -> None:
        for partition in partitions:
            self._since_s[partition] = self._clock.monotonic()

    def revoked(self, partitions: Iterable[int]) -> None:
        for partition in partitions:
            self._since_s.pop(partition, None)
            self._at.pop(partition, None)

    def seen(self, partition: int, position: int) -> None:
        watermark = position + self._ahead
        self._since_s[partition] = self._clock.monotonic()
        if watermark > self._at.get(partition, watermark - 1):
            self._at[partition] = watermark
        if self._reached is None or watermark > self._reached:
            self._reached = watermark

    def watermarks(self) -> list[tuple[int, int]]:
        """(partition, watermark) of those to be moved on now."""
        if self._reached is None:
            return []
        now_s = self._clock.monotonic()
        moved = [
            (partition, self._reached)
            for partition, since_s in sorted(self._since_s.items())
            if now_s - since_s >= self._idle_s
            and self._at.get(partition, self._reached - 1) < self._reached
        ]
        self._at.update(moved)
        return moved
