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

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from heapq import heappop, heappush
from typing import Literal

import msgspec

from driftline.broker.port import Committed, Message, Outgoing, TopicPartition
from driftline.clock import Clock
from driftline.codec.envelope import dead_letter, decode, encode, predictions_decoder
from driftline.codec.records import Label, LabelCodec, format_time, parse_time
from driftline.errors import DataError
from driftline.events import Outcome, Prediction, Watermark
from driftline.stream import Stream
from driftline.topics import Topics

# Position of a label without `@at` that is read before any prediction, until one comes.
_NOWHERE_YET = 2**63 - 1
_BEFORE_ALL = -(2**63)

_prediction_decoder = msgspec.json.Decoder(Prediction)


class Resume(msgspec.Struct, frozen=True):
    """Metadata beside a committed offset: what had been done before it was committed.

    Records from the committed offset up to `published` are read again only to rebuild state; new
    ones wait until that is done, or a pair of an old and a new record could be missed.
    """

    published: int = 0  # next offset that had not been handled
    source: int = -1  # predictions: largest source offset seen
    passed: int = _BEFORE_ALL  # position up to which ids had been forgotten


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
        output: list[Outgoing] = []
        for join in self._joins.values():
            if not join.is_rebuilding:
                self._forget(join, output)
        return output

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
            self._joins[partition] = _PartitionJoin(self._stream, self._clock)
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
        join.forget()  # what had been forgotten before the restart; it was counted then
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
            label = join.label_of(event.record_id)
            if label is not None:
                output.append(self._outcome(message, event, label))

    def _handle_label(
        self, join: "_PartitionJoin", message: Message, output: list[Outgoing]
    ) -> None:
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
        self, join: "_PartitionJoin", message: Message
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
        self, join: "_PartitionJoin", message: Message
    ) -> "_Joined | Literal['repeated', 'late']":
        """Decode it and keep it, if it says something new in time."""
        return join.add_label(message, self._labels.decode(message.value or b""))

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

    def _forget(self, join: "_PartitionJoin", output: list[Outgoing]) -> None:
        unlabelled, orphans = join.forget()
        self.counts["unlabelled"] += unlabelled
        self.counts["orphans"] += len(orphans)
        output.extend(
            self._refuse(orphan, "no prediction with this id within the horizon")
            for orphan in orphans
        )

    def _refuse(self, message: Message, reason: str) -> Outgoing:
        return dead_letter(self._topics.deadletters, message, reason=reason, service="outcomes")


class _Label(msgspec.Struct, frozen=True, gc=False):
    """The newest label of an id, and how often it has changed."""

    label: Label
    revision: int


class _Kept(msgspec.Struct, frozen=True, gc=False):
    """A record that is needed until its id is forgotten."""

    message: Message
    record_id: str
    position: int  # of the record, or at which the label was known


class _Joined(msgspec.Struct, frozen=True, gc=False):
    """What a label has to say: its revision, and the predictions that it is for."""

    label: _Label
    predictions: tuple[_Kept, ...]


class _Known(msgspec.Struct):
    """All that is known of one record id."""

    newest: int  # largest position of what came for it
    predictions: list[_Kept] = []
    labels: list[Message] = []
    label: _Label | None = None


class _Side:
    """One of the two topics: what is kept of it, and how far it was handled."""

    def __init__(self) -> None:
        self.queue: deque[_Kept] = deque()
        self.resumed = Committed(0)
        self.next_offset = 0
        self.published = 0

    @property
    def is_behind(self) -> bool:
        """Whether records that had been handled before a restart are still to be read."""
        return self.next_offset < self.published


class _PartitionJoin:
    """The records of one partition of both topics that are within the horizon.

    An id is forgotten, with all that came for it, when both topics have passed its newest position
    by the horizon: a topic that is read later than the other then loses nothing. Labels that have
    been silent for `windows.idle` hold nobody back.
    """

    def __init__(self, stream: Stream, clock: Clock) -> None:
        self._horizon = stream.horizon
        self._clock = clock
        self._idle_s = (stream.windows.idle.us or 0) / 1e6
        self._label_seen_s = clock.monotonic()  # a label may be on its way
        self._reached: int | None = None  # largest position of a prediction
        self._labels_reached: int | None = None  # largest position of a label
        self._passed = _BEFORE_ALL  # ids whose newest position is below are forgotten
        self._known: dict[str, _Known] = {}
        self._by_age: list[tuple[int, str]] = []  # heap of (position, id), for forgetting
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
        self._passed = max(self._passed, at.passed)
        if not side.is_behind:  # else the source is found again by reading
            self.source = max(self.source, at.source)

    def hold(self, side: _Side) -> Committed:
        """What to commit for one side."""
        if self.is_rebuilding:
            return side.resumed
        oldest = side.queue[0].message.offset if side.queue else side.next_offset
        source = self.source if side is self.predictions else -1
        at = Resume(side.next_offset, source, self._passed)
        return Committed(oldest, encode(at).decode())

    def add_prediction(self, message: Message, record_id: str, position: int) -> None:
        """Keep a prediction."""
        if self._reached is None:
            for known in self._known.values():
                if known.newest == _NOWHERE_YET:
                    known.newest = position
        self._reached = _later(self._reached, position)
        kept = _Kept(message, record_id, position)
        self._keep(kept, self.predictions).predictions.append(kept)

    def add_label(self, message: Message, label: Label) -> _Joined | Literal["repeated", "late"]:
        """Keep a label, unless it says nothing new or comes too late."""
        self._label_seen_s = self._clock.monotonic()
        at = label.at
        known = self._known.get(label.record_id)
        if known is not None:
            if known.label is not None and known.label.label.label == label.label:
                return "repeated"
            in_time = tuple(
                kept
                for kept in known.predictions
                if at is None or at - kept.position <= self._horizon
            )
            if known.predictions and not in_time:
                return "late"
            newest = known.newest
        else:
            in_time = ()
            newest = self._here()
        position = newest if at is None else at
        if position != _NOWHERE_YET:
            self._labels_reached = _later(self._labels_reached, position)
        if position < self._passed:
            # Its id was forgotten. An old one that is read again was answered before the restart.
            return "repeated" if message.offset < self.labels.published else "late"
        known = self._keep(_Kept(message, label.record_id, position), self.labels)
        known.labels.append(message)
        revision = 0 if known.label is None else known.label.revision + 1
        known.label = _Label(label, revision)
        return _Joined(known.label, in_time)

    def label_of(self, record_id: str) -> _Label | None:
        """The newest label of this id, if one is here."""
        return self._known[record_id].label

    def forget(self) -> tuple[int, list[Message]]:
        """Forget ids that the horizon has passed: how many predictions had no label, and the
        labels that had no prediction."""
        self._pass()
        unlabelled, orphans = 0, []
        while self._by_age and self._by_age[0][0] < self._passed:
            record_id = heappop(self._by_age)[1]
            known = self._known.get(record_id)
            if known is None:
                continue
            if known.newest >= self._passed:  # something newer came for it
                heappush(self._by_age, (known.newest, record_id))
                continue
            del self._known[record_id]
            if known.label is None:
                unlabelled += len(known.predictions)
            elif not known.predictions:
                orphans.extend(known.labels)
        for side in (self.predictions, self.labels):
            while side.queue and side.queue[0].record_id not in self._known:
                side.queue.popleft()
        return unlabelled, orphans

    def _pass(self) -> None:
        """Move on the position that the horizon has passed."""
        reached = self._reached
        if self._clock.monotonic() - self._label_seen_s < self._idle_s:
            if reached is None or self._labels_reached is None:
                return
            reached = min(reached, self._labels_reached)
        if reached is not None:
            self._passed = max(self._passed, reached - self._horizon)

    def _here(self) -> int:
        """The position that predictions have reached, as far as is known."""
        if self._reached is not None:
            return self._reached
        return _NOWHERE_YET if self._passed == _BEFORE_ALL else self._passed + self._horizon

    def _keep(self, kept: _Kept, side: _Side) -> _Known:
        side.queue.append(kept)
        known = self._known.get(kept.record_id)
        if known is None:
            known = self._known[kept.record_id] = _Known(kept.position)
            age = _BEFORE_ALL if kept.position == _NOWHERE_YET else kept.position
            heappush(self._by_age, (age, kept.record_id))
        known.newest = max(known.newest, kept.position)
        return known


def _later(reached: int | None, position: int) -> int:
    return position if reached is None else max(reached, position)
