"""Judge a service's health from the `ServiceState` that it last wrote to its state file.

Input: a `ServiceState` and the current time. Output: a `Health`. This module does not connect to
the broker, so that a broker failure does not make every service unhealthy at once.
"""

from collections.abc import Mapping
from datetime import datetime

import msgspec

from driftline.ops.processes import ServiceState, TroubleKind
from driftline.wire.values import parse_time

# A service writes its state about once a second, but a window with many columns can keep the
# monitor busy for longer.
MAX_SILENCE_S = 30.0
# How long each kind of problem may last before the service is reported as unhealthy. Short
# problems are normal: brokers restart, partitions move between workers, and batches take time.
PATIENCE_S: Mapping[TroubleKind, float] = {
    "waiting for Kafka": 120.0,
    "too few partitions": 60.0,
    "no progress": 120.0,
    "no model": 60.0,
}
_WELL = ("running", "waiting for a model", "waiting for Kafka")
# In `ServiceState.rejected`, keys with these prefixes concern a model: its digest, its announcement
# or the champion pointer. Other `models` records, such as a freeze, have other keys.
_OF_A_MODEL = ("sha256:", "model/", "role/champion")


class Health(msgspec.Struct, frozen=True):
    """A service's health, with the reason."""

    healthy: bool
    reason: str


def judge(state: ServiceState | None, *, now: datetime) -> Health:
    """Judge a service by its last state.

    `state` is None if the service has not written a state yet. `now` must have a time zone.
    """
    if state is None:
        return Health(False, "not started yet")
    if state.state not in _WELL:
        return Health(False, f"{state.state}: {state.error}" if state.error else state.state)
    if not state.alive:
        return Health(False, "its process has ended")
    silent_s = seconds_since(state.updated, now)
    if silent_s > MAX_SILENCE_S:
        return Health(False, f"it has not written its state for {silent_s:.0f} s")
    if (outage := _no_usable_model(state)) is not None:
        return Health(False, outage)
    for trouble in state.troubles:
        lasts_s = seconds_since(trouble.since, now)
        if lasts_s > PATIENCE_S[trouble.kind]:
            return Health(False, f"{trouble.kind} for {lasts_s:.0f} s: {trouble.detail}")
    return Health(True, state.state)


def _no_usable_model(state: ServiceState) -> str | None:
    """If inference has no model because it rejected one, return the reason; otherwise None."""
    if state.service != "inference" or state.model is not None:
        return None
    rejected = [(key, why) for key, why in state.rejected.items() if key.startswith(_OF_A_MODEL)]
    if not rejected:
        return None
    key, why = rejected[0]  # if the champion was rejected, its entry comes first
    more = f" (and {len(rejected) - 1} more)" if len(rejected) > 1 else ""
    reason = why if why.startswith(key.removeprefix("model/")) else f"{key}: {why}"
    return f"no model can be used, so no record is scored: {reason}{more}"


def seconds_since(moment: str, now: datetime) -> float:
    """Return the number of seconds from `moment`, an RFC 3339 time, to `now`."""
    return now.timestamp() - parse_time(moment) / 1e6
