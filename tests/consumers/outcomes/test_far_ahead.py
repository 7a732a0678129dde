"""Records and labels with a time in the far future do not affect others.

After a long pause of the stream, all labels are still matched with their records."""

from collections.abc import Mapping, Sequence
from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumers.outcomes.handler import OutcomesHandler
from driftline.broker.port import Committed, Message, Outgoing, OutgoingBatch, TopicPartition
from driftline.clock import ManualClock
from driftline.config.stream import loads
from driftline.runtime.handler import GroupProgress
from driftline.runtime.partition_clock import AGREEING, PartitionClock
from driftline.wire.envelope import encode, outcomes_decoder, predictions_decoder
from driftline.wire.events import Outcome, Prediction
from driftline.wire.predictions import marked_ahead
from tests.consumers.outcomes.test_handler import (
    FROM_START,
    LABELS,
    PREDICTIONS,
    label,
    outcomes,
    prediction,
    reasons,
    view,
)

HORIZON = 10
STREAM = loads(
    """
    version = 1
    name = "s"
    task = "classification"
    target = "y"
    features = { x = "number" }
    labels = { horizon = 10 }
    windows = { records = 20 }
    """
)
FAR = 10**12


def predictions(rows: Sequence[int]) -> list[Message]:
    """Return predictions as inference writes them."""
    ahead = set(PartitionClock(STREAM.max_ahead).take(rows))
    found = [prediction(offset, row) for offset, row in enumerate(rows)]
    return [
        msgspec.structs.replace(m, value=marked_ahead(m.value or b"")) if m.offset in ahead else m
        for m in found
    ]


def handler(resume: Mapping[TopicPartition, Committed] = FROM_START) -> OutcomesHandler:
    made = OutcomesHandler(STREAM, ManualClock())
    made.on_assigned(resume)
    return made


@given(seed=st.integers(0, 2**32))
@settings(max_examples=60)
def test_a_record_and_a_label_from_the_far_future_do_not_affect_others(seed: int) -> None:
    random = Random(seed)
    rows = [*range(60)]
    rows.insert(random.randint(1, 60), FAR)
    known = sorted((row + random.randint(0, HORIZON), row) for row in rows if row < FAR)
    bad = random.randint(1, 59)
    known[bad] = (FAR + 5, known[bad][1])
    logs = {
        PREDICTIONS: predictions(rows),
        LABELS: [label(offset, row, "b", at=at) for offset, (at, row) in enumerate(known)],
    }
    join, committed = handler(), FROM_START
    positions = dict.fromkeys(logs, 0)
    output: list[Outgoing | OutgoingBatch] = []
    pending: list[Outgoing | OutgoingBatch] = []
    while any(positions[p] < len(log) for p, log in logs.items()):
        partition = random.choice([PREDICTIONS, LABELS])
        end = positions[partition] + random.randint(1, 9)
        if messages := logs[partition][positions[partition] : end]:
            pending += join.handle(messages)
        positions[partition] += len(messages)
        ends = {p: len(log) for p, log in logs.items()}
        join.on_group_progress(GroupProgress(dict(positions), ends, dict))
        pending += join.on_tick()
        match random.choice(["go on"] * 6 + ["commit"] * 3 + ["restart"]):
            case "commit":
                committed = dict(join.offsets_to_commit())
                output += pending
                pending = []
            case "restart":
                join, pending = handler(committed), []
                positions = {p: at.offset for p, at in committed.items()}
    for _ in range(3):
        join.on_group_progress(GroupProgress(dict(positions), dict(positions), dict))
        pending += join.on_tick()
    output += pending
    joined = {record_id for record_id, _, _ in outcomes(output)}
    assert joined | {str(known[bad][1])} == {str(row) for row in range(60)}
    assert len(outcomes(output)) == len(joined)
    assert len(reasons(output)) <= 1


@pytest.mark.parametrize("wrong", range(1, AGREEING))
def test_the_first_labels_from_the_far_future_do_not_affect_others(wrong: int) -> None:
    join = handler()
    output = [*join.handle(predictions([*range(wrong + 1)]))]
    output += join.handle([label(offset, offset, "b", at=FAR) for offset in range(wrong)])
    output += join.handle(predictions([*range(100)])[wrong + 1 :])  # long before their labels
    output += join.handle(
        [label(row, row, "b", at=row + HORIZON) for row in range(wrong, 100)],
    )
    assert {record_id for record_id, _, _ in outcomes(output)} >= {
        str(row) for row in range(wrong, 100)
    }


def test_a_record_from_the_future_is_matched_and_its_outcome_is_marked_ahead() -> None:
    join = handler()
    output = join.handle([*predictions([0, 1, FAR, 2]), label(0, FAR, "b", at=3)])
    assert outcomes(output) == [(str(FAR), "b", 0)]
    values = [v for item in output if isinstance(item, OutgoingBatch) for v in item.values]
    event = outcomes_decoder.decode(values[0])
    assert isinstance(event, Outcome)
    assert event.ahead
    assert encode(outcomes_decoder.decode(encode(event))) == encode(event)


def test_a_record_from_the_future_is_evicted_with_its_neighbours() -> None:
    join = handler()
    join.handle([*predictions([0, FAR, *range(1, 100)])])
    join.handle([label(n, n, "b", at=n) for n in range(100)])
    join.on_tick()
    assert join.offsets_to_commit()[PREDICTIONS].offset > 50
    assert join.offsets_to_commit()[LABELS].offset > 50


@pytest.mark.parametrize("delay", [0, 5, HORIZON])
def test_after_a_pause_of_the_stream_every_label_is_matched(delay: int) -> None:
    rows = [*range(30), *range(10_000, 10_060)]
    found = predictions(rows)
    events = [(row, 0, offset) for offset, row in enumerate(rows)]
    events += [(row + delay, 1, offset) for offset, row in enumerate(rows)]
    join = handler()
    output: list[Outgoing | OutgoingBatch] = []
    for at, is_label, offset in sorted(events):
        message = label(offset, rows[offset], "b", at=at) if is_label else found[offset]
        output += join.handle([message])
        join.on_group_progress(view(join))
        output += join.on_tick()
    assert not reasons(output)
    assert len(outcomes(output)) == len(rows)
    published = [
        outcomes_decoder.decode(value)
        for item in output
        if isinstance(item, OutgoingBatch)
        for value in item.values
    ]
    assert sum(event.ahead for event in published if isinstance(event, Outcome)) == AGREEING - 1


def test_marking_a_prediction_as_ahead_changes_no_other_field() -> None:
    (message,) = predictions([3])
    value = message.value or b""
    plain, marked = (
        predictions_decoder.decode(value),
        predictions_decoder.decode(marked_ahead(value)),
    )
    assert isinstance(plain, Prediction)
    assert not plain.ahead
    assert b"ahead" not in value
    assert marked == msgspec.structs.replace(plain, ahead=True)
