"""`driftline health`: check one service, for health checks of containers.

In: the state file that the service writes every second. Out: an exit code. It never connects to a
broker, so that a broker that is down does not make healthy services look broken.
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
            metavar="SERVICE", help="inference, outcomes, monitor or trainer.", show_default=False
        ),
    ],
    file: StreamFile = None,
    slot: Annotated[
        int,
        typer.Option(
            min=0, metavar="N", help="Number of the worker, as it was started with --slot."
        ),
    ] = 0,
    json: Json = False,
) -> None:
    """Check whether a service on this machine is running and making progress.

    For health checks and cron jobs. Exit code 0: the service is healthy. 1: its process has ended,
    or has not written its state file for 30 s; it has waited for Kafka for 2 minutes; it has had
    fewer partitions than its fair share for a minute; it has read nothing for 2 minutes although
    there are records to read; or it is inference, and no published model can be used. 2: the check
    failed, for example because there is no stream file.

    Inference that waits for the first model is healthy. The check does not connect to the broker;
    `driftline status` does.

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
