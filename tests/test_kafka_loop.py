"""All services as processes on a real Kafka, with each client, and with a restart in between."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from driftline.broker import connect
from driftline.config.settings import load_settings
from driftline.config.stream import Client, load
from driftline.models.load import Models
from tests.app.cli.invoke import Invoked, invoke
from tests.replay import replayed, written

FILE = """
version = 1
name = "{name}"
task = "classification"
target = "target"
features = {{ 0 = "number", 1 = "number", 2 = "number" }}
windows = {{ records = 1000, idle = "2s" }}
simulate = {{ label_delay = 50 }}
kafka = {{ partitions = 3 }}
"""
# A change of concept in the middle: SEA's function 2 becomes function 3.
DATA = "river:SEA:variant=2,seed=1/SEA:variant=3,seed=1,at=6000,width=100,n=10000"
WARM_UP, ROWS = 2000, 10_000
DEADLINE_S = 120.0


@pytest.mark.kafka
@pytest.mark.parametrize("client", ["librdkafka", "kafka-python"])
def test_services_on_kafka_give_the_same_results_as_in_memory(
    client: Client, kafka_bootstrap: str, topic_name: Callable[[], str], tmp_path: Path
) -> None:
    file, home = tmp_path / "stream.toml", tmp_path / "home"
    file.write_text(FILE.format(name=topic_name()))
    environment = {"DRIFTLINE_CLIENT": client, "KAFKA_BOOTSTRAP_SERVERS": kafka_bootstrap}

    def driftline(*arguments: str) -> Invoked:
        done = invoke(home, *arguments, environment=environment)
        assert done.exit_code == 0, (arguments, done.stdout, done.stderr)
        return done

    stream = ("--stream", str(file))
    driftline("topics", "apply", *stream)
    driftline("train", *stream, "--data", DATA, "--limit", str(WARM_UP))
    driftline("up", *stream)
    try:
        driftline("produce", DATA, *stream, "--skip", str(WARM_UP), "--limit", "5000")
        driftline("down", *stream)  # stop the services while they work
        driftline("up", *stream)
        driftline("produce", DATA, *stream, "--skip", "7000")
        _wait_until_all_windows_are_closed(file, home, environment)
    finally:
        driftline("down", *stream)

    counted = json.loads(driftline("reconcile", *stream, "--json").stdout)
    in_memory = json.loads(invoke(home, "run", DATA, *stream, "--json").stdout.splitlines()[-1])
    assert counted["records"] == in_memory["records"] == ROWS - WARM_UP
    assert counted["predictions"] == in_memory["predictions"]
    assert counted["outcomes"] == in_memory["outcomes"] == ROWS - WARM_UP
    assert counted["missing"] == in_memory["lost"] == counted["labels"]["missing"] == 0

    settings = load_settings({**environment, "DRIFTLINE_HOME": str(home)})
    broker = connect(settings.client, settings.bootstrap_servers, settings.properties)
    recorded = load(file)
    live = written(broker, recorded)
    again = replayed(broker, recorded, Models.of(settings, recorded))
    for ours, theirs in ((live.windows, again.windows), (live.drift, again.drift)):
        assert len(ours) == len(set(ours))
        assert sorted(set(ours) - set(theirs)) == sorted(set(theirs) - set(ours)) == []
    assert any(b'"performance"' in event for event in live.drift)


def _wait_until_all_windows_are_closed(file: Path, home: Path, environment: dict[str, str]) -> None:
    """Wait until the last window of both kinds is published."""
    deadline_s = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline_s:
        tailed = invoke(
            home, "tail", "windows", "--stream", str(file), "-n", "100", "--json",
            environment=environment,
        )  # fmt: skip
        events = [json.loads(line) for line in tailed.stdout.splitlines()]
        last = {event["type"] for event in events if event["end"] == ROWS}
        if {"data_window", "performance_window"} <= last:
            return
    pytest.fail(f"the last windows did not close within {DEADLINE_S} s")
