"""Trainer handler: turn retrain requests from Kafka into announcements, pointers and decisions.

The handler runs one training at a time through a `Runner`, and publishes a `RetrainDecision` for
each request. It never commits past an undecided request, so after a crash, the training is run
again. It never replaces a champion pointer that an operator published during the training.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from driftline.broker.port import Committed, Message, Outgoing, TopicPartition
from driftline.clock import Clock
from driftline.config.stream import Stream
from driftline.errors import DataError
from driftline.models.catalog import CHAMPION_KEY, Catalog, Seen, record_of
from driftline.models.keys import Signer, Trusted
from driftline.models.signed import sign
from driftline.runtime.handler import Handler, LogChange
from driftline.wire.commit_metadata import metadata_of
from driftline.wire.envelope import dead_letter, decode, rare, retrain_decoder
from driftline.wire.events import (
    ModelsEvent,
    RetrainDecision,
    RetrainRequest,
    RolePointer,
    event_id,
)
from driftline.wire.topics import Topics
from driftline.wire.values import format_time
from trainer.retrain import TrainingJob, TrainingResult
from trainer.runner import Runner

log = logging.getLogger(__name__)

# A request is abandoned after the trainer has exited during this many training attempts for it. The
# limit is not lower, because an ordinary restart of the service also ends an attempt.
MAX_ATTEMPTS: Final = 5
# At most this many earlier models are compared with the champion, because loading models takes
# time.
EARLIER: Final = 10
# While a request waits for more outcomes, the outcomes are counted at this interval.
_LOOK_AGAIN_S: Final = 1.0
# If training cannot reach the model store, the first retry comes after this delay. Each further
# retry doubles the delay, up to `LONGEST_RETRY_S`.
FIRST_RETRY_S: Final = 5.0
LONGEST_RETRY_S: Final = 300.0


class _Asked(msgspec.Struct, frozen=True):
    request: RetrainRequest
    partition: TopicPartition
    offset: int


class _Work(msgspec.Struct):
    """The current request. `_begin` sets `pointer` and `counted`, and resets `until`."""

    asked: _Asked
    attempt: int
    pointer: str | None  # id of the champion pointer when the training began
    counted: int  # number of records in the outcomes topic when the training began
    # The request waits until the outcomes topic holds this many records. None during training.
    until: int | None = None
    look_at_s: float = 0.0  # monotonic time of the next count while the request waits
    retry_s: float = 0.0  # the last delay set by `_retry`; 0 while the model store is reachable


class _Held(msgspec.Struct, frozen=True):
    """Metadata stored with the current request's committed offset."""

    attempt: Annotated[int, Meta(ge=0, le=1_000)] = 0


class TrainerHandler(Handler):
    """The trainer's handler for one stream.

    `count` returns the number of records in the outcomes topic. `signer` signs the records
    published to `models`. Records read from `models` must be signed with a `trusted` key. `seen`
    contains the champion pointers that inference has seen.
    """

    def __init__(
        self,
        stream: Stream,
        runner: Runner,
        clock: Clock,
        count: Callable[[], int],
        *,
        signer: Signer,
        trusted: Trusted,
        seen: Sequence[Seen] = (),
    ) -> None:
        self._stream = stream
        self._topics = Topics(stream)
        self._runner = runner
        self._clock = clock
        self._count = count
        self._signer = signer
        self._seen = tuple(seen)
        self._catalog = Catalog(trusted)
        # `on_revoked` resets all attributes below except `_resumed`.
        self._queue: list[_Asked] = []  # `handle` adds requests, `_next` removes them
        self._work: _Work | None = None  # set by `_next`, reset by `_finish`
        self._decided: set[str] = set()  # ids of decided requests, from `handle` and `_decide`
        self._resumed: dict[TopicPartition, Committed] = {}  # set by `on_assigned`
        self._sent: RolePointer | None = None  # our own pointer, until it is read back from Kafka
        self._restated: frozenset[ModelsEvent] = frozenset()  # events from the last `_restate` call

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self._topics.retrain,)

    @property
    def broadcast_topics(self) -> tuple[str, ...]:
        return (self._topics.models,)

    @property
    def working_on(self) -> str | None:
        """Return the id of the current request, or None."""
        return self._work.asked.request.id if self._work else None

    def on_broadcast(self, messages: Sequence[Message]) -> Sequence[Outgoing]:
        for message in messages:
            try:
                event = self._catalog.apply(message)
            except DataError as error:
                # Inference also reads this record, and publishes a dead letter for it.
                log.warning("ignoring an unreadable record of `models`: %s", error.message)
                continue
            if self._sent is not None and event == self._sent:
                if self._catalog.champion != self._sent:
                    log.warning(
                        "model %s was not promoted: %s",
                        self._sent.digest,
                        self._catalog.rejected.get(CHAMPION_KEY, "another pointer came first"),
                    )
                self._sent = None
        return ()

    def on_assigned(self, resume: Mapping[TopicPartition, Committed]) -> None:
        self._resumed = dict(resume)
        for seen in self._seen:
            self._catalog.remember(seen.sequence, seen.champion)

    def on_revoked(self, partitions: Sequence[TopicPartition]) -> None:
        if not partitions:
            return
        self._runner.cancel()
        self._work = self._sent = None
        self._restated = frozenset()
        self._queue = []
        self._decided = set()

    def handle(self, messages: Sequence[Message]) -> Sequence[Outgoing]:
        letters = []
        asked = []
        for message in messages:
            try:
                event = decode(retrain_decoder, message)
            except DataError as error:
                letters.append(self._refuse(message, error.message))
                continue
            if isinstance(event, RetrainDecision):
                self._decided.add(event.request)
            else:
                partition = TopicPartition(message.topic, message.partition)
                asked.append(_Asked(event, partition, message.offset))
        self._queue += [item for item in asked if item.request.id not in self._decided]
        return letters

    def on_log_change(self, change: LogChange) -> Sequence[Outgoing]:
        if change.partition.topic == self._topics.models:
            self._catalog.outdate()  # `on_tick` then republishes the catalog's records
        return ()  # the loop reports the change

    def reject(self, message: Message, reason: str) -> Sequence[Outgoing]:
        return [self._refuse(message, reason)]

    def on_tick(self) -> Sequence[Outgoing]:
        output = self._restate()
        if self._queue and (self._work is None or self._work.until is not None):
            output += self._next()
        if self._work is not None and self._work.until is not None:
            self._look_again(self._work, self._work.until)
        if self._work is not None and self._work.until is None:
            result = self._runner.poll()
            if result is not None:
                output += self._finish(self._work, result)
        return output

    def offsets_to_commit(self) -> Mapping[TopicPartition, Committed]:
        if self._work is not None:
            asked = self._work.asked
            # While the request waits, no training can end the process, so no attempt is counted.
            attempt = self._work.attempt - (self._work.until is not None)
            metadata = msgspec.json.encode(_Held(attempt)).decode()
            return {asked.partition: Committed(asked.offset, metadata)}
        if self._queue:
            return {self._queue[0].partition: Committed(self._queue[0].offset)}
        return {}

    def close(self) -> None:
        self._runner.cancel()

    # ---- one request ----------------------------------------------------------------------------

    def _next(self) -> list[Outgoing]:
        """Start the newest request.

        Return a decision for each older request, including a request that waits for outcomes.
        """
        if self._sent is not None:
            return []  # the champion is unknown until our own pointer has been read back
        *older, newest = self._queue
        if self._work is not None:
            older.insert(0, self._work.asked)
        self._queue = []
        self._work = _Work(newest, self._attempt(newest), None, 0)
        replaced = TrainingResult(reason=f"replaced by the newer request {newest.request.id}")
        decisions = [self._decide(item, replaced) for item in older]
        # If the trainer exited during an attempt, the committed metadata contains the number of
        # that attempt.
        if self._work.attempt > MAX_ATTEMPTS:
            tried = self._work.attempt - 1
            failed = TrainingResult(
                reason=f"abandoned: the trainer exited {tried} times before it had finished"
            )
            return decisions + self._finish(self._work, failed)
        self._begin(self._work)
        return decisions

    def _attempt(self, asked: _Asked) -> int:
        committed = self._resumed.get(asked.partition, Committed(0))
        held = metadata_of(committed, _Held) if committed.offset == asked.offset else None
        return 1 if held is None else held.attempt + 1

    def _begin(self, work: _Work) -> None:
        champion = self._catalog.champion
        work.pointer = champion.id if champion else None
        work.counted = self._count()
        work.until = None
        announced = self._catalog.announcements.get(champion.digest) if champion else None
        if not work.retry_s:
            log.info(
                "training a model for request %s: %s",
                work.asked.request.id,
                work.asked.request.reason,
            )
        earlier = self._catalog.earlier(EARLIER)
        self._runner.start(TrainingJob(work.asked.request, announced, self._now(), earlier))

    def _look_again(self, work: _Work, until: int) -> None:
        if self._clock.monotonic() < work.look_at_s:
            return
        work.look_at_s = self._clock.monotonic() + _LOOK_AGAIN_S
        if self._count() >= until:
            self._begin(work)

    def _finish(self, work: _Work, result: TrainingResult) -> list[Outgoing]:
        if result.passes:
            return self._retry(work, result.reason)
        if work.retry_s:
            log.info("request %s waits no longer", work.asked.request.id)
            work.retry_s = 0.0
        if result.wait_for:
            # `_count` includes transaction markers, so `until` may be reached too early. The lower
            # bound of `more` keeps the trainer from rereading the topic too often.
            more = max(result.wait_for, self._stream.retrain.min_outcomes // 10)
            work.until = work.counted + more
            work.look_at_s = self._clock.monotonic() + _LOOK_AGAIN_S
            log.info("request %s waits for more outcomes: %s", work.asked.request.id, result.reason)
            return []
        self._work = None
        announced = result.announcement
        if announced is None:
            return [self._decide(work.asked, result)]
        # Announce the model if it is new. Promote it unless `_why_not_promoted` returns a reason.
        is_new = announced.digest not in self._catalog.announcements
        output = [self._signed(announced)] if is_new else []
        stays = self._why_not_promoted(work)
        if stays is None:
            self._sent = self._catalog.pointer(
                announced.digest,
                by="trainer",
                reason=result.reason,
                at=self._now(),
                cause=work.asked.request.id,
            )
            output.append(self._signed(self._sent))
        output.append(self._decide(work.asked, result, stays=stays))
        return output

    def _retry(self, work: _Work, reason: str) -> list[Outgoing]:
        """Retry the training later. Log only the first failure."""
        if not work.retry_s:
            log.error("request %s waits, and is retried: %s", work.asked.request.id, reason)
        work.retry_s = min(max(work.retry_s * 2, FIRST_RETRY_S), LONGEST_RETRY_S)
        work.until = work.counted  # no more outcomes are needed
        work.look_at_s = self._clock.monotonic() + work.retry_s
        return []

    def _why_not_promoted(self, work: _Work) -> str | None:
        """Return the reason why the model must not be promoted, or None if it may be promoted.

        The model may be promoted if the champion pointer has not changed during the training and
        promotion is neither frozen nor manual.
        """
        current = self._catalog.champion
        if (current.id if current else None) != work.pointer:
            who = (
                "an operator"
                if current is not None and current.by == "person"
                else "another trainer"
            )
            return f"{who} changed the champion during the training"
        if self._catalog.freeze is not None and self._catalog.frozen:
            return f"promotion is frozen: {self._catalog.freeze.reason}"
        if self._stream.retrain.promote == "manual":
            return "[retrain] promote is manual: use `driftline models promote`"
        return None

    def _decide(
        self, asked: _Asked, result: TrainingResult, *, stays: str | None = None
    ) -> Outgoing:
        self._decided.add(asked.request.id)
        announced = result.announcement
        is_new = announced is not None and announced.digest not in self._catalog.announcements
        decision = RetrainDecision(
            id=event_id("decision", asked.request.id),
            request=asked.request.id,
            published=is_new,
            promoted=announced is not None and stays is None,
            model=None if announced is None else announced.digest,
            reason=result.reason if stays is None else f"{result.reason}; not promoted: {stays}",
            metric=self._stream.judged_by,
            challenger=result.challenger,
            champion=result.champion,
            outcomes=result.outcomes,
            removed=result.removed,
            trials=result.trials,
        )
        log.info("request %s: %s", decision.request, decision.reason)
        return rare(self._topics.retrain, decision, id=decision.id, key=asked.request.id)

    # ---- helpers --------------------------------------------------------------------------------

    def _restate(self) -> list[Outgoing]:
        """Sign and return the records that compaction would otherwise remove (see `Catalog`)."""
        restated = self._catalog.restatements()
        fresh = [event for event in restated if event not in self._restated]
        self._restated = frozenset(restated)
        return [self._signed(event) for event in fresh]

    def _signed(self, event: ModelsEvent) -> Outgoing:
        return sign(record_of(self._topics, event), self._signer)

    def _now(self) -> str:
        return format_time(round(self._clock.time() * 1e6))

    def _refuse(self, message: Message, reason: str) -> Outgoing:
        return dead_letter(self._topics.deadletters, message, reason=reason, service="trainer")
