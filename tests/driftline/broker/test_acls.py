"""Every service and command works with the rights that `topics acls` prints, and with no others.

The tests use a Kafka with ACLs over TLS, on which each role is a separate user. A role cannot use
what belongs to another role."""

import json
import os
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import jgo
import pytest
from typer.testing import CliRunner, Result

from driftline.broker import connect
from driftline.broker.local import KAFKA_VERSION, _find_java
from driftline.broker.port import Broker, NewTopic, Outgoing, TopicPartition
from driftline.clock import SystemClock
from driftline.config.settings import load_settings
from driftline.config.stream import Stream, load, loads
from driftline.errors import AccessDenied
from driftline.models.keys import ensure_key
from driftline.ops.access_rights import acls, commands, roles
from driftline.wire.topics import SERVICES, Topics
from driftline_app.assembly import build_handler, build_loop
from driftline_app.cli.main import command_line
from tests.secure_kafka import PASSWORD, SecureKafka

pytestmark = pytest.mark.kafka

Client = Literal["kafka-python", "librdkafka"]

FILE = """
version = 1
name = "{name}"
task = "classification"
target = "target"
features = {{ 0 = "number", 1 = "number", 2 = "number" }}
windows = {{ records = 400, idle = "1s" }}
simulate = {{ label_delay = 20 }}
retrain = {{ policy = "drift", cooldown = 100 }}
models = {{ candidates = ["logistic_regression"], tune = false }}
kafka = {{ partitions = 2, topic_prefix = "team." }}
"""
DATA = "river:SEA:variant=2,seed=1/SEA:variant=3,seed=1,at=1400,width=50,n=3000"
WARM_UP = 600
# Enough even for a slow machine; the services normally process the stream in a few seconds.
MOST_STEPS = 3000


class Site(NamedTuple):
    """A stream on the secure Kafka, whose topics exist and whose ACLs are set."""

    kafka: SecureKafka
    client: Client
    file: Path
    home: Path

    @property
    def stream(self) -> Stream:
        return load(self.file)

    def environment(self, role: str) -> dict[str, str]:
        properties = self.kafka.sasl(role)
        return {
            "DRIFTLINE_HOME": str(self.home),
            "DRIFTLINE_CLIENT": self.client,
            "KAFKA_BOOTSTRAP_SERVERS": self.kafka.at("SASLTLS"),
            **{f"KAFKA_{k.upper().replace('.', '_')}": v for k, v in properties.items()},
        }

    def broker(self, role: str) -> Broker:
        return connect(self.client, self.kafka.at("SASLTLS"), self.kafka.sasl(role))

    def run(self, role: str, *arguments: str, exit_code: int | None = 0) -> Result:
        """Run `driftline ARGUMENTS` as this role. Raises any error of the command."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.environment(role).items():
                patch.setenv(name, value)
            result = CliRunner().invoke(command_line(), arguments)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert exit_code in (None, result.exit_code), (arguments, result.output)
        assert PASSWORD not in result.output
        return result


@pytest.fixture(scope="module", params=["kafka-python", "librdkafka"])
def site(
    request: pytest.FixtureRequest, secure: SecureKafka, tmp_path_factory: pytest.TempPathFactory
) -> Site:
    folder = tmp_path_factory.mktemp("site")
    file = folder / "stream.toml"
    file.write_text(FILE.format(name=f"acls-{request.param}"))
    site = Site(secure, request.param, file, folder / "home")
    ensure_key(site.home / "keys")
    secure.add_user(*roles(Topics(site.stream)))
    for right in acls(site.stream):
        secure.allow(
            right.role,
            right.resource.upper().replace("-", "_"),
            right.name,
            *(operation.upper().replace("CONFIGS", "_CONFIGS") for operation in right.operations),
            prefixed=right.pattern == "prefixed",
        )
    return site


@pytest.fixture(scope="module")
def played(site: Site) -> Site:
    """Return the site after the services, each as its own user, have processed a stream."""
    stream = ("--stream", str(site.file))
    site.run("operator", "topics", "apply", *stream)
    site.run("operator", "train", *stream, "--data", DATA, "--limit", str(WARM_UP))
    site.run("producers", "produce", DATA, *stream, "--skip", str(WARM_UP))
    _send_nonsense(site)
    settings = load_settings(site.environment("operator"))
    clock = SystemClock()
    loops = []
    for service in SERVICES:
        broker = site.broker(service)
        handler = build_handler(service, site.stream, settings, broker, clock, synchronous=True)
        loops.append(build_loop(service, site.stream, broker, handler, clock=clock))
    everything = {topic.name for topic in Topics(site.stream).plan()}
    try:
        for step in range(MOST_STEPS):
            for loop in loops:
                loop.step(0.02)
            if step % 20 == 0 and _published(site) == everything:
                break
    finally:
        for loop in loops:
            loop.close()
    return site


def _published(site: Site) -> set[str]:
    """Return the topics of the plan that have records."""
    admin = site.broker("operator").admin()
    try:
        return {
            topic.name
            for topic in Topics(site.stream).plan()
            if any(found.end > found.start for found in admin.offsets(topic.name).values())
        }
    finally:
        admin.close()


def _send_nonsense(site: Site) -> None:
    producer = site.broker("producers").producer()
    producer.send(Outgoing(Topics(site.stream).features, b"no record", b"key"))
    producer.flush()
    producer.close()


def test_each_service_works_with_only_the_rights_of_its_role(played: Site) -> None:
    assert _published(played) == {topic.name for topic in Topics(played.stream).plan()}


@pytest.mark.parametrize(
    ("command", "exit_code"),
    [
        ("topics plan --stream FILE", 0),
        ("topics apply --stream FILE", 0),
        ("status --stream FILE --json", 1),  # no service runs here
        ("doctor --stream FILE --json", None),
        ("reconcile --stream FILE --json", None),
        ("models list --stream FILE", 0),
        ("models show champion --stream FILE", 0),
        ("models export champion FOLDER --stream FILE", 0),
        ("tail predictions --stream FILE -n 3", 0),
        ("tail deadletters --stream FILE -n 3", 0),
        ("trace 700 --stream FILE", 0),
        ("estimates --stream FILE --json", None),
        ("backtest --stream FILE -b BROKER --policy never --json", 0),
        ("deadletters list --stream FILE", 0),
        ("deadletters replay --stream FILE", 0),
        ("freeze --stream FILE --reason test", 0),
        ("models rollback --stream FILE", 0),
    ],
)
def test_each_command_works_with_only_the_rights_of_the_operator(
    played: Site, tmp_path: Path, command: str, exit_code: int | None
) -> None:
    words = {
        "FILE": str(played.file),
        "FOLDER": str(tmp_path / "exported"),
        "BROKER": played.kafka.at("SASLTLS"),
    }
    arguments = [words.get(word, word) for word in command.split()]
    result = played.run("operator", *arguments, exit_code=exit_code)
    assert result.exit_code in (0, 1)


def test_the_checks_of_the_doctor_on_kafka_succeed_for_the_operator(played: Site) -> None:
    lines = played.run("operator", "doctor", "--stream", str(played.file), "--json", exit_code=None)
    checks = [json.loads(line) for line in lines.stdout.splitlines()]
    found = {check["name"]: check["result"] for check in checks}
    assert {found[name] for name in ("broker", "topics", "champion")} == {"ok"}


def test_the_printed_commands_grant_the_rights_that_are_listed_as_data(secure: SecureKafka) -> None:
    stream = loads(FILE.format(name="by-commands"))
    tools = jgo.build(f"org.apache.kafka:kafka-tools:{KAFKA_VERSION}").all_jars
    jars = os.pathsep.join(map(str, tools))
    rights = [right for right in acls(stream, {"outcomes": "User:o"}) if right.role == "outcomes"]
    for line in commands(tuple(rights), secure.plain):
        if line.startswith("#"):
            continue
        words = shlex.split(line.replace("--command-config admin.properties", ""))
        assert words[0] == "kafka-acls.sh"
        tool = [_find_java(), "-cp", jars, "org.apache.kafka.tools.AclCommand"]
        done = subprocess.run(
            [*tool, *words[1:]], capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, (line, done.stdout, done.stderr)
    assert secure.rights_of("o") == {
        (right.resource, right.name, right.pattern, operation)
        for right in rights
        for operation in right.operations
    }


# ---- what is denied ------------------------------------------------------------------------------


class Attempt(NamedTuple):
    """An operation for which a role has no right."""

    role: str
    what: str
    name: str

    def __str__(self) -> str:
        return f"{self.role}: {self.what} {self.name}"


def attempts(stream: Stream) -> Iterator[Attempt]:
    """Return an attempt of each kind for each role, on the first topic, group and id of others."""
    topics, rights = Topics(stream), acls(stream)
    for role in roles(topics):
        mine = [right for right in rights if right.role == role]
        for operation, what in (("Write", "write to"), ("Read", "read")):
            allowed = {right.name for right in mine if operation in right.operations}
            for topic in topics.plan():
                if topic.name not in allowed:
                    yield Attempt(role, what, topic.name)
                    break
        other = next(service for service in SERVICES if service not in (role, "inference"))
        yield Attempt(role, "join group", topics.group(other))
        yield Attempt(role, "use transactional id", f"{topics.group(other)}-0")
        yield Attempt(role, "create topic", f"{topics.group(role)}-of-its-own")


def _write(site: Site, attempt: Attempt) -> None:
    producer = site.broker(attempt.role).producer()
    try:
        producer.send(Outgoing(attempt.name, b"x", partition=0))
        producer.flush()
    finally:
        producer.close()


def _read(site: Site, attempt: Attempt) -> None:
    consumer = site.broker(attempt.role).consumer()
    try:
        consumer.assign({TopicPartition(attempt.name, 0): 0})
        for _ in range(20):
            consumer.poll(max_records=1, timeout_s=0.5)
    finally:
        consumer.close()


def _join(site: Site, attempt: Attempt) -> None:
    mine = next(
        right.name
        for right in acls(site.stream)
        if right.role == attempt.role and right.resource == "topic" and "Read" in right.operations
    )
    consumer = site.broker(attempt.role).consumer(attempt.name)
    try:
        consumer.subscribe([mine], assigned=lambda _: None, revoked=lambda _: None)
        for _ in range(20):
            consumer.poll(max_records=1, timeout_s=0.5)
    finally:
        consumer.close()


def _begin(site: Site, attempt: Attempt) -> None:
    producer = site.broker(attempt.role).producer(attempt.name)
    try:
        producer.begin()
    finally:
        producer.close()


def _create(site: Site, attempt: Attempt) -> None:
    admin = site.broker(attempt.role).admin()
    try:
        admin.create([NewTopic(attempt.name, 1)])
    finally:
        admin.close()


TRY: dict[str, Callable[[Site, Attempt], None]] = {
    "write to": _write,
    "read": _read,
    "join group": _join,
    "use transactional id": _begin,
    "create topic": _create,
}


@pytest.mark.parametrize("role", roles(Topics(loads(FILE.format(name="any")))))
def test_access_to_resources_of_another_role_is_denied_with_a_clear_message(
    played: Site, role: str
) -> None:
    tried = [attempt for attempt in attempts(played.stream) if attempt.role == role]
    for attempt in tried:
        with pytest.raises(AccessDenied) as caught:
            TRY[attempt.what](played, attempt)
        # `python -m pytest -s tests/driftline/broker/test_acls.py` prints the table of
        # docs/access.md.
        print(f"| {role} | {attempt.what} `{attempt.name}` | {caught.value.message} |")
        assert attempt.name in caught.value.message
        assert "driftline topics acls" in caught.value.hint
    assert len(tried) >= 4
