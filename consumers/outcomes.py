"""Outcomes: joins predictions with the labels that come for them, by record id.

| label | what becomes of it |
|---|---|
| after its prediction | an outcome, revision 0 |
| before its prediction | kept; an outcome as soon as the prediction comes |
| again, the same | counted as repeated; nothing is published |
| again, changed | an outcome with the next revision |
| known later than the horizon after its record | a dead letter |
| no prediction within the horizon | a dead letter |
| never | the prediction is counted as unlabelled once the horizon has passed |

The horizon is measured by positions, those of records and the `@at` of labels, never by a clock: a
backlog of one topic makes no label late. Each partition is joined on its own: a label must have the
same key as its record.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Literal

import msgspec

from consumers.join import Joined, NewestLabel, PartitionJoin
from driftline.broker.port import Committed, Message, Outgoing, TopicPartition
from driftline.clock import Clock
from driftline.codec.envelope import dead_letter, decode, encode, predictions_decoder
from driftline.codec.records import LabelCodec, format_time, parse_time
from driftline.errors import DataError
from driftline.events import Outcome, Prediction, Watermark
from driftline.loop import GroupView
from driftline.stream import Stream
from driftline.topics import Topics

_prediction_decoder = msgspec.json.Decoder(Prediction)


class OutcomesHandler:
    """Joins. See `driftline.loop.Handler` for what each method owes.

    `counts` says what became of predictions and labels since the start of this worker: outcomes,
    revised, repeated, duplicates, unlabelled, late, orphans (labels without prediction), invalid.
    """

    ready = True
    follows: tuple[str, ...] = ()

    def __init__(self, stream: Stream, clock: Clock) -> None:
        self._stream = stream
        self._clock = clock
        self._topics = Topics(stream)
        self._labels = LabelCodec(stream)
        self._joins: dict[int, PartitionJoin] = {}
        self.counts: Counter[str] = Counter()

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self._topics.predictions, self._topics.labels)

    def follow(self, messages: Sequence[Message]) -> Sequence[Outgoing]:
        raise RuntimeError("the join follows no topic")

    def assigned(self, resume: Mapping[TopicPartition, Committed]) -> None:
        for (topic, partition), committed in resume.items():
            join = self._join(partition)
            is_label = topic == self._topics.labels
            join.resume(join.labels if is_label else join.predictions, committed)

    def revoked(self, partitions: Sequence[TopicPartition]) -> None:
        for partition in partitions:
            self._joins.pop(partition.partition, None)

    def handle(self, messages: Sequence[Message]) -> Sequence[Outgoing]:
        output: list[Outgoing] = []
        for message in messages:
            join = self._join(message.partition)
            if join.is_rebuilding:
                for deferred in self._rebuild(join, message):
                    self._handle_one(join, deferred, output)
            else:
                self._handle_one(join, message, output)
        return output

    def tick(self) -> Sequence[Outgoing]:
        output: list[Outgoing] = []
        for join in self._joins.values():
            if not join.is_rebuilding:
                self._forget(join, output)
        return output

    def look(self, view: GroupView) -> None:
        """Nothing here hangs on where the group stands."""

    def holds(self) -> Mapping[TopicPartition, Committed]:
        held = {}
        for partition, join in self._joins.items():
            held[TopicPartition(self._topics.predictions, partition)] = join.hold(join.predictions)
            held[TopicPartition(self._topics.labels, partition)] = join.hold(join.labels)
        return held

    def close(self) -> None:
        pass

    def _join(self, partition: int) -> PartitionJoin:
        if partition not in self._joins:
            self._joins[partition] = PartitionJoin(self._stream, self._clock)
        return self._joins[partition]

    def _rebuild(self, join: PartitionJoin, message: Message) -> list[Message]:
        """Take in a record that had been handled before a restart; publish nothing.

        Old predictions go first, then old labels, then the new records that came meanwhile, which
        are returned once the old ones are through.
        """
        is_label = message.topic == self._topics.labels
        side = join.labels if is_label else join.predictions
        if message.offset >= side.published:
            join.deferred.append(message)
            side.next_offset = side.published  # retention may have taken the last old ones
        else:
            side.next_offset = message.offset + 1
            if is_label:
                join.old_labels.append(message)
            else:
                with suppress(DataError):  # it was refused before the restart
                    self._take_prediction(join, message)
        if join.is_rebuilding:
            return []
        for old in join.old_labels:
            with suppress(DataError):  # as above
                self._take_label(join, old)
        join.forget()  # what had been forgotten before the restart; it was counted then
        deferred, join.deferred, join.old_labels = join.deferred, [], []
        return deferred

    def _handle_one(self, join: PartitionJoin, message: Message, output: list[Outgoing]) -> None:
        try:
            if message.topic == self._topics.labels:
                join.labels.next_offset = message.offset + 1
                self._handle_label(join, message, output)
            else:
                join.predictions.next_offset = message.offset + 1
                self._handle_prediction(join, message, output)
        except DataError as error:
            self.counts["invalid"] += 1
            output.append(self._refuse(message, error.message))

    def _handle_prediction(
        self, join: PartitionJoin, message: Message, output: list[Outgoing]
    ) -> None:
        event = self._take_prediction(join, message)
        if isinstance(event, Watermark):
            output.append(self._publish(message, event))
        elif event is None:
            self.counts["duplicates"] += 1
        else:
            label = join.label_of(event.record_id)
            if label is not None:
                output.append(self._outcome(message, event, label))

    def _handle_label(self, join: PartitionJoin, message: Message, output: list[Outgoing]) -> None:
        taken = self._take_label(join, message)
        if taken == "repeated":
            self.counts["repeated"] += 1
        elif taken == "late":
            self.counts["late"] += 1
            output.append(self._refuse(message, "known later than the horizon after its record"))
        else:
            for waiting in taken.predictions:
                prediction = _prediction_decoder.decode(waiting.message.value or b"")
                output.append(self._outcome(waiting.message, prediction, taken.label))

    def _take_prediction(
        self, join: PartitionJoin, message: Message
    ) -> Prediction | Watermark | None:
        """Decode and keep it; None if its source was seen before."""
        event = decode(predictions_decoder, message)
        if isinstance(event, Watermark):
            return event
        if event.source.offset <= join.source:
            return None
        join.source = event.source.offset
        position = event.row
        if self._stream.axis == "time":
            position = None if event.time is None else parse_time(event.time)
        if position is None:
            raise DataError(f"no position: its {self._stream.axis} is missing")
        join.add_prediction(message, event.record_id, position)
        return event

    def _take_label(
        self, join: PartitionJoin, message: Message
    ) -> Joined | Literal["repeated", "late"]:
        """Decode it and keep it, if it says something new in time."""
        return join.add_label(message, self._labels.decode(message.value or b""))

    def _outcome(self, message: Message, event: Prediction, label: NewestLabel) -> Outgoing:
        self.counts["revised" if label.revision else "outcomes"] += 1
        at, by_row = label.label.at, self._stream.axis == "row"
        return self._publish(
            message,
            Outcome(
                record_id=event.record_id,
                time=event.time,
                row=event.row,
                prediction=event.prediction,
                scores=event.scores,
                model=event.model,
                source=event.source,
                record=event.record,
                label=label.label.label,
                label_time=None if at is None or by_row else format_time(at),
                label_row=at if by_row else None,
                revision=label.revision,
            ),
        )

    def _publish(self, message: Message, event: Outcome | Watermark) -> Outgoing:
        return Outgoing(
            topic=self._topics.outcomes,
            key=message.key,
            value=encode(event),
            partition=message.partition,
        )

    def _forget(self, join: PartitionJoin, output: list[Outgoing]) -> None:
        unlabelled, orphans = join.forget()
        self.counts["unlabelled"] += unlabelled
        self.counts["orphans"] += len(orphans)
        output.extend(
            self._refuse(orphan, "no prediction with this id within the horizon")
            for orphan in orphans
        )

    def _refuse(self, message: Message, reason: str) -> Outgoing:
        return dead_letter(self._topics.deadletters, message, reason=reason, service="outcomes")
