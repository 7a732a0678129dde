"""The commands, settings and paths in docker-compose.yml and Dockerfile exist in the code.

These tests need no Docker: they compare the files with the code, and run the commands as processes
on the Kafka under test.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import pytest
import typer
import yaml

from driftline.broker.local import KAFKA_VERSION
from driftline.config.settings import load_settings
from driftline.wire.topics import SERVICES
from driftline_app.cli.main import command_line

ROOT = Path(__file__).parents[1]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
CONTAINERS: dict[str, Any] = COMPOSE["services"]
OURS = {name: spec for name, spec in CONTAINERS.items() if spec.get("build")}
ONE_SHOT = {"topics", "first-model", "producer"}
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")

by_container = pytest.mark.parametrize("name", OURS)


def commands_of(name: str) -> list[list[str]]:
    """Return the arguments of `driftline` in a container's command and health check."""
    found = [OURS[name]["command"]]
    if check := OURS[name].get("healthcheck"):
        kind, program, *arguments = check["test"]
        assert (kind, program) == ("CMD", "driftline")
        found.append(arguments)
    return found


def copied() -> dict[str, str]:
    """Return what the Dockerfile copies: path in the image → path in the project."""
    found = {}
    for line in re.findall(r"^COPY (.+)$", DOCKERFILE, flags=re.M):
        *sources, target = line.split()
        for source in sources:
            assert (ROOT / source).exists(), source
            found[f"/app/{source if target == './' else target}"] = source
    return found


# ---- compared with the code ----------------------------------------------------------------------


def test_there_is_a_container_for_each_service_and_its_setup() -> None:
    assert set(CONTAINERS) == {"kafka", *SERVICES, *ONE_SHOT}


@by_container
def test_the_command_of_a_container_exists_with_its_options(name: str) -> None:
    for arguments in commands_of(name):
        command: Any = typer.main.get_command(command_line())
        rest = list(arguments)
        while hasattr(command, "commands"):  # a group
            word = rest.pop(0)
            assert word in command.commands, f"no command {word!r}"
            command = command.commands[word]
        command.make_context(name, rest)  # parses the arguments, and raises on unknown ones


@pytest.mark.parametrize("service", SERVICES)
def test_the_container_of_a_service_has_its_name_and_a_health_check(service: str) -> None:
    assert OURS[service]["command"][0] == service
    assert "healthcheck" in OURS[service]
    assert OURS[service]["restart"] == "unless-stopped"


@by_container
def test_the_settings_of_a_container_are_known_to_the_code(name: str) -> None:
    environment = OURS[name]["environment"]
    documented = (ROOT / "driftline" / "config" / "settings.py").read_text(encoding="utf-8")
    for variable in environment:
        assert variable in documented, variable
    settings = load_settings(environment)
    assert settings.bootstrap_servers == "kafka:19092"
    assert not settings.properties, "taken for properties of the Kafka client"
    assert settings.model_store.startswith("/data/")
    assert str(settings.home) == "/data"


@by_container
def test_paths_are_in_the_image_or_on_a_volume(name: str) -> None:
    places = copied()
    mounted = [volume.split(":")[1] for volume in OURS[name]["volumes"]]
    assert mounted == ["/data"]
    for arguments in commands_of(name):
        for path in (word for word in arguments if word.startswith("/")):
            inside = next((place for place in places if path.startswith(place)), None)
            assert inside is not None, path
            assert (ROOT / places[inside] / path.removeprefix(inside).lstrip("/")).exists(), path


def test_volumes_are_declared() -> None:
    used = {volume.split(":")[0] for spec in CONTAINERS.values() for volume in spec["volumes"]}
    assert used == set(COMPOSE["volumes"])


def test_ports_are_published_only_on_the_loopback_interface() -> None:
    ports = [port for spec in CONTAINERS.values() for port in spec.get("ports", ())]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


@pytest.mark.parametrize("name", CONTAINERS)
def test_the_conditions_that_a_container_waits_for_are_possible(name: str) -> None:
    for other, wait in CONTAINERS[name].get("depends_on", {}).items():
        match wait["condition"]:
            case "service_healthy":
                assert "healthcheck" in CONTAINERS[other]
            case "service_completed_successfully":
                assert other in ONE_SHOT
            case condition:
                pytest.fail(f"{name} waits for {other}: {condition}")


def test_kafka_has_the_tested_version_and_the_address_that_services_use() -> None:
    kafka = CONTAINERS["kafka"]
    assert kafka["image"] == f"apache/kafka:{KAFKA_VERSION}"
    listeners = kafka["environment"]["KAFKA_ADVERTISED_LISTENERS"].split(",")
    servers = {spec["environment"]["KAFKA_BOOTSTRAP_SERVERS"] for spec in OURS.values()}
    assert {f"INSIDE://{server}" for server in servers} <= set(listeners)


def test_the_image_contains_what_the_project_installs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    sources = set(copied().values())
    assert set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) <= sources
    assert {project["project"]["readme"], *project["project"]["license-files"]} <= sources
    assert 'ENTRYPOINT ["driftline"]' in DOCKERFILE
    assert "driftline" in project["project"]["scripts"]
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert sources <= {line.removeprefix("!") for line in ignored if line.startswith("!")}


# ---- as processes --------------------------------------------------------------------------------


class Here:
    """Runs the commands of containers as processes, with paths and settings for this machine."""

    def __init__(self, folder: Path, stream: Path, bootstrap_servers: str) -> None:
        self._folder = folder
        self._stream = stream
        self._environment = {
            "KAFKA_BOOTSTRAP_SERVERS": bootstrap_servers,
            "DRIFTLINE_HOME": str(folder),
            "DRIFTLINE_MODEL_STORE": str(folder / "models"),
        }

    def start(self, name: str, arguments: list[str], output: IO[str]) -> subprocess.Popen[str]:
        moved = [
            str(self._stream) if word == "/app/examples/iris.toml" else word for word in arguments
        ]
        return subprocess.Popen(
            [sys.executable, "-m", "driftline_app.cli", *moved],
            env=os.environ | OURS[name]["environment"] | self._environment,
            cwd=self._folder,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def ask(self, name: str, arguments: list[str]) -> tuple[int, str]:
        """Return the exit code and the output of a command."""
        with (self._folder / "output.txt").open("w+", encoding="utf-8") as output:
            code = self.start(name, arguments, output).wait(timeout=180)
            output.seek(0)
            return code, output.read()

    def run(self, name: str, arguments: list[str]) -> None:
        code, output = self.ask(name, arguments)
        assert code == 0, f"$ driftline {shlex.join(arguments)}\n{output}"

    @contextmanager
    def service(self, name: str) -> Iterator[None]:
        """Run the service until the block ends; it must stop cleanly on SIGTERM."""
        with (self._folder / f"{name}.log").open("w+", encoding="utf-8") as output:
            process = self.start(name, OURS[name]["command"], output)
            try:
                yield
                process.send_signal(signal.SIGTERM)
                code = process.wait(timeout=60)
                output.seek(0)
                assert code == 0, f"{name}\n{output.read()}"
            finally:
                process.kill()
                process.wait()

    def until_well(self, name: str, arguments: list[str]) -> str:
        """Repeat a command until it exits with 0; return its output."""
        deadline_s = time.monotonic() + 90
        while True:
            code, output = self.ask(name, arguments)
            if code == 0:
                return output
            assert time.monotonic() < deadline_s, f"$ driftline {shlex.join(arguments)}\n{output}"


@pytest.mark.kafka
def test_the_commands_of_the_containers_work_on_kafka(
    tmp_path: Path, kafka_bootstrap: str, topic_name: Callable[[], str]
) -> None:
    text = (ROOT / "examples" / "iris.toml").read_text(encoding="utf-8")
    stream = tmp_path / "iris.toml"
    own_topics = f'\n[kafka]\ntopic_prefix = "{topic_name()}."\n'
    stream.write_text(text + own_topics, encoding="utf-8")
    here = Here(tmp_path, stream, kafka_bootstrap)
    here.run("topics", OURS["topics"]["command"])
    here.run("first-model", OURS["first-model"]["command"])
    with ExitStack() as services:
        for service in SERVICES:
            services.enter_context(here.service(service))
        for service in SERVICES:
            here.until_well(service, commands_of(service)[1])
        here.run("producer", [*OURS["producer"]["command"], "--limit", "300"])
        # With --strict, records that inference has not read yet count as missing too.
        reconcile = ["reconcile", "--stream", "/app/examples/iris.toml", "--strict", "--json"]
        found = json.loads(here.until_well("producer", reconcile))
    assert found["records"] == 300
    assert found["predictions"] == 300
