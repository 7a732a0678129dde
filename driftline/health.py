"""Judges whether a service is well by what it wrote to its state file last.

In: a `ServiceState` and the present time. Out: a `Health`. It asks no broker, so that a broker in
trouble does not make every service look ill at once.
"""

from collections.abc import Mapping
from datetime import datetime

import msgspec

from driftline.codec.records import parse_time
from driftline.processes import ServiceState, TroubleKind

# A service writes its state each second; a window with many columns may keep the monitor busy.
MAX_SILENCE_S = 30.0
# How long a trouble may last. A broker may restart, partitions may move, and a batch may take long.
PATIENCE_S: Mapping[TroubleKind, float] = {
    "waiting for Kafka": 120.0,
    "too few partitions": 60.0,
    "no progress": 120.0,
}
_WELL = ("running", "waiting for a model", "waiting for Kafka")


class Health(msgspec.Struct, frozen=True):
    """Whether a service is well, and why (not) in words."""

    healthy: bool
    reason: str


def judge(state: ServiceState | None, *, now: datetime) -> Health:
    """Judge by what the service wrote last; `now` has a time zone."""
    if state is None:
        return Health(False, "not started yet")
    if state.state not in _WELL:
        return Health(False, f"{state.state}: {state.error}" if state.error else state.state)
    if not state.alive:
        return Health(False, "its process has ended")
    silent_s = seconds_since(state.updated, now)
    if silent_s > MAX_SILENCE_S:
        return Health(False, f"it has said nothing for {silent_s:.0f} s")
    for trouble in state.troubles:
        lasts_s = seconds_since(trouble.since, now)
        if lasts_s > PATIENCE_S[trouble.kind]:
            return Health(False, f"{trouble.kind} for {lasts_s:.0f} s: {trouble.detail}")
    return Health(True, state.state)


def seconds_since(moment: str, now: datetime) -> float:
    """How long ago a moment was that is written as RFC 3339."""
    return now.timestamp() - parse_time(moment) / 1e6
