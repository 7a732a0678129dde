"""`driftline health` detects services that have ended, hang or were not started."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from driftline.ops.health import MAX_SILENCE_S, PATIENCE_S, Health, judge
from driftline.ops.processes import ServiceState, State, Trouble, TroubleKind, born
from driftline_app.cli.main import command_line
from tests.world import STREAM_FILE

NOW = datetime(2026, 1, 6, 8, 0, 40, tzinfo=UTC)
LIVING = ServiceState(
    service="inference",
    slot=0,
    pid=os.getpid(),
    born=born(os.getpid()) or "",
    state="running",
    started="2026-01-06T08:00:00Z",
    updated="2026-01-06T08:00:39Z",
)


@pytest.mark.parametrize("state", ["running", "waiting for a model", "waiting for Kafka"])
def test_a_service_with_a_recent_state_is_healthy(state: State) -> None:
    assert judge(msgspec.structs.replace(LIVING, state=state), now=NOW).healthy


@pytest.mark.parametrize("state", ["starting", "stopped", "failed"])
def test_a_service_that_has_ended_is_unhealthy(state: State) -> None:
    said = msgspec.structs.replace(LIVING, state=state, error="no broker")
    assert not judge(said, now=NOW).healthy
    assert judge(said, now=NOW).reason == f"{state}: no broker"


def test_a_service_without_a_state_is_unhealthy() -> None:
    assert not judge(None, now=NOW).healthy


def test_a_service_whose_pid_was_reused_is_unhealthy() -> None:
    said = msgspec.structs.replace(LIVING, born="long ago")
    assert judge(said, now=NOW).reason == "its process has ended"


def test_a_service_that_hangs_is_unhealthy() -> None:
    later = NOW + timedelta(seconds=MAX_SILENCE_S)
    assert judge(LIVING, now=later).reason == "it has not written its state for 31 s"


@pytest.mark.parametrize("kind", list(PATIENCE_S))
def test_a_trouble_is_tolerated_for_its_time_limit_only(kind: TroubleKind) -> None:
    since = LIVING.updated
    began = datetime.fromisoformat(since)
    said = msgspec.structs.replace(LIVING, troubles=(Trouble(kind, since, "0 of 4"),))
    limit_s = PATIENCE_S[kind]

    def later(seconds: float) -> Health:
        now = began + timedelta(seconds=seconds)
        moment = now.isoformat().replace("+00:00", "Z")
        return judge(msgspec.structs.replace(said, updated=moment), now=now)

    assert later(limit_s).healthy
    assert later(limit_s + 1).reason == f"{kind} for {limit_s + 1:.0f} s: 0 of 4"
    assert not later(limit_s + 1).healthy


def test_a_state_from_an_older_version_is_judged() -> None:
    said = msgspec.json.decode(
        msgspec.json.encode(
            {
                name: value
                for name, value in msgspec.to_builtins(LIVING).items()
                if name not in ("troubles", "stream_digest")
            }
        ),
        type=ServiceState,
    )
    assert judge(said, now=NOW).healthy


@pytest.mark.parametrize("key", ["sha256:b", "model/sha256:b", "role/champion"])
@pytest.mark.parametrize("state", ["waiting for a model", "waiting for Kafka"])
def test_inference_without_a_usable_model_is_unhealthy(key: str, state: State) -> None:
    said = msgspec.structs.replace(LIVING, state=state, rejected={key: "no trusted key"})
    found = judge(said, now=NOW)

    assert not found.healthy
    expected = f"no model can be used, so no record is scored: {key}: no trusted key"
    assert found.reason == expected


def test_inference_that_rejects_a_model_while_another_serves_is_healthy() -> None:
    said = msgspec.structs.replace(LIVING, model="sha256:a", rejected={"sha256:b": "unsigned"})
    assert judge(said, now=NOW).healthy


def test_a_damaged_state_file_makes_a_service_unhealthy_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DRIFTLINE_HOME", str(tmp_path))
    (tmp_path / "s.toml").write_text(STREAM_FILE, encoding="utf-8")
    folder = tmp_path / "services" / "s"
    folder.mkdir(parents=True)
    (folder / "monitor-0.json").write_text("{")
    damaged = CliRunner().invoke(command_line(), ["health", "monitor", "--json"])
    missing = CliRunner().invoke(command_line(), ["health", "outcomes", "--json"])

    assert (damaged.exit_code, missing.exit_code) == (1, 1)
    assert "monitor-0.json cannot be read" in damaged.output
    assert "not started yet" in missing.output
