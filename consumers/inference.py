"""Inference: feature records in, predictions out, by the champion of the `models` topic.

What cannot be scored becomes a dead letter. A new champion is verified, warmed up and checked
before it answers, between two batches; one that fails is refused and the old one serves on. It
never trains, never sees labels, and imports no pandas, Evidently or River.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from consumers.champion import Champion
from consumers.idle import IdlePartitions
from driftline.broker.port import (
    Committed,
    Message,
    Messages,
    Outgoing,
    OutgoingBatch,
    TopicPartition,
)
from driftline.clock import Clock
from driftline.codec.columns import Batch
from driftline.codec.envelope import dead_letter, encode
from driftline.codec.predictions import PredictionEncoder
from driftline.codec.records import RecordCodec
from driftline.errors import DataError
from driftline.events import Watermark
from driftline.handler import GroupView
from driftline.models.load import Models
from driftline.models.score import Model
from driftline.stream import Stream
from driftline.topics import MAX_KEY_AND_VALUE_BYTES, Topics


class InferenceHandler:
    """Scores feature records. See `driftline.handler.Handler` for what each method owes.

    With `in_thread`, a new champion is loaded while the present one answers.
    """

    def __init__(
        self, stream: Stream, models: Models, clock: Clock, *, in_thread: bool = False
    ) -> None:
        self._stream = stream
        self._topics = Topics(stream)
        self._codec = RecordCodec(stream)
        self._champion = Champion(stream, models, in_thread=in_thread)
        self._encoder: PredictionEncoder | None = None
        self._idle = IdlePartitions(stream, clock)

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self._topics.features,)

    @property
    def follows(self) -> tuple[str, ...]:
        return (self._topics.models,)

    def held_back(self, assigned: frozenset[TopicPartition]) -> frozenset[TopicPartition]:
        return assigned if self._champion.model is None else frozenset()

    @property
    def model(self) -> str | None:
        """Digest of the model that answers; None while there is none."""
        return self._champion.digest

    @property
    def refused(self) -> Mapping[str, str]:
        """Models that were not let in, and why."""
        return self._champion.refused

    def follow(self, messages: Sequence[Message]) -> Sequence[Outgoing]:
        letters = []
        for message in messages:
            try:
                self._champion.apply(message)
            except DataError as error:
                letters.append(self._refuse(message, error.message))
        self._swap()
        return letters

    def assigned(self, resume: Mapping[TopicPartition, Committed]) -> None:
        self._idle.assigned(resume)

    def revoked(self, partitions: Sequence[TopicPartition]) -> None:
        self._idle.revoked(partitions)

    def handle(self, messages: Sequence[Message]) -> Sequence[Outgoing | OutgoingBatch]:
        model = self._champion.model
        if model is None:
            raise RuntimeError("records were handed over although there is no model yet")
        found = Messages.of(messages)
        for (_, partition), at in found.runs:
            self._idle.read(partition, found[at.stop - 1].offset + 1)
        batch = self._codec.decode(found.values)
        output: list[Outgoing | OutgoingBatch] = [
            self._refuse(found[rejected.index], rejected.reason) for rejected in batch.rejected
        ]
        if batch.kept:
            kept = found.take(batch.kept) if batch.rejected else found
            output.extend(self._score(model, kept, batch))
        return output

    def look(self, view: GroupView) -> None:
        self._idle.look(view)

    def tick(self) -> Sequence[Outgoing]:
        self._swap()
        if self._champion.model is None:
            self._idle.wait()
        return [
            Outgoing(
                topic=self._topics.predictions,
                partition=partition,
                value=encode(Watermark(position=position)),
            )
            for partition, position in self._idle.watermarks()
        ]

    def holds(self) -> Mapping[TopicPartition, Committed]:
        return self._idle.holds(self._topics.features)

    def close(self) -> None:
        self._champion.close()

    def _swap(self) -> None:
        before = self._champion.model
        self._champion.swap()
        model = self._champion.model
        if model is not None and model is not before:
            self._encoder = PredictionEncoder(
                model.digest, model.schema.classes, self._topics.features
            )

    # ---- scoring --------------------------------------------------------------------------------

    def _score(
        self, model: Model, messages: Messages, batch: Batch
    ) -> list[Outgoing | OutgoingBatch]:
        """`messages` are the kept ones."""
        assert self._encoder is not None
        scores = model.predict(batch.columns)
        keys = messages.keys
        values = self._encoder.encode(
            messages.partitions,
            messages.offsets,
            messages.values,
            batch,
            scores.predictions,
            scores.probabilities,
        )
        positions = batch.positions(self._stream.axis)
        bad = self._unfit(model, batch, keys, values)
        output: list[Outgoing | OutgoingBatch] = [
            self._refuse(messages[place], reason) for place, reason in sorted(bad.items())
        ]
        for (_, partition), at in messages.runs:
            self._idle.scored(partition, max(positions[at]))
            good_keys, good_values = keys[at], values[at]
            if bad:
                good = [place for place in range(at.start, at.stop) if place not in bad]
                good_keys = [keys[place] for place in good]
                good_values = [values[place] for place in good]
            output.append(
                OutgoingBatch(self._topics.predictions, partition, good_keys, good_values)
            )
        return output

    def _unfit(
        self, model: Model, batch: Batch, keys: Sequence[bytes | None], values: Sequence[bytes]
    ) -> dict[int, str]:
        """Places whose prediction must not be published, and why."""
        bad = {}
        if self._stream.record.unseen == "dead_letter":
            bad = _unseen(model, batch)
        longest_key = max(map(len, filter(None, keys)), default=0)
        if max(map(len, values)) + longest_key > MAX_KEY_AND_VALUE_BYTES:
            for place, (key, value) in enumerate(zip(keys, values, strict=True)):
                if len(value) + len(key or b"") > MAX_KEY_AND_VALUE_BYTES:
                    reason = f"prediction too large: {len(value)} bytes with the record inside"
                    bad.setdefault(place, reason)
        return bad

    def _refuse(self, message: Message, reason: str) -> Outgoing:
        return dead_letter(self._topics.deadletters, message, reason=reason, service="inference")


def _unseen(model: Model, batch: Batch) -> dict[int, str]:
    """Places of records with a category that the model does not know."""
    found: dict[int, str] = {}
    for column, mask in model.unseen(batch.columns).items():
        for place in np.flatnonzero(mask).tolist():
            value = batch.columns.categories[column][place]
            found.setdefault(place, f"unseen category: column {column!r} is {value!r}")
    return found
