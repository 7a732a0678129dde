"""Applications name a stream by its file and a broker by its address."""

from pathlib import Path

import pytest

from driftline.broker.kafka_python import KafkaPythonBroker
from driftline.client.connection import as_broker, as_stream, memory_broker
from driftline.errors import SettingsError
from driftline.wire.topics import Topics
from tests.world import STREAM, STREAM_FILE


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "s.toml"
    path.write_text(STREAM_FILE, encoding="utf-8")
    return path


def test_a_stream_is_a_path_as_text_or_an_object(file: Path) -> None:
    assert as_stream(file) == as_stream(str(file)) == as_stream(STREAM) == STREAM


def test_a_broker_is_an_address_or_an_object(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRIFTLINE_CLIENT", "kafka-python")
    assert isinstance(as_broker("127.0.0.1:1"), KafkaPythonBroker)
    broker = memory_broker(STREAM)
    assert as_broker(broker) is broker
    with pytest.raises(SettingsError):
        as_broker("no such host")


def test_the_broker_in_memory_has_all_topics_of_the_stream(file: Path) -> None:
    topics = memory_broker(str(file)).admin().describe()
    assert set(topics) == {topic.name for topic in Topics(STREAM).plan()}
