"""`up`, `status` and `down` with real processes on a real Kafka."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from driftline.ops.processes import (
    Request,
    read_processes,
    read_request,
    read_state,
    read_supervisor,
    write_request,
)
from tests.world import STREAM_FILE

pytestmark = pytest.mark.kafka

PATIENCE_S = 120.0


SERVICES = ["inference-0", "outcomes-0", "monitor-0", "trainer-0"]


class Site:
    """A stream on a real Kafka, and the commands of its operator."""

    def __init__(self, folder: Path, kafka: str, name: str, client: str) -> None:
        (folder / "s.toml").write_text(
            STREAM_FILE.replace('name = "s"', f'name = "{name}"'), encoding="utf-8"
        )
        self._folder = folder
        self._environment = {
            **os.environ,
            "DRIFTLINE_HOME": str(folder / "home"),
            "DRIFTLINE_CLIENT": client,
            "KAFKA_BOOTSTRAP_SERVERS": kafka,
        }
        self.states = folder / "home" / "services" / name

    def driftline(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "driftline_app.cli", *arguments, "--json"],
            cwd=self._folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )

    def plan_retention(self, retention: str) -> None:
        file = self._folder / "s.toml"
        text = file.read_text(encoding="utf-8")
        kafka = f'kafka = {{ partitions = 2, retention = "{retention}" }}'
        file.write_text(re.sub("kafka = .*", kafka, text), encoding="utf-8")

    def pids(self) -> dict[str, int]:
        return {process.name: process.pid for process in read_processes(self.states)}

    def wait_until(self, holds: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while not holds():
            assert time.monotonic() < deadline_s, "it took too long"
            time.sleep(0.1)  # until other processes write their files


@pytest.fixture(params=["kafka-python", "librdkafka"])
def site(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    kafka_bootstrap: str,
    topic_name: Callable[[], str],
) -> Iterator[Site]:
    made = Site(tmp_path, kafka_bootstrap, topic_name(), request.param)
    yield made
    made.driftline("down")


def test_services_start_write_their_states_and_stop_cleanly(site: Site) -> None:
    up = site.driftline("up")
    assert up.returncode == 0, up.stderr
    again = site.driftline("up")
    status = site.driftline("status")
    health = site.driftline("health", "outcomes")
    down = site.driftline("down")

    started = [json.loads(line) for line in up.stdout.splitlines()]
    assert [f"{p['service']}-{p['slot']}" for p in started] == SERVICES
    assert again.stdout == up.stdout  # they run already
    states = {
        worker["state"]["service"]: worker["state"]["state"]
        for service in json.loads(status.stdout)["services"]
        for worker in service["workers"]
        if worker["alive"]
    }
    assert status.returncode == 0
    assert states == {
        "inference": "waiting for a model",
        "outcomes": "running",
        "monitor": "running",
        "trainer": "running",
    }
    assert json.loads(health.stdout) == {"healthy": True, "reason": "running"}
    assert json.loads(down.stdout) == {"stopped": SERVICES, "killed": []}
    status = site.driftline("status")
    assert status.returncode == 1
    assert json.loads(status.stdout)["problems"] == [
        "no service is running; `driftline up` starts them"
    ]
    assert site.driftline("health", "outcomes").returncode == 1


def test_a_killed_service_is_restarted_and_a_killed_supervisor_replaced(site: Site) -> None:
    assert site.driftline("up").returncode == 0
    before = site.pids()
    os.kill(before["monitor-0"], signal.SIGKILL)

    def runs_again() -> bool:
        state = read_state(site.states, "monitor", 0)
        return state is not None and state.pid != before["monitor-0"] and state.state == "running"

    site.wait_until(runs_again)
    after = site.pids()
    assert {name for name in SERVICES if after[name] != before[name]} == {"monitor-0"}
    monitor = next(p for p in read_processes(site.states) if p.service == "monitor")
    assert (monitor.restarts, monitor.error) == (1, "killed by SIGKILL")

    supervisor = read_supervisor(site.states)
    assert supervisor is not None
    os.kill(supervisor.pid, signal.SIGKILL)
    site.wait_until(lambda: not supervisor.alive)
    status = site.driftline("status")
    assert status.returncode == 1
    assert "the supervisor has ended" in json.loads(status.stdout)["problems"][0]
    assert site.driftline("up").returncode == 0
    assert site.pids() == after  # adopted
    assert read_supervisor(site.states) is not None
    assert json.loads(site.driftline("down").stdout)["stopped"] == SERVICES
    assert read_supervisor(site.states) is None


def test_a_killed_supervisor_is_replaced_even_if_up_fails(site: Site) -> None:
    assert site.driftline("up").returncode == 0
    before = site.pids()

    def up_without_supervisor(*options: str) -> subprocess.CompletedProcess[str]:
        supervisor = read_supervisor(site.states)
        assert supervisor is not None
        os.kill(supervisor.pid, signal.SIGKILL)
        site.wait_until(lambda: not supervisor.alive)
        up = site.driftline("up", *options)
        assert read_supervisor(site.states) is not None
        assert site.pids() == before  # adopted
        return up

    site.plan_retention("7d")
    more = up_without_supervisor()
    site.plan_retention("60d")
    less = up_without_supervisor()
    silent = up_without_supervisor("-b", "localhost:1")

    assert more.returncode == 0, more.stderr
    assert "retention.ms is 2592000000, planned 604800000: more than planned" in more.stderr
    assert (less.returncode, silent.returncode) == (2, 2)
    assert "retention.ms is 2592000000, planned 5184000000" in less.stderr


def test_a_service_that_cannot_run_is_named_with_its_error(site: Site) -> None:
    assert site.driftline("up").returncode == 0
    request = read_request(site.states)
    assert request is not None
    broken = [
        msgspec.structs.replace(wanted, command=(sys.executable, "-c", "import no_such_module"))
        for wanted in request.services
        if wanted.service == "trainer"
    ]
    write_request(site.states, Request(request.number + 1, tuple(broken)))
    os.kill(site.pids()["trainer-0"], signal.SIGKILL)
    site.wait_until(lambda: any(process.crash_looping for process in read_processes(site.states)))
    status = site.driftline("status")

    assert status.returncode == 1
    (problem,) = json.loads(status.stdout)["problems"]
    assert problem.startswith("trainer-0 keeps crashing, ")
    assert "ModuleNotFoundError: No module named 'no_such_module'" in problem
