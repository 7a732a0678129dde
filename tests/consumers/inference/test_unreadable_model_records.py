"""Each unreadable record of the `models` topic becomes exactly one dead letter of inference."""

from pathlib import Path

import pytest

from driftline.broker.memory import MemoryBroker
from driftline.broker.port import Committed, Message, Outgoing, TopicPartition
from driftline.broker.scan import ranges, scan
from driftline.clock import ManualClock
from driftline.config.settings import load_settings
from driftline.config.stream import Stream, loads
from driftline.models.keys import new_key
from driftline.runtime.loop import Loop
from driftline.wire.envelope import DeadLetterOrigin, dead_letter_origin, encode
from driftline.wire.topics import Topics, apply
from driftline_app.assembly import build_handler, build_loop
from trainer.first import TrainedModel, train_first

STREAM_FILE = """
version = 1
name = "s"
task = "classification"
target = "y"
features = {{ x = "number" }}
models = {{ candidates = ["logistic_regression"], tune = false }}
kafka = {{ partitions = 2, inference_delivery = "{}" }}
"""


class Site:
    """A broker with a first model, and workers of inference."""

    def __init__(self, folder: Path, delivery: str) -> None:
        self.stream: Stream = loads(STREAM_FILE.format(delivery))
        self.topics = Topics(self.stream)
        self.clock = ManualClock()
        self.broker = MemoryBroker(self.clock)
        self.settings = load_settings({"DRIFTLINE_HOME": str(folder), "DRIFTLINE_CLIENT": "memory"})
        apply(self.broker.admin(), self.topics)
        self.producer = self.broker.producer()
        new_key(self.settings.keys)
        self.model: TrainedModel = train_first(
            self.stream,
            [b'{"@row": %d, "x": %d}' % (i, i % 10) for i in range(100)],
            ["high" if i % 10 > 4 else "low" for i in range(100)],
            settings=self.settings,
            clock=self.clock,
        )
        for record in self.model.records:
            self.producer.send(record)

    def write(self, value: bytes) -> None:
        self.producer.send(Outgoing(self.topics.models, value, b"model/?", 0))

    def worker(self, slot: int = 0) -> Loop:
        handler = build_handler(
            "inference", self.stream, self.settings, self.broker, self.clock, synchronous=True
        )
        return build_loop(
            "inference",
            self.stream,
            self.broker,
            handler,
            clock=self.clock,
            slot=slot,
            commit_interval_s=0.0,
        )

    def run(self, *slots: int) -> None:
        """Start workers, let them read everything, and stop them."""
        loops = [self.worker(slot) for slot in slots]
        for _ in range(20):
            for loop in loops:
                loop.step(0)
        for loop in loops:
            loop.close()

    def letters(self) -> list[DeadLetterOrigin]:
        found: list[Message] = []
        for batch in scan(self.broker, ranges(self.broker, [self.topics.deadletters])):
            found.extend(batch)
        return [dead_letter_origin(message) for message in found]


@pytest.fixture(params=["at_least_once", "exactly_once"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Site:
    return Site(tmp_path, request.param)


def test_each_unreadable_record_becomes_one_dead_letter_despite_restarts(site: Site) -> None:
    site.write(b"{")
    for _ in range(3):
        site.run(0)
    (letter,) = site.letters()
    assert (letter.service, letter.topic, letter.offset) == ("inference", "s.models", 2)
    site.write(b"[]")  # while no worker runs
    site.run(0)
    site.run(0)
    assert [letter.offset for letter in site.letters()] == [2, 3]
    running = site.worker()
    for _ in range(5):
        running.step(0)
    site.write(b"no JSON")  # while a worker runs
    for _ in range(5):
        running.step(0)
    running.close()
    site.run(0)
    assert [letter.offset for letter in site.letters()] == [2, 3, 4]


def test_several_workers_publish_one_dead_letter_together(site: Site) -> None:
    site.write(b"{")
    site.run(0, 1)
    site.run(1, 0)
    site.run(1)
    assert [letter.offset for letter in site.letters()] == [2]


def test_a_worker_that_takes_over_the_partition_continues_at_the_commit(site: Site) -> None:
    first, second = site.worker(0), site.worker(1)
    for number in range(10):
        if number == 4:
            site.write(b"{")
        first.step(0)
        second.step(0)
    first.close()
    site.write(b"[")
    for _ in range(10):
        second.step(0)
    second.close()
    assert [letter.offset for letter in site.letters()] == [2, 3]


def test_a_dead_letter_missing_after_a_kill_is_published_by_the_next_worker(site: Site) -> None:
    site.write(b"{")
    group = site.broker.consumer(site.topics.group("inference"))
    at = TopicPartition(site.topics.features, 0)
    group.commit({at: Committed(0, encode({"models": 2}).decode())})
    site.run(0)
    assert [letter.offset for letter in site.letters()] == [2]


def test_a_recreated_topic_is_read_from_its_beginning(site: Site) -> None:
    site.write(b"{")
    group = site.broker.consumer(site.topics.group("inference"))
    at = TopicPartition(site.topics.features, 0)
    group.commit({at: Committed(0, encode({"models": 500}).decode())})
    site.run(0)
    assert [letter.offset for letter in site.letters()] == [2]


def test_the_newest_champion_seen_serves_even_if_an_old_pointer_replaced_it(
    site: Site,
) -> None:
    """A compacted topic is in this state after someone has replayed an old pointer."""
    site.run(0)
    replayed = Site(site.settings.home / "again", site.stream.kafka.inference_delivery)
    group = replayed.broker.consumer(replayed.topics.group("inference"))
    seen = encode({"sequence": 5, "champion": site.model.digest}).decode()
    group.commit({TopicPartition(replayed.topics.features, 1): Committed(0, seen)})
    replayed.settings = site.settings  # its store has the model that was seen
    replayed.producer.send(Outgoing(replayed.topics.features, b'{"@row": 1, "x": 3}', b"1", 0))
    worker = replayed.worker()
    for _ in range(10):
        worker.step(0)
    assert worker._handler.model == site.model.digest  # type: ignore[attr-defined]
    worker.close()
