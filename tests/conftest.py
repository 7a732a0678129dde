"""Kafka for the tests that are marked `kafka`, and Chromium for those that are marked `browser`.

Kafka is the first of KAFKA_BOOTSTRAP_SERVERS, Docker, the local Kafka. Without one, or without a
browser, these tests skip, and one line at the end says so; with DRIFTLINE_REQUIRE_KAFKA=1 or
DRIFTLINE_REQUIRE_BROWSER=1 they fail instead.
"""

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

from driftline.broker import Admin
from driftline.broker.kafka_python import KafkaPythonBroker
from driftline.broker.local import LocalKafka
from driftline.errors import DriftlineError
from tests.browser import NoBrowser, Opened, chromium

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from tests.secure_kafka import SecureKafka

# No test asserts a time, and a busy machine is slow.
hypothesis.settings.register_profile(
    "driftline", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("driftline")

_WITHOUT_KAFKA = pytest.StashKey[str]()
_WITHOUT_BROWSER = pytest.StashKey[str]()


@pytest.fixture(scope="session")
def kafka_bootstrap(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The address of an Apache Kafka."""
    if servers := os.environ.get("KAFKA_BOOTSTRAP_SERVERS"):
        yield servers
        return
    with _docker_kafka() as servers:
        if servers is not None:
            yield servers
            return
    local = LocalKafka(tmp_path_factory.mktemp("kafka"), port=0)
    try:
        running = local.up()
    except DriftlineError as error:
        without_kafka(request.config, str(error))
    try:
        yield running.bootstrap_servers
    finally:
        local.down()


def without_kafka(config: pytest.Config, reason: str) -> None:
    """Skip the test at hand, or fail it where a Kafka is required."""
    if os.environ.get("DRIFTLINE_REQUIRE_KAFKA") == "1":
        pytest.fail(f"DRIFTLINE_REQUIRE_KAFKA=1, but there is no Kafka: {reason}", pytrace=False)
    config.stash[_WITHOUT_KAFKA] = reason
    pytest.skip(f"no Kafka: {reason}")


@contextmanager
def _docker_kafka() -> Iterator[str | None]:
    """Kafka in a container, or None where no Docker engine answers."""
    try:
        import docker
        from testcontainers.kafka import KafkaContainer

        docker.from_env(timeout=5).ping()
    except Exception:  # noqa: BLE001 - no library, no socket, no right to use it: all the same
        yield None
        return
    with KafkaContainer("apache/kafka:4.1.0").with_kraft() as container:
        yield container.get_bootstrap_server()


@pytest.fixture(scope="session")
def secure(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator["SecureKafka"]:
    """A Kafka with TLS, passwords and ACLs. It is always a local one: nobody else's has these."""
    from tests.secure_kafka import secure_kafka

    with ExitStack() as stack:
        try:
            kafka = stack.enter_context(secure_kafka(tmp_path_factory.mktemp("secure-kafka")))
        except DriftlineError as error:
            without_kafka(request.config, str(error))
        yield kafka


@pytest.fixture(autouse=True)
def _kafka_where_marked(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("kafka") and "secure" not in request.fixturenames:
        request.getfixturevalue("kafka_bootstrap")


@pytest.fixture(scope="session")
def kafka_admin(kafka_bootstrap: str) -> Iterator[Admin]:
    """For looking at the Kafka under test, and for cleaning up."""
    admin = KafkaPythonBroker(kafka_bootstrap).admin()
    yield admin
    admin.close()


@pytest.fixture
def topic_name(request: pytest.FixtureRequest) -> Iterator[Callable[[], str]]:
    """Gives unique names; on Kafka, topics that begin with one are deleted after the test."""
    names: list[str] = []

    def unique() -> str:
        names.append(f"test-{uuid.uuid4().hex[:12]}")
        return names[-1]

    yield unique
    if names and request.node.get_closest_marker("kafka"):
        admin: Admin = request.getfixturevalue("kafka_admin")
        admin.delete([topic for topic in admin.describe() if topic.startswith(tuple(names))])


@pytest.fixture(scope="session")
def browser(request: pytest.FixtureRequest) -> Iterator["Browser"]:
    """One Chromium for all tests that are marked `browser`."""
    try:
        with chromium() as running:
            yield running
    except NoBrowser as error:
        if os.environ.get("DRIFTLINE_REQUIRE_BROWSER") == "1":
            reason = f"DRIFTLINE_REQUIRE_BROWSER=1, but there is no browser: {error}"
            pytest.fail(reason, pytrace=False)
        request.config.stash[_WITHOUT_BROWSER] = str(error)
        pytest.skip(f"no browser: {error}")


@pytest.fixture
def open_file(browser: "Browser") -> Iterator[Callable[[Path], Opened]]:
    """Opens a file in a page of its own."""
    with browser.new_context(viewport={"width": 1300, "height": 1000}) as context:
        yield lambda file: Opened(context.new_page(), file)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    for key, where in ((_WITHOUT_KAFKA, "ON A REAL KAFKA"), (_WITHOUT_BROWSER, "IN A BROWSER")):
        reason = config.stash.get(key, None)
        if reason is not None:
            why = reason.splitlines()[0]
            terminalreporter.section(f"NOTHING WAS TESTED {where}: {why}", red=True, bold=True)
