"""An observed handler: its state file is correct, and its results are not changed."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from driftline.broker.port import Committed, Message, Outgoing, TopicPartition
from driftline.ops.processes import ServiceState, read_state
from driftline.runtime.handler import GroupProgress, Handler
from driftline.wire.envelope import rare
from driftline.wire.events import RetrainRequest
from driftline_app.service_observer import ObservedHandler
from tests.world import MODEL, World

RECORD = Message("s.features", 0, 0, b"a", b"{}")
PREDICTION = Outgoing("s.predictions", b"{}", partition=0)


class Inference(Handler):
    """A handler that returns one prediction for each record."""

    inputs = ("s.features",)
    broadcast_topics = ("s.models",)
    model: str | None = None
    champion: str | None = None
    rejected: Mapping[str, str] = {}

    def paused_partitions(self, assigned: frozenset[TopicPartition]) -> frozenset[TopicPartition]:
        return assigned if self.model is None else frozenset()

    def handle(self, messages: Sequence[Message]) -> Sequence[Outgoing]:
        return [PREDICTION for _ in messages]

    def reject(self, message: Message, reason: str) -> Sequence[Outgoing]:
        raise NotImplementedError

    def offsets_to_commit(self) -> Mapping[TopicPartition, Committed]:
        return {TopicPartition("s.features", 0): Committed(7)}


class Watch:
    """An observed handler, and the contents of its state file."""

    def __init__(self, folder: Path) -> None:
        world = World()
        self.clock = world.clock
        self.folder = folder
        self.handler = Inference()
        self.watched = ObservedHandler(
            self.handler, "inference", world.topics, clock=self.clock, slot=3, folder=folder
        )

    @property
    def said(self) -> ServiceState:
        said = read_state(self.folder, "inference", 3)
        assert said is not None
        return said


@pytest.fixture
def watch(tmp_path: Path) -> Watch:
    return Watch(tmp_path)


def test_the_states_are_starting_then_waiting_for_a_model_then_running(watch: Watch) -> None:
    states = [watch.said.state]
    watch.watched.on_assigned({TopicPartition("s.features", 0): Committed(0)})
    watch.watched.on_tick()
    states.append(watch.said.state)
    watch.handler.model = MODEL
    watch.watched.on_tick()
    states.append(watch.said.state)

    assert states == ["starting", "waiting for a model", "running"]
    assert (watch.said.partitions, watch.said.model) == (1, MODEL)


def test_counts_are_written_once_a_second(watch: Watch) -> None:
    watch.handler.model = MODEL
    watch.watched.on_assigned({})
    watch.watched.on_tick()
    watch.watched.handle([RECORD, RECORD])
    watch.watched.on_tick()
    before = watch.said.consumed
    watch.clock.advance(1)
    watch.watched.on_tick()

    assert (before, watch.said.consumed, watch.said.published) == (0, 2, {"predictions": 2})


def test_the_loop_gets_the_results_of_the_handler_unchanged(watch: Watch) -> None:
    assert watch.watched.handle([RECORD]) == [PREDICTION]
    assert watch.watched.offsets_to_commit() == watch.handler.offsets_to_commit()
    assert watch.watched.inputs == watch.handler.inputs
    features = frozenset({TopicPartition("s.features", 0)})
    assert watch.watched.paused_partitions(features) == features


def test_the_end_and_its_reason_are_written(watch: Watch) -> None:
    watch.watched.write("failed", error="no Kafka answers")

    assert (watch.said.state, watch.said.error) == ("failed", "no Kafka answers")


def test_rare_messages_are_logged_as_text(
    watch: Watch, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = RetrainRequest(
        id="retrain-1", cause="drift", caused_by=(), reason="x moved", position=1, since=None
    )
    output = [PREDICTION, rare("s.retrain", request, id=request.id)]
    monkeypatch.setattr(watch.handler, "on_tick", lambda: output)

    with caplog.at_level(logging.INFO):
        watch.watched.on_tick()

    told = [record.message for record in caplog.records if "retrain" in record.message]
    assert told == ["retrain: retrain-1 requested (drift): x moved"]


def test_the_lag_is_written_and_reset_when_partitions_are_revoked(watch: Watch) -> None:
    at = TopicPartition("s.features", 0)
    watch.handler.model = MODEL
    watch.watched.on_assigned({at: Committed(0)})
    watch.watched.on_group_progress(GroupProgress({at: 5}, {at: 12}, dict))
    watch.watched.on_tick()
    before = watch.said.lag
    watch.watched.on_revoked([at])
    watch.clock.advance(1)
    watch.watched.on_tick()

    assert (before, watch.said.lag) == (7, 0)


def test_during_an_outage_of_kafka_the_state_is_waiting_for_kafka(watch: Watch) -> None:
    watch.handler.model = MODEL
    watch.watched.on_assigned({TopicPartition("s.features", 0): Committed(0)})
    watch.watched.on_connection("no Kafka answers")
    waiting = watch.said
    watch.watched.on_connection(None)

    assert (waiting.state, waiting.troubles[0].detail) == ("waiting for Kafka", "no Kafka answers")
    assert (watch.said.state, watch.said.troubles) == ("running", ())


def test_unread_records_are_a_trouble_unless_their_partition_is_paused(
    watch: Watch,
) -> None:
    at = TopicPartition("s.features", 0)
    watch.watched.on_assigned({at: Committed(0)})

    def troubles() -> tuple[str, ...]:
        watch.watched.paused_partitions(frozenset({at}))
        watch.watched.on_group_progress(GroupProgress({at: 5}, {at: 12}, dict))
        watch.clock.advance(1)
        watch.watched.on_tick()
        return tuple(trouble.kind for trouble in watch.said.troubles)

    assert troubles() == ()  # it waits for a model
    watch.handler.model = MODEL
    assert troubles() == ("no progress",)


def test_a_champion_that_does_not_serve_is_a_trouble_until_it_does(watch: Watch) -> None:
    def troubles_after(seconds: float) -> list[tuple[str, str]]:
        watch.clock.advance(seconds)
        watch.watched.on_tick()
        return [(trouble.kind, trouble.since) for trouble in watch.said.troubles]

    watch.watched.on_assigned({TopicPartition("s.features", 0): Committed(0)})
    assert troubles_after(1) == []  # it waits for the first model
    watch.handler.champion = MODEL
    first = troubles_after(1)
    since = watch.said.updated
    later = troubles_after(61)
    detail = watch.said.troubles[0].detail
    watch.handler.model = MODEL

    assert first == later == [("no model", since)]
    assert MODEL in detail
    assert troubles_after(1) == []
