"""Provide Kafka for the tests marked `kafka`, and Chromium for the tests marked `browser`.

Kafka is the first available of KAFKA_BOOTSTRAP_SERVERS, Docker and the local Kafka. Without Kafka
or a browser, these tests are skipped, and a line at the end of the run reports this. With
DRIFTLINE_REQUIRE_KAFKA=1 or DRIFTLINE_REQUIRE_BROWSER=1, they fail instead.
"""

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

from driftline.broker.kafka_python import KafkaPythonBroker
from driftline.broker.local import LocalKafka
from driftline.broker.port import Admin
from driftline.errors import DriftlineError
from tests.browser import NoBrowser, Opened, chromium

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from tests.secure_kafka import SecureKafka

# Tests do not assert durations, so examples may be slow on a busy machine.
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
    """Return the address of an Apache Kafka."""
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
    """Skip the current test, or fail it if Kafka is required."""
    if os.environ.get("DRIFTLINE_REQUIRE_KAFKA") == "1":
        pytest.fail(f"DRIFTLINE_REQUIRE_KAFKA=1, but there is no Kafka: {reason}", pytrace=False)
    config.stash[_WITHOUT_KAFKA] = reason
    pytest.skip(f"no Kafka: {reason}")


@contextmanager
def _docker_kafka() -> Iterator[str | None]:
    """Start Kafka in a container; return None if no Docker engine responds."""
    try:
        import docker
        from testcontainers.community.kafka import KafkaContainer

        docker.from_env(timeout=5).ping()
    except Exception:  # noqa: BLE001 - no library, no socket or no permission: no Docker in any case
        yield None
        return
    with KafkaContainer("apache/kafka:4.1.2").with_kraft() as container:
        yield container.get_bootstrap_server()


@pytest.fixture(scope="session")
def secure(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator["SecureKafka"]:
    """Start a local Kafka with TLS, passwords and ACLs, which other Kafkas may not have."""
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
    """Return an admin client for inspecting and cleaning up the Kafka under test."""
    admin = KafkaPythonBroker(kafka_bootstrap).admin()
    yield admin
    admin.close()


@pytest.fixture
def topic_name(request: pytest.FixtureRequest) -> Iterator[Callable[[], str]]:
    """Return a function for unique names. Kafka topics with these prefixes are deleted later."""
    names: list[str] = []
    admin: Admin | None = None

    def unique() -> str:
        nonlocal admin
        if request.node.get_closest_marker("kafka"):
            admin = request.getfixturevalue("kafka_admin")
        names.append(f"test-{uuid.uuid4().hex[:12]}")
        return names[-1]

    yield unique
    if admin is not None:
        admin.delete([topic for topic in admin.describe() if topic.startswith(tuple(names))])


@pytest.fixture(scope="session")
def browser(request: pytest.FixtureRequest) -> Iterator["Browser"]:
    """Start one Chromium for all tests marked `browser`."""
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
    """Return a function that opens a file in a new page."""
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
