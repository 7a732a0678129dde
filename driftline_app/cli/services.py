"""`driftline inference`, `outcomes`, `monitor`, `trainer`: run one worker until it is stopped."""

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
        help="Number of this worker, starting at 0. Each worker of a service needs its own number. "
        "A new worker replaces a running worker with the same number.",
    ),
]
LogFile = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH",
        help="Write the log to this file. The file is rotated at 2 MB, and three old files are "
        "kept. Default: standard error.",
        show_default=False,
    ),
]


def inference(
    file: StreamFile = None,
    bootstrap_server: BootstrapServers = None,
    slot: Slot = 0,
    log_file: LogFile = None,
) -> None:
    """Run an inference worker, which scores feature records with the champion.

    The worker publishes predictions until you press Ctrl-C. At first, it waits until a model is
    published. It rejects models that are not signed with a trusted key. When the champion changes,
    the worker replaces its model between two batches. Several workers can share the partitions,
    each with its own --slot.

    Example: driftline inference -b local
    """
    _run("inference", file, bootstrap_server, slot, log_file)


def outcomes(
    file: StreamFile = None,
    bootstrap_server: BootstrapServers = None,
    slot: Slot = 0,
    log_file: LogFile = None,
) -> None:
    """Run an outcomes worker, which joins predictions with their labels.

    The worker publishes outcomes until you press Ctrl-C. Several workers can share the partitions,
    each with its own --slot.

    Example: driftline outcomes -b local
    """
    _run("outcomes", file, bootstrap_server, slot, log_file)


def monitor(
    file: StreamFile = None,
    bootstrap_server: BootstrapServers = None,
    slot: Slot = 0,
    log_file: LogFile = None,
) -> None:
    """Run a monitor worker, which detects drift and requests retraining.

    Until you press Ctrl-C, the worker reads predictions and outcomes, and publishes windows, drift
    events and retrain requests. Several workers can share the partitions, each with its own --slot.
    One of these workers merges the results of all workers, and opens and resolves drift events.

    Example: driftline monitor -b local
    """
    _run("monitor", file, bootstrap_server, slot, log_file)


def trainer(
    file: StreamFile = None,
    bootstrap_server: BootstrapServers = None,
    slot: Slot = 0,
    log_file: LogFile = None,
) -> None:
    """Run the trainer, which trains and publishes a model when retraining is requested.

    The trainer compares each new model with the champion on held-out records, and promotes the new
    model if it is better. `driftline freeze` pauses this automatic promotion. To stop the trainer,
    press Ctrl-C.

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
