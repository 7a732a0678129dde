"""The choice of a client, its properties, and the error if no broker is listening."""

import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from driftline.broker import connect
from driftline.broker.kafka_python import KafkaPythonBroker
from driftline.broker.librdkafka import LibrdkafkaBroker
from driftline.config.client_properties import for_kafka_python
from driftline.errors import BrokerUnavailable, SettingsError

Kafka = Literal["kafka-python", "librdkafka"]
kafka_clients = pytest.mark.parametrize("client", ["kafka-python", "librdkafka"])


@pytest.fixture
def nobody() -> Iterator[str]:
    """Return an address on which nothing listens. It is bound, so that no program can use it."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_imports_no_client() -> None:
    code = "import sys, driftline.broker; print({'kafka', 'confluent_kafka'} & set(sys.modules))"
    assert run(code).strip() == "set()"


def test_an_error_names_the_extra_if_confluent_kafka_is_missing() -> None:
    said = run(
        "import sys; sys.modules['confluent_kafka'] = None\n"
        "from driftline.broker import connect\n"
        "from driftline.errors import MissingExtra\n"
        "connect('kafka-python', 'localhost:1')\n"
        "try: connect('librdkafka', 'localhost:1')\n"
        "except MissingExtra as error: print(error)"
    )
    assert "driftline[librdkafka]" in said


def test_an_unknown_client_is_rejected() -> None:
    with pytest.raises(SettingsError, match="java"):
        connect("java")  # type: ignore[arg-type]


@kafka_clients
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("enable.auto.commit", "true"),
        ("max.in.flight", "5"),
        ("max.in.flight.requests.per.connection", "5"),
    ],
)
def test_a_property_that_driftline_sets_itself_is_rejected(
    client: Kafka, name: str, value: str
) -> None:
    with pytest.raises(SettingsError, match=re.escape(name)):
        connect(client, "localhost:1", {name: value})


@kafka_clients
def test_an_error_names_an_unknown_property(client: Kafka) -> None:
    with pytest.raises(SettingsError, match=r"no\.such\.property"):
        connect(client, "localhost:1", {"no.such.property": "1"})


@kafka_clients
@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("sasl.usrname", "KAFKA_SASL_USERNAME"),
        ("security.protocoll", "KAFKA_SECURITY_PROTOCOL"),
        ("ssl.ca.locaton", "KAFKA_SSL_CA_LOCATION"),
        ("compression.typ", "KAFKA_COMPRESSION_TYPE"),
    ],
)
def test_an_error_suggests_the_most_similar_property(
    client: Kafka, name: str, nearest: str
) -> None:
    with pytest.raises(SettingsError, match=re.escape(name)) as caught:
        connect(client, "localhost:1", {name: "1"})
    assert nearest in caught.value.hint


@kafka_clients
@pytest.mark.parametrize("name", ["service", "ports", "bootstrap", "sasl.passwrd"])
def test_an_error_names_an_unknown_environment_variable_but_not_its_value(
    client: Kafka, name: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        connect(client, "localhost:1", {name: "hunter2"})
    assert f"KAFKA_{name.upper().replace('.', '_')}" in caught.value.message
    assert "hunter2" not in str(caught.value)


@kafka_clients
def test_an_error_names_the_property_with_an_invalid_value(client: Kafka) -> None:
    with pytest.raises(SettingsError, match=r"linger\.ms"):
        connect(client, "localhost:1", {"linger.ms": "soon"})


@kafka_clients
@pytest.mark.parametrize("kind", ["consumer", "producer", "admin"])
def test_an_address_without_a_broker_is_reported_within_seconds(
    client: Kafka, kind: str, nobody: str
) -> None:
    make = KafkaPythonBroker if client == "kafka-python" else LibrdkafkaBroker
    broker = make(nobody, connect_timeout_s=1.0)
    started = time.monotonic()
    with pytest.raises(BrokerUnavailable, match=nobody) as raised:
        getattr(broker, kind)()
    assert time.monotonic() - started < 8
    assert "driftline broker up" in raised.value.hint


def test_properties_are_converted_to_the_names_and_types_of_kafka_python() -> None:
    properties = {
        "security.protocol": "sasl_ssl",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": "alice",
        "sasl.password": "secret",
        "ssl.ca.location": "/ca.pem",
        "ssl.endpoint.identification.algorithm": "none",
        "fetch.min.bytes": "10",
    }
    clients = KafkaPythonBroker("localhost:1", properties)
    assert clients._properties == {
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "alice",
        "sasl_plain_password": "secret",
        "ssl_cafile": "/ca.pem",
        "ssl_check_hostname": False,
        "fetch_min_bytes": 10,
    }
    assert LibrdkafkaBroker("localhost:1", {**properties, "ssl.ca.location": "probe"})


def test_an_option_of_kafka_python_that_is_not_text_is_not_a_property() -> None:
    with pytest.raises(SettingsError, match="selector"):
        for_kafka_python({"selector": "x"}, [{"selector": object}])


_ATTEMPTS = """
import gc, os, time
from driftline.broker.{module} import {broker}
from driftline.errors import BrokerUnavailable

def used():
    return len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))

broker = {broker}("{servers}", connect_timeout_s=0.2)

def attempt():
    try:
        broker.{make}()
    except BrokerUnavailable:
        return
    raise AssertionError("it connected")

attempt()
gc.collect()
gc.disable()
before = used()
for _ in range(5):
    attempt()
until = time.monotonic() + 30
while used()[0] >= before[0] + 5 and time.monotonic() < until:
    time.sleep(0.1)
threads = used()[0]
gc.collect()
print(threads - before[0], used()[1] - before[1])
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted on Linux")
@pytest.mark.parametrize(
    ("module", "broker"),
    [("librdkafka", "LibrdkafkaBroker"), ("kafka_python", "KafkaPythonBroker")],
)
@pytest.mark.parametrize("make", ["admin", "consumer", "producer"])
def test_a_client_that_finds_no_broker_leaves_no_threads_or_sockets(
    module: str, broker: str, make: str, nobody: str
) -> None:
    """Threads end without garbage collection, which a service with a large heap runs rarely.

    Sockets may wait for the collection that `Loop.run` does: kafka-python keeps them in cycles.
    """
    code = _ATTEMPTS.format(module=module, broker=broker, make=make, servers=nobody)
    threads, files = map(int, run(code).split())
    assert threads < 5
    assert files < 5
