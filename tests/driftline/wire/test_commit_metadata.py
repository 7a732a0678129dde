"""Services start and continue with any commit metadata that another tool has written."""

import json
import logging
from pathlib import Path
from typing import Final, get_args

import pytest

from driftline.broker.memory import MemoryBroker
from driftline.broker.port import Committed, Outgoing, TopicPartition
from driftline.clock import ManualClock
from driftline.config.settings import load_settings
from driftline.config.stream import loads
from driftline.errors import StreamFileError
from driftline.models.keys import new_key
from driftline.models.seen import seen_by_inference
from driftline.ops.status import INPUTS
from driftline.wire.commit_metadata import handled
from driftline.wire.topics import SERVICES, Service, Topics, apply
from driftline_app.assembly import build_handler, build_loop

STREAM: Final = loads(
    """
    version = 1
    name = "s"
    task = "classification"
    target = "y"
    features = { x = "number" }
    kafka = { partitions = 2 }
    """
)
TOPICS: Final = Topics(STREAM)
RECORDS: Final = 5
HUGE: Final = 10**30

# No service writes any of these.
UNUSABLE: Final = {
    "text": "moved by Anna",
    "half": '{"published":',
    "list": "[1, 2]",
    "number": "7",
    "string": '"published"',
    "null": "null",
    "nested": "[" * 4000,
    "nested-field": '{"clock":' + "[" * 3000,
    "surrogate": '{"grid":"\ud800"}',
    "other-types": '{"published":{"a":[]},"watermark":[],"data":"x","attempt":null}',
    "fraction": json.dumps(dict.fromkeys(("published", "watermark", "attempt"), 0.5)),
    "negative": json.dumps({"published": -1, "models": -1, "attempt": -1, "source": -2}),
    "large": json.dumps(
        {"published": HUGE, "watermark": HUGE, "models": HUGE, "attempt": HUGE, "source": HUGE}
    ),
    "past-64-bits": json.dumps(dict.fromkeys(("published", "models", "attempt"), 2**63)),
    "infinite": '{"published":1e999,"watermark":-1e999,"attempt":1e999}',
}
# Valid JSON with a wrong value in a field of one service.
FIELDS: Final[dict[Service, tuple[str, ...]]] = {
    "inference": (
        f'{{"watermark":{HUGE}}}',
        f'{{"watermark":{-(2**62)}}}',
        f'{{"clock":{{"reached":{2**62}}}}}',
        '{"clock":{"reached":1,"steps":[-1]}}',
        '{"other_clock":{"ahead":[1,2,3,4,5,6,7,8,9,10,11]}}',
        '{"champion":7}',
        '{"sequence":-1}',
    ),
    "outcomes": (f'{{"reached":{HUGE}}}', '{"passed":-1e3}', '{"before":-2}', '{"token":1}'),
    "monitor": (
        '{"published":"x","closed":"x","grid":3}',
        f'{{"published":-1,"closed":{HUGE},"data":{{"low":{HUGE}}}}}',
        '{"published":-1,"source":-2,"performance":{"passed":[-1]}}',
    ),
    "trainer": ('{"attempt":1001}', '{"attempt":"x"}'),
}
CASES = [
    *((service, text) for service in SERVICES for text in UNUSABLE.values()),
    *((service, text) for service in SERVICES for text in FIELDS[service]),
]


def inputs(service: Service) -> dict[str, int]:
    """Return the input topics of a service with their numbers of partitions."""
    return {
        topic.name: topic.partitions for topic in TOPICS.plan() if topic.role in INPUTS[service]
    }


def commit(broker: MemoryBroker, service: Service, metadata: str, *, with_id: bool = False) -> None:
    """Commit this metadata with all offsets of a group, as a tool does for a stopped group."""
    ids = broker.admin().topic_ids(list(inputs(service))) if with_id else {}
    consumer = broker.consumer(TOPICS.group(service), client_id="tool")
    consumer.commit(
        {
            TopicPartition(topic, partition): Committed(1, _after_id(ids.get(topic), metadata))
            for topic, partitions in inputs(service).items()
            for partition in range(partitions)
        }
    )
    consumer.close()


def _after_id(topic_id: str | None, metadata: str) -> str:
    if topic_id is None:
        return metadata
    own = f'{{"topic_id":"{topic_id}"'
    return f"{own},{metadata[1:]}" if metadata.startswith("{") else f"{own}}} {metadata}"


def broker_with_records() -> tuple[MemoryBroker, ManualClock]:
    clock = ManualClock()
    broker = MemoryBroker(clock)
    apply(broker.admin(), TOPICS)
    producer = broker.producer()
    for service in SERVICES:
        for topic, partitions in inputs(service).items():
            for partition in range(partitions):
                for _ in range(RECORDS):
                    producer.send(Outgoing(topic, b"{}", partition=partition))
    return broker, clock


@pytest.mark.parametrize("with_id", [False, True], ids=["bare", "after the topic's id"])
@pytest.mark.parametrize(("service", "metadata"), CASES)
def test_a_service_continues_despite_unusable_commit_metadata(
    service: Service,
    metadata: str,
    with_id: bool,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    broker, clock = broker_with_records()
    new_key(tmp_path / "keys")
    settings = load_settings({"DRIFTLINE_HOME": str(tmp_path)})
    commit(broker, service, metadata, with_id=with_id)
    with caplog.at_level(logging.WARNING):
        handler = build_handler(service, STREAM, settings, broker, clock, synchronous=True)
        loop = build_loop(service, STREAM, broker, handler, clock=clock)
        for _ in range(4):
            loop.step(0)
            clock.advance(1.0)
        loop.close()
    if service != "trainer":  # the trainer needs no metadata and logs nothing
        topic = next(iter(inputs(service)))
        said = [line for line in caplog.messages if f"{topic}[0]: ignoring the metadata" in line]
        assert len(said) == 1
        assert f"group {TOPICS.group(service)}" in said[0]
    assert not [record for record in caplog.records if record.levelno > logging.WARNING]


@pytest.mark.parametrize("service", ["inference", "outcomes", "monitor"])
def test_a_service_rejects_a_stream_file_whose_windows_are_on_another_axis(
    service: Service, tmp_path: Path
) -> None:
    broker, clock = broker_with_records()
    new_key(tmp_path / "keys")
    settings = load_settings({"DRIFTLINE_HOME": str(tmp_path)})
    commit(broker, service, '{"axis":"time"}')
    handler = build_handler(service, STREAM, settings, broker, clock, synchronous=True)
    loop = build_loop(service, STREAM, broker, handler, clock=clock)
    with pytest.raises(StreamFileError, match="counts windows in records"):
        loop.step(0)
    commit(broker, service, '{"axis":"row"}')
    loop.step(0)
    loop.close()


@pytest.mark.parametrize("metadata", UNUSABLE.values(), ids=UNUSABLE)
def test_readers_of_another_groups_commits_ignore_unusable_metadata(metadata: str) -> None:
    broker, _ = broker_with_records()
    commit(broker, "inference", metadata)
    assert handled(Committed(1, metadata)) == 1
    assert seen_by_inference(broker, TOPICS) == ()


def test_every_service_is_covered() -> None:
    assert set(FIELDS) == set(SERVICES) == set(get_args(Service))
