"""Outcomes: joins predictions with the labels that come for them, by record id.

| label | what becomes of it |
|---|---|
| after its prediction | an outcome, revision 0 |
| before its prediction | kept; an outcome as soon as the prediction comes |
| again, the same | counted as repeated; nothing is published |
| again, changed | an outcome with the next revision |
| no prediction within the horizon (unknown id, or too late) | a dead letter |
| never | the prediction is counted as unlabelled once the horizon has passed |

The horizon is measured by the records themselves (their event time or number), never by a clock.
Each partition is joined on its own: a label must have the same key as its record.
"""

from collections import Counter, deque
from collections.abc import Mapping, Sequence

import msgspec

from driftline.broker.port import Committed, Message, Outgoing, TopicPartition
from driftline.codec.envelope import dead_letter, decode, encode, predictions_decoder
from driftline.codec.records import Label, LabelCodec, format_time, parse_time
from driftline.errors import DataError
from driftline.events import Outcome, Prediction, Watermark
from driftline.stream import Stream
from driftline.topics import Topics

_prediction_decoder = msgspec.json.Decoder(Prediction)


class Resume(msgspec.Struct, frozen=True):
    """Metadata beside a committed offset: what had been done before it was committed.

    Records from the committed offset up to `published` are read again only to rebuild state; new
    ones wait until that is done, or a pair of an old and a new record could be missed.
    """

    published: int = 0  # next offset that had not been handled
    source: int = -1  # predictions: largest source offset seen


class OutcomesHandler:
    """Joins. See `driftline.loop.Handler` for what each method owes.

    `counts` says what became of predictions and labels since the start of this worker: outcomes,
    revised, repeated, duplicates, unlabelled, orphans (labels without prediction), invalid.
    """

    ready = True
    follows: tuple[str, ...] = ()

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._topics = Topics(stream)
        self._labels = LabelCodec(stream)
        self._joins: dict[int, _PartitionJoin] = {}
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
        return ()

    def holds(self) -> Mapping[TopicPartition, Committed]:
        held = {}
        for partition, join in self._joins.items():
            held[TopicPartition(self._topics.predictions, partition)] = join.hold(join.predictions)
            held[TopicPartition(self._topics.labels, partition)] = join.hold(join.labels)
        return held

    def close(self) -> None:
        pass

    def _join(self, partition: int) -> "_PartitionJoin":
        if partition not in self._joins:
            self._joins[partition] = _PartitionJoin(self._stream)
        return self._joins[partition]

    def _rebuild(self, join: "_PartitionJoin", message: Message) -> list[Message]:
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
                self._take_prediction(join, message)
        if join.is_rebuilding:
            return []
        for old in join.old_labels:
            self._take_label(join, old)
        deferred, join.deferred, join.old_labels = join.deferred, [], []
        return deferred

    def _handle_one(self, join: "_PartitionJoin", message: Message, output: list[Outgoing]) -> None:
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
        self, join: "_PartitionJoin", message: Message, output: list[Outgoing]
    ) -> None:
        event = self._take_prediction(join, message)
        if isinstance(event, Watermark):
            output.append(self._publish(message, event))
        elif event is None:
            self.counts["duplicates"] += 1
        else:
            if (label := join.label_of(event.record_id)) is not None:
                output.append(self._outcome(message, event, label))
            self._expire(join, output)

    def _handle_label(
        self, join: "_PartitionJoin", message: Message, output: list[Outgoing]
    ) -> None:
        record_id, news = self._take_label(join, message)
        if news is None:
            self.counts["repeated"] += 1
            return
        for waiting in join.predictions_of(record_id):
            prediction = _prediction_decoder.decode(waiting.value or b"")
            output.append(self._outcome(waiting, prediction, news))

    def _take_prediction(
        self, join: "_PartitionJoin", message: Message
    ) -> Prediction | Watermark | None:
        """Decode and keep it; None if its source was seen before."""
        event = decode(predictions_decoder, message)
        if isinstance(event, Watermark):
            return event
        if event.source.offset <= join.source:
            return None
        join.source = event.source.offset
        join.add_prediction(message, event)
        return event

    def _take_label(self, join: "_PartitionJoin", message: Message) -> tuple[str, "_Label | None"]:
        """Decode and keep it; its id, and what is new by it, if anything."""
        label = self._labels.decode(message.value or b"")
        return label.record_id, join.add_label(message, label)

    def _outcome(self, message: Message, event: Prediction, label: "_Label") -> Outgoing:
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

    def _expire(self, join: "_PartitionJoin", output: list[Outgoing]) -> None:
        self.counts["unlabelled"] += join.expire_predictions()
        for orphan in join.expire_labels():
            self.counts["orphans"] += 1
            output.append(
                self._refuse(
                    orphan, "no prediction with this id within the horizon: unknown, or too late"
                )
            )

    def _refuse(self, message: Message, reason: str) -> Outgoing:
        return dead_letter(self._topics.deadletters, message, reason=reason, service="outcomes")


class _Label(msgspec.Struct, frozen=True, gc=False):
    """The newest label of an id, and how often it has changed."""

    label: Label
    revision: int


class _Known(msgspec.Struct):
    """All that is known of one record id."""

    predictions: list[Message]  # those within the horizon, oldest first
    label: _Label | None = None
    labels_kept: int = 0  # of this id, in the queue
    met: bool = False  # a label and a prediction have been here together


class _Queued(msgspec.Struct, frozen=True, gc=False):
    """One record of a topic, in the order of its partition, until its horizon has passed."""

    message: Message
    record_id: str
    arrived: int | None  # how far the partition had got, on the horizon's axis; None: nowhere yet


class _Side:
    """One of the two topics: what is kept of it, and how far it was handled."""

    def __init__(self) -> None:
        self.queue: deque[_Queued] = deque()
        self.resumed = Committed(0)
        self.next_offset = 0
        self.published = 0

    @property
    def is_behind(self) -> bool:
        """Whether records that had been handled before a restart are still to be read."""
        return self.next_offset < self.published


class _PartitionJoin:
    """The records of one partition of both topics that are within the horizon."""

    def __init__(self, stream: Stream) -> None:
        horizon = stream.labels.horizon
        if horizon is None:
            raise ValueError("the stream's horizon has no default yet: use driftline.stream.load")
        self._by_time = horizon.us is not None
        self._horizon = horizon.us if horizon.us is not None else horizon.records or 0
        self._started: int | None = None  # position of the first prediction
        self._reached: int | None = None  # largest position of a prediction so far
        self._known: dict[str, _Known] = {}
        self.source = -1  # largest source offset of a prediction
        self.predictions = _Side()
        self.labels = _Side()
        self.old_labels: list[Message] = []
        self.deferred: list[Message] = []

    @property
    def is_rebuilding(self) -> bool:
        """Whether state from before a restart is still being read."""
        return self.predictions.is_behind or self.labels.is_behind

    def resume(self, side: _Side, committed: Committed) -> None:
        """Start reading one side at a committed position."""
        at = msgspec.json.decode(committed.metadata or "{}", type=Resume)
        side.resumed = committed
        side.next_offset = committed.offset
        side.published = at.published
        if not side.is_behind:  # else the source is found again by reading
            self.source = max(self.source, at.source)

    def hold(self, side: _Side) -> Committed:
        """What to commit for one side."""
        if self.is_rebuilding:
            return side.resumed
        oldest = side.queue[0].message.offset if side.queue else side.next_offset
        source = self.source if side is self.predictions else -1
        return Committed(oldest, encode(Resume(side.next_offset, source)).decode())

    def add_prediction(self, message: Message, event: Prediction) -> None:
        """Keep a prediction."""
        position = parse_time(event.time) if self._by_time and event.time else event.row
        if position is not None:
            self._started = position if self._started is None else self._started
            self._reached = max(position, self._reached or position)
        known = self._known.setdefault(event.record_id, _Known([]))
        known.predictions.append(message)
        known.met = known.met or known.label is not None
        self.predictions.queue.append(_Queued(message, event.record_id, self._reached))

    def label_of(self, record_id: str) -> _Label | None:
        """The newest label of this id, if one is here."""
        return self._known[record_id].label

    def predictions_of(self, record_id: str) -> list[Message]:
        """Those of this id that are within the horizon, oldest first."""
        return self._known[record_id].predictions

    def add_label(self, message: Message, label: Label) -> _Label | None:
        """Keep a label; it and its revision, or None if it says nothing new."""
        known = self._known.setdefault(label.record_id, _Known([]))
        known.labels_kept += 1
        self.labels.queue.append(_Queued(message, label.record_id, self._reached))
        if known.label is None:
            known.label = _Label(label, 0)
        elif known.label.label.label == label.label:
            return None
        else:
            known.label = _Label(label, known.label.revision + 1)
        known.met = known.met or bool(known.predictions)
        return known.label

    def expire_predictions(self) -> int:
        """Forget predictions whose horizon has passed; how many of them had no label."""
        unlabelled = 0
        queue = self.predictions.queue
        while queue and self._is_past(queue[0]):
            gone = queue.popleft()
            known = self._known[gone.record_id]
            known.predictions.pop(0)
            unlabelled += known.label is None
            self._forget(gone.record_id, known)
        return unlabelled

    def expire_labels(self) -> list[Message]:
        """Forget labels whose horizon has passed; those that never met a prediction."""
        orphans = []
        queue = self.labels.queue
        while queue and self._is_past(queue[0]):
            gone = queue.popleft()
            known = self._known[gone.record_id]
            known.labels_kept -= 1
            if not known.met:
                orphans.append(gone.message)
            if not known.labels_kept:
                known.label = None
            self._forget(gone.record_id, known)
        return orphans

    def _is_past(self, queued: _Queued) -> bool:
        if self._reached is None or self._started is None:
            return False
        arrived = self._started if queued.arrived is None else queued.arrived
        return self._reached - arrived > self._horizon

    def _forget(self, record_id: str, known: _Known) -> None:
        if not known.predictions and not known.labels_kept:
            del self._known[record_id]
