"""A trace leads from any event to its causes and its effects."""

from collections.abc import Iterable, Iterator

import msgspec
import pytest

from driftline.audit.lineage import Node
from driftline.audit.trace import trace
from driftline.broker.port import Message
from driftline.wire.events import DriftEvent, RetrainDecision, RetrainRequest
from driftline.wire.window_events import DataWindow
from tests.world import MODEL, World, announced, pointer

DECISION = RetrainDecision(
    id="decision-1",
    request="retrain-1",
    published=True,
    promoted=True,
    model=MODEL,
    reason="better",
    metric="accuracy",
    challenger=0.9,
    champion=0.7,
    outcomes=1000,
    removed=(),
    trials=(),
)
POINTER = msgspec.structs.replace(pointer("role-1"), cause="retrain-1", by="trainer")


@pytest.fixture(scope="module")
def world() -> World:
    return chain()


def chain() -> World:
    """Return a world with a complete chain of events, from a window to a prediction."""
    world = World()
    topics = world.topics
    for index in range(3):
        window = DataWindow(
            id=f"window-{index}",
            index=index,
            start=index * 1000,
            end=index * 1000 + 1000,
            records=1000,
            late=0,
            row=index * 1000 + 999,
            time=None,
            groups=(),
        )
        world.event(topics.windows, window, window.id)
    drift = DriftEvent(
        id="drift-1",
        action="opened",
        kind="data",
        columns=("x",),
        severity=0.5,
        message="x moved",
        position=2000,
        onset=1000,
        model="sha256:old",
        detector=None,
        windows=("window-1",),
    )
    world.event(topics.drift, drift, drift.id)
    request = RetrainRequest(
        id="retrain-1",
        cause="drift",
        caused_by=("drift-1",),
        reason="x moved",
        position=2000,
        since=1000,
    )
    world.event(topics.retrain, request, request.id)
    world.event(topics.retrain, DECISION, DECISION.id)
    world.event(topics.models, announced(cause="retrain-1"), f"model/{MODEL}")
    world.event(topics.models, POINTER, "role/champion")
    prediction = world.prediction(world.feature("flower 7"))
    world.label("flower 7", "a")
    world.outcome(prediction, "a")
    world.letter(world.feature(b'{"id": "broken"}', partition=1), "missing value")
    world.letter(world.label("stray", "a"), "no prediction", service="outcomes")
    return world


def ancestors(node: Node) -> Iterator[str]:
    for cause in node.causes:
        yield cause.id
        yield from ancestors(cause)


def descendants(node: Node) -> Iterator[str]:
    for effect in node.effects:
        yield effect.id
        yield from descendants(effect)


def only(nodes: Iterable[Node]) -> Node:
    (node,) = nodes
    return node


@pytest.mark.parametrize(
    ("id", "causes", "effects"),
    [
        ("window-1", [], ["drift-1", "retrain-1", "decision-1", MODEL, "role-1"]),
        ("window-2", [], []),
        ("drift-1", ["window-1"], ["retrain-1", "decision-1", MODEL, "role-1"]),
        ("retrain-1", ["drift-1", "window-1"], ["decision-1", MODEL, "role-1"]),
        ("decision-1", ["retrain-1", "drift-1", "window-1"], [MODEL, "role-1"]),
        (MODEL, ["decision-1", "retrain-1", "drift-1", "window-1"], ["role-1"]),
        ("role-1", [MODEL, "decision-1", "retrain-1", "drift-1", "window-1"], []),
    ],
)
def test_the_chain_is_followed_to_causes_and_effects(
    world: World, id: str, causes: list[str], effects: list[str]
) -> None:
    node = only(trace(world.broker, world.stream, id))

    assert node.id == id
    assert list(ancestors(node)) == causes
    assert list(descendants(node)) == effects


def test_a_model_that_serves_a_second_time_has_the_causes_of_both_times() -> None:
    world = chain()
    topics = world.topics
    request = RetrainRequest(
        id="retrain-2", cause="schedule", caused_by=(), reason="more", position=9000, since=None
    )
    world.event(topics.retrain, request, request.id)
    decision = msgspec.structs.replace(
        DECISION, id="decision-2", request="retrain-2", published=False
    )
    world.event(topics.retrain, decision, decision.id)
    chosen = msgspec.structs.replace(POINTER, id="role-2", replaces="role-1", cause="retrain-2")
    world.event(topics.models, chosen, "role/champion")

    again = only(trace(world.broker, world.stream, "role-2"))
    assert list(ancestors(again)) == [MODEL, "decision-2", "retrain-2"]
    first = only(trace(world.broker, world.stream, "role-1"))
    assert list(ancestors(first)) == [MODEL, "decision-1", "retrain-1", "drift-1", "window-1"]
    model = only(trace(world.broker, world.stream, MODEL))
    assert {"decision-1", "decision-2"} <= set(ancestors(model))
    assert list(descendants(model)) == ["role-1", "role-2"]


@pytest.mark.parametrize("id", [MODEL[:15], MODEL.removeprefix("sha256:")[:8]])
def test_a_model_is_found_by_a_prefix_of_its_digest(world: World, id: str) -> None:
    assert only(trace(world.broker, world.stream, id)).id == MODEL


def test_a_record_is_traced_to_its_prediction_model_and_windows(world: World) -> None:
    record, label = trace(world.broker, world.stream, "flower 7")

    assert [(effect.kind, effect.text) for effect in record.effects] == [
        ("prediction", "predicted a"),
        ("outcome", "predicted a, label a"),
    ]
    ancestry = list(ancestors(record.effects[0]))
    assert ancestry[0] == MODEL
    assert ancestry[-1] == "window-1"
    assert label.kind == "label"


def test_a_rejected_record_is_traced_to_its_dead_letter(world: World) -> None:
    node = only(trace(world.broker, world.stream, "broken"))

    assert [(effect.kind, effect.text) for effect in node.effects] == [
        ("dead letter", "inference: missing value")
    ]


def test_a_label_without_prediction_is_traced_to_its_dead_letter(world: World) -> None:
    node = only(trace(world.broker, world.stream, "stray"))

    assert node.kind == "label"
    assert [effect.kind for effect in node.effects] == ["dead letter"]


def test_an_unknown_id_has_no_trace(world: World) -> None:
    assert trace(world.broker, world.stream, "nothing") == ()


def test_an_id_that_is_escaped_in_json_is_found() -> None:
    world = World()
    message: Message = world.feature('a "quoted" Ångström')
    world.prediction(message)

    assert only(trace(world.broker, world.stream, 'a "quoted" Ångström')).kind == "record"
