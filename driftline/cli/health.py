"""`driftline health`: whether one service lives, for health checks of containers.

In: the state file that the service writes each second. Out: an exit code. It asks no broker, so
that a broker in trouble does not make every service look ill.
"""

from datetime import UTC, datetime
from typing import Annotated

import msgspec
import typer

from driftline.cli.options import Json, StreamFile, find_stream, stdout
from driftline.codec.records import parse_time
from driftline.processes import ServiceState, born, folder_of, read_state
from driftline.settings import load_settings
from driftline.topics import Service

# It speaks each second; a window with many columns may keep the monitor busy for some.
MAX_SILENCE_S = 30.0


class Health(msgspec.Struct, frozen=True):
    """Whether a service is well, and why (not) in words."""

    healthy: bool
    reason: str


def health(
    service: Annotated[Service, typer.Argument(help="The service.", show_default=False)],
    file: StreamFile = None,
    slot: Annotated[int, typer.Option(min=0, help="Number of the worker.")] = 0,
    json: Json = False,
) -> None:
    """Say whether a service lives here and moves on; exit 1 if not.

    A service that waits for a first model is well. Without a broker: `driftline status` asks it.

    Example: driftline health inference elec2.toml
    """
    stream = find_stream(file)
    state = read_state(folder_of(load_settings(), stream), service, slot)
    found = judge(state, now=datetime.now(UTC))
    if json:
        print(msgspec.json.encode(found).decode())
    else:
        stdout.print(f"{service}-{slot}: {found.reason}", highlight=False)
    if not found.healthy:
        raise typer.Exit(1)


def judge(state: ServiceState | None, *, now: datetime) -> Health:
    """Judge by what the service said last; `now` has a time zone."""
    if state is None:
        return Health(False, "not started yet")
    if state.state not in ("running", "waiting for a model"):
        return Health(False, f"{state.state}: {state.error}" if state.error else state.state)
    if born(state.pid) != state.born:
        return Health(False, "its process has ended")
    silent_s = now.timestamp() - parse_time(state.updated) / 1e6
    if silent_s > MAX_SILENCE_S:
        return Health(False, f"it has said nothing for {silent_s:.0f} s")
    return Health(True, state.state)
