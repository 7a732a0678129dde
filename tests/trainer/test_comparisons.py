"""The trainer promotes a challenger, or rolls a champion back, only after a comparison."""

from typing import Any

import msgspec
import pytest

from driftline.broker.port import Committed
from driftline.clock import ManualClock
from driftline.config.stream import Stream
from driftline.wire.events import Freeze, RolePointer, Trial
from tests.trainer.test_service import AT, LOST, NEW, OLD, RETRAIN, Bench
from tests.training import CLASSIFICATION
from tests.world import announced
from trainer.compare import ComparisonResult, ModelPair
from trainer.retrain import TrainingResult
from trainer.service import MAX_ATTEMPTS
from trainer.watch import RETRY_S
from trainer.work import Wait

CHALLENGER = announced(NEW, parent=OLD, cause="r1")
PAIR = ModelPair(CHALLENGER, announced(OLD, cause="retrain-1"), 899, 4, 1.5, ("no", "yes"))
PROMISING = TrainingResult(
    reason="0.9 against 0.5",
    announcement=CHALLENGER,
    pair=PAIR,
    read_to={},
    challenger=0.9,
    champion=0.5,
    outcomes=300,
    trials=(Trial("decision_tree", {}, "all", 240, 0.9),),
)
OPEN = ComparisonResult("open", "no decision yet", rows=60, position=960, wait_for=12)
WON = ComparisonResult("won", "0.8 against 0.6", 72, 971, 0.8, 0.6)
STAYS = ComparisonResult("lost", "the champion stays", 72, 971, 0.6, 0.6)
FAILED = ComparisonResult("lost", "the comparison failed: KeyError", failed=True)
UNREACHABLE = ComparisonResult("open", "no route to the store", passes=True)


def comparing(stream: Stream = CLASSIFICATION) -> Bench:
    """Return a handler that compares the challenger of request r1 with the champion."""
    bench = Bench(stream)
    bench.champion(OLD)
    bench.ask("r1", cause="drift", caused_by=("drift-1",), since=500)
    bench.tick(PROMISING)
    bench.read_back()
    return bench


def promoted() -> Bench:
    """Return a handler whose challenger has become champion."""
    bench = comparing()
    bench.tick(WON)
    bench.read_back()
    return bench


def test_a_promising_challenger_is_announced_and_compared_before_it_is_promoted() -> None:
    bench = comparing()
    (started,) = bench.comparisons
    assert (started.request, started.challenger, started.champion) == ("r1", NEW, OLD)
    assert (started.after, started.dependence, started.classes) == (899, 4, ("no", "yes"))
    assert bench.decisions == []
    assert NEW in bench.catalog.announcements
    assert bench.catalog.champion_digest == OLD
    bench.tick(WON)
    assert [job.pair for job in bench.runner.comparisons] == [PAIR]
    (decision,) = bench.decisions
    assert (decision.published, decision.promoted, decision.model) == (True, True, NEW)
    assert (decision.challenger, decision.champion, decision.outcomes) == (0.8, 0.6, 300)
    assert decision.trials == PROMISING.trials
    bench.read_back()
    champion = bench.catalog.champion
    assert champion is not None
    assert (champion.digest, champion.chosen_at, champion.dependence) == (NEW, 971, 4)


def test_a_challenger_that_does_not_win_is_not_promoted() -> None:
    bench = comparing()
    bench.tick(STAYS)
    (decision,) = bench.decisions
    assert (decision.published, decision.promoted, decision.model) == (True, False, NEW)
    assert decision.reason == "the champion stays"
    assert bench.published == []
    bench.ask("r2")
    bench.tick()
    assert bench.runner.jobs[-1].earlier == (), "a model that never served is not an earlier model"


def test_the_next_look_waits_for_its_outcomes() -> None:
    bench = comparing()
    bench.tick(OPEN)
    assert bench.decisions == []
    bench.outcomes += 11
    bench.clock.advance(2)
    bench.tick()
    assert len(bench.runner.comparisons) == 1
    bench.outcomes += 1
    bench.clock.advance(2)
    bench.tick(WON)
    assert [job.looked for job in bench.runner.comparisons] == [0, 60]
    assert bench.decisions[0].promoted


def test_a_restart_continues_the_comparison_and_is_not_an_attempt() -> None:
    bench = comparing()
    bench.tick(OPEN)
    models, retrain = bench.models, bench.retrain
    held = bench.handler.offsets_to_commit()[RETRAIN]
    for _ in range(2 * MAX_ATTEMPTS):
        bench = Bench(resume=held)
        bench.handler.on_broadcast(models)
        for message in models:
            bench.catalog.apply(message)
        bench.handler.handle(retrain)
        bench.tick()
        assert bench.runner.jobs == []
        assert [job.pair for job in bench.runner.comparisons] == [PAIR]
        held = bench.handler.offsets_to_commit()[RETRAIN]
    assert held == Committed(0, '{"attempt":0}')
    bench.tick(WON)
    (decision,) = bench.decisions
    assert (decision.promoted, decision.trials) == (True, PROMISING.trials)


def test_a_restart_prefers_a_started_comparison_to_a_later_repetition() -> None:
    bench = comparing()
    bench.ask("r2", cause="drift", caused_by=("drift-1",), since=500)
    successor = Bench()
    successor.handler.on_broadcast(bench.models)
    successor.handler.handle(bench.retrain)
    successor.tick()
    assert successor.handler.working_on == "r1"
    assert successor.decisions == []


def test_the_start_of_a_comparison_may_arrive_in_a_later_batch() -> None:
    bench = comparing()
    successor = Bench()
    successor.handler.on_broadcast(bench.models)
    successor.handler.handle(bench.retrain[:1])
    successor.tick()
    assert len(successor.runner.jobs) == 1
    successor.handler.handle(bench.retrain[1:])
    successor.tick()
    assert successor.runner.cancelled == 1
    assert [job.pair for job in successor.runner.comparisons] == [PAIR]


@pytest.mark.parametrize("digest", ["sha256:older", NEW])
def test_an_operator_who_changes_the_champion_ends_the_comparison(digest: str) -> None:
    bench = comparing()
    bench.tick(OPEN)
    bench.champion(digest)
    bench.tick(WON)
    (decision,) = bench.decisions
    assert not decision.promoted
    assert decision.reason.startswith("an operator changed the champion")
    assert bench.catalog.champion_digest == digest


def test_a_model_that_wins_while_promotion_is_frozen_is_not_promoted() -> None:
    bench = comparing()
    bench.read_models(Freeze(id="f", frozen=True, reason="audit", at=AT, sequence=1))
    bench.tick(WON)
    assert not bench.decisions[0].promoted
    assert bench.decisions[0].reason.endswith("promotion is frozen: audit")
    assert bench.published == []


@pytest.mark.parametrize(
    "newer",
    [{"cause": "manual"}, {"cause": "drift", "caused_by": ("drift-2",), "since": 950}],
    ids=["manual", "a later change"],
)
def test_a_request_that_outdates_the_comparison_replaces_it(newer: dict[str, Any]) -> None:
    bench = comparing()
    bench.tick(OPEN)
    bench.ask("r2", **newer)
    bench.tick()
    assert bench.handler.working_on == "r2"
    assert bench.decisions[0].reason == "replaced by the newer request r2"
    assert len(bench.runner.jobs) == 2


@pytest.mark.parametrize(
    "newer",
    [{"cause": "schedule"}, {"cause": "drift", "caused_by": ("drift-1",), "since": 500}],
    ids=["schedule", "the same change"],
)
def test_other_requests_wait_for_the_end_of_the_comparison(newer: dict[str, Any]) -> None:
    bench = comparing()
    bench.tick(OPEN)
    bench.ask("r2", **newer)
    bench.tick()
    assert bench.handler.working_on == "r1"
    bench.clock.advance(2)
    bench.outcomes += 12
    bench.tick(STAYS)
    bench.tick()
    assert bench.handler.working_on == "r2"
    assert [decision.request for decision in bench.decisions] == ["r1"]


@pytest.mark.parametrize("result", [FAILED, LOST])
def test_a_comparison_that_fails_keeps_the_champion(
    result: ComparisonResult | TrainingResult,
) -> None:
    bench = comparing()
    bench.tick(result)
    (decision,) = bench.decisions
    assert (decision.promoted, decision.reason) == (False, result.reason)


def test_a_comparison_waits_for_an_unreachable_model_store() -> None:
    bench = comparing()
    bench.tick(UNREACHABLE)
    bench.clock.advance(10)
    bench.tick(WON)
    assert bench.decisions[0].promoted


# ---- the champion after its promotion ------------------------------------------------------------


def test_a_champion_that_is_worse_than_its_predecessor_is_rolled_back() -> None:
    bench = promoted()
    bench.tick()
    job = bench.runner.comparisons[-1]
    assert (job.pair.challenger.digest, job.pair.champion.digest) == (OLD, NEW)
    assert (job.pair.after, job.pair.dependence, job.looked) == (971, 4, 0)
    bench.tick(WON)
    (pointer,) = bench.published
    assert isinstance(pointer, RolePointer)
    assert (pointer.digest, pointer.by, pointer.cause) == (OLD, "trainer", "r1")
    assert pointer.is_rollback
    assert pointer.reason == "rolled back to the model that it replaced: 0.8 against 0.6"
    bench.read_back()
    for _ in range(3):
        bench.clock.advance(RETRY_S)
        bench.tick(WON)
    assert bench.catalog.champion == pointer, "a rollback is not watched"
    assert bench.catalog.previous() is None, "an operator cannot roll back to the worse model"
    bench.ask("r2")
    bench.tick()
    assert bench.runner.jobs[-1].earlier == (), "the worse model is quarantined"


def test_a_champion_is_compared_again_when_there_are_enough_outcomes() -> None:
    bench = promoted()
    bench.tick()
    bench.tick(OPEN)
    bench.clock.advance(2)
    bench.tick()
    assert len(bench.runner.comparisons) == 2
    bench.outcomes += 12
    bench.clock.advance(2)
    bench.tick()
    bench.tick(STAYS)
    assert bench.runner.comparisons[-1].looked == 60
    bench.outcomes += 10_000
    bench.clock.advance(2)
    bench.tick()
    assert len(bench.runner.comparisons) == 3, "the comparison has ended"
    assert bench.published == []


def test_a_request_interrupts_the_watch_which_continues_later() -> None:
    bench = promoted()
    bench.tick()
    bench.ask("r2")
    bench.tick()
    bench.tick(LOST)
    assert [decision.request for decision in bench.decisions] == ["r1", "r2"]
    bench.tick()
    bench.tick(WON)
    assert len(bench.published) == 1


@pytest.mark.parametrize("at", ["before", "during"])
def test_nothing_is_rolled_back_while_promotion_is_frozen(at: str) -> None:
    bench = promoted()
    if at == "during":
        bench.tick()
    bench.read_models(Freeze(id="f", frozen=True, reason="audit", at=AT, sequence=1))
    bench.tick(WON)
    assert bench.published == []
    bench.read_models(Freeze(id="g", frozen=False, reason="", at=AT, sequence=2))
    bench.tick()
    bench.tick(WON)
    assert len(bench.published) == 1, "the comparison is made again"


def test_an_operators_choice_is_not_rolled_back() -> None:
    bench = promoted()
    bench.tick()
    bench.champion("sha256:chosen")
    bench.tick(WON)
    bench.tick(WON)
    assert bench.published == []
    assert bench.catalog.champion_digest == "sha256:chosen"


def test_a_restart_watches_the_champion_again() -> None:
    bench = promoted()
    successor = Bench()
    successor.handler.on_broadcast(bench.models)
    successor.handler.handle(bench.retrain)
    successor.tick()
    assert [job.pair.after for job in successor.runner.comparisons] == [971]


def test_a_rollback_that_was_not_published_is_repeated() -> None:
    bench = promoted()
    bench.tick()
    bench.tick(WON)
    assert len(bench.published) == 1
    bench.published.clear()  # the transaction is aborted
    bench.handler.on_revoked([RETRAIN])
    bench.handler.on_assigned({RETRAIN: Committed(0)})
    bench.tick()
    bench.tick(WON)
    (pointer,) = bench.published
    assert isinstance(pointer, RolePointer)
    assert pointer.digest == OLD


def test_a_wait_ends_if_the_outcomes_topic_was_recreated() -> None:
    clock = ManualClock()
    assert not Wait(110, 0.0, 100).is_over(clock, lambda: 105, 1.0)
    assert Wait(110, 0.0, 100).is_over(clock, lambda: 110, 1.0)
    assert Wait(110, 0.0, 100).is_over(clock, lambda: 5, 1.0)


def test_an_old_pointer_is_read_without_a_position() -> None:
    bench = Bench()
    pointer = bench.champion(OLD)
    assert pointer.chosen_at is None
    old = msgspec.json.encode(pointer).replace(b',"chosen_at":null,"dependence":1,"former":[]', b"")
    assert msgspec.json.decode(old, type=RolePointer) == pointer
    bench.tick()
    assert bench.runner.comparisons == []
