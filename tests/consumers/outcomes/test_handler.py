"""The join: every kind of label, and the same outcomes for any interleaving of the two topics."""

from collections.abc import Callable, Iterable, Iterator, Mapping

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumers.outcomes.handler import OutcomesHandler
from consumers.outcomes.low_watermark import JoinCheckpoint
from driftline.broker.partitioner import PARTITIONERS
from driftline.broker.port import Committed, Message, Outgoing, OutgoingBatch, TopicPartition
from driftline.clock import ManualClock
from driftline.config.spans import Span
from driftline.config.stream import Stream, loads
from driftline.config.stream_sections import Labels, Windows
from driftline.runtime.handler import GroupProgress
from driftline.wire.envelope import encode, outcomes_decoder, predictions_decoder
from driftline.wire.events import Outcome, Prediction, RejectedRecord, Source, Watermark

STREAM = loads(
    """
    version = 1
    name = "s"
    task = "classification"
    target = "y"
    features = { x = "number" }
    labels = { horizon = 10 }
    """
)
PREDICTIONS = TopicPartition("s.predictions", 0)
LABELS = TopicPartition("s.labels", 0)
FROM_START = {PREDICTIONS: Committed(0), LABELS: Committed(0)}
LATE = "became known more than the join window ([labels] horizon) after its record"
ORPHAN = "no prediction with this id within the join window ([labels] horizon)"


def prediction(offset: int, row: int, *, record_id: str = "", source: int | None = None) -> Message:
    event = Prediction(
        record_id=record_id or str(row),
        time=None,
        row=row,
        prediction="a",
        scores=None,
        model="sha256:1",
        source=Source("s.features", 0, offset if source is None else source),
        record=msgspec.Raw(b'{"x":1}'),
    )
    return Message(*PREDICTIONS, offset, None, encode(event))


def label(offset: int, record_id: object, value: str, at: int | None = None) -> Message:
    body = {"@row": record_id, "y": value} | ({} if at is None else {"@at": at})
    return Message(*LABELS, offset, None, msgspec.json.encode(body))


def joined(
    stream: Stream = STREAM,
    resume: Mapping[TopicPartition, Committed] | None = None,
    clock: ManualClock | None = None,
) -> OutcomesHandler:
    handler = OutcomesHandler(stream, clock or ManualClock())
    handler.on_assigned(resume or FROM_START)
    return handler


def single(output: Iterable[Outgoing | OutgoingBatch]) -> Iterator[Outgoing]:
    """Yield the output with batches split into records."""
    for item in output:
        if isinstance(item, Outgoing):
            yield item
        else:
            for key, value in zip(item.keys, item.values, strict=True):
                yield Outgoing(item.topic, value, key, item.partition)


def view(
    handler: OutcomesHandler, *, predictions: int = 0, labels: int = 0, markers: int = 0
) -> GroupProgress:
    """Return a view after all handled records and markers; the other numbers are unread."""
    held = handler.offsets_to_commit()
    positions = {
        at: msgspec.json.decode(committed.metadata, type=JoinCheckpoint).published
        for at, committed in held.items()
    }
    positions[LABELS] += markers
    more = {PREDICTIONS: predictions, LABELS: labels}
    return GroupProgress(positions, {at: positions[at] + left for at, left in more.items()}, dict)


def outcomes(output: Iterable[Outgoing | OutgoingBatch]) -> list[tuple[str, str | float, int]]:
    events = [
        outcomes_decoder.decode(o.value or b"") for o in single(output) if o.topic == "s.outcomes"
    ]
    return [(e.record_id, e.label, e.revision) for e in events if isinstance(e, Outcome)]


def reasons(output: Iterable[Outgoing | OutgoingBatch]) -> list[str]:
    return [
        dict(o.headers)["driftline_reason"].decode()
        for o in single(output)
        if o.topic == "s.deadletters"
    ]


def test_a_label_after_its_prediction_makes_an_outcome() -> None:
    output = joined().handle([prediction(0, 7), label(0, 7, "b", at=9)])
    (record,) = single(output)
    event = outcomes_decoder.decode(record.value or b"")
    assert isinstance(event, Outcome)
    assert (event.record_id, event.label, event.revision, event.label_row) == ("7", "b", 0, 9)
    assert (event.row, event.model, bytes(event.record)) == (7, "sha256:1", b'{"x":1}')


def test_a_label_before_its_prediction_waits_for_it() -> None:
    handler = joined()
    assert not handler.handle([label(0, 7, "b")])
    assert outcomes(handler.handle([prediction(0, 7)])) == [("7", "b", 0)]


def test_a_repeated_label_publishes_nothing_and_is_counted() -> None:
    handler = joined()
    output = handler.handle([prediction(0, 7), label(0, 7, "b"), label(1, 7, "b")])
    assert outcomes(output) == [("7", "b", 0)]
    assert handler.counts["repeated"] == 1


def test_a_changed_label_is_a_new_revision() -> None:
    handler = joined()
    output = handler.handle([prediction(0, 7), label(0, 7, "b"), label(1, 7, "c")])
    assert outcomes(output) == [("7", "b", 0), ("7", "c", 1)]


def test_a_label_without_prediction_becomes_a_dead_letter_after_the_join_window() -> None:
    handler = joined()
    handler.handle([prediction(0, 0), label(0, "nobody", "b", at=0), prediction(1, 10)])
    handler.handle([label(1, 10, "b", at=10)])
    assert not handler.on_tick()
    handler.handle([prediction(2, 11), label(2, 11, "b", at=11)])
    letters = [o for o in single(handler.on_tick()) if o.topic == "s.deadletters"]
    assert reasons(letters) == [ORPHAN]
    assert letters[0].value == b'{"@row":"nobody","y":"b","@at":0}'


def test_labels_read_long_before_their_predictions_wait_for_them() -> None:
    handler = joined()
    handler.handle([label(row, row, "b", at=row) for row in range(100)])
    handler.on_tick()
    output: list[Outgoing | OutgoingBatch] = []
    for row in range(100):
        output += handler.handle([prediction(row, row)])
        output += handler.on_tick()
    assert len(outcomes(output)) == 100
    assert not reasons(output)


def test_predictions_read_long_before_their_labels_wait_for_them() -> None:
    handler = joined()
    handler.handle([prediction(row, row) for row in range(100)])
    handler.on_tick()
    output: list[Outgoing | OutgoingBatch] = []
    for row in range(100):
        output += handler.handle([label(row, row, "b", at=row + 5)])
        output += handler.on_tick()
    assert len(outcomes(output)) == 100
    assert not reasons(output)


def test_a_label_outside_the_join_window_becomes_a_dead_letter() -> None:
    handler = joined()
    output = handler.handle([prediction(0, 0), label(0, 0, "b", at=11)])
    assert not outcomes(output)
    assert reasons(output) == [LATE]


def test_a_changed_label_outside_the_join_window_becomes_a_dead_letter() -> None:
    handler = joined()
    output = handler.handle([prediction(0, 0), label(0, 0, "b", at=1), label(1, 0, "c", at=11)])
    assert outcomes(output) == [("0", "b", 0)]
    assert len(reasons(output)) == 1


def test_predictions_without_labels_are_evicted_once_all_labels_are_read() -> None:
    handler = joined()
    handler.handle([prediction(row, row) for row in range(100)])
    handler.on_tick()
    assert handler.counts["unlabelled"] == 0  # labels may exist that are not read yet
    handler.on_group_progress(view(handler, labels=0))
    handler.on_tick()
    assert handler.counts["unlabelled"] == 88  # all but a join window of 10 and a block of 2


def test_predictions_stay_buffered_while_published_labels_are_unread() -> None:
    handler = joined()
    handler.handle([prediction(row, row) for row in range(100)])
    handler.on_group_progress(view(handler, labels=1))
    handler.on_tick()
    assert outcomes(handler.handle([label(0, 0, "b", at=5)])) == [("0", "b", 0)]
    handler.on_tick()
    assert handler.counts["unlabelled"] == 87


def test_transaction_markers_in_the_labels_topic_do_not_block_eviction() -> None:
    handler = joined()
    handler.handle([prediction(row, row) for row in range(100)])
    handler.on_group_progress(view(handler, labels=2))
    handler.on_tick()
    assert handler.counts["unlabelled"] == 0
    handler.on_group_progress(view(handler, markers=2))  # the transaction was aborted
    handler.on_tick()
    assert handler.counts["unlabelled"] == 88


def test_an_unpositioned_label_waits_until_predictions_have_been_read_and_advanced() -> None:
    handler = joined()
    handler.handle([label(0, "nobody", "b"), prediction(0, 50)])
    handler.on_group_progress(view(handler, predictions=1))
    assert not reasons(handler.on_tick())
    handler.handle([prediction(1, 60)])
    handler.on_tick()
    handler.handle([prediction(2, 70)])
    handler.on_group_progress(view(handler))
    assert not handler.on_tick()
    handler.handle([prediction(3, 71)])
    handler.on_group_progress(view(handler))
    assert reasons(handler.on_tick()) == [ORPHAN]


def test_a_label_from_the_far_future_does_not_affect_others() -> None:
    handler = joined()
    handler.handle([label(0, "nobody", "b", at=10**9), prediction(0, 0), prediction(1, 50)])
    assert outcomes(handler.handle([label(1, 50, "b", at=51)])) == [("50", "b", 0)]
    handler.on_group_progress(view(handler))
    handler.on_tick()
    handler.handle([prediction(2, 61), label(2, 61, "b", at=61)])
    assert len(reasons(handler.on_tick())) == 1
    assert handler.offsets_to_commit()[LABELS].offset > 0


def test_a_label_joined_before_a_restart_is_not_rejected_after_it() -> None:
    clock = ManualClock()
    messages = [prediction(0, 0), prediction(1, 9), label(0, 0, "b", at=9), prediction(2, 12)]
    first = joined(clock=clock)
    first.handle(messages)
    first.on_tick()
    held = first.offsets_to_commit()
    second = joined(resume=held, clock=clock)
    again = [m for m in messages if m.offset >= held[TopicPartition(m.topic, 0)].offset]
    output = list(second.handle([*again, prediction(3, 30), prediction(4, 50)]))
    clock.advance(11)
    output += second.on_tick()
    assert not reasons(output)
    assert not outcomes(output)


def test_an_unreadable_label_becomes_a_dead_letter_at_once() -> None:
    mark, letter = single(joined().handle([Message(*LABELS, 0, None, b"{")]))
    assert mark.topic == "s.outcomes"
    assert reasons([letter])
    assert letter.value == b"{"


def test_each_rejected_label_is_a_watermark_record_in_place_of_its_outcome() -> None:
    handler = joined()
    renamed = [Message(*LABELS, row, None, b'{"z":1,"@at":%d}' % (row + 1)) for row in (1, 2, 3)]
    handler.handle([prediction(0, 0), label(0, 0, "b", at=1), prediction(1, 3)])
    output = [*handler.handle([*renamed, label(4, 3, "b", at=3)])]
    assert marks(output) == [
        Watermark(3, dead_letter=RejectedRecord(1, 2)),
        Watermark(4, dead_letter=RejectedRecord(2, 3)),
        Watermark(4, dead_letter=RejectedRecord(3, 4)),  # predictions have only reached row 3
    ]
    assert outcomes(output) == [("3", "b", 0)]
    successor = joined(resume=handler.offsets_to_commit())
    assert not marks(successor.handle([prediction(1, 3), *renamed, label(4, 3, "b", at=3)]))


def test_a_label_without_prediction_is_a_watermark_record_when_it_is_rejected() -> None:
    handler = joined()
    handler.handle([prediction(0, 0), label(0, "nobody", "b", at=0), prediction(1, 20)])
    handler.handle([label(1, 20, "b", at=20)])
    assert marks(handler.on_tick()) == [Watermark(21, dead_letter=RejectedRecord(0, 0))]


def test_a_rejected_label_from_the_far_future_moves_no_watermark() -> None:
    handler = joined()
    handler.handle([prediction(0, 0), label(0, 0, "b", at=0), prediction(1, 20)])
    odd = Message(*LABELS, 1, None, b'{"@at":9000000}')
    assert marks(handler.handle([odd])) == [Watermark(1, dead_letter=RejectedRecord(1))]


def test_a_rejected_label_before_unread_predictions_moves_no_watermark() -> None:
    handler = joined()
    waiting = [label(0, 0, "b", at=0), label(1, 50, "b", at=50)]
    output = handler.handle([prediction(0, 0), *waiting, Message(*LABELS, 2, None, b'{"@at":51}')])
    assert marks(output) == [Watermark(1, dead_letter=RejectedRecord(2, 51))]


def test_a_partition_without_labels_advances_a_join_window_behind_its_predictions() -> None:
    handler = joined(msgspec.structs.replace(STREAM, windows=Windows(records=40)))
    found = []
    for row in range(16):
        handler.handle([prediction(row, row)])
        handler.on_group_progress(view(handler))
        found += marks(handler.on_tick())
    assert found == [Watermark(position) for position in (1, 4)]  # at most once per pane


def marks(output: Iterable[Outgoing | OutgoingBatch]) -> list[Watermark]:
    events = [
        outcomes_decoder.decode(o.value or b"") for o in single(output) if o.topic == "s.outcomes"
    ]
    return [event for event in events if isinstance(event, Watermark)]


def test_a_redelivered_prediction_is_recognised_by_its_source() -> None:
    handler = joined()
    output = handler.handle(
        [prediction(0, 7, source=5), prediction(1, 7, source=5), label(0, 7, "b")]
    )
    assert outcomes(output) == [("7", "b", 0)]
    assert handler.counts["duplicates"] == 1


@pytest.mark.parametrize("order", ["labels last", "labels first", "labels between"])
def test_a_label_belongs_to_the_first_record_with_its_id(order: str) -> None:
    records = [prediction(offset, 7 + offset, record_id="7") for offset in range(3)]
    labels = [label(offset, 7, value, at=8) for offset, value in enumerate("bbc")]
    messages = {
        "labels last": [*records, *labels],
        "labels first": [*labels, *records],
        "labels between": [records[0], labels[0], records[1], *labels[1:], records[2]],
    }[order]
    handler = joined()
    output = handler.handle(messages)
    assert outcomes(output) == [("7", "b", 0), ("7", "c", 1)]
    assert handler.counts["repeated"] == 1
    assert not reasons(output)


def test_a_label_too_late_for_the_first_record_with_its_id_belongs_to_the_next() -> None:
    handler = joined()
    records = [prediction(0, 0, record_id="7"), prediction(1, 9, record_id="7")]
    assert outcomes(handler.handle([*records, label(0, 7, "b", at=15)])) == [("7", "b", 0)]


def test_records_with_one_id_give_no_more_outcomes_than_labels() -> None:
    records = [prediction(offset, offset, record_id="7") for offset in range(40)]
    labels = [label(offset, 7, "bc"[offset % 2], at=offset) for offset in range(40)]
    output = joined().handle([m for pair in zip(records, labels, strict=True) for m in pair])
    assert len(outcomes(output)) + len(reasons(output)) <= len(labels)


def test_a_watermark_does_not_make_labels_of_its_own_batch_late() -> None:
    """After an outage, a batch may be longer than the join window, with its labels read before."""
    handler = joined()
    handler.handle([label(row, row, "a", at=row) for row in range(30)])
    watermark = Message(*PREDICTIONS, 30, None, encode(Watermark(position=30)))
    output = handler.handle([*(prediction(row, row) for row in range(30)), watermark])
    assert [record.topic for record in single(output)] == ["s.outcomes"] * 30


def test_a_watermark_is_published_after_the_outcomes_of_published_labels() -> None:
    handler = joined()
    message = Message(*PREDICTIONS, 1, None, encode(Watermark(position=9)))
    assert not handler.handle([prediction(0, 7), message])
    handler.on_group_progress(view(handler, labels=1))
    assert not handler.on_tick()
    output = [*handler.handle([label(0, 7, "b", at=8)]), *handler.on_tick()]
    found = [outcomes_decoder.decode(record.value or b"") for record in single(output)]
    assert isinstance(found[0], Outcome)
    assert found[1:] == [Watermark(position=9)]
    assert {(o.topic, o.partition) for o in output} == {("s.outcomes", 0)}


def test_a_watermark_is_published_once_despite_restarts() -> None:
    first = joined()
    first.handle([Message(*PREDICTIONS, 0, None, encode(Watermark(position=9)))])
    second = joined(resume=first.offsets_to_commit())
    second.on_group_progress(view(second))
    assert len(list(single(second.on_tick()))) == 1
    third = joined(resume=second.offsets_to_commit())
    third.on_group_progress(view(third))
    assert not third.on_tick()


def test_records_rejected_before_a_restart_are_not_rejected_again() -> None:
    garbage = [Message(*LABELS, 1, None, b"{"), Message(*PREDICTIONS, 1, None, b"{")]
    messages = [prediction(0, 0), label(0, 0, "b", at=1), *garbage]
    first = joined()
    assert len(reasons(first.handle(messages))) == 2
    held = first.offsets_to_commit()
    assert all(committed.offset == 0 for committed in held.values())
    second = joined(resume=held)
    output = second.handle([*messages, prediction(2, 2), label(2, 2, "c", at=3)])
    assert outcomes(output) == [("2", "c", 0)]
    assert not reasons(output)


@st.composite
def logs(draw: st.DrawFn) -> tuple[list[Message], list[Message]]:
    """Draw predictions and labels; some labels are missing, repeated, changed or unknown."""
    rows = draw(st.integers(1, 12))
    predictions: list[Message] = []
    labels: list[Message] = []
    for row in range(rows):
        predictions.append(prediction(len(predictions), row, source=row))
        if draw(st.integers(0, 5)) == 0:
            predictions.append(prediction(len(predictions), row, source=row))
    for row in draw(st.lists(st.integers(0, rows + 2), max_size=15)):
        labels.append(label(len(labels), row, draw(st.sampled_from("ab"))))
    return predictions, labels


@given(logs(), st.data())
@settings(max_examples=150)
def test_a_crash_at_any_moment_neither_loses_nor_repeats_an_outcome(
    topics: tuple[list[Message], list[Message]], data: st.DataObject
) -> None:
    """The last outcome of each labelled prediction has its newest label.

    This holds for all commits and interleavings of the topics.
    """
    logs_by_partition = {PREDICTIONS: topics[0], LABELS: topics[1]}
    wide = msgspec.structs.replace(STREAM, labels=Labels(horizon=Span(records=1000)))
    crashes_left = 3
    committed: dict[TopicPartition, Committed] = dict(FROM_START)
    published: list[Outgoing | OutgoingBatch] = []
    while True:
        handler = joined(wide, committed)
        positions = {partition: at.offset for partition, at in committed.items()}
        pending: list[Outgoing | OutgoingBatch] = []
        crash = False
        while not crash:
            left = [p for p, log in logs_by_partition.items() if positions[p] < len(log)]
            if not left:
                break
            partition = data.draw(st.sampled_from(left))
            count = data.draw(st.integers(1, 4))
            batch = logs_by_partition[partition][positions[partition] :][:count]
            pending.extend(handler.handle(batch))
            pending.extend(handler.on_tick())
            positions[partition] += len(batch)
            actions = ["go on", "commit"] + ["crash"] * (crashes_left > 0)
            action = data.draw(st.sampled_from(actions))
            if action == "commit":
                published.extend(pending)
                pending = []
                committed = dict(handler.offsets_to_commit())
            crash = action == "crash"
            crashes_left -= crash
        if not crash:
            published.extend(pending)
            break
    found = outcomes(published)
    assert len(found) == len(set(found)), "an outcome was published twice"
    last: dict[str, tuple[object, int]] = {}
    for record_id, value, revision in found:
        if record_id in last:
            assert revision > last[record_id][1], "revisions must grow"
        last[record_id] = (value, revision)
    scored = {predictions_decoder.decode(m.value or b"").record_id for m in topics[0]}  # type: ignore[union-attr]
    expected = {k: v for k, v in _newest_labels(topics[1]).items() if k in scored}
    assert {record_id: value for record_id, (value, _) in last.items()} == expected


def _newest_labels(labels: list[Message]) -> dict[str, str]:
    bodies = [msgspec.json.decode(message.value or b"") for message in labels]
    return {str(body["@row"]): body["y"] for body in bodies}


@pytest.mark.parametrize("count", [1, 100])
def test_memory_is_bounded_by_the_join_window(count: int) -> None:
    handler = joined()
    for row in range(count * 20):
        handler.handle([prediction(row, row), label(row, row, "b", at=row)])
        handler.on_tick()
    join = handler._joins[0]
    for buffer in (join.buffered_predictions, join.buffered_labels):
        assert buffer.in_memory <= 13  # the join window and a block of 2
        assert len(buffer.blocks) <= 7


def test_an_outcome_contains_the_bytes_of_its_prediction_and_the_label() -> None:
    message = prediction(0, 7)
    (outcome,) = single(joined().handle([message, label(0, 7, "b")]))
    assert message.value is not None
    assert outcome.value == message.value.replace(b"prediction", b"outcome", 1)[:-1] + (
        b',"label":"b","label_time":null,"label_row":null,"revision":0}'
    )


@pytest.mark.parametrize(
    "rewrite",
    [
        lambda body: msgspec.json.format(body.decode(), indent=2).encode() + b"\n",
        lambda body: msgspec.json.encode(
            dict(reversed(msgspec.json.decode(body, type=dict[str, msgspec.Raw]).items()))
        ),
    ],
)
def test_a_prediction_in_another_json_format_gives_the_same_outcome(
    rewrite: Callable[[bytes], bytes],
) -> None:
    message = prediction(0, 7)
    rewritten = msgspec.structs.replace(message, value=rewrite(message.value or b""))
    (plain,) = single(joined().handle([message, label(0, 7, "b")]))
    (other,) = single(joined().handle([rewritten, label(0, 7, "b")]))
    assert msgspec.json.decode(other.value or b"") == msgspec.json.decode(plain.value or b"")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"record_id":"7"', b'"record_id":null'),
        (b'"scores":null', b'"scores":[1]'),
        (b'"offset":0', b'"offset":"x"'),
        (b'{"x":1}', b'{"x":\xff}'),
        (b'{"x":1}', b'{"x":"\xff"}'),
        (b',"record":{"x":1}', b""),
        (b'"row":7', b'"row":null'),
        (b'"prediction","record_id"', b'"outcome","record_id"'),
    ],
)
def test_an_invalid_prediction_becomes_a_dead_letter_and_no_outcome(old: bytes, new: bytes) -> None:
    message = prediction(0, 7)
    assert message.value is not None
    assert old in message.value
    broken = msgspec.structs.replace(message, value=message.value.replace(old, new))
    handler = joined()
    output = handler.handle([broken, prediction(1, 8), label(0, 8, "b")])
    assert outcomes(output) == [("8", "b", 0)]
    assert [letter.value for letter in output if isinstance(letter, Outgoing)] == [broken.value]
    assert not outcomes(handler.handle([label(1, 7, "b")]))


def test_a_label_whose_outcome_is_too_large_becomes_a_dead_letter() -> None:
    message = prediction(0, 7)
    long = msgspec.structs.replace(
        message,
        value=(message.value or b"").replace(b'{"x":1}', b'{"x":"%b"}' % (b"x" * 1_047_500)),
    )
    ours = label(0, 7, "b")
    _, letter = single(joined().handle([long, ours]))
    assert "outcome too large" in reasons([letter])[0]
    assert letter.value == ours.value


def test_labels_from_a_producer_with_another_partitioner_are_reported_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    murmur2, crc32, *_ = PARTITIONERS.values()
    handler = joined()
    count = STREAM.kafka.partitions
    for row in range(100):
        key = str(row).encode()
        partition = murmur2(key, count)
        handler.handle(
            [msgspec.structs.replace(prediction(row, row), key=key, partition=partition)]
        )
        assert handler.problem is None
    for row in range(100):
        key = str(row).encode()
        handler.handle(
            [msgspec.structs.replace(label(row, row, "a"), key=key, partition=crc32(key, count))]
        )
    assert handler.problem is not None
    assert "labels by CRC32" in handler.problem
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert [warning.partition(":")[0] for warning in warnings] == [
        "labels are not in the partitions of their predictions"
    ]
