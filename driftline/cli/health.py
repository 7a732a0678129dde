"""`driftline health`: whether one service lives, for health checks of containers.

In: the state file that the service writes each second. Out: an exit code. It asks no broker, so
that a broker in trouble does not make every service look ill.
"""

from datetime import UTC, datetime
from typing import Annotated

import typer

from driftline.cli.options import Json, StreamFile, stdout
from driftline.cli.stream_file import find_stream
from driftline.health import judge
from driftline.plain import json_line
from driftline.processes import folder_of, read_state
from driftline.settings import load_settings
from driftline.topics import Service


def health(
    service: Annotated[Service, typer.Argument(help="The service.", show_default=False)],
    file: StreamFile = None,
    slot: Annotated[int, typer.Option(min=0, help="Number of the worker.")] = 0,
    json: Json = False,
) -> None:
    """Say whether a service lives here and moves on, for health checks and cron jobs.

    Exit code 0: it is well. 1: its process has ended or has been silent for 30 s, it has waited for
    Kafka for 2 minutes, it has had fewer partitions than its fair share for a minute, or it has
    read nothing for 2 minutes although there is something to read. 2: that could not be found
    out, for example for want of a stream file.

    A service that waits for a first model is well. No broker is asked: `driftline status` does.

    Example: driftline health inference elec2.toml
    """
    stream = find_stream(file)
    state = read_state(folder_of(load_settings(), stream), service, slot)
    found = judge(state, now=datetime.now(UTC))
    if json:
        print(json_line(found))
    else:
        stdout.print(
            f"{service}-{slot}: {found.reason}", highlight=False, markup=False, soft_wrap=True
        )
    if not found.healthy:
        raise typer.Exit(1)
