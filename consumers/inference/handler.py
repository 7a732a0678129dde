"""Inference handler: turn Kafka feature records into predictions, using the champion model.

Input: records from the `features` and `models` topics. Output: predictions, watermarks and dead
letters. A record that cannot be scored becomes a dead letter. A new champion is verified, warmed up
and checked, and then swapped in between two batches. A champion that fails a check is rejected, and
the current model keeps serving. Inference never trains, never reads labels, and never imports
pandas, Evidently or River.
"""

import logging
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from consumers.inference.champion import Champion
from consumers.inference.idle_partitions import IdlePartitions, InferenceCheckpoint
from consumers.inference.unreadable_model_records import Examined
from driftline.broker.port import (
    Committed,
    Message,
    Messages,
    Outgoing,
    OutgoingBatch,
    TopicPartition,
)
from driftline.clock import Clock
from driftline.config.stream import Stream
from driftline.errors import DataError
from driftline.logs import alike
from driftline.models.load import ModelLoader
from driftline.models.package import Manifest
from driftline.models.score import Model
from driftline.runtime.handler import GroupProgress, Handler, LogChange
from driftline.wire.columns import Batch
from driftline.wire.commit_metadata import Kind, metadata_of, usable
from driftline.wire.envelope import dead_letter, encode
from driftline.wire.events import Gap, Log, RejectedRecord, Watermark
from driftline.wire.feature_records import RecordCodec
from driftline.wire.predictions import PredictionEncoder, marked_ahead
from driftline.wire.topics import MAX_KEY_AND_VALUE_BYTES, Topics

log = logging.getLogger(__name__)

_CHECKPOINT: Final = Kind(
    InferenceCheckpoint, "this partition's clock restarts at the partition's next record"
)


class InferenceHandler(Handler):
    """Scores feature records. If `background` is True, a second thread loads new champions."""

    def __init__(
        self, stream: Stream, models: ModelLoader, clock: Clock, *, background: bool = False
    ) -> None:
        self._stream = stream
        self._topics = Topics(stream)
        self._codec = RecordCodec(stream)
        self._champion = Champion(stream, models, clock, background=background)
        self._examined = Examined()
        self._encoder: PredictionEncoder | None = None  # `_swap` creates one per model
        self._idle = IdlePartitions(stream, clock)

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self._topics.features,)

    @property
    def broadcast_topics(self) -> tuple[str, ...]:
        return (self._topics.models,)

    def paused_partitions(self, assigned: frozenset[TopicPartition]) -> frozenset[TopicPartition]:
        return assigned if self._champion.model is None else frozenset()

    @property
    def model(self) -> str | None:
        """Return the digest of the model used for scoring, or None if there is none."""
        return self._champion.digest

    @property
    def champion(self) -> str | None:
        """Return the published champion's digest, or None. That model may not be in use yet."""
        return self._champion.catalog.champion_digest

    @property
    def rejected(self) -> Mapping[str, str]:
        """Return the rejection reasons, keyed by model digest or by `models` record key."""
        return self._champion.rejected

    def on_broadcast(self, messages: Sequence[Message]) -> Sequence[Outgoing]:
        for message in messages:
            unreadable = None
            try:
                self._champion.apply(message)
            except DataError as error:
                unreadable = error.message
            self._examined.read(message, unreadable)
        self._swap()
        return ()  # one worker's `on_tick` publishes the dead letters

    def on_assigned(self, resume: Mapping[TopicPartition, Committed]) -> None:
        resume = usable(
            resume,
            self._topics.group("inference"),
            {self._topics.features: _CHECKPOINT},
            self._stream.axis,
        )
        self._idle.on_assigned(resume)
        for (_, partition), committed in resume.items():
            at = metadata_of(committed, InferenceCheckpoint) or InferenceCheckpoint()
            if at.champion is not None:
                self._champion.catalog.remember(at.sequence, at.champion)
            if partition == 0:
                self._examined.on_assigned(at.models)

    def on_revoked(self, partitions: Sequence[TopicPartition]) -> None:
        self._idle.on_revoked(partitions)
        if any(partition.partition == 0 for partition in partitions):
            self._examined.on_revoked()

    def handle(self, messages: Sequence[Message]) -> Sequence[Outgoing | OutgoingBatch]:
        model = self._champion.model
        if model is None:
            raise RuntimeError("received records while no model was loaded")
        found = Messages.of(messages)
        for (_, partition), at in found.runs:
            self._idle.read(partition, found[at.stop - 1].offset + 1)
        batch = self._codec.decode(found.values)
        reasons = {rejected.index: rejected.reason for rejected in batch.rejected}
        values: list[bytes] = []
        if batch.kept:
            kept = found.take(batch.kept) if batch.rejected else found
            values, not_finite = self._score(model, kept, batch)
            unfit = self._unfit(model, batch, kept.keys, values)
            unfit.update(dict.fromkeys(not_finite, "the model's prediction is not finite"))
            for place, reason in unfit.items():
                reasons[batch.kept[place]] = reason
        positions = self._positions(found, batch)
        self._ignore_ahead(found, batch, values, positions)
        if reasons:
            return self._with_dead_letters(found, batch, values, reasons, positions)
        keys = found.keys
        output = []
        for (_, partition), at in found.runs:
            self._idle.scored(partition, _largest(positions[at]))
            output.append(OutgoingBatch(self._topics.predictions, partition, keys[at], values[at]))
        return output

    def on_log_change(self, change: LogChange) -> Sequence[Outgoing]:
        if change.partition.topic != self._topics.features:
            return []  # nothing to do: the trainer republishes the `models` records
        partition = change.partition.partition
        log = Log(change.topic_id, change.start) if change.is_new_topic else None
        gaps: tuple[Gap, ...] = ()
        if change.unread is not None:
            gaps = (Gap(partition, change.unread, None if change.is_new_topic else change.start),)
        watermark = self._idle.rejected(partition, None)
        mark = Watermark(position=watermark, log=log, gaps=gaps)
        return [Outgoing(self._topics.predictions, encode(mark), partition=partition)]

    def reject(self, message: Message, reason: str) -> Sequence[Outgoing]:
        self._idle.read(message.partition, message.offset + 1)
        mark = encode(self._rejection_mark(message, None))
        return [
            self._dead_letter(message, reason),
            Outgoing(self._topics.predictions, mark, partition=message.partition),
        ]

    def on_group_progress(self, progress: GroupProgress) -> None:
        self._idle.on_group_progress(progress)

    def on_tick(self) -> Sequence[Outgoing]:
        self._swap()
        if self._champion.model is None:
            self._idle.wait()
        letters = [self._dead_letter(message, why) for message, why in self._examined.fresh()]
        return letters + [
            Outgoing(
                topic=self._topics.predictions,
                partition=partition,
                value=encode(Watermark(position=position)),
            )
            for partition, position in self._idle.watermarks()
        ]

    def offsets_to_commit(self) -> Mapping[TopicPartition, Committed]:
        pointer = self._champion.catalog.champion
        return self._idle.offsets_to_commit(
            self._topics.features,
            models=self._examined.until,
            sequence=pointer.sequence if pointer else 0,
            champion=pointer.digest if pointer else None,
        )

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
            self._idle.latest_start = _latest_start(self._stream, model.manifest)

    # ---- scoring --------------------------------------------------------------------------------

    def _score(
        self, model: Model, messages: Messages, batch: Batch
    ) -> tuple[list[bytes], list[int]]:
        """Return the encoded predictions for `batch`, and the indices of non-finite predictions.

        `batch` was decoded from `messages`.
        """
        assert self._encoder is not None
        scores = model.predict(batch.columns)
        values = self._encoder.encode(
            messages.partitions,
            messages.offsets,
            messages.values,
            batch,
            scores.predictions,
            scores.probabilities,
        )
        return values, scores.not_finite()

    def _positions(self, found: Messages, batch: Batch) -> list[int | None]:
        """Return each message's position, or None if the position cannot be decoded."""
        positions: list[int | None] = list(batch.positions(self._stream.axis))
        if batch.rejected:
            known = dict(zip(batch.kept, positions, strict=True))
            positions = [
                known[place] if place in known else self._codec.position(value)
                for place, value in enumerate(found.values)
            ]
        return positions

    def _ignore_ahead(
        self, found: Messages, batch: Batch, values: list[bytes], positions: list[int | None]
    ) -> None:
        """Set the `positions` of records that are implausibly far ahead to None, and set `ahead` in
        the predictions for these records."""
        others = batch.rows if self._stream.axis == "time" else batch.times_us
        if batch.rejected:
            known = dict(zip(batch.kept, others, strict=True))
            others = [known.get(place) for place in range(len(found))]
        for (topic, partition), at in found.runs:
            ahead = self._idle.ahead(partition, positions[at], others[at])
            for place in ahead:
                positions[at.start + place] = None
                if (of_kept := _find(batch.kept, at.start + place)) is not None:
                    values[of_kept] = marked_ahead(values[of_kept])
            if ahead:
                log.warning(
                    "%s[%d]: %d records up to offset %d are far ahead of the records before them; "
                    "windows ignore them, and the clock does not advance, until more records "
                    "confirm their time",
                    topic,
                    partition,
                    len(ahead),
                    found[at.stop - 1].offset,
                    extra=alike(topic),
                )

    def _with_dead_letters(
        self,
        found: Messages,
        batch: Batch,
        values: Sequence[bytes],
        reasons: Mapping[int, str],
        positions: Sequence[int | None],
    ) -> list[Outgoing | OutgoingBatch]:
        """Return predictions and dead letters, with a watermark in place of each rejected record's
        prediction.

        `reasons` maps each rejected record's index in `found` to the reason. `values[i]` is
        the prediction for the record with index `batch.kept[i]`. An item of `positions` is None if
        the record's position is missing or was not accepted.
        """
        output: list[Outgoing | OutgoingBatch] = []
        predictions = dict(zip(batch.kept, values, strict=True))
        for (_, partition), at in found.runs:
            keys: list[bytes | None] = []
            own: list[bytes] = []
            # The largest position among the predictions since the last dead letter.
            max_position: int | None = None
            has_scored = False  # whether a prediction has followed the last dead letter
            for place in range(at.start, at.stop):
                message = found[place]
                if (reason := reasons.get(place)) is None:
                    keys.append(message.key)
                    own.append(predictions[place])
                    max_position = _largest((max_position, positions[place]))
                    has_scored = True
                    continue
                if has_scored:
                    self._idle.scored(partition, max_position)
                    max_position, has_scored = None, False
                output.append(self._dead_letter(message, reason))
                keys.append(None)
                own.append(encode(self._rejection_mark(message, positions[place])))
            if has_scored:
                self._idle.scored(partition, max_position)
            output.append(OutgoingBatch(self._topics.predictions, partition, keys, own))
        return output

    def _rejection_mark(self, message: Message, position: int | None) -> Watermark:
        """Return the watermark to publish in place of a rejected record's prediction."""
        return Watermark(
            position=self._idle.rejected(message.partition, position),
            dead_letter=RejectedRecord(message.offset, position),
        )

    def _unfit(
        self, model: Model, batch: Batch, keys: Sequence[bytes | None], values: Sequence[bytes]
    ) -> dict[int, str]:
        """Return the indices of predictions that must not be published, each with its reason."""
        bad = {}
        if self._stream.record.unseen == "dead_letter":
            bad = _unseen(model, batch)
        longest_key = max(map(len, filter(None, keys)), default=0)
        if max(map(len, values)) + longest_key > MAX_KEY_AND_VALUE_BYTES:
            for place, (key, value) in enumerate(zip(keys, values, strict=True)):
                if len(value) + len(key or b"") > MAX_KEY_AND_VALUE_BYTES:
                    reason = f"prediction too large: {len(value)} bytes including the record"
                    bad.setdefault(place, reason)
        return bad

    def _dead_letter(self, message: Message, reason: str) -> Outgoing:
        return dead_letter(self._topics.deadletters, message, reason=reason, service="inference")


def _largest(positions: Sequence[int | None]) -> int | None:
    if None in positions:
        return max((position for position in positions if position is not None), default=None)
    return max(positions)  # type: ignore[type-var]  # no position is None here


def _latest_start(stream: Stream, manifest: Manifest) -> int:
    """Return the largest plausible position of a partition's first record.

    It is the last training row's position plus the larger of the training rows' span and
    `windows.max_ahead`.
    """
    length = manifest.last_position - manifest.first_position
    return manifest.last_position + max(stream.max_ahead, length)


def _find(places: Sequence[int], place: int) -> int | None:
    """Return the index of `place` in the sorted sequence `places`, or None if it is absent."""
    index = bisect_left(places, place)
    return index if index < len(places) and places[index] == place else None


def _unseen(model: Model, batch: Batch) -> dict[int, str]:
    """Return the indices of records with a category unseen in training, each with the reason."""
    found: dict[int, str] = {}
    for column, mask in model.unseen(batch.columns).items():
        for place in np.flatnonzero(mask).tolist():
            value = batch.columns.categories[column][place]
            found.setdefault(place, f"unseen category: column {column!r} is {value!r}")
    return found
