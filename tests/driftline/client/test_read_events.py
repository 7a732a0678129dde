"""Iterators over predictions, outcomes and drift events."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Literal

import msgspec
import pytest

from driftline.broker.memory import MemoryBroker
from driftline.broker.port import Outgoing
from driftline.client.read_events import drift_events, outcomes, predictions
from driftline.errors import BrokerError, StreamFileError
from driftline.wire.envelope import drift_decoder, encode, rare
from driftline.wire.events import DriftEvent, Event, Log, Outcome, Prediction, Source, Watermark
from driftline.wire.topics import Topics
from tests.world import STREAM

TOPICS = Topics(STREAM)
GOLDEN = Path(__file__).parents[2] / "golden"


def prediction(offset: int, partition: int = 0, model: str = "sha256:a") -> Prediction:
    return Prediction(
        record_id=f"{partition}-{offset}",
        time=None,
        row=offset,
        prediction="yes",
        scores=None,
        model=model,
        source=Source(TOPICS.features, partition, offset),
        record=msgspec.Raw(b"{}"),
    )


def outcome(of: Prediction, revision: int = 0) -> Outcome:
    fields = {name: getattr(of, name) for name in of.__struct_fields__}
    return Outcome(**fields, label="no", label_time=None, label_row=None, revision=revision)


def drift(action: Literal["opened", "updated", "resolved"]) -> DriftEvent:
    opened = drift_decoder.decode((GOLDEN / "drift.drift.json").read_bytes())
    return msgspec.structs.replace(opened, action=action)


@pytest.fixture
def broker() -> MemoryBroker:
    broker = MemoryBroker()
    broker.admin().create(TOPICS.creation())
    return broker


def publish(broker: MemoryBroker, topic: str, *events: Event, partition: int = 0) -> None:
    producer = broker.producer()
    for event in events:
        producer.send(Outgoing(topic, encode(event), partition=partition))
    producer.close()


def ids(found: Iterator[Prediction] | Iterator[Outcome]) -> list[str]:
    return [event.record_id for event in found]


def test_each_partition_is_read_in_its_order_up_to_the_current_end(broker: MemoryBroker) -> None:
    publish(broker, TOPICS.predictions, *map(prediction, range(3)))
    publish(broker, TOPICS.predictions, prediction(0, 1), partition=1)
    found = predictions(broker, STREAM)
    publish(broker, TOPICS.predictions, prediction(3))
    read = ids(found)
    assert [id for id in read if id[0] == "0"] == ["0-0", "0-1", "0-2"]
    assert sorted(read) == ["0-0", "0-1", "0-2", "1-0"]


def test_repeated_predictions_are_left_out_even_of_another_model(broker: MemoryBroker) -> None:
    repeated = prediction(1, model="sha256:b")
    publish(broker, TOPICS.predictions, prediction(0), prediction(1), repeated, prediction(2))
    assert [p.model for p in predictions(broker, STREAM)] == ["sha256:a"] * 3


def test_offsets_of_a_topic_that_was_created_again_are_no_repeats(broker: MemoryBroker) -> None:
    first, second = (Watermark(None, log=Log(id, 0)) for id in ("first", "second"))
    publish(broker, TOPICS.predictions, first, prediction(0), first, prediction(0))
    assert ids(predictions(broker, STREAM)) == ["0-0"]
    publish(broker, TOPICS.predictions, second, prediction(0))
    assert ids(predictions(broker, STREAM)) == ["0-0", "0-0"]


def test_records_of_other_programs_are_skipped(broker: MemoryBroker) -> None:
    broker.producer().send(Outgoing(TOPICS.outcomes, b"hello", partition=0))
    publish(broker, TOPICS.outcomes, Watermark(5), outcome(prediction(0)))
    assert ids(outcomes(broker, STREAM)) == ["0-0"]


def test_a_changed_label_is_an_outcome_with_the_next_revision(broker: MemoryBroker) -> None:
    publish(broker, TOPICS.outcomes, *(outcome(prediction(0), number) for number in range(2)))
    assert [event.revision for event in outcomes(broker, STREAM)] == [0, 1]


def test_following_waits_for_new_events_after_the_stored_ones(broker: MemoryBroker) -> None:
    producer = broker.producer()
    producer.send(rare(TOPICS.drift, drift("opened"), id="1"))
    everything = drift_events(broker, STREAM, follow=True)
    new = drift_events(broker, STREAM, start="latest", follow=True)
    assert next(everything).action == "opened"
    producer.send(rare(TOPICS.drift, drift("updated"), id="1"))
    producer.send(rare(TOPICS.drift, drift("resolved"), id="1"))
    assert [event.action for event in islice(everything, 2)] == ["updated", "resolved"]
    assert [event.action for event in islice(new, 2)] == ["updated", "resolved"]


def test_wrong_arguments_fail_at_the_call() -> None:
    with pytest.raises(BrokerError, match=r"s\.predictions"):
        predictions(MemoryBroker(), STREAM)
    with pytest.raises(StreamFileError, match=r"missing\.toml"):
        outcomes(MemoryBroker(), "missing.toml")
