"""All services as processes on a real Kafka, with each client, and with a restart in between."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from driftline.broker import connect
from driftline.config.settings import load_settings
from driftline.config.stream import load
from driftline.config.stream_sections import Client
from driftline.models.load import ModelLoader
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
    again = replayed(broker, recorded, ModelLoader.of(settings, recorded))
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


EVIDENTLY_DECIDES = (
    FILE
    + """
drift = {{ number_test = "psi", decided_by = "test", effect_size = 0.5 }}
retrain = {{ policy = "drift", on = ["data"], renew = 0 }}
"""
)


@pytest.mark.kafka
def test_a_finding_of_evidently_leads_to_a_retraining(
    kafka_bootstrap: str, topic_name: Callable[[], str], tmp_path: Path
) -> None:
    rng = np.random.default_rng(20261130)
    values = rng.normal(size=(6000, 3))
    values[4000:, 1] += 2.0
    rows = [f"{a},{b},{c},{'yes' if a + c > 0 else 'no'}" for a, b, c in values.round(6).tolist()]
    data = tmp_path / "shifted.csv"
    data.write_text("\n".join(["0,1,2,target", *rows]))
    file, home = tmp_path / "stream.toml", tmp_path / "home"
    file.write_text(EVIDENTLY_DECIDES.format(name=topic_name()))
    environment = {"KAFKA_BOOTSTRAP_SERVERS": kafka_bootstrap}

    def driftline(*arguments: str) -> str:
        done = invoke(home, *arguments, "--stream", str(file), environment=environment)
        assert done.exit_code == 0, (arguments, done.stdout, done.stderr)
        return done.stdout

    def events(topic: str) -> list[dict[str, Any]]:
        tailed = driftline("tail", topic, "-n", "100", "--json")
        return [json.loads(line) for line in tailed.splitlines()]

    driftline("topics", "apply")
    driftline("train", "--data", str(data), "--limit", "2000")
    driftline("up")
    try:
        driftline("produce", str(data), "--skip", "2000")
        deadline_s = time.monotonic() + DEADLINE_S
        while not (results := [e for e in events("retrain") if e["type"] != "retrain_request"]):
            assert time.monotonic() < deadline_s, f"no retraining within {DEADLINE_S} s"
    finally:
        driftline("down")

    drift = next(event for event in events("drift") if event["action"] == "opened")
    request = next(event for event in events("retrain") if event["type"] == "retrain_request")
    window = next(event for event in events("windows") if event["id"] == drift["windows"][0])
    tested = {c["column"]: (c["test"], c["drifted"]) for c in window["groups"][-1]["columns"]}
    assert tested == {"0": ("psi", False), "1": ("psi", True), "2": ("psi", False)}
    assert (drift["kind"], drift["columns"]) == ("data", ["1"])
    assert (request["cause"], request["caused_by"]) == ("drift", [drift["id"]])
    assert results[0]["request"] == request["id"]
