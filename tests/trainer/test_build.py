"""The trainer in its loop, on a broker and with real training."""

import pickle
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from driftline.broker import connect
from driftline.broker.memory import MemoryBroker
from driftline.broker.port import Broker, Outgoing
from driftline.broker.scan import ranges, scan
from driftline.clock import SystemClock
from driftline.config.settings import Settings, load_settings
from driftline.config.stream import Stream
from driftline.config.stream_sections import Client
from driftline.models.catalog import read_catalog
from driftline.models.keys import Trusted
from driftline.runtime.loop import Loop
from driftline.wire.envelope import decode, encode, rare, retrain_decoder
from driftline.wire.events import ComparisonStarted, RetrainDecision, RetrainEvent
from driftline.wire.topics import Topics, apply
from tests.training import CLASSIFICATION, CLOCK, first_model, outcome, request, settings
from trainer.build import WorkAlone, build_trainer


def fill(broker: Broker, stream: Stream, folder: Path) -> str:
    """Write a first model, outcomes of a new concept and a request; return the model's digest."""
    topics = Topics(stream)
    apply(broker.admin(), topics)
    first = first_model(stream, folder)
    producer = broker.producer()
    for record in first.records:
        producer.send(record)
    send_outcomes(broker, stream, range(300, 700))
    producer.send(rare(topics.retrain, request(), id="retrain-1"))
    producer.flush()
    producer.close()
    return first.digest


def send_outcomes(broker: Broker, stream: Stream, rows: range) -> None:
    """Write outcomes of the new concept."""
    producer = broker.producer()
    for i in rows:
        value = encode(outcome(stream, i, turned=True))
        partition = i % stream.kafka.partitions
        producer.send(Outgoing(Topics(stream).outcomes, value, partition=partition))
    producer.flush()
    producer.close()


def loop(broker: Broker, stream: Stream, here: Settings, *, synchronous: bool) -> Loop:
    clock = CLOCK if synchronous else SystemClock()
    return Loop(
        build_trainer(stream, here, broker, clock, synchronous=synchronous),
        broker,
        group=Topics(stream).group("trainer"),
        delivery="exactly_once",
        clock=clock,
        commit_interval_s=0.0,
    )


def events(broker: Broker, stream: Stream) -> list[RetrainEvent]:
    found = scan(broker, ranges(broker, [Topics(stream).retrain]))
    return [decode(retrain_decoder, message) for messages in found for message in messages]


def decisions(broker: Broker, stream: Stream) -> list[RetrainDecision]:
    return [event for event in events(broker, stream) if isinstance(event, RetrainDecision)]


def test_a_request_gives_one_comparison_one_decision_and_a_new_champion(tmp_path: Path) -> None:
    broker = MemoryBroker(CLOCK)
    first = fill(broker, CLASSIFICATION, tmp_path)
    for rows in (range(0), range(700, 1700), range(0)):  # each iteration is like a restart
        send_outcomes(broker, CLASSIFICATION, rows)
        running = loop(broker, CLASSIFICATION, settings(tmp_path), synchronous=True)
        for _ in range(10):
            running.step(0)
        running.close()
    request, comparison, decision = events(broker, CLASSIFICATION)
    assert isinstance(comparison, ComparisonStarted)
    assert isinstance(decision, RetrainDecision)
    assert request.id == comparison.request == decision.request
    assert (comparison.after, comparison.challenger) == (699, decision.model)
    assert (decision.published, decision.promoted) == (True, True)
    catalog = read_catalog(broker, Topics(CLASSIFICATION), Trusted(tmp_path / "keys"))
    assert catalog.champion_digest == decision.model
    assert catalog.previous() == first


def test_the_training_job_can_be_sent_to_another_process(tmp_path: Path) -> None:
    alone = WorkAlone(CLASSIFICATION, settings(tmp_path))
    assert pickle.loads(pickle.dumps(alone)) == alone


@pytest.mark.kafka
@pytest.mark.parametrize("client", ["kafka-python", "librdkafka"])
def test_on_kafka_the_loop_continues_while_a_process_trains(
    tmp_path: Path, kafka_bootstrap: str, topic_name: Callable[[], str], client: Client
) -> None:
    kafka = msgspec.structs.replace(CLASSIFICATION.kafka, topic_prefix=f"{topic_name()}.")
    stream = msgspec.structs.replace(CLASSIFICATION, kafka=kafka)
    here = load_settings(
        {"DRIFTLINE_HOME": str(tmp_path), "DRIFTLINE_CLIENT": client},
        bootstrap_servers=kafka_bootstrap,
    )
    broker = connect(here.client, here.bootstrap_servers, here.properties)
    fill(broker, stream, tmp_path)
    running = loop(broker, stream, here, synchronous=False)
    steps, until_s, rows = 0, time.monotonic() + 90, range(700, 1700)
    try:
        while not decisions(broker, stream):
            assert time.monotonic() < until_s, "no decision"
            for _ in range(20):
                running.step(0.05)
                steps += 1
            if rows and any(isinstance(e, ComparisonStarted) for e in events(broker, stream)):
                send_outcomes(broker, stream, rows)
                rows = range(0)
    finally:
        running.close()
    (decision,) = decisions(broker, stream)
    assert decision.promoted, decision.reason
    assert steps > 20
    catalog = read_catalog(broker, Topics(stream), Trusted(tmp_path / "keys"))
    assert catalog.champion_digest == decision.model
