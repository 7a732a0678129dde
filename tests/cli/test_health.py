"""`driftline health` tells a service that works from one that is gone, stuck or not yet there."""

import os
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from driftline.health import MAX_SILENCE_S, PATIENCE_S, Health, judge
from driftline.processes import ServiceState, State, Trouble, TroubleKind, born

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
def test_a_service_that_spoke_just_now_is_well(state: State) -> None:
    assert judge(msgspec.structs.replace(LIVING, state=state), now=NOW).healthy


@pytest.mark.parametrize("state", ["starting", "stopped", "failed"])
def test_one_that_does_not_run_is_not(state: State) -> None:
    said = msgspec.structs.replace(LIVING, state=state, error="no broker")
    assert not judge(said, now=NOW).healthy
    assert judge(said, now=NOW).reason == f"{state}: no broker"


def test_one_that_never_spoke_is_not() -> None:
    assert not judge(None, now=NOW).healthy


def test_one_whose_process_is_gone_is_not_even_if_its_pid_lives_again() -> None:
    said = msgspec.structs.replace(LIVING, born="long ago")
    assert judge(said, now=NOW).reason == "its process has ended"


def test_one_that_hangs_is_not() -> None:
    later = NOW + timedelta(seconds=MAX_SILENCE_S)
    assert judge(LIVING, now=later).reason == "it has said nothing for 31 s"


@pytest.mark.parametrize("kind", list(PATIENCE_S))
def test_a_trouble_is_borne_for_its_time_and_not_longer(kind: TroubleKind) -> None:
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


def test_a_state_that_an_older_version_wrote_is_judged_too() -> None:
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
