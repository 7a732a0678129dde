"""A bad record that a handler has deferred becomes a dead letter, and no other record does."""

import json
from collections.abc import Sequence
from typing import Any

import pytest

from consumers.outcomes.handler import OutcomesHandler
from consumers.outcomes.window_join import PartitionJoin
from driftline.broker.memory import MemoryBroker
from driftline.broker.port import Message, Outgoing, TopicPartition
from driftline.clock import ManualClock
from driftline.config.stream import loads
from driftline.runtime.handler import Handler
from driftline.runtime.loop import Loop
from driftline.wire.envelope import dead_letter_origin
from driftline.wire.topics import Topics
from monitor.panes import Grid
from monitor.service import MonitorHandler
from tests.monitor.streams import Packages

STREAM = loads("""
version = 1
name = "a"
task = "classification"
target = "y"
record = {id = "id"}
features = {x = "number"}
kafka = {partitions = 1}
windows = {records = 100, min_records = 1, lateness = 0}
labels = {horizon = 200}
""")
TOPICS = Topics(STREAM)


def prediction(i: int) -> dict[str, Any]:
    return {
        "type": "prediction",
        "record_id": str(i),
        "time": None,
        "row": i,
        "prediction": "b",
        "scores": None,
        "model": "m",
        "source": {"topic": TOPICS.features, "partition": 0, "offset": i},
        "record": {"x": 1, "@row": i},
    }


def outcome(i: int) -> dict[str, Any]:
    joined = {"type": "outcome", "label": "b", "label_time": None, "label_row": i, "revision": 0}
    return {**prediction(i), **joined}


def label(name: object, at: int) -> dict[str, Any]:
    return {"id": str(name), "y": "b", "@at": at}


class Bench:
    """One worker on an in-memory broker."""

    def __init__(self, handler: Handler, group: str) -> None:
        self.clock = ManualClock()
        self.broker = MemoryBroker(self.clock)
        self.broker.admin().create(TOPICS.creation())
        self.loop = Loop(
            handler, self.broker, group=group, delivery="exactly_once", clock=self.clock
        )

    def put(self, topic: str, *values: object) -> None:
        producer = self.broker.producer()
        for value in values:
            producer.send(Outgoing(topic, json.dumps(value).encode(), partition=0))

    def run(self, steps: int = 200) -> None:
        for _ in range(steps):
            self.clock.advance(0.6)
            self.loop.step(0)

    def read(self, topic: str) -> Sequence[Message]:
        consumer = self.broker.consumer()
        consumer.assign({TopicPartition(topic, 0): 0})
        return consumer.poll(max_records=10_000, timeout_s=0)

    def dead(self) -> list[tuple[str, int]]:
        origins = map(dead_letter_origin, self.read(TOPICS.deadletters))
        return [(origin.topic, origin.offset) for origin in origins]


@pytest.mark.parametrize("labels_first", [True, False])
@pytest.mark.parametrize("split", [True, False])
def test_a_bad_label_that_was_deferred_becomes_the_only_dead_letter(
    labels_first: bool, split: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = PartitionJoin.take_labels

    def fail(self: PartitionJoin, ids: Sequence[str], *others: Any) -> None:
        if "bad" in ids:
            raise KeyError("bad")
        take(self, ids, *others)

    monkeypatch.setattr(PartitionJoin, "take_labels", fail)
    bench = Bench(OutcomesHandler(STREAM, ManualClock()), "a.outcomes")
    bench.put(TOPICS.predictions, *map(prediction, range(8)))
    bench.put(TOPICS.labels, *(label(i, i) for i in range(3)))
    if split:
        bench.run(20)
    labels = [label(i, i) for i in range(3, 5)] + [label("bad", 5)]
    labels += [label(i, i) for i in range(5, 20)]
    both = [(TOPICS.predictions, list(map(prediction, range(8, 20)))), (TOPICS.labels, labels)]
    for topic, values in reversed(both) if labels_first else both:
        bench.put(topic, *values)
    bench.run()
    assert bench.dead() == [(TOPICS.labels, 5)]
    outcomes = [json.loads(message.value or b"") for message in bench.read(TOPICS.outcomes)]
    known = [o["record_id"] for o in outcomes if o["type"] == "outcome"]
    assert sorted(known, key=int) == [str(i) for i in range(20)]
    committed = bench.broker.admin().group_offsets("a.outcomes")
    assert json.loads(committed[TopicPartition(TOPICS.labels, 0)].metadata)["published"] == 21


BAD_PARTS = [
    {"type": "performance_parts", "partition": 7, "grid": "G", "passed": 3, "panes": []},
    {
        "type": "performance_parts",
        "partition": 0,
        "grid": "G",
        "passed": None,
        "panes": [{"index": 0, "models": [{"model": "other", "records": 1}]}],
    },
    {
        "type": "performance_parts",
        "partition": 0,
        "grid": "G",
        "passed": None,
        "panes": [
            {
                "index": 0,
                "models": [
                    {
                        "model": "other",
                        "records": 1,
                        "sample": {
                            "hashes": "AAAA",
                            "positions": "",
                            "records": "",
                            "offsets": "",
                            "errors": "",
                        },
                    }
                ],
            }
        ],
    },
]


@pytest.mark.parametrize("bad", BAD_PARTS)
def test_a_bad_partial_aggregate_does_not_stop_the_monitor(bad: dict[str, Any]) -> None:
    bench = Bench(MonitorHandler(STREAM, Packages({})), "a.monitor")
    bench.put(TOPICS.parts, {**bad, "grid": Grid.of(STREAM).name})
    bench.put(TOPICS.predictions, *map(prediction, range(850)))
    bench.put(TOPICS.outcomes, *map(outcome, range(850)))
    bench.run()
    windows = [json.loads(message.value or b"") for message in bench.read(TOPICS.windows)]
    for kind in ("data_window", "performance_window"):
        found = [(w["index"], w["records"]) for w in windows if w["type"] == kind]
        assert found[:4] == [(0, 100), (1, 100), (2, 100), (3, 100)]
    assert {topic for topic, _ in bench.dead()} <= {TOPICS.parts}
