"""The trainer's handler publishes one decision for each request, whatever happens."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from driftline.broker.port import Committed, Message, Outgoing, TopicPartition
from driftline.clock import ManualClock
from driftline.config.stream import Stream
from driftline.models.catalog import Catalog
from driftline.runtime.handler import LogChange
from driftline.wire.envelope import encode, models_decoder, retrain_decoder
from driftline.wire.events import (
    ComparisonStarted,
    Freeze,
    ModelAnnounced,
    ModelsEvent,
    RetrainDecision,
    RolePointer,
    Trial,
)
from driftline.wire.topics import Topics
from tests.training import CLASSIFICATION, request
from tests.world import SIGNER, TRUSTED, announced, pointer, signed
from trainer.compare import ComparisonJob
from trainer.retrain import TrainingJob, TrainingResult
from trainer.runner import Job, Result
from trainer.service import FIRST_RETRY_S, MAX_ATTEMPTS, TrainerHandler

TOPICS = Topics(CLASSIFICATION)
RETRAIN = TopicPartition(TOPICS.retrain, 0)
AT = "2024-01-01T00:00:00Z"


def announcement(digest: str, parent: str | None = None) -> ModelAnnounced:
    return announced(digest, parent=parent, cause="retrain-1")


OLD, NEW = "sha256:01d", "sha256:2e3"
LOST = TrainingResult(reason="the champion stays", challenger=0.5, champion=0.6, outcomes=300)
WON = TrainingResult(
    reason="better",
    announcement=announcement(NEW, OLD),
    challenger=0.9,
    champion=0.5,
    outcomes=300,
    trials=(Trial("decision_tree", {}, "all", 240, 0.9),),
)
WAIT = TrainingResult(reason="30 since the change", wait_for=70)

UNREACHABLE = TrainingResult(reason="no route to the store", passes=True)


class ByHand:
    """A runner whose result the test sets."""

    def __init__(self) -> None:
        self.started: list[Job] = []
        self.result: Result | None = None
        self.cancelled = 0

    @property
    def jobs(self) -> list[TrainingJob]:
        return [job for job in self.started if isinstance(job, TrainingJob)]

    @property
    def comparisons(self) -> list[ComparisonJob]:
        return [job for job in self.started if isinstance(job, ComparisonJob)]

    def start(self, job: Job) -> None:
        self.started.append(job)

    def poll(self) -> Result | None:
        result, self.result = self.result, None
        return result

    def cancel(self) -> None:
        self.cancelled += 1
        self.result = None


class Bench:
    """A handler, the topics that it reads, and the records that it wrote."""

    def __init__(self, stream: Stream = CLASSIFICATION, resume: Committed | None = None) -> None:
        self.runner = ByHand()
        self.clock = ManualClock(1_704_067_200.0)
        self.outcomes = 500
        self.handler = TrainerHandler(
            stream,
            self.runner,
            self.clock,
            lambda: self.outcomes,
            signer=SIGNER,
            trusted=TRUSTED,
        )
        self.models: list[Message] = []
        self.retrain: list[Message] = []
        self.decisions: list[RetrainDecision] = []
        self.comparisons: list[ComparisonStarted] = []
        self.published: list[ModelsEvent] = []
        self.handler.on_assigned({RETRAIN: resume or Committed(0)})
        self.catalog = Catalog(TRUSTED)

    def read_models(self, *events: ModelsEvent) -> None:
        """Write to the models topic as another program."""
        messages = [signed(TOPICS, event, len(self.models) + i) for i, event in enumerate(events)]
        self.models += messages
        for message in messages:
            self.catalog.apply(message)
        self._take(self.handler.on_broadcast(messages))

    def champion(self, digest: str) -> RolePointer:
        """Make this model champion manually."""
        pointer = self.catalog.pointer(digest, by="person", reason="", at=AT)
        self.read_models(announcement(digest), pointer)
        return pointer

    def ask(self, *names: str, at: int | None = None, **changes: Any) -> None:
        first = len(self.retrain) if at is None else at
        messages = [
            Message(TOPICS.retrain, 0, first + i, b"", encode(request(id=name, **changes)))
            for i, name in enumerate(names)
        ]
        self.retrain += messages
        self._take(self.handler.handle(messages))

    def tick(self, result: Result | None = None) -> None:
        self.runner.result = result
        self._take(self.handler.on_tick())

    def _take(self, output: Sequence[Outgoing]) -> None:
        for record in output:
            if record.topic == TOPICS.retrain:
                event = retrain_decoder.decode(record.value or b"")
                if isinstance(event, RetrainDecision):
                    self.decisions.append(event)
                else:
                    assert isinstance(event, ComparisonStarted)
                    self.comparisons.append(event)
                offset = len(self.retrain)
                message = Message(TOPICS.retrain, 0, offset, record.key, record.value)
                self.retrain.append(message)
                self._take(self.handler.handle([message]))
            elif record.topic == TOPICS.models:
                self.published.append(models_decoder.decode(record.value or b""))

    def read_back(self) -> None:
        """Let the handler read from the models topic what it published."""
        published, self.published = self.published, []
        self.read_models(*published)


@pytest.fixture
def bench() -> Bench:
    made = Bench()
    made.champion(OLD)
    return made


def test_a_better_model_is_announced_promoted_and_decided(bench: Bench) -> None:
    before = bench.catalog.champion
    assert before is not None
    bench.ask("r1")
    bench.tick()
    assert bench.runner.jobs[0].champion == announcement(OLD)
    assert bench.runner.jobs[0].trained_at == AT
    assert bench.handler.working_on == "r1"
    bench.tick(WON)
    announced, pointer = bench.published
    assert announced == WON.announcement
    assert isinstance(pointer, RolePointer)
    assert (pointer.digest, pointer.replaces) == (NEW, before.id)
    assert (pointer.by, pointer.cause, pointer.reason) == ("trainer", "r1", "better")
    (decision,) = bench.decisions
    assert (decision.request, decision.published, decision.promoted) == ("r1", True, True)
    assert (decision.model, decision.reason) == (NEW, "better")
    assert (decision.challenger, decision.champion, decision.outcomes) == (0.9, 0.5, 300)
    bench.read_back()
    assert bench.catalog.champion_digest == NEW


def test_an_earlier_model_is_promoted_without_a_second_announcement(bench: Bench) -> None:
    bench.ask("r1")
    bench.tick(WON)
    bench.read_back()
    bench.ask("r2")
    bench.tick()
    assert bench.runner.jobs[1].champion == announcement(NEW, OLD)
    assert bench.runner.jobs[1].earlier == (announcement(OLD),)
    bench.tick(msgspec.structs.replace(WON, announcement=announcement(OLD), reason="as before"))
    (pointer,) = bench.published
    assert isinstance(pointer, RolePointer)
    assert (pointer.digest, pointer.cause) == (OLD, "r2")
    decision = bench.decisions[-1]
    assert (decision.published, decision.promoted, decision.model) == (False, True, OLD)
    bench.read_back()
    assert bench.catalog.champion_digest == OLD


def test_a_model_that_is_not_better_gives_only_a_decision(bench: Bench) -> None:
    bench.ask("r1")
    bench.tick(LOST)
    assert bench.published == []
    (decision,) = bench.decisions
    assert (decision.published, decision.promoted, decision.model) == (False, False, None)
    assert decision.reason == "the champion stays"


def test_everything_is_published_again_if_the_models_topic_was_created_again(bench: Bench) -> None:
    bench.champion(NEW)
    freeze = bench.catalog.freezing(frozen=True, reason="audit", at=AT)
    bench.read_models(freeze)
    bench.tick()
    assert bench.published == []
    before = bench.catalog.champion
    bench.catalog, bench.models = Catalog(TRUSTED), []
    models = TopicPartition(TOPICS.models, 0)
    bench.handler.on_log_change(LogChange(models, "id", 0, is_new_topic=True))
    bench.tick()
    bench.tick()
    assert len(bench.published) == 4
    bench.read_back()
    assert list(bench.catalog.announcements) == [OLD, NEW]
    assert bench.catalog.champion_digest == NEW
    assert bench.catalog.champion is not None
    assert before is not None
    assert bench.catalog.champion.sequence == before.sequence + 1
    assert bench.catalog.champion.set_aside == before.set_aside
    assert bench.catalog.frozen
    bench.tick()
    assert bench.published == []


def test_a_rollback_during_training_takes_effect(bench: Bench) -> None:
    bench.ask("r1")
    bench.tick()
    bench.champion("sha256:older")
    bench.tick(WON)
    assert bench.published == [WON.announcement]
    (decision,) = bench.decisions
    assert (decision.published, decision.promoted) == (True, False)
    assert "an operator changed the champion during the training" in decision.reason


def test_on_a_frozen_stream_a_model_is_published_but_not_promoted(bench: Bench) -> None:
    bench.ask("r1")
    bench.tick()
    bench.read_models(Freeze(id="f", frozen=True, reason="audit until Friday", at=AT, sequence=1))
    bench.tick(WON)
    assert bench.published == [WON.announcement]
    assert bench.decisions[0].reason.endswith("promotion is frozen: audit until Friday")


def test_with_manual_promotion_a_model_is_published_but_not_promoted() -> None:
    manual = msgspec.structs.replace(CLASSIFICATION.retrain, promote="manual")
    bench = Bench(msgspec.structs.replace(CLASSIFICATION, retrain=manual))
    bench.ask("r1")
    bench.tick(WON)
    assert bench.published == [WON.announcement]
    assert "manual" in bench.decisions[0].reason


def test_only_the_newest_request_that_arrives_during_a_training_is_processed(bench: Bench) -> None:
    bench.ask("r1")
    bench.tick()
    bench.ask("r2", "r3")
    bench.tick()
    bench.ask("r4")
    assert bench.handler.working_on == "r1"
    bench.tick(LOST)
    bench.tick()
    assert bench.handler.working_on == "r4"
    assert [(d.request, d.reason) for d in bench.decisions] == [
        ("r1", "the champion stays"),
        ("r2", "replaced by the newer request r4"),
        ("r3", "replaced by the newer request r4"),
    ]
    bench.tick(LOST)
    assert bench.decisions[-1].request == "r4"
    assert len(bench.runner.jobs) == 2


def test_the_next_training_waits_until_the_trainer_has_read_its_own_pointer(bench: Bench) -> None:
    bench.ask("r1")
    bench.tick(WON)
    bench.ask("r2")
    bench.tick()
    assert bench.handler.working_on is None
    bench.read_back()
    bench.tick()
    assert bench.handler.working_on == "r2"
    assert bench.runner.jobs[-1].champion == announcement(NEW, OLD)


def test_the_offset_to_commit_is_that_of_the_request_in_progress(bench: Bench) -> None:
    assert bench.handler.offsets_to_commit() == {}
    bench.ask("r1")
    assert bench.handler.offsets_to_commit() == {RETRAIN: Committed(0)}
    bench.tick()
    bench.ask("r2")
    assert bench.handler.offsets_to_commit() == {RETRAIN: Committed(0, '{"attempt":1}')}
    bench.tick(LOST)
    assert bench.handler.offsets_to_commit() == {RETRAIN: Committed(1)}
    bench.tick(LOST)
    assert bench.handler.offsets_to_commit() == {}


def test_the_request_in_progress_is_trained_again_after_a_crash(bench: Bench) -> None:
    bench.ask("r1")
    bench.tick()
    held = bench.handler.offsets_to_commit()[RETRAIN]
    successor = Bench(resume=held)
    successor.champion(OLD)
    successor.ask("r1", at=held.offset)
    successor.tick()
    assert successor.handler.working_on == "r1"
    assert successor.handler.offsets_to_commit() == {RETRAIN: Committed(0, '{"attempt":2}')}
    successor.tick(LOST)
    assert [decision.request for decision in successor.decisions] == ["r1"]


def test_the_request_is_trained_again_after_an_aborted_transaction(bench: Bench) -> None:
    bench.ask("r1")
    bench.tick(WON)
    bench.decisions, bench.published = [], []
    bench.handler.on_revoked([RETRAIN])
    bench.handler.on_assigned({RETRAIN: Committed(0, '{"attempt":1}')})
    assert bench.runner.cancelled == 1
    bench.retrain = []
    bench.ask("r1")
    bench.tick(WON)
    assert [decision.request for decision in bench.decisions] == ["r1"]
    assert len(bench.published) == 2


def test_a_request_with_a_decision_is_not_processed_again(bench: Bench) -> None:
    bench.ask("r1")
    bench.tick(LOST)
    successor = Bench()
    messages = bench.retrain
    successor.handler.handle(messages)
    successor.tick()
    assert successor.runner.jobs == []
    assert successor.handler.offsets_to_commit() == {}


def test_a_request_that_repeatedly_crashes_the_trainer_is_given_up() -> None:
    bench = Bench(resume=Committed(0, f'{{"attempt":{MAX_ATTEMPTS}}}'))
    bench.ask("r1")
    bench.tick()
    assert bench.runner.jobs == []
    ended = f"the trainer exited {MAX_ATTEMPTS} times before it had finished"
    assert bench.decisions[0].reason == f"abandoned: {ended}"


def test_older_requests_are_decided_even_if_the_newest_is_given_up() -> None:
    bench = Bench(resume=Committed(1, f'{{"attempt":{MAX_ATTEMPTS}}}'))
    bench.ask("r1", "r2")
    bench.tick()
    assert [decision.request for decision in bench.decisions] == ["r1", "r2"]
    assert bench.decisions[0].reason == "replaced by the newer request r2"
    assert bench.decisions[1].reason.startswith("abandoned: ")


@pytest.mark.parametrize("resume", [Committed(0, "moved by hand"), Committed(7, '{"attempt":9}')])
def test_metadata_of_another_program_does_not_count_as_an_attempt(resume: Committed) -> None:
    bench = Bench(resume=resume)
    bench.ask("r1")
    bench.tick()
    assert bench.handler.offsets_to_commit() == {RETRAIN: Committed(0, '{"attempt":1}')}


def test_a_request_waits_for_enough_outcomes_since_a_change(bench: Bench) -> None:
    bench.ask("r1")
    bench.tick(WAIT)
    assert bench.decisions == []
    assert bench.handler.offsets_to_commit() == {RETRAIN: Committed(0, '{"attempt":0}')}
    bench.outcomes = 569
    bench.clock.advance(2)
    bench.tick()
    assert len(bench.runner.jobs) == 1
    bench.outcomes = 570
    bench.clock.advance(2)
    bench.tick(LOST)
    assert len(bench.runner.jobs) == 2
    assert [decision.request for decision in bench.decisions] == ["r1"]


def test_a_restart_while_a_request_waits_is_not_an_attempt() -> None:
    held = Committed(0)
    for _ in range(2 * MAX_ATTEMPTS):
        bench = Bench(resume=held)
        bench.ask("r1")
        bench.tick(WAIT)
        held = bench.handler.offsets_to_commit()[RETRAIN]
    bench.outcomes = 1000
    bench.clock.advance(2)
    bench.tick()
    assert bench.decisions == []
    assert bench.handler.offsets_to_commit() == {RETRAIN: Committed(0, '{"attempt":1}')}


def test_a_newer_request_replaces_a_waiting_one(bench: Bench) -> None:
    bench.ask("r1")
    bench.tick(WAIT)
    bench.ask("r2")
    bench.tick(LOST)
    assert [decision.request for decision in bench.decisions] == ["r1", "r2"]
    assert bench.decisions[0].reason == "replaced by the newer request r2"


def test_bytes_that_are_not_a_request_become_a_dead_letter(bench: Bench) -> None:
    (letter,) = bench.handler.handle([Message(TOPICS.retrain, 0, 0, b"k", b"{")])
    assert letter.topic == TOPICS.deadletters
    assert dict(letter.headers)["driftline_service"] == b"trainer"


def test_the_trainer_publishes_no_dead_letter_for_an_unreadable_models_record(bench: Bench) -> None:
    assert not bench.handler.on_broadcast([Message(TOPICS.models, 0, 9, b"k", b"{")])


def test_the_trainer_restates_the_champion_once_after_an_outdated_pointer(bench: Bench) -> None:
    champion = bench.catalog.champion
    assert champion is not None
    late = pointer("late", champion.id, NEW, sequence=2)
    bench.champion("sha256:newer")
    bench.read_models(late)
    bench.tick()
    bench.tick()
    current = bench.catalog.champion
    assert current is not None
    (restated,) = bench.published
    assert isinstance(restated, RolePointer)
    assert (restated.digest, restated.replaces) == ("sha256:newer", current.id)
    assert restated.sequence == current.sequence + 1
    bench.read_back()
    assert bench.catalog.champion == restated
    bench.tick()
    assert bench.published == []


def test_closing_the_handler_cancels_the_training(bench: Bench) -> None:
    bench.ask("r1")
    bench.tick()
    bench.handler.close()
    assert bench.runner.cancelled == 1


def test_a_request_waits_for_an_unreachable_model_store(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    bench = Bench()
    bench.ask("retrain-1")
    bench.tick()
    bench.tick(UNREACHABLE)
    for pause, trainings in ((FIRST_RETRY_S, 2), (2 * FIRST_RETRY_S, 3)):
        bench.clock.advance(pause - 0.1)
        bench.tick()
        assert len(bench.runner.jobs) == trainings - 1
        bench.clock.advance(0.1)
        bench.tick(UNREACHABLE)
        assert len(bench.runner.jobs) == trainings
    assert not bench.decisions
    bench.clock.advance(4 * FIRST_RETRY_S)
    bench.tick(WON)
    assert [decision.promoted for decision in bench.decisions] == [True]
    said = [record.getMessage() for record in caplog.records if "waits" in record.getMessage()]
    assert said == [
        "request retrain-1 waits, and is retried: no route to the store",
        "request retrain-1 waits no longer",
    ]
