"""Trainer handler: turn retrain requests from Kafka into announcements, pointers and decisions.

The handler runs one job at a time through a `Runner`: a training, then looks at newer outcomes to
compare the challenger with the champion. It publishes a `RetrainDecision` for each request. It
never commits past an undecided request, so after a crash, the training is run again, or the
comparison continues. It never replaces a champion pointer that an operator published meanwhile.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from driftline.broker.port import Committed, Message, Outgoing, TopicPartition
from driftline.clock import Clock
from driftline.config.stream import Stream
from driftline.errors import DataError
from driftline.models.catalog import CHAMPION_KEY, Catalog, record_of
from driftline.models.keys import Signer, Trusted
from driftline.models.seen import Seen
from driftline.models.signed import sign
from driftline.runtime.handler import Handler, LogChange
from driftline.wire.envelope import dead_letter, decode, rare, retrain_decoder
from driftline.wire.events import (
    ModelAnnounced,
    ModelsEvent,
    RetrainDecision,
    RetrainEvent,
    RolePointer,
)
from driftline.wire.topics import Topics
from driftline.wire.values import format_time
from trainer.compare import ComparisonJob, ComparisonResult
from trainer.first_rows import first_model
from trainer.queue import RequestQueue
from trainer.retrain import TrainingJob, TrainingResult
from trainer.runner import Runner
from trainer.watch import RollbackWatch
from trainer.work import (
    Held,
    Wait,
    Work,
    comparison_started,
    decision,
    pair_of,
    training_result,
    who_changed,
    why_not_promoted,
)

log = logging.getLogger(__name__)

# A request is abandoned after the trainer has exited during this many training attempts for it. The
# limit is not lower, because an ordinary restart of the service also ends an attempt.
MAX_ATTEMPTS: Final = 5
# At most this many earlier models are compared with the champion, because loading models takes
# time.
EARLIER: Final = 10
# While a request waits for more outcomes, the outcomes are counted at this interval.
LOOK_AGAIN_S: Final = 1.0
# If training cannot reach the model store, the first retry comes after this delay. Each further
# retry doubles the delay, up to `LONGEST_RETRY_S`.
FIRST_RETRY_S: Final = 5.0
LONGEST_RETRY_S: Final = 300.0


class TrainerHandler(Handler):
    """The trainer's handler for one stream.

    `count` returns the number of records in the outcomes topic. `signer` signs the records
    published to `models`. Records read from `models` must be signed with a `trusted` key. `seen`
    contains the champion pointers that inference has seen. While a request waits for outcomes, they
    are counted every `look_again_s` seconds.
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
        look_again_s: float = LOOK_AGAIN_S,
    ) -> None:
        self._stream = stream
        self._topics = Topics(stream)
        self._runner = runner
        self._clock = clock
        self._count = count
        self._signer = signer
        self._seen = tuple(seen)
        self._look_again_s = look_again_s
        self._catalog = Catalog(trusted)
        self._watch = RollbackWatch(self._catalog, runner, clock, count, look_again_s)
        # `on_revoked` resets all attributes below.
        self._queue = RequestQueue()
        self._work: Work | None = None  # set by `_next`, reset when the request is decided
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
        self._queue.resume(resume)
        for seen in self._seen:
            self._catalog.remember(seen.sequence, seen.champion)

    def on_revoked(self, partitions: Sequence[TopicPartition]) -> None:
        if not partitions:
            return
        self._watch.reset()
        self._runner.cancel()
        self._work = self._sent = None
        self._restated = frozenset()
        self._queue.clear()

    def handle(self, messages: Sequence[Message]) -> Sequence[Outgoing]:
        letters: list[Outgoing] = []
        events: list[tuple[Message, RetrainEvent]] = []
        for message in messages:
            try:
                events.append((message, decode(retrain_decoder, message)))
            except DataError as error:
                letters.append(self._refuse(message, error.message))
        self._queue.add(events)
        return letters

    def on_log_change(self, change: LogChange) -> Sequence[Outgoing]:
        if change.partition.topic == self._topics.models:
            self._catalog.outdate()  # `on_tick` then republishes the catalog's records
        return ()  # the loop reports the change

    def reject(self, message: Message, reason: str) -> Sequence[Outgoing]:
        return [self._refuse(message, reason)]

    def on_tick(self) -> Sequence[Outgoing]:
        output = self._restate()
        if self._queue.may_begin(self._work):
            output += self._next()
        work = self._work
        if work is None:
            return output + self._watch_champion()
        if work.wait is not None and work.wait.is_over(
            self._clock, self._count, self._look_again_s
        ):
            self._begin(work)
        if work.comparison is not None:
            changed = who_changed(self._catalog.champion, work.pointer)
            if changed is not None:
                self._runner.cancel()
                return output + self._end_comparison(work, ComparisonResult("lost", changed))
        elif self._resume(work):  # the start of the comparison has only been read now
            self._runner.cancel()
            self._begin(work)
        if work.wait is None:
            finished = self._runner.poll()
            if finished is not None:
                output += self._finish(work, finished)
        return output

    def offsets_to_commit(self) -> Mapping[TopicPartition, Committed]:
        if self._work is not None:
            asked = self._work.asked
            # Only a training counts as an attempt: waiting cannot end the process, and a comparison
            # continues after a restart.
            is_training = self._work.wait is None and self._work.comparison is None
            attempt = self._work.attempt - (not is_training)
            metadata = msgspec.json.encode(Held(attempt)).decode()
            return {asked.partition: Committed(asked.offset, metadata)}
        if self._queue:
            return {self._queue.first.partition: Committed(self._queue.first.offset)}
        return {}

    def close(self) -> None:
        self._runner.cancel()

    # ---- one request ----------------------------------------------------------------------------

    def _next(self) -> list[Outgoing]:
        """Start the newest request, or continue a comparison after a restart.

        Return a decision for each older request, including a request that waits for outcomes.
        """
        if self._sent is not None:
            return []  # the champion is unknown until our own pointer has been read back
        self._watch.cancel()
        if self._work is not None and self._work.comparison is not None:
            self._runner.cancel()
        older, newest = self._queue.next(self._work)
        self._work = Work(newest, self._queue.attempt(newest))
        replaced = TrainingResult(reason=f"replaced by the newer request {newest.request.id}")
        decisions = [self._decide(decision(self._stream, item, replaced)) for item in older]
        # If the trainer exited during an attempt, the committed metadata contains the number of
        # that attempt.
        if (tried := self._work.attempt - 1) >= MAX_ATTEMPTS:
            reason = f"abandoned: the trainer exited {tried} times before it had finished"
            return decisions + self._finish(self._work, TrainingResult(reason=reason))
        self._resume(self._work)
        self._begin(self._work)
        return decisions

    def _resume(self, work: Work) -> bool:
        """Return whether an earlier process has started the request's comparison, to continue it.

        If the topic has lost an announcement, the model is trained again.
        """
        started = self._queue.started(work.asked.request.id)
        pair = None if started is None else pair_of(started, self._catalog.announcements)
        if started is None or pair is None:
            return False
        work.comparison, work.pointer, work.pair = started, started.pointer, pair
        return True

    def _begin(self, work: Work) -> None:
        """Start the request's training, or the next look of its comparison."""
        work.counted = self._count()
        work.wait = None
        if work.pair is not None:
            self._runner.start(ComparisonJob(work.pair, work.looked, work.read_from))
            return
        request, champion = work.asked.request, self._catalog.champion
        work.pointer = champion.id if champion else None
        announced = self._catalog.announcements.get(champion.digest) if champion else None
        if not work.retry_s:
            log.info("training a model for request %s: %s", request.id, request.reason)
        first = first_model(self._catalog.announcements, announced)
        earlier = self._catalog.earlier(EARLIER)
        self._runner.start(TrainingJob(request, announced, self._now(), earlier, first))

    def _finish(self, work: Work, result: TrainingResult | ComparisonResult) -> list[Outgoing]:
        if result.passes:
            return self._retry(work, result.reason)
        if work.retry_s:
            log.info("request %s waits no longer", work.asked.request.id)
            work.retry_s = 0.0
        if result.wait_for:
            # `_count` includes transaction markers, so `until` may be reached too early. The lower
            # bound of `more` keeps the trainer from rereading the topic too often.
            least = self._stream.retrain.min_outcomes // 10 if work.comparison is None else 1
            more = max(result.wait_for, least)
            look_at_s = self._clock.monotonic() + self._look_again_s
            work.wait = Wait(work.counted + more, look_at_s, work.counted)
            if isinstance(result, ComparisonResult):
                work.looked = max(work.looked, result.rows)
            log.info("request %s waits for more outcomes: %s", work.asked.request.id, result.reason)
            return []
        if work.comparison is not None or isinstance(result, ComparisonResult):
            return self._end_comparison(work, result)
        return self._finish_training(work, result)

    def _finish_training(self, work: Work, result: TrainingResult) -> list[Outgoing]:
        """Announce the model if it is new. Then compare it with the champion, or promote it."""
        announced = result.announcement
        if announced is None:
            self._work = None
            return [self._decide(decision(self._stream, work.asked, result))]
        is_new = announced.digest not in self._catalog.announcements
        output = [self._signed(announced)] if is_new else []
        if result.pair is None or work.pointer is None:
            return output + self._promote(work, announced, result, published=is_new)
        started = comparison_started(self._stream, work.asked, work.pointer, result.pair, result)
        work.comparison, work.pair, work.read_from = started, result.pair, result.read_to
        self._begin(work)
        log.info("request %s: comparing models: %s", started.request, started.reason)
        return [*output, rare(self._topics.retrain, started, id=started.id, key=started.request)]

    def _end_comparison(
        self, work: Work, result: TrainingResult | ComparisonResult
    ) -> list[Outgoing]:
        """Decide the request after its comparison. A `TrainingResult` means that it has failed."""
        assert work.comparison is not None
        assert work.pair is not None
        final, challenger = training_result(work.comparison, result), work.pair.challenger
        published = challenger.cause == work.comparison.request
        if isinstance(result, ComparisonResult) and result.state == "won":
            return self._promote(work, challenger, final, published=published)
        self._work = None
        model = challenger.digest
        decided = decision(self._stream, work.asked, final, published=published, model=model)
        return [self._decide(decided)]

    def _promote(
        self,
        work: Work,
        announced: ModelAnnounced,
        result: TrainingResult,
        *,
        published: bool,
    ) -> list[Outgoing]:
        """Promote a model, unless `why_not_promoted` returns a reason, and decide the request."""
        self._work = None
        stays = why_not_promoted(self._stream, self._catalog, work.pointer)
        output = []
        if stays is None:
            self._sent = self._catalog.pointer(
                announced.digest,
                by="trainer",
                reason=result.reason,
                at=self._now(),
                cause=work.asked.request.id,
                chosen_at=result.position,
                dependence=work.comparison.dependence if work.comparison else 1,
            )
            self._watch.promoted(self._sent, work.read_from)
            output.append(self._signed(self._sent))
        decided = decision(
            self._stream,
            work.asked,
            result,
            published=published,
            promoted=stays is None,
            model=announced.digest,
            stays=stays,
        )
        return [*output, self._decide(decided)]

    def _retry(self, work: Work, reason: str) -> list[Outgoing]:
        """Retry the job later. Log only the first failure."""
        if not work.retry_s:
            log.error("request %s waits, and is retried: %s", work.asked.request.id, reason)
        work.retry_s = min(max(work.retry_s * 2, FIRST_RETRY_S), LONGEST_RETRY_S)
        # No more outcomes are needed.
        work.wait = Wait(work.counted, self._clock.monotonic() + work.retry_s, work.counted)
        return []

    def _decide(self, decided: RetrainDecision) -> Outgoing:
        self._queue.decided(decided.request)
        log.info("request %s: %s", decided.request, decided.reason)
        return rare(self._topics.retrain, decided, id=decided.id, key=decided.request)

    # ---- the champion after its promotion --------------------------------------------------------

    def _watch_champion(self) -> list[Outgoing]:
        """Compare a new champion with its predecessor. Roll it back if it is worse."""
        if self._sent is not None:
            return []

        def rollback_to(digest: str, reason: str, cause: str | None) -> RolePointer:
            return self._catalog.pointer(
                digest, by="trainer", reason=reason, at=self._now(), cause=cause, rollback=True
            )

        pointer = self._watch.tick(rollback_to)
        if pointer is None:
            return []
        log.warning("model %s is %s", self._catalog.champion_digest, pointer.reason)
        self._sent = pointer
        return [self._signed(pointer)]

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
