"""Recorded topics become a data file whose playback sends the same records."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import pytest

from driftline.broker import Client, connect
from driftline.broker.port import Broker, Outgoing
from driftline.config.stream import Stream, loads
from driftline.errors import BrokerError, DataError
from driftline.wire.topics import Topics, apply
from driftline_app.backtest.export_records import Recorded, as_recorded, write_recorded
from producers.playback import Play, Playback
from producers.rows import Row
from producers.sources import open_source
from tests.world import World

NUMBERED = """
version = 1
name = "s"
task = "regression"
target = "y"
features = { x = "number", colour = "category" }
windows = { records = 20 }
simulate = { label_delay = 7, label_missing = 0.1 }
kafka = { partitions = 3 }
"""
TIMED = """
version = 1
name = "s"
task = "classification"
target = "y"
features = { x = "number" }
record = { id = "id", key = "colour" }
time = { column = "t", format = "unix_s" }
windows = { span = "10m" }
simulate = { label_delay = "3m" }
kafka = { partitions = 3 }
"""


class Rows:
    """A source that returns the given rows."""

    name = "rows"
    textual = False

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows

    def count(self) -> int:
        return len(self._rows)

    def rows(self) -> Iterator[Row]:
        return iter(self._rows)


def rows(count: int) -> list[Row]:
    return [
        {"id": f"r{i}", "t": 60 * i, "x": i / 8, "colour": ("red", "blue")[i % 2], "y": i / 2}
        for i in range(count)
    ]


def fill(broker: Broker, stream: Stream, data: Sequence[Row]) -> list[Play]:
    """Play the data into the topics; return the items that were sent."""
    topics = Topics(stream)
    sent = list(Playback(stream, Rows(data), seed=3).play())
    producer = broker.producer()
    for play in sent:
        topic = topics.features if play.kind == "record" else topics.labels
        producer.send(Outgoing(topic, play.value, play.key))
    producer.flush()
    producer.close()
    return sent


def read_again(broker: Broker, stream: Stream, folder: Path) -> tuple[Recorded, list[Play]]:
    """Return the counts of the recording and the items of its playback."""
    stream, file = as_recorded(stream), folder / "recorded.jsonl"
    recorded = write_recorded(broker, stream, file)
    return recorded, list(Playback(stream, open_source(str(file))).play())


def again(world: World, folder: Path) -> tuple[Recorded, list[Play]]:
    return read_again(world.broker, world.stream, folder)


def messages(plays: Sequence[Play]) -> list[tuple[str, bytes, bytes]]:
    return [(play.kind, play.key, play.value) for play in plays]


@pytest.mark.parametrize("text", [NUMBERED, TIMED], ids=["numbered", "timed"])
def test_a_recording_plays_what_was_sent(tmp_path: Path, text: str) -> None:
    world = World(loads(text))
    sent = fill(world.broker, world.stream, rows(200))
    recorded, played = again(world, tmp_path)
    assert messages(played) == messages(sent)
    assert recorded.records == 200
    assert recorded.labelled == sum(play.kind == "label" for play in sent)
    assert recorded.unreadable_records == recorded.labels_without_record == 0


def test_records_keep_their_numbers_after_a_gap(tmp_path: Path) -> None:
    world = World()
    for number, row in enumerate((1000, 1001, 1500)):
        world.feature(f"r{number}", row=row)
        world.label(f"r{number}", "a")
    _, played = again(world, tmp_path)
    records = [msgspec.json.decode(play.value) for play in played if play.kind == "record"]
    assert [record["@row"] for record in records] == [1000, 1001, 1500]


def test_unreadable_records_and_labels_are_skipped_and_counted(tmp_path: Path) -> None:
    world = World()
    world.feature(b"no JSON")
    world.feature("a")
    world.feature("b", partition=1)
    world.label("a", "one")
    world.label("b", "one", partition=0)  # b is in partition 1, so the join never gets both
    world.send(Outgoing(world.topics.labels, b"{}", b"?", 0))
    recorded, played = again(world, tmp_path)
    assert recorded == Recorded(
        records=2,
        labelled=1,
        unreadable_records=1,
        unreadable_labels=1,
        repeated_labels=0,
        revised_labels=0,
        labels_without_record=1,
    )
    assert [play.record_id for play in played if play.kind == "record"] == ["a", "b"]


def test_the_last_label_of_a_record_counts(tmp_path: Path) -> None:
    world = World()
    world.feature("a")
    for label in ("one", "one", "two"):
        world.label("a", label)
    recorded, played = again(world, tmp_path)
    assert (recorded.repeated_labels, recorded.revised_labels) == (1, 1)
    (label,) = [msgspec.json.decode(play.value) for play in played if play.kind == "label"]
    assert label["y"] == "two"


def test_partitions_are_merged_by_their_max_positions(tmp_path: Path) -> None:
    world = World()
    for row in (0, 3, 1, 4):  # record 1 was late, and is late in the recording too
        world.feature(f"r{row}", row=row)
    world.feature("r2", row=2, partition=1)
    world.label("r0", "a")
    _, played = again(world, tmp_path)
    order = [play.record_id for play in played if play.kind == "record"]
    assert order == ["r0", "r2", "r3", "r1", "r4"]


def test_an_error_names_a_topic_without_records_or_labels(tmp_path: Path) -> None:
    world = World()
    with pytest.raises(DataError, match=r"s\.features: no records"):
        again(world, tmp_path)
    world.feature(b"no JSON")
    with pytest.raises(DataError, match=r"s\.features: no record can be read"):
        again(world, tmp_path)
    world.feature("a")
    with pytest.raises(DataError, match=r"s\.labels: no label for any of 1 records"):
        again(world, tmp_path)
    world.broker.admin().delete([Topics(world.stream).labels])
    with pytest.raises(BrokerError, match=r"s\.labels"):
        again(world, tmp_path)


@pytest.mark.kafka
@pytest.mark.parametrize("client", ["kafka-python", "librdkafka"])
def test_topics_on_kafka_are_recorded_with_either_client(
    kafka_bootstrap: str, topic_name: Callable[[], str], tmp_path: Path, client: Client
) -> None:
    stream = loads(NUMBERED.replace('"s"', f'"{topic_name()}"'))
    broker = connect(client, kafka_bootstrap)
    admin = broker.admin()
    apply(admin, Topics(stream))
    admin.close()
    sent = fill(broker, stream, rows(200))
    passed: list[int] = []
    total: list[int] = []
    recorded = write_recorded(
        broker, stream, tmp_path / "again.jsonl", progress=passed.append, total=total.append
    )
    assert recorded.records == 200
    assert total == [sum(passed)] == [len(sent)]
    assert messages(read_again(broker, stream, tmp_path)[1]) == messages(sent)
