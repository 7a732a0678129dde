"""The join: every label that can come, and the same outcomes however the two topics interleave."""

from collections.abc import Iterable, Mapping

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumers.outcomes import OutcomesHandler
from driftline.broker.port import Committed, Message, Outgoing, TopicPartition
from driftline.clock import ManualClock
from driftline.codec.envelope import encode, outcomes_decoder, predictions_decoder
from driftline.events import Outcome, Prediction, Source, Watermark
from driftline.stream import Labels, Span, Stream, loads

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
    handler.assigned(resume or FROM_START)
    return handler


def outcomes(output: Iterable[Outgoing]) -> list[tuple[str, str | float, int]]:
    events = [outcomes_decoder.decode(o.value or b"") for o in output if o.topic == "s.outcomes"]
    return [(e.record_id, e.label, e.revision) for e in events if isinstance(e, Outcome)]


def reasons(output: Iterable[Outgoing]) -> list[str]:
    return [
        dict(o.headers)["driftline_reason"].decode() for o in output if o.topic == "s.deadletters"
    ]


def test_a_label_after_its_prediction_makes_an_outcome() -> None:
    output = joined().handle([prediction(0, 7), label(0, 7, "b", at=9)])
    event = outcomes_decoder.decode(output[0].value or b"")
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


def test_a_label_without_prediction_is_a_dead_letter_after_the_horizon() -> None:
    handler = joined()
    handler.handle([prediction(0, 0), label(0, "nobody", "b", at=0), prediction(1, 10)])
    handler.handle([label(1, 10, "b", at=10)])
    assert not handler.tick()
    handler.handle([prediction(2, 11), label(2, 11, "b", at=11)])
    letters = handler.tick()
    assert reasons(letters) == ["no prediction with this id within the horizon"]
    assert letters[0].value == b'{"@row":"nobody","y":"b","@at":0}'


def test_labels_read_long_before_their_predictions_wait_for_them() -> None:
    handler = joined()
    handler.handle([label(row, row, "b", at=row) for row in range(100)])
    handler.tick()
    output: list[Outgoing] = []
    for row in range(100):
        output += handler.handle([prediction(row, row)])
        output += handler.tick()
    assert len(outcomes(output)) == 100
    assert not reasons(output)


def test_predictions_read_long_before_their_labels_wait_for_them() -> None:
    handler = joined()
    handler.handle([prediction(row, row) for row in range(100)])
    handler.tick()
    output: list[Outgoing] = []
    for row in range(100):
        output += handler.handle([label(row, row, "b", at=row + 5)])
        output += handler.tick()
    assert len(outcomes(output)) == 100
    assert not reasons(output)


def test_a_label_known_later_than_the_horizon_is_a_dead_letter() -> None:
    handler = joined()
    output = handler.handle([prediction(0, 0), label(0, 0, "b", at=11)])
    assert not outcomes(output)
    assert reasons(output) == ["known later than the horizon after its record"]


def test_a_change_later_than_the_horizon_is_a_dead_letter_too() -> None:
    handler = joined()
    output = handler.handle([prediction(0, 0), label(0, 0, "b", at=1), label(1, 0, "c", at=11)])
    assert outcomes(output) == [("0", "b", 0)]
    assert len(reasons(output)) == 1


def test_labels_that_stay_away_hold_nobody_back() -> None:
    clock = ManualClock()
    handler = joined(clock=clock)
    handler.handle([prediction(row, row) for row in range(100)])
    clock.advance(11)
    handler.tick()
    assert handler.counts["unlabelled"] == 89  # all but the last horizon of ten and its end


def test_a_label_that_was_joined_before_a_restart_is_no_orphan_after_it() -> None:
    clock = ManualClock()
    messages = [prediction(0, 0), prediction(1, 9), label(0, 0, "b", at=9), prediction(2, 12)]
    first = joined(clock=clock)
    first.handle(messages)
    first.tick()
    held = first.holds()
    second = joined(resume=held, clock=clock)
    again = [m for m in messages if m.offset >= held[TopicPartition(m.topic, 0)].offset]
    output = list(second.handle([*again, prediction(3, 30), prediction(4, 50)]))
    clock.advance(11)
    output += second.tick()
    assert not reasons(output)
    assert not outcomes(output)


def test_a_label_that_cannot_be_read_is_a_dead_letter_at_once() -> None:
    output = joined().handle([Message(*LABELS, 0, None, b"{")])
    assert len(reasons(output)) == 1
    assert output[0].value == b"{"


def test_a_redelivered_prediction_is_told_by_its_source() -> None:
    handler = joined()
    output = handler.handle(
        [prediction(0, 7, source=5), prediction(1, 7, source=5), label(0, 7, "b")]
    )
    assert outcomes(output) == [("7", "b", 0)]
    assert handler.counts["duplicates"] == 1


def test_two_records_of_one_id_each_get_their_outcome() -> None:
    output = joined().handle([prediction(0, 7), prediction(1, 7), label(0, 7, "b")])
    assert outcomes(output) == [("7", "b", 0), ("7", "b", 0)]


def test_watermarks_flow_through_in_order() -> None:
    message = Message(*PREDICTIONS, 0, None, encode(Watermark(position=9)))
    (output,) = joined().handle([message])
    assert (output.topic, output.partition) == ("s.outcomes", 0)
    assert outcomes_decoder.decode(output.value or b"") == Watermark(position=9)


def test_what_was_refused_before_a_restart_is_not_refused_again() -> None:
    garbage = [Message(*LABELS, 1, None, b"{"), Message(*PREDICTIONS, 1, None, b"{")]
    messages = [prediction(0, 0), label(0, 0, "b", at=1), *garbage]
    first = joined()
    assert len(reasons(first.handle(messages))) == 2
    held = first.holds()
    assert all(committed.offset == 0 for committed in held.values())
    second = joined(resume=held)
    output = second.handle([*messages, prediction(2, 2), label(2, 2, "c", at=3)])
    assert outcomes(output) == [("2", "c", 0)]
    assert not reasons(output)


@st.composite
def logs(draw: st.DrawFn) -> tuple[list[Message], list[Message]]:
    """A predictions and a labels partition: some labels first, late, twice, changed or never."""
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
@settings(max_examples=150, deadline=None)
def test_a_crash_at_any_moment_loses_and_doubles_no_outcome(
    topics: tuple[list[Message], list[Message]], data: st.DataObject
) -> None:
    """Whatever is committed, and however the topics interleave, each prediction ends with exactly
    one outcome of revision 0 or, if its label had changed before it came, of the newest label."""
    logs_by_partition = {PREDICTIONS: topics[0], LABELS: topics[1]}
    wide = msgspec.structs.replace(STREAM, labels=Labels(horizon=Span(records=1000)))
    crashes_left = 3
    committed: dict[TopicPartition, Committed] = dict(FROM_START)
    published: list[Outgoing] = []
    while True:
        handler = joined(wide, committed)
        positions = {partition: at.offset for partition, at in committed.items()}
        pending: list[Outgoing] = []
        crash = False
        while not crash:
            left = [p for p, log in logs_by_partition.items() if positions[p] < len(log)]
            if not left:
                break
            partition = data.draw(st.sampled_from(left))
            count = data.draw(st.integers(1, 4))
            batch = logs_by_partition[partition][positions[partition] :][:count]
            pending.extend(handler.handle(batch))
            pending.extend(handler.tick())
            positions[partition] += len(batch)
            actions = ["go on", "commit"] + ["crash"] * (crashes_left > 0)
            action = data.draw(st.sampled_from(actions))
            if action == "commit":
                published.extend(pending)
                pending = []
                committed = dict(handler.holds())
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
def test_memory_is_bounded_by_the_horizon(count: int) -> None:
    handler = joined()
    for row in range(count * 20):
        handler.handle([prediction(row, row), label(row, row, "b", at=row)])
        handler.tick()
    assert len(handler._joins[0].predictions.queue) <= 11
    assert len(handler._joins[0].labels.queue) <= 11
    assert len(handler._joins[0]._known) <= 11
    assert len(handler._joins[0]._by_age) <= 11
