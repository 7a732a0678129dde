"""The state of the join: what came for each record id, of one partition, within the horizon.

In: predictions and labels with their positions. Out: which of them belong together, what may be
forgotten, which offsets are still needed. It decodes and publishes nothing.
"""

from collections import deque
from heapq import heappop, heappush
from typing import Literal

import msgspec

from driftline.broker.port import Committed, Message
from driftline.clock import Clock
from driftline.codec.labels import Label
from driftline.stream import Stream

# Position of a label without `@at` that is read before any prediction, until one comes.
_NOWHERE_YET = 2**63 - 1
_BEFORE_ALL = -(2**63)


class Resume(msgspec.Struct, frozen=True):
    """Metadata beside a committed offset: what had been done before it was committed.

    Records from the committed offset up to `published` are read again only to rebuild state; new
    ones wait until that is done, or a pair of an old and a new record could be missed.
    """

    published: int = 0  # next offset that had not been handled
    source: int = -1  # predictions: largest source offset seen
    passed: int = _BEFORE_ALL  # position up to which ids had been forgotten


class NewestLabel(msgspec.Struct, frozen=True, gc=False):
    """The newest label of an id, and how often it has changed."""

    label: Label
    revision: int


class Kept(msgspec.Struct, frozen=True, gc=False):
    """A record that is needed until its id is forgotten."""

    message: Message
    record_id: str
    position: int  # of the record, or at which the label was known


class Joined(msgspec.Struct, frozen=True, gc=False):
    """What a label has to say: its revision, and the predictions that it is for."""

    label: NewestLabel
    predictions: tuple[Kept, ...]


class Known(msgspec.Struct):
    """All that is known of one record id."""

    newest: int  # largest position of what came for it
    predictions: list[Kept] = []
    labels: list[Message] = []
    label: NewestLabel | None = None


class Side:
    """One of the two topics: what is kept of it, and how far it was handled."""

    def __init__(self) -> None:
        self.queue: deque[Kept] = deque()
        self.resumed = Committed(0)
        self.next_offset = 0
        self.published = 0

    @property
    def is_behind(self) -> bool:
        """Whether records that had been handled before a restart are still to be read."""
        return self.next_offset < self.published


class PartitionJoin:
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
        self._known: dict[str, Known] = {}
        self._by_age: list[tuple[int, str]] = []  # heap of (position, id), for forgetting
        self.source = -1  # largest source offset of a prediction
        self.predictions = Side()
        self.labels = Side()
        self.old_labels: list[Message] = []
        self.deferred: list[Message] = []

    @property
    def is_rebuilding(self) -> bool:
        """Whether state from before a restart is still being read."""
        return self.predictions.is_behind or self.labels.is_behind

    def resume(self, side: Side, committed: Committed) -> None:
        """Start reading one side at a committed position."""
        at = msgspec.json.decode(committed.metadata or "{}", type=Resume)
        side.resumed = committed
        side.next_offset = committed.offset
        side.published = at.published
        self._passed = max(self._passed, at.passed)
        if not side.is_behind:  # else the source is found again by reading
            self.source = max(self.source, at.source)

    def hold(self, side: Side) -> Committed:
        """What to commit for one side."""
        if self.is_rebuilding:
            return side.resumed
        oldest = side.queue[0].message.offset if side.queue else side.next_offset
        source = self.source if side is self.predictions else -1
        at = Resume(side.next_offset, source, self._passed)
        return Committed(oldest, msgspec.json.encode(at).decode())

    def add_prediction(self, message: Message, record_id: str, position: int) -> None:
        """Keep a prediction."""
        if self._reached is None:
            for known in self._known.values():
                if known.newest == _NOWHERE_YET:
                    known.newest = position
        self._reached = _later(self._reached, position)
        kept = Kept(message, record_id, position)
        self._keep(kept, self.predictions).predictions.append(kept)

    def add_label(self, message: Message, label: Label) -> Joined | Literal["repeated", "late"]:
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
        known = self._keep(Kept(message, label.record_id, position), self.labels)
        known.labels.append(message)
        revision = 0 if known.label is None else known.label.revision + 1
        known.label = NewestLabel(label, revision)
        return Joined(known.label, in_time)

    def label_of(self, record_id: str) -> NewestLabel | None:
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

    def _keep(self, kept: Kept, side: Side) -> Known:
        side.queue.append(kept)
        known = self._known.get(kept.record_id)
        if known is None:
            known = self._known[kept.record_id] = Known(kept.position)
            age = _BEFORE_ALL if kept.position == _NOWHERE_YET else kept.position
            heappush(self._by_age, (age, kept.record_id))
        known.newest = max(known.newest, kept.position)
        return known


def _later(reached: int | None, position: int) -> int:
    return position if reached is None else max(reached, position)
