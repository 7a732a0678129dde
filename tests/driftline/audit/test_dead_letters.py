"""Dead letters are grouped by reason, found by id or position, and sent again only once."""

from collections.abc import Iterator

import pytest

from driftline.audit.dead_letters import (
    MAX_GROUPS,
    OTHER_REASONS,
    REPLAYED,
    Replay,
    find,
    groups,
    replay,
)
from driftline.broker.port import Message, Outgoing
from driftline.broker.scan import ranges, scan
from driftline.wire.envelope import dead_letter, without_value
from tests.world import World


@pytest.fixture
def world() -> World:
    """Return a world with two rejected records, one with a key, and a label without prediction."""
    world = World()
    world.letter(
        world.feature("a", partition=1, headers=(("trace", b"7"),)), "missing value: column 'x'"
    )
    world.letter(world.feature(b"no JSON"), "not JSON")
    world.letter(world.label("b", "yes"), "no prediction", service="outcomes")
    return world


def messages(world: World, topic: str) -> Iterator[Message]:
    for batch in scan(world.broker, ranges(world.broker, [topic])):
        yield from batch


def test_dead_letters_are_grouped_by_reason_with_the_most_frequent_first(world: World) -> None:
    world.letter(world.feature(b"nor this"), "not JSON")

    found = groups(world.broker, world.stream)

    assert [(group.reason, group.count) for group in found] == [
        ("not JSON", 2),
        ("missing value: column 'x'", 1),
        ("no prediction", 1),
    ]
    assert found[0].newest == "0@2"


def test_reasons_above_the_limit_are_counted_together() -> None:
    world = World()
    record = world.feature("a")
    for number in range(MAX_GROUPS + 5):
        world.letter(record, f"unseen category {number}")

    found = groups(world.broker, world.stream)

    assert len(found) == MAX_GROUPS + 1
    assert (found[0].reason, found[0].count) == (OTHER_REASONS, 5)


def test_a_dead_letter_is_found_by_the_id_of_its_record_and_by_its_position(world: World) -> None:
    (by_id,) = find(world.broker, world.stream, "a")
    (by_place,) = find(world.broker, world.stream, "0@0")

    assert (by_id.place, by_id.origin.reason) == ("1@0", "missing value: column 'x'")
    assert (by_place.id, by_place.message.value) == (None, b"no JSON")
    assert find(world.broker, world.stream, "c") == []


def test_replay_sends_the_same_bytes_to_their_original_partition(world: World) -> None:
    done = replay(world.broker, world.stream)

    assert (done.sent, done.again, done.other) == (3, 0, 0)
    first, again = (m for m in messages(world, world.topics.features) if m.partition == 1)
    assert (again.value, again.key, again.partition) == (first.value, first.key, first.partition)
    assert again.headers == (("trace", b"7"), (REPLAYED, b"1@0"))
    assert len(list(messages(world, world.topics.labels))) == 2


def test_replay_sends_a_dead_letter_only_once_unless_again_is_given(world: World) -> None:
    replay(world.broker, world.stream, reason="not JSON")

    assert replay(world.broker, world.stream).sent == 2
    assert replay(world.broker, world.stream).again == 3
    assert replay(world.broker, world.stream, again=True).sent == 3


def test_a_dry_run_sends_nothing(world: World) -> None:
    assert replay(world.broker, world.stream, reason="missing", dry_run=True).sent == 1
    assert len(list(messages(world, world.topics.features))) == 2


def test_a_dead_letter_of_the_models_topic_is_never_sent_again() -> None:
    world = World()
    garbage = Message(world.topics.models, 0, 0, b"role/champion", b"garbage")
    world.letter(garbage, "not JSON")

    assert replay(world.broker, world.stream).other == 1


def test_foreign_records_and_records_that_were_not_kept_do_not_stop_a_replay(world: World) -> None:
    producer = world.broker.producer()
    record = Message(world.topics.features, 0, 7, None, b"x" * 50)
    letter = dead_letter(world.topics.deadletters, record, reason="large", service="inference")
    producer.send(without_value(letter))
    foreign = (("driftline_reason", b"none"), ("driftline_offset", b"here"))
    producer.send(Outgoing(world.topics.deadletters, b"foreign", partition=0, headers=foreign))
    producer.flush()

    assert [group.count for group in groups(world.broker, world.stream)] == [1, 1, 1, 1]
    (found,) = find(world.broker, world.stream, "0@2")
    assert (found.origin.value_bytes, found.message.value) == (50, None)
    assert replay(world.broker, world.stream) == Replay(sent=3, again=0, other=0, too_large=1)
