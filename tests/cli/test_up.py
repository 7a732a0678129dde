"""`up`, `status` and `down` with real processes on a real Kafka."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.world import STREAM_FILE

pytestmark = pytest.mark.kafka


def test_services_start_tell_how_they_are_and_end_in_good_order(
    tmp_path: Path, kafka_bootstrap: str, topic_name: Callable[[], str]
) -> None:
    stream_file = tmp_path / "s.toml"
    text = STREAM_FILE.replace('name = "s"', f'name = "{topic_name()}"')
    stream_file.write_text(text, encoding="utf-8")
    environment = {**os.environ, "DRIFTLINE_HOME": str(tmp_path / "home")}

    def driftline(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "driftline.cli", *arguments, "--json"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )

    try:
        up = driftline("up", "-b", kafka_bootstrap)
        assert up.returncode == 0, up.stderr
        again = driftline("up", "-b", kafka_bootstrap)
        status = driftline("status", "-b", kafka_bootstrap)
    finally:
        down = driftline("down")

    services = ["inference-0", "outcomes-0", "monitor-0", "trainer-0"]
    started = [json.loads(line) for line in up.stdout.splitlines()]
    assert [f"{p['service']}-{p['slot']}" for p in started] == services
    assert again.stdout == up.stdout  # they run already
    states = {
        worker["said"]["service"]: worker["said"]["state"]
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
    assert json.loads(down.stdout) == {"stopped": services, "killed": []}
    assert driftline("status", "-b", kafka_bootstrap).returncode == 1
