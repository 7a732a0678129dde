"""`driftline health`: check one service's state file, for use as a container health check.

Input: the state file that the service writes every second. Output: one line and an exit code. This
command never connects to a broker, so a broker outage does not make every service unhealthy at
once.
"""

from datetime import UTC, datetime
from typing import Annotated

import typer

from driftline.config.settings import load_settings
from driftline.ops.health import Health, judge
from driftline.ops.processes import folder_of, read_state, unreadable
from driftline.safe_text import json_line
from driftline.wire.topics import Service
from driftline_app.cli.options import Json, StreamFile, stdout
from driftline_app.stream_file import find_stream


def health(
    service: Annotated[
        Service,
        typer.Argument(
            metavar="SERVICE",
            help="Service to check: inference, outcomes, monitor or trainer.",
            show_default=False,
        ),
    ],
    file: StreamFile = None,
    slot: Annotated[
        int,
        typer.Option(
            min=0, metavar="N", help="Worker number, as given to --slot when the worker started."
        ),
    ] = 0,
    json: Json = False,
) -> None:
    """Check whether a service on this machine is running and making progress.

    Use this command in container health checks and cron jobs. Exit code 0: the service is healthy.
    1: the service is unhealthy. 2: the check could not be performed, for example because there is
    no stream file.

    A service is unhealthy if its process has ended or has not written its state file for 30 s, if
    it has waited for Kafka for 2 minutes, if it has had fewer partitions than its fair share for a
    minute, or if it has read nothing for 2 minutes although records are available. Inference is
    also unhealthy if models are published but none is usable. While inference waits for the first
    model, it is healthy.

    This command does not connect to the broker. To check the broker as well, use
    `driftline status`.

    Example: driftline health inference --stream elec2.toml
    """
    stream = find_stream(file)
    folder = folder_of(load_settings(), stream)
    found = judge(read_state(folder, service, slot), now=datetime.now(UTC))
    for damaged in unreadable(folder, f"{service}-{slot}"):
        found = Health(False, damaged)
    if json:
        print(json_line(found))
    else:
        stdout.print(f"{service}-{slot}: {found.reason}", markup=False, soft_wrap=True)
    if not found.healthy:
        raise typer.Exit(1)
