"""Reconciliation accounts for every record and label, and lists missing ones."""

import json
from itertools import cycle

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from consumers.outcomes.handler import OutcomesHandler
from driftline.audit.dead_letters import REPLAYED
from driftline.audit.reconcile import Missing, reconcile
from driftline.audit.reconcile_findings import Lost
from driftline.broker.partitioner import PARTITIONERS, partitioners_for
from driftline.broker.port import NewTopic, Outgoing, TopicPartition
from driftline.runtime.loop import Loop
from driftline.wire.envelope import encode, outcomes_decoder
from driftline.wire.events import Gap, Log, Watermark
from driftline.wire.labels import LabelCodec
from driftline.wire.topics import Service
from tests.world import World


def test_a_record_ends_as_a_prediction_or_a_dead_letter() -> None:
    world = World()
    world.prediction(world.feature("a"))
    world.letter(world.feature(b"no JSON"), "not JSON")
    world.prediction(world.feature("b", partition=1))
    world.everything_handled()

    found = reconcile(world.broker, world.stream)

    assert found.clean
    assert found.records == 3
    assert found.predictions == 2
    assert found.dead_letters == 1
    assert found.unlabelled == 2


def test_a_record_without_prediction_or_dead_letter_is_missing_and_listed() -> None:
    world = World()
    world.prediction(world.feature("a"))
    world.feature("lost")
    world.feature(b"unreadable", partition=1)
    world.everything_handled()

    found = reconcile(world.broker, world.stream)

    assert not found.clean
    assert found.missing == 2
    assert found.missing_records == (Missing(0, 1, "lost"), Missing(1, 0, None))


def test_the_list_of_missing_records_is_limited() -> None:
    world = World()
    for number in range(5):
        world.feature(f"lost {number}")
    world.everything_handled()

    found = reconcile(world.broker, world.stream, limit=2)

    assert [missing.id for missing in found.missing_records] == ["lost 0", "lost 1"]
    assert found.missing == 5
    assert len(reconcile(world.broker, world.stream, limit=None).missing_records) == 5


def test_a_record_that_inference_has_not_read_is_waiting_and_not_missing() -> None:
    world = World()
    world.prediction(world.feature("a"))
    world.commit("inference", world.topics.features, 1)
    world.feature("b")
    world.feature("c", partition=1)  # this partition has no commit

    found = reconcile(world.broker, world.stream)

    assert found.clean
    assert found.waiting == 2


def test_a_repeated_outcome_is_an_error_but_a_changed_label_is_not() -> None:
    world = World()
    prediction = world.prediction(world.feature("a"))
    world.label("a", "x")
    world.label("a", "y")
    world.outcome(prediction, "x")
    world.outcome(prediction, "y", revision=1)
    world.everything_handled()
    assert reconcile(world.broker, world.stream).clean

    for _ in range(2):
        world.outcome(prediction, "y", revision=1)
    found = reconcile(world.broker, world.stream)

    assert found.doubled_outcomes == 2
    assert found.revised == 1
    assert not found.clean


def test_a_redelivered_record_is_recognised_by_its_source() -> None:
    world = World()
    record = world.feature("a")
    for _ in range(3):
        world.prediction(record)
    world.everything_handled()

    found = reconcile(world.broker, world.stream)

    assert (found.predictions, found.redelivered, found.duplicate_ids) == (1, 2, 0)


def test_an_id_sent_twice_is_a_duplicate_unless_it_is_a_replay() -> None:
    world = World()
    letter = world.letter(world.feature("a"), "missing value")
    world.prediction(world.feature("a", headers=((REPLAYED, b"0@0"),)))
    world.prediction(world.feature("b"))
    world.prediction(world.feature("b", partition=1))
    world.everything_handled()

    found = reconcile(world.broker, world.stream)

    assert letter.offset == 0
    assert (found.duplicate_ids, found.replayed) == (1, 1)


def test_labels_are_counted_as_joined_revised_repeated_or_dead_letters() -> None:
    world = World()
    prediction = world.prediction(world.feature("a"))
    for value, revision in (("yes", 0), ("no", 1)):
        world.label("a", value)
        world.outcome(prediction, value, revision=revision)
    world.label("a", "no")
    world.letter(world.label("unknown", "yes"), "no prediction", service="outcomes")
    world.everything_handled()

    found = reconcile(world.broker, world.stream)

    assert found.clean
    assert (found.outcomes, found.revised, found.unlabelled) == (1, 1, 0)
    assert (found.labels.joined, found.labels.repeated, found.labels.dead_letters) == (2, 1, 1)


def test_a_label_changed_before_its_prediction_arrived_is_replaced() -> None:
    world = World()
    world.label("a", "yes")
    world.label("a", "no")
    world.outcome(world.prediction(world.feature("a")), "no", revision=1)
    world.everything_handled()

    found = reconcile(world.broker, world.stream)

    assert found.clean
    assert (found.labels.replaced, found.labels.joined) == (1, 1)


def test_a_label_without_outcome_or_dead_letter_is_missing() -> None:
    world = World()
    world.prediction(world.feature("a"))
    world.label("a", "yes")
    world.everything_handled()

    found = reconcile(world.broker, world.stream)

    assert found.labels.missing == 1
    assert found.missing_labels == (Missing(0, 0, "a"),)


def test_a_label_that_the_join_still_buffers_is_waiting() -> None:
    world = World()
    world.label("early", "yes")
    world.commit("outcomes", world.topics.labels, 0, published=1)

    found = reconcile(world.broker, world.stream)

    assert found.clean
    assert found.labels.waiting == 1


def test_a_label_buffered_together_with_its_prediction_is_missing() -> None:
    world = World()
    world.prediction(world.feature("a"))
    world.label("a", "yes")
    world.commit("inference", world.topics.features, 1)
    world.commit("outcomes", world.topics.labels, 0, published=1)
    world.commit("outcomes", world.topics.predictions, 0, published=1)

    assert reconcile(world.broker, world.stream).labels.missing == 1


def test_a_label_in_another_partition_than_its_record_is_reported() -> None:
    world = World()
    world.prediction(world.feature("a", partition=1))
    world.letter(world.label("a", "yes"), "no prediction", service="outcomes")
    world.everything_handled()

    found = reconcile(world.broker, world.stream)

    assert found.misplaced_labels == 1
    assert not found.clean
    (label,) = found.named_misplaced
    assert (label.partition, label.offset, label.id, label.record_partition) == (0, 0, "a", 1)


# Keys that only one partitioner assigns to the second of two partitions.
BY_MURMUR2, BY_CRC32 = (
    next(
        key
        for key in map(str.encode, map(str, range(1000)))
        if partitioners_for(key, 1, 2) == {name}
    )
    for name in list(PARTITIONERS)[:2]
)


@pytest.mark.parametrize(
    ("record", "label", "cause"),
    [
        ((BY_MURMUR2, 1), (BY_MURMUR2, 0), "CRC32 (librdkafka's default) gives partition 0, mur"),
        ((BY_CRC32, 1), (BY_CRC32, 0), "murmur2 gives partition 0, CRC32 (librdkafka's default) g"),
        ((b"b", 1), (b"a", 0), "its key is 'a', but its record's key is 'b'"),
        ((b"b", 1), (None, 0), "it has no key"),
    ],
)
def test_a_misplaced_label_is_reported_with_its_cause(
    record: tuple[bytes, int], label: tuple[bytes | None, int], cause: str
) -> None:
    world = World()
    feature = world.feature("x", partition=record[1])
    world.prediction(msgspec.structs.replace(feature, key=record[0]))
    value = LabelCodec(world.stream).encode("x", "yes")
    sent = world.send(Outgoing(world.topics.labels, value, label[0], label[1]))
    world.letter(sent, "no prediction", service="outcomes")
    world.everything_handled()

    (found,) = reconcile(world.broker, world.stream).named_misplaced

    assert cause in found.cause


def test_an_old_prediction_for_the_same_offset_does_not_count_for_another_record() -> None:
    world = World()
    world.prediction(world.feature("new"), id="of the topic before")
    world.everything_handled()

    found = reconcile(world.broker, world.stream)

    assert (found.predictions, found.missing) == (0, 1)


@pytest.mark.parametrize("topic", ["features", "labels", "predictions"])
def test_a_committed_offset_above_the_end_shows_a_recreated_topic(topic: str) -> None:
    world = World()
    world.prediction(world.feature("a"))
    world.label("a", "yes")
    name = f"s.{topic}"
    service: Service = "inference" if topic == "features" else "outcomes"
    world.commit(service, name, 9)

    found = reconcile(world.broker, world.stream)

    assert found.lost == (Lost(name, 0, 9, None),)
    assert not found.clean


def test_records_deleted_before_they_were_read_are_lost() -> None:
    world = World()
    for name in "abcd":
        world.feature(name)
    world.commit("inference", world.topics.features, 1)
    world.broker.truncate(TopicPartition(world.topics.features, 0), 3)

    found = reconcile(world.broker, world.stream)

    assert found.lost == (Lost(world.topics.features, 0, 1, 3),)
    assert not found.clean


def test_a_gap_that_inference_published_is_reported_as_lost() -> None:
    world = World()
    for name in "abcd":
        world.feature(name)
    world.broker.truncate(TopicPartition(world.topics.features, 0), 3)
    world.send(
        Outgoing(
            world.topics.predictions, encode(Watermark(None, gaps=(Gap(0, 1, 3),))), partition=0
        )
    )
    world.everything_handled()

    assert reconcile(world.broker, world.stream).lost == (Lost(world.topics.features, 0, 1, 3),)


def test_gaps_that_outcomes_or_the_monitor_published_are_reported_as_lost() -> None:
    world = World()
    topics = world.topics
    gaps = (Gap(0, 1, 3, topics.labels), Gap(1, 5, None, topics.predictions))
    for gap in gaps:
        mark = Watermark(None, gaps=(gap,))
        world.send(Outgoing(topics.outcomes, encode(mark), partition=gap.partition))

    found = reconcile(world.broker, world.stream)

    assert found.lost == (Lost(topics.labels, 0, 1, 3), Lost(topics.predictions, 1, 5, None))
    assert not found.clean


@pytest.mark.parametrize("name", ["labels", "predictions"])
def test_records_deleted_before_the_join_read_them_are_a_published_gap(name: str) -> None:
    world = World()
    topic = getattr(world.topics, name)
    join(world)
    records = [world.feature(id, row=row) for row, id in enumerate("abcdef")]
    for record, id in zip(records, "abcdef", strict=True):
        world.prediction(record)
        world.label(id, "yes")
    world.broker.truncate(TopicPartition(topic, 0), 4)
    join(world)
    world.commit("inference", world.topics.features, 6)

    found = reconcile(world.broker, world.stream)

    assert found.lost == (Lost(topic, 0, 0, 4),)
    assert not found.clean
    assert join(world) == [
        Watermark(None, gaps=(Gap(0, 0, 4, topic),))
    ]  # the gap is published only once


@pytest.mark.parametrize("name", ["labels", "predictions"])
def test_unread_records_of_a_recreated_topic_are_a_published_gap(name: str) -> None:
    world = World()
    topic, admin = getattr(world.topics, name), world.broker.admin()
    join(world)
    world.prediction(world.feature("a"))
    world.label("a", "yes")
    join(world)
    admin.delete([topic])
    admin.create([NewTopic(topic, world.stream.kafka.partitions)])
    marks = [*join(world), *join(world)]
    world.commit("inference", world.topics.features, 1)

    assert Lost(topic, 0, 1, None) in reconcile(world.broker, world.stream).lost
    assert Watermark(None, gaps=(Gap(0, 1, None, topic),)) in marks


def join_worker(world: World) -> Loop:
    """Return a new worker of outcomes, which has read nothing yet."""
    return Loop(
        OutcomesHandler(world.stream, world.clock),
        world.broker,
        group=world.topics.group("outcomes"),
        delivery="exactly_once",
        clock=world.clock,
        commit_interval_s=0,
    )


def join(world: World) -> list[Watermark]:
    """Let a new worker of outcomes read everything; return the gaps published so far."""
    loop = join_worker(world)
    while loop.step(0):
        pass
    loop.close()
    consumer = world.broker.consumer()
    outcomes = world.broker.admin().offsets(world.topics.outcomes)
    consumer.assign({at: span.start for at, span in outcomes.items()})
    events = [
        outcomes_decoder.decode(message.value or b"")
        for message in consumer.poll(max_records=1000, timeout_s=0)
    ]
    return [event for event in events if isinstance(event, Watermark) and event.gaps]


def test_outcomes_deleted_before_the_monitor_read_them_are_lost() -> None:
    world = World()
    outcomes = world.topics.outcomes
    for name in "abc":
        world.outcome(world.prediction(world.feature(name)), "red")
    world.everything_handled()
    world.commit("monitor", outcomes, 1)
    world.broker.truncate(TopicPartition(outcomes, 0), 2)

    assert Lost(outcomes, 0, 1, 2) in reconcile(world.broker, world.stream).lost


def test_predictions_for_a_deleted_topic_do_not_count_for_the_current_one() -> None:
    world = World()
    topics, admin = world.topics, world.broker.admin()

    def begin() -> None:
        (topic_id,) = admin.topic_ids([topics.features]).values()
        mark = Watermark(None, log=Log(topic_id, 0))
        world.send(Outgoing(topics.predictions, encode(mark), partition=0))

    begin()
    first = [world.feature(name) for name in "ab"]
    for record in first:
        world.prediction(record)
    admin.delete([topics.features])
    admin.create([NewTopic(topics.features, 2)])
    for record in first:  # the same file is sent again
        world.send(Outgoing(topics.features, record.value, record.key, 0))
    world.commit("inference", topics.features, 2)
    found = reconcile(world.broker, world.stream)
    assert (found.predictions, found.missing) == (0, 2)
    assert found.lost == (Lost(topics.features, 0, 2, None),)

    begin()
    for record in first:
        world.prediction(record)
    found = reconcile(world.broker, world.stream)
    assert (found.predictions, found.missing) == (2, 0)
    assert found.lost == (Lost(topics.features, 0, 2, None),)


def test_an_invalid_dead_letter_is_counted_and_otherwise_ignored() -> None:
    world = World()
    world.send(Outgoing(world.topics.deadletters, b"hello"))

    assert reconcile(world.broker, world.stream).foreign_letters == 1


def test_progress_is_reported_for_every_offset() -> None:
    world = World()
    world.prediction(world.feature("a"))
    world.label("a", "yes")
    totals: list[int] = []
    passed: list[int] = []

    reconcile(world.broker, world.stream, total=totals.append, progress=passed.append)

    assert totals == [3]
    assert sum(passed) == 3


class Step(msgspec.Struct, frozen=True):
    """The next action: a record with its prediction, a label, or a step of the join."""

    what: str
    number: int


steps = st.lists(
    st.builds(
        Step,
        what=st.sampled_from(["record", "label", "turn"]),
        number=st.integers(0, 6),
    ),
    max_size=40,
)


@pytest.mark.parametrize("jump", [1, 7])
@settings(max_examples=60)
@given(steps=steps)
# More records with one id than the join window holds, and labels that change: each label is in
# time for another record.
@example(steps=[Step("record", 0)] * 12 + [Step("label", 0)] * 3)
@example(steps=[Step("record", 0)] * 14 + [Step("label", 0), Step("turn", 0)] * 4)
def test_nothing_is_missing_after_any_input_of_the_join(steps: list[Step], jump: int) -> None:
    world = World()
    loop = join_worker(world)
    loop.step(0)
    row, words = 0, cycle(["yes", "no"])  # some labels change, others are repeated
    for step in steps:
        if step.what == "record":
            row += jump  # with jumps of 7, a join window of 10 passes soon
            world.prediction(world.feature(str(step.number), row=row))
        elif step.what == "label":
            world.label(str(step.number), "yes" if step.number % 2 else next(words))
        else:
            loop.step(0)
    while loop.step(0):
        pass
    loop.close()
    records = sum(step.what == "record" for step in steps)
    world.commit("inference", world.topics.features, records)

    assert reconcile(world.broker, world.stream).clean


@pytest.mark.parametrize("records", [2, 12, 14])  # the join window is 10
@pytest.mark.parametrize("before", [1, 2, 3])
@pytest.mark.parametrize("after", [1, 2, 3])
def test_no_outcome_is_doubled_by_labels_that_change_after_a_restart(
    records: int, before: int, after: int
) -> None:
    world, words = World(), cycle(["yes", "no"])
    for row in range(1, records + 1):
        world.prediction(world.feature("0", row=row))
    for labels in (before, after):
        loop = join_worker(world)
        for _ in range(labels):
            world.label("0", next(words))
        while loop.step(0):
            pass
        loop.close()
    world.commit("inference", world.topics.features, records)

    found = reconcile(world.broker, world.stream)
    assert found.clean
    assert found.labels.joined == before + after


RUBBISH = (
    None,
    b"",
    b"\xff",
    b"null",
    b"[]",
    b"{}",
    b"{",
    b"[" * 5000,
    b'"' + b"a" * 5000 + b'"',
    b'{"id":"\\ud800"}',
    b'{"id":"\\u0000"}',
    b'{"id":' + b"9" * 5000 + b"}",
)
NUMBERS = (0, -1, 2**31, 2**53, 2**62, 2**63 - 1, 2**63, 2**64, 10**400, -(2**63), 1.5, "7", None)


@st.composite
def rubbish(draw: st.DrawFn) -> bytes | None:
    """Draw a record that no service wrote: any bytes, or an event with wrong numbers."""
    if draw(st.booleans()):
        return draw(st.one_of(st.sampled_from(RUBBISH), st.binary(max_size=20)))
    number = st.sampled_from(NUMBERS)
    source = {"topic": "s.features", "partition": draw(number), "offset": draw(number)}
    gaps = [{"partition": draw(number), "start": draw(number), "end": draw(number)}]
    value = draw(
        st.sampled_from(
            [
                {"type": "outcome", "record_id": "a", "source": source, "revision": draw(number)},
                {"type": "prediction", "record_id": "a", "source": source},
                {"type": "watermark", "log": {"topic_id": "t", "offset": draw(number)}},
                {"type": "watermark", "gaps": gaps},
                {"id": draw(number), "x": 1, "y": draw(number), "@at": draw(number)},
            ]
        )
    )
    return json.dumps(value).encode()


@given(values=st.lists(st.tuples(st.sampled_from(range(5)), rubbish()), max_size=12))
@settings(max_examples=200)
def test_invalid_records_in_any_topic_never_stop_reconciliation(
    values: list[tuple[int, bytes | None]],
) -> None:
    world = World()
    world.prediction(world.feature("a"))
    topics = world.topics
    names = (
        *(topics.features, topics.predictions, topics.labels),
        *(topics.outcomes, topics.deadletters),
    )
    for place, value in values:
        headers = (
            ("driftline_reason", b"no"),
            ("driftline_service", b"inference"),
            ("driftline_topic", topics.features.encode()),
            ("driftline_partition", b"0"),
            ("driftline_offset", (value or b"")[:30]),
        )
        world.send(Outgoing(names[place], value, b"k", 0, headers))
    world.everything_handled()

    found = reconcile(world.broker, world.stream)

    assert found.records == 1 + sum(place == 0 for place, _ in values)


def test_an_outcome_with_an_impossible_number_is_skipped_and_counted() -> None:
    world = World()
    prediction = world.prediction(world.feature("a"))
    outcome = world.outcome(prediction, "yes")
    value = (outcome.value or b"").replace(b'"revision":0', b'"revision":%d' % 2**70)
    world.send(Outgoing(outcome.topic, value, outcome.key, outcome.partition))
    world.everything_handled()

    found = reconcile(world.broker, world.stream)

    assert found.clean
    assert found.outcomes == 1
    assert found.foreign_records == 1
