"""The four services as commands. Each command runs one worker until it is stopped."""

from pathlib import Path
from typing import Annotated

import typer

from driftline.wire.topics import Service
from driftline_app.cli.options import BootstrapServers, StreamFile
from driftline_app.context import open_context
from driftline_app.service_process import run_service
from driftline_app.stream_file import find_stream_file

Slot = Annotated[
    int,
    typer.Option(
        min=0,
        metavar="N",
        help="Number of this worker, from 0. Workers of the same service need different numbers. "
        "A worker takes the place of an earlier one with its number.",
    ),
]
LogFile = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH",
        help="Write the log to this file, with rotation at 2 MB and three old files. "
        "Default: standard error.",
        show_default=False,
    ),
]


def inference(
    file: StreamFile = None,
    bootstrap_server: BootstrapServers = None,
    slot: Slot = 0,
    log_file: LogFile = None,
) -> None:
    """Score feature records with the champion, until Ctrl-C.

    Waits for the first model. Replaces the model between two batches when the champion changes.
    Rejects models that no trusted key has signed. Several workers, each with its own --slot, share
    the partitions.

    Example: driftline inference -b local
    """
    _run("inference", file, bootstrap_server, slot, log_file)


def outcomes(
    file: StreamFile = None,
    bootstrap_server: BootstrapServers = None,
    slot: Slot = 0,
    log_file: LogFile = None,
) -> None:
    """Join predictions with their labels, until Ctrl-C.

    Several workers, each with its own --slot, share the partitions.

    Example: driftline outcomes -b local
    """
    _run("outcomes", file, bootstrap_server, slot, log_file)


def monitor(
    file: StreamFile = None,
    bootstrap_server: BootstrapServers = None,
    slot: Slot = 0,
    log_file: LogFile = None,
) -> None:
    """Detect drift in windows of records, and request retraining, until Ctrl-C.

    Several workers, each with its own --slot, share the partitions. One of them merges the results
    of all workers, and opens and resolves drift events.

    Example: driftline monitor -b local
    """
    _run("monitor", file, bootstrap_server, slot, log_file)


def trainer(
    file: StreamFile = None,
    bootstrap_server: BootstrapServers = None,
    slot: Slot = 0,
    log_file: LogFile = None,
) -> None:
    """Train and publish models when retraining is requested, until Ctrl-C.

    A new model is compared with the champion on held-out records. A better one is promoted, unless
    `driftline freeze` has stopped promotion.

    Example: driftline trainer -b local
    """
    _run("trainer", file, bootstrap_server, slot, log_file)


def _run(
    service: Service,
    file: Path | None,
    bootstrap_server: str | None,
    slot: int,
    log_file: Path | None,
) -> None:
    path = find_stream_file(file)
    run_service(open_context(path, bootstrap_server), service, slot, file=path, log_file=log_file)
