"""The join of one partition: which predictions and labels belong together, and what is forgotten.

In: predictions and labels, decoded, each topic in its order; how the two interleave plays no part,
but for what decision 13 names. Out: through `Results`, outcomes and refused labels. It decodes
nothing and publishes nothing.
"""

import secrets
from collections.abc import Sequence
from typing import Literal, Protocol

import msgspec

from consumers.cache import Batch, Cache, Covered
from consumers.pending import BEFORE_ALL, NEVER, Block, Pending
from driftline.broker.port import Committed, Headers
from driftline.clock import Clock
from driftline.events import Value
from driftline.stream import Stream

# Forgetting is by blocks; they span this part of the horizon at most.
_BLOCKS_OF_HORIZON = 8

Reason = Literal["late", "orphan"]


class KeptPrediction(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A prediction until it is forgotten. `value` is what an outcome begins with."""

    offset: int
    source: int  # offset of the scored record
    position: int
    key: bytes | None
    value: bytes


class KeptLabel(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A label until it is forgotten. `at`: position at which it was known, if it says so."""

    offset: int
    at: int | None
    label: Value
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


class Results(Protocol):
    """What a join finds, in the order in which it is to be published."""

    def outcome(self, prediction: KeptPrediction, label: KeptLabel, revision: int) -> None:
        """They belong together."""

    def refused(self, label: KeptLabel, reason: Reason) -> None:
        """It came too late for its record, or no record came for it."""

    def repeated(self, label: KeptLabel) -> None:
        """It says what was known."""

    def unlabelled(self, predictions: int) -> None:
        """So many were forgotten without a label."""

    def watermark(self, position: int) -> None:
        """What came before this position was joined, as far as labels were there."""


class Resume(msgspec.Struct, frozen=True, omit_defaults=True):
    """Metadata beside a committed offset: what had been done before it was committed.

    Records from the committed offset up to `published` are read again only to rebuild state.
    """

    published: int = 0  # next offset that had not been handled
    before: int = -1  # predictions: largest source offset before the committed offset
    reached: int = BEFORE_ALL  # largest position
    passed: int = BEFORE_ALL  # labels: position below which predictions wait for labels no more
    watermark: int | None = None  # predictions: one that was read and not yet passed on
    token: str = ""  # which commits a cache belongs to


class Side:
    """How far one of the two topics was read."""

    def __init__(self, committed: Committed) -> None:
        self.resumed = committed
        self.at = msgspec.json.decode(committed.metadata or "{}", type=Resume)
        self.next_offset = committed.offset
        self.reached = self.at.reached
        self.published = self.at.published  # what stands before it was published before a restart

    @property
    def is_behind(self) -> bool:
        """Whether records that had been handled before a restart are still to be read."""
        return self.next_offset < self.published

    def reach(self, position: int) -> None:
        """A record with this position was read."""
        if position > self.reached:
            self.reached = position


class Fence(msgspec.Struct, frozen=True):
    """A moment. Once each topic is read up to where it ended then, what had been read of the other
    has met everything that was published by that moment."""

    at_s: float
    predictions_end: int
    labels_end: int
    labels_read: int
    reached: int
    watermark: int | None


class PartitionJoin:
    """The records of one partition of both topics that may still meet.

    A prediction and a label of the same id belong together when the label's `@at` is at most a
    horizon away from the record's position. A record is remembered until both topics have passed it
    by the horizon (`_floor`), or the predictions have and all labels that were published by then
    are read.
    """

    def __init__(
        self,
        stream: Stream,
        clock: Clock,
        predictions: Committed,
        labels: Committed,
        *,
        cache: Cache | None = None,
        topics: tuple[str, str] = ("", ""),
    ) -> None:
        self._horizon = stream.horizon
        self._clock = clock
        self._idle_s = (stream.windows.idle.us or 0) / 1e6
        span = max(1, self._horizon // _BLOCKS_OF_HORIZON)
        self.predictions = Side(predictions)
        self.labels = Side(labels)
        self.kept_predictions = Pending(b"p", KeptPrediction, span=span)
        self.kept_labels = Pending(b"l", KeptLabel, span=span)
        self.source = self.predictions.at.before  # largest source offset of a prediction
        self._passed = self.labels.at.passed
        self._floor = BEFORE_ALL
        self._raise_floor()
        self._watermark = self.predictions.at.watermark
        self._fence: Fence | None = None
        self._fence_done = [False, False]  # predictions, labels
        self._heard_s = [clock.monotonic()] * 2  # when predictions, labels were last read
        self._cache = cache
        self._topics = topics
        tokens = {self.predictions.at.token, self.labels.at.token}
        self._token = self.predictions.at.token if len(tokens) == 1 else ""
        # published offsets, and dropped blocks of each side, of a commit under way; once the next
        # records come, it is known to have succeeded
        self._committing: tuple[int, int, int, int] | None = None
        self._committed = (self.predictions.published, self.labels.published)
        if cache is not None:
            self._begin_cache(cache)

    @property
    def is_rebuilding(self) -> bool:
        """Whether state from before a restart is still being read."""
        return self.predictions.is_behind or self.labels.is_behind

    @property
    def to_reread(self) -> int:
        """Offsets to be read again until it is rebuilt."""
        return sum(max(0, s.published - s.next_offset) for s in (self.predictions, self.labels))

    def limit_memory(self, records: int) -> None:
        """Keep so many records of each topic in memory, where there is a cache for more."""
        self.kept_predictions.limit = self.kept_labels.limit = records

    # ---- records --------------------------------------------------------------------------------

    def take_predictions(
        self, found: Sequence[tuple[str, KeptPrediction]], results: Results
    ) -> None:
        """Remember predictions, each with its record id, and find the labels that came before.

        Their sources must be new: above `source`, and growing.
        """
        self._heard_s[0] = self._clock.monotonic()
        self._fetch(found)
        side, kept, labels_of = self.predictions, self.kept_predictions, self.kept_labels.get
        for record_id, prediction in found:
            position, self.source = prediction.position, prediction.source
            block = kept.add(record_id, prediction, position, source=self.source)
            block.last_source = self.source
            if labels := labels_of(record_id):
                self._meet_labels(record_id, prediction, labels, results)
            if position > side.reached:
                side.reached = position
                self._raise_floor()

    def take_watermark(self, position: int) -> None:
        """No prediction before this position is to come; it is passed on in time."""
        self.predictions.reach(position - 1)
        if self._watermark is None or position > self._watermark:
            self._watermark = position
        self._raise_floor()

    def take_labels(self, found: Sequence[tuple[str, KeptLabel]], results: Results) -> None:
        """Remember labels, each with its record id, and find the predictions that they are for."""
        self._heard_s[1] = self._clock.monotonic()
        self._fetch(found)
        side, predictions_of = self.labels, self.kept_predictions.get
        for record_id, label in found:
            at = label.at
            predictions = predictions_of(record_id)
            if predictions and at is not None:
                last = at + self._horizon  # what comes after is a later record with this id
                if len(predictions) > 1 or predictions[0].position > last:
                    predictions = [p for p in predictions if p.position <= last]
            if predictions:
                self._meet_predictions(record_id, label, predictions, results)
            else:
                block = self.kept_labels.add(record_id, label, BEFORE_ALL if at is None else at)
                block.waiting = True
                block.placeless = block.placeless or at is None
            if at is not None and at > side.reached:
                side.reached = at
                self._raise_floor()

    def _fetch(self, found: Sequence[tuple[str, KeptPrediction | KeptLabel]]) -> None:
        if self.kept_predictions.is_cached or self.kept_labels.is_cached:
            ids = [record_id for record_id, _ in found]
            self.kept_predictions.fetch(ids)
            self.kept_labels.fetch(ids)

    def _meet_predictions(
        self,
        record_id: str,
        label: KeptLabel,
        predictions: Sequence[KeptPrediction],
        results: Results,
    ) -> None:
        is_new = label.offset >= self.labels.published
        oldest = self._oldest_in_time(label, is_new)
        newest = predictions[-1].position
        if len(predictions) > 1:
            newest = max(prediction.position for prediction in predictions)
        if newest < oldest:
            block = self.kept_labels.cover(label.offset, newest)
            if is_new:
                results.refused(label, "late")
        else:
            earlier = self.kept_labels.get(record_id)
            block = self.kept_labels.add(record_id, label, newest)
            is_repeated = True
            for prediction in predictions:
                if prediction.position < oldest:
                    continue
                known, revision = self._newest(prediction, earlier) if earlier else (None, -1)
                if known is None or known.label != label.label:
                    is_repeated = False
                    if is_new:
                        self._join(prediction, label, revision + 1, results)
            if is_repeated and is_new:
                results.repeated(label)
            if label.at is None and newest > self.labels.reached:
                self.labels.reached = newest
                self._raise_floor()
        if predictions[0].offset < block.needs:
            block.needs = predictions[0].offset

    def _oldest_in_time(self, label: KeptLabel, is_new: bool) -> int:
        """The smallest position of a record that a label is not too late for. One that was taken
        before a restart was in time then."""
        oldest = BEFORE_ALL if label.at is None else label.at - self._horizon
        return max(oldest, self._floor - self._horizon) if is_new else oldest

    def _meet_labels(
        self,
        record_id: str,
        prediction: KeptPrediction,
        labels: Sequence[KeptLabel],
        results: Results,
    ) -> None:
        position, horizon = prediction.position, self._horizon
        is_new = prediction.offset >= self.predictions.published
        known, revision = None, -1
        for label in labels:
            at = label.at
            if at is not None and at < position - horizon:
                continue  # of an earlier record with this id
            is_first = not self._was_met(record_id, label, prediction)
            block = self.kept_labels.block_of(label.offset)
            block.needs = min(block.needs, prediction.offset)
            block.newest = max(block.newest, position)
            if not self._is_in_time(prediction, label):
                if is_new and is_first:
                    results.refused(label, "late")
            elif is_new and at is not None and at + horizon < self._floor:
                if is_first:
                    results.refused(label, "orphan")
            elif known is not None and known.label == label.label:
                if is_new and is_first:
                    results.repeated(label)
            else:
                known, revision = label, revision + 1
                if is_new:
                    self._join(prediction, label, revision, results)
            if at is None:
                self.labels.reach(position)
                self._raise_floor()

    def _join(
        self, prediction: KeptPrediction, label: KeptLabel, revision: int, results: Results
    ) -> None:
        if revision == 0:
            self.kept_predictions.block_of(prediction.offset).joined += 1
        results.outcome(prediction, label, revision)

    def _newest(
        self, prediction: KeptPrediction, labels: Sequence[KeptLabel]
    ) -> tuple[KeptLabel | None, int]:
        """The newest of the labels that belong to a prediction, and its revision."""
        known, revision = None, -1
        for label in labels:
            if (
                self._is_in_time(prediction, label)
                and (label.at is None or label.at >= prediction.position - self._horizon)
                and (known is None or known.label != label.label)
            ):
                known, revision = label, revision + 1
        return known, revision

    def _is_in_time(self, prediction: KeptPrediction, label: KeptLabel) -> bool:
        return label.at is None or label.at - prediction.position <= self._horizon

    def _was_met(self, record_id: str, label: KeptLabel, by: KeptPrediction | None = None) -> bool:
        """Whether a prediction, other than `by`, has decided what becomes of this label."""
        return any(
            prediction is not by
            and (label.at is None or label.at >= prediction.position - self._horizon)
            for prediction in self.kept_predictions.get(record_id)
        )

    # ---- time -----------------------------------------------------------------------------------

    def look(self, predictions_lag: int | None, labels_lag: int | None) -> None:
        """Take note of how much there is still to read of each topic."""
        for side, lag in ((self.predictions, predictions_lag), (self.labels, labels_lag)):
            if lag == 0 and side.is_behind:
                side.next_offset = side.published  # retention has taken the last old ones
        if predictions_lag is None or labels_lag is None:
            return
        if self.is_rebuilding or self._fence is not None:
            return
        if self.kept_labels.blocks and self._has_no_place(self.kept_labels.blocks[-1]):
            self.kept_labels.seal()
        self._fence_done = [False, False]
        self._fence = Fence(
            at_s=self._clock.monotonic(),
            predictions_end=self.predictions.next_offset + predictions_lag,
            labels_end=self.labels.next_offset + labels_lag,
            labels_read=self.labels.next_offset,
            reached=self.predictions.reached,
            watermark=self._watermark,
        )

    def pass_time(self, results: Results) -> None:
        """Forget what can meet nothing any more."""
        self._settle()
        if self.is_rebuilding:
            return
        if (fence := self._fence) is not None:
            self._pass_fence(fence, results)
        self._forget_labels(results)
        self._forget_predictions(results)

    def _pass_fence(self, fence: Fence, results: Results) -> None:
        done, now_s = self._fence_done, self._clock.monotonic()
        ends = (
            (self.predictions.next_offset, fence.predictions_end),
            (self.labels.next_offset, fence.labels_end),
        )
        # An end that is never reached is that of a transaction that was aborted.
        for place, (offset, end) in enumerate(ends):
            silent_s = now_s - max(fence.at_s, self._heard_s[place])
            if done[place] or not (offset >= end or silent_s >= self._idle_s):
                continue
            done[place] = True
            if place == 0:
                self._place_labels(fence.labels_read)
            else:
                self._passed = max(self._passed, fence.reached)
                self._raise_floor()
                if fence.watermark is not None and self._watermark is not None:
                    results.watermark(fence.watermark)
                    if self._watermark == fence.watermark:
                        self._watermark = None
        if all(done):
            self._fence = None

    def _place_labels(self, end: int) -> None:
        """Labels before offset `end` have met every prediction that was there by now: count from
        here for those that still wait, if they have no position, or one ahead of everything."""
        reached = self.predictions.reached
        if reached == BEFORE_ALL:
            return
        for block in self.kept_labels.select(end, self._has_no_place):
            block.newest = reached
            block.placeless = False

    def _has_no_place(self, block: Block) -> bool:
        return block.placeless or block.newest > self.predictions.reached

    def _forget_labels(self, results: Results) -> None:
        labels = self.kept_labels
        while labels.blocks:
            block = labels.blocks[0]
            if block.placeless or block.newest + self._horizon >= self._floor:
                return
            if block.waiting:
                waiting = labels.oldest()
                self.kept_predictions.fetch([record_id for record_id, _ in waiting])
                for record_id, label in waiting:
                    if not self._was_met(record_id, label):
                        results.refused(label, "orphan")
            labels.drop()

    def _forget_predictions(self, results: Results) -> None:
        predictions = self.kept_predictions
        needed: int | None = None
        while predictions.blocks:
            block = predictions.blocks[0]
            if block.newest + self._horizon >= self._floor:
                return
            if needed is None:
                # When these labels are read again after a restart, they must meet it again.
                needed = min((labels.needs for labels in self.kept_labels.blocks), default=NEVER)
            if block.end > needed:
                return
            results.unlabelled(block.count - block.joined)
            predictions.drop()

    def _raise_floor(self) -> None:
        predictions, labels = self.predictions.reached, self.labels.reached
        both = predictions if predictions < labels else labels
        if both > self._floor or self._passed > self._floor:
            self._floor = max(both, self._passed)

    # ---- commits and the cache ------------------------------------------------------------------

    def hold(self) -> tuple[Committed, Committed]:
        """What to commit for predictions and labels."""
        if self.is_rebuilding:
            return self.predictions.resumed, self.labels.resumed
        self._committing = (
            self.predictions.next_offset,
            self.labels.next_offset,
            self.kept_predictions.dropped(),
            self.kept_labels.dropped(),
        )
        held = self.kept_predictions.held
        predictions = Resume(
            published=self.predictions.next_offset,
            before=self.source if held is None else self.kept_predictions.blocks[0].source,
            reached=self.predictions.reached,
            watermark=self._watermark,
            token=self._token,
        )
        labels = Resume(
            published=self.labels.next_offset,
            reached=self.labels.reached,
            passed=self._passed,
            token=self._token,
        )
        return (
            _committed(held, self.predictions, predictions),
            _committed(self.kept_labels.held, self.labels, labels),
        )

    def close(self) -> None:
        """Write what is committed to the cache, and let go of it."""
        if self._cache is not None:
            self._write(0, 0, everything=True)
            self._cache.close()
            self._cache = None

    def _settle(self) -> None:
        """A commit has succeeded: the cache may follow it."""
        if self._committing is None:
            if self.is_rebuilding and self._cache is not None:
                self._write(0, 0, everything=False)  # old records are committed
            return
        published, labels, dropped, dropped_labels = self._committing
        self._committing = None
        self._committed = (published, labels)
        if self._cache is not None:
            self._write(dropped, dropped_labels, everything=False)

    def _begin_cache(self, cache: Cache) -> None:
        covered = cache.covered()
        if (
            covered is None
            or covered.topics != self._topics
            or covered.token != self._token
            or covered.predictions > self.predictions.published
            or covered.labels > self.labels.published
        ):
            cache.clear()
            covered = None
        if not self._token:
            self._token = secrets.token_hex(8)
        self.kept_predictions.load(cache, self.predictions.resumed.offset)
        self.kept_labels.load(cache, self.labels.resumed.offset)
        if covered is None:
            return
        if covered.predictions > self.predictions.next_offset:
            self.predictions.next_offset = covered.predictions
            self.source = covered.source
        self.labels.next_offset = max(self.labels.next_offset, covered.labels)
        # What stands before the committed offsets is settled.
        self._committing = (
            *self._committed,
            self.kept_predictions.dropped(),
            self.kept_labels.dropped(),
        )

    def _write(self, dropped: int, dropped_labels: int, *, everything: bool) -> None:
        assert self._cache is not None
        batch = Batch()
        published, labels = self._committed
        self.kept_predictions.write(
            batch, deletions=dropped, committed=published, everything=everything
        )
        self.kept_labels.write(
            batch, deletions=dropped_labels, committed=labels, everything=everything
        )
        if not batch.operations.is_empty():
            predictions_end, source = self.kept_predictions.next_uncached or (0, -1)
            labels_end, _ = self.kept_labels.next_uncached or (0, -1)
            self._cache.write(
                batch, Covered(self._topics, self._token, predictions_end, source, labels_end)
            )


def _committed(held: int | None, side: Side, resume: Resume) -> Committed:
    offset = side.next_offset if held is None else held
    return Committed(offset, msgspec.json.encode(resume).decode())
