"""A watched service: its state file says what it does, and nothing that it does is changed."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from driftline.broker.port import Committed, Message, Outgoing, TopicPartition
from driftline.cli.watched import Watched
from driftline.codec.envelope import rare
from driftline.events import RetrainRequest
from driftline.handler import GroupView, LogChange
from driftline.processes import ServiceState, read_state
from tests.world import MODEL, World

RECORD = Message("s.features", 0, 0, b"a", b"{}")
PREDICTION = Outgoing("s.predictions", b"{}", partition=0)


class Inference:
    """Answers each record with one prediction."""

    inputs = ("s.features",)
    follows = ("s.models",)
    model: str | None = None
    refused: Mapping[str, str] = {}

    def held_back(self, assigned: frozenset[TopicPartition]) -> frozenset[TopicPartition]:
        return assigned if self.model is None else frozenset()

    def follow(self, messages: Sequence[Message]) -> Sequence[Outgoing]:
        return ()

    def assigned(self, resume: Mapping[TopicPartition, Committed]) -> None:
        pass

    def revoked(self, partitions: Sequence[TopicPartition]) -> None:
        pass

    def handle(self, messages: Sequence[Message]) -> Sequence[Outgoing]:
        return [PREDICTION for _ in messages]

    def look(self, view: GroupView) -> None:
        pass

    def log_changed(self, change: LogChange) -> Sequence[Outgoing]:
        return ()

    def refuse(self, message: Message, reason: str) -> Sequence[Outgoing]:
        raise NotImplementedError

    def tick(self) -> Sequence[Outgoing]:
        return ()

    def holds(self) -> Mapping[TopicPartition, Committed]:
        return {TopicPartition("s.features", 0): Committed(7)}

    def close(self) -> None:
        pass


class Watch:
    """A watched handler, with what its state file says."""

    def __init__(self, folder: Path) -> None:
        world = World()
        self.clock = world.clock
        self.folder = folder
        self.handler = Inference()
        self.watched = Watched(
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


def test_it_is_starting_then_waits_for_a_model_then_runs(watch: Watch) -> None:
    states = [watch.said.state]
    watch.watched.assigned({TopicPartition("s.features", 0): Committed(0)})
    watch.watched.tick()
    states.append(watch.said.state)
    watch.handler.model = MODEL
    watch.watched.tick()
    states.append(watch.said.state)

    assert states == ["starting", "waiting for a model", "running"]
    assert (watch.said.partitions, watch.said.model) == (1, MODEL)


def test_counts_are_written_once_a_second(watch: Watch) -> None:
    watch.handler.model = MODEL
    watch.watched.assigned({})
    watch.watched.tick()
    watch.watched.handle([RECORD, RECORD])
    watch.watched.tick()
    before = watch.said.consumed
    watch.clock.advance(1)
    watch.watched.tick()

    assert (before, watch.said.consumed, watch.said.published) == (0, 2, {"predictions": 2})


def test_the_loop_gets_what_the_handler_gives(watch: Watch) -> None:
    assert watch.watched.handle([RECORD]) == [PREDICTION]
    assert watch.watched.holds() == watch.handler.holds()
    assert watch.watched.inputs == watch.handler.inputs
    features = frozenset({TopicPartition("s.features", 0)})
    assert watch.watched.held_back(features) == features


def test_the_end_and_its_reason_are_written(watch: Watch) -> None:
    watch.watched.write("failed", error="no Kafka answers")

    assert (watch.said.state, watch.said.error) == ("failed", "no Kafka answers")


def test_what_is_rare_is_logged_in_words(
    watch: Watch, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = RetrainRequest(
        id="retrain-1", cause="drift", caused_by=(), reason="x moved", position=1, since=None
    )
    output = [PREDICTION, rare("s.retrain", request, id=request.id)]
    monkeypatch.setattr(watch.handler, "tick", lambda: output)

    with caplog.at_level(logging.INFO):
        watch.watched.tick()

    told = [record.message for record in caplog.records if "retrain" in record.message]
    assert told == ["retrain: retrain-1 requested (drift): x moved"]


def test_the_lag_is_written_and_gone_with_the_partitions(watch: Watch) -> None:
    at = TopicPartition("s.features", 0)
    watch.handler.model = MODEL
    watch.watched.assigned({at: Committed(0)})
    watch.watched.look(GroupView({at: 5}, {at: 12}, dict))
    watch.watched.tick()
    before = watch.said.lag
    watch.watched.revoked([at])
    watch.clock.advance(1)
    watch.watched.tick()

    assert (before, watch.said.lag) == (7, 0)


def test_while_kafka_is_away_it_waits_and_then_is_as_before(watch: Watch) -> None:
    watch.handler.model = MODEL
    watch.watched.assigned({TopicPartition("s.features", 0): Committed(0)})
    watch.watched.on_connection("no Kafka answers")
    waiting = watch.said
    watch.watched.on_connection(None)

    assert (waiting.state, waiting.troubles[0].detail) == ("waiting for Kafka", "no Kafka answers")
    assert (watch.said.state, watch.said.troubles) == ("running", ())


def test_records_that_are_not_read_are_written_down_unless_they_are_held_back(
    watch: Watch,
) -> None:
    at = TopicPartition("s.features", 0)
    watch.watched.assigned({at: Committed(0)})

    def troubles() -> tuple[str, ...]:
        watch.watched.held_back(frozenset({at}))
        watch.watched.look(GroupView({at: 5}, {at: 12}, dict))
        watch.clock.advance(1)
        watch.watched.tick()
        return tuple(trouble.kind for trouble in watch.said.troubles)

    assert troubles() == ()  # it waits for a model
    watch.handler.model = MODEL
    assert troubles() == ("no progress",)
