"""The four services as commands. Each command runs one worker until it is stopped."""

import faulthandler
import gc
import logging
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from driftline.broker.port import Broker
from driftline.clock import SystemClock
from driftline.errors import BrokerUnavailable, DriftlineError
from driftline.logs import Speaker, log_service
from driftline.ops.processes import file_digest, folder_of
from driftline.runtime.handler import Handler
from driftline.wire.topics import Service, Topics, require
from driftline_app.assembly import build_loop
from driftline_app.cli.options import BootstrapServers, StreamFile, open_context
from driftline_app.cli.stream_file import find_stream_file
from driftline_app.observed_handler import ObservedHandler

log = logging.getLogger(__name__)

# Allocations minus deallocations that trigger a garbage collection: several batches of records.
_GC_THRESHOLD = 50_000
# Arenas of CPython's allocator, 1 MB each, that the objects of a batch of 2,000 records fill.
_KEPT_ARENAS = 16
_ARENA_BYTES = 1 << 20
_OBJECT_BYTES = 400  # objects up to 512 bytes are allocated in arenas
_kept: list[bytes] = []

# Pauses between attempts to reach the broker at the start. An attempt itself takes up to 10 s.
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 8.0

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
    _serve("inference", file, bootstrap_server, slot, log_file)


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
    _serve("outcomes", file, bootstrap_server, slot, log_file)


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
    _serve("monitor", file, bootstrap_server, slot, log_file)


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
    _serve("trainer", file, bootstrap_server, slot, log_file)


def _serve(
    service: Service,
    file: Path | None,
    bootstrap_server: str | None,
    slot: int,
    log_file: Path | None,
) -> None:
    """Wait for the broker, check the topics, then run the service until SIGINT or SIGTERM.

    Raises DriftlineError.
    """
    faulthandler.enable()  # print a traceback if the interpreter crashes
    stop = threading.Event()
    for sign in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sign, lambda *_: stop.set())
    context = open_context(file, bootstrap_server)
    stream, topics, clock = context.stream, Topics(context.stream), SystemClock()
    log_service(
        Speaker(f"{stream.kafka.topic_prefix}{stream.name}", service, slot),
        level=context.settings.log_level,
        format=context.settings.log_format,
        file=log_file,
    )
    folder = folder_of(context.settings, stream)
    watched: list[ObservedHandler] = []

    def count_members() -> int:
        admin = context.broker.admin()
        try:
            return admin.group_members(topics.group(service))
        finally:
            admin.close()

    def watch(handler: Handler) -> Handler:
        watched.append(
            ObservedHandler(
                handler,
                service,
                topics,
                clock=clock,
                slot=slot,
                folder=folder,
                stream_digest=file_digest(find_stream_file(file)),
                count_members=count_members,
            )
        )
        return watched[-1]

    try:
        loop = build_loop(
            service,
            stream,
            context.settings,
            context.broker,
            clock=clock,
            reports=folder / "reports",
            slot=slot,
            wrap=watch,
            on_connection=lambda problem: watched[0].on_connection(problem),
        )
        log.info(
            "%s of %s on %s, slot %d, by %s",
            service,
            stream.name,
            context.settings.bootstrap_servers,
            slot,
            context.settings.client,
        )
        _await_topics(context.broker, topics, service, stop, watched[0].on_connection)
        _prepare_memory()
        loop.run(stop, max_wait_s=stream.kafka.max_wait_ms / 1000)
    except BaseException as error:
        for each in watched:
            each.write("failed", error=str(error) or type(error).__name__)
        # Python prints the error to standard error; the log may be a file.
        log.error("failed: %s", error, exc_info=not isinstance(error, DriftlineError))
        raise
    for each in watched:
        each.write("stopped")


def _await_topics(
    broker: Broker,
    topics: Topics,
    service: Service,
    stop: threading.Event,
    on_connection: Callable[[str | None], None],
) -> None:
    """Wait until the broker can be reached, or `stop` is set. Raises TopicMismatch."""
    pause_s = _FIRST_PAUSE_S
    while not stop.is_set():
        try:
            admin = broker.admin()
            try:
                more = require(admin, topics, role=service)
            finally:
                admin.close()
        except BrokerUnavailable as error:
            on_connection(error.message)
            level = logging.WARNING if pause_s == _FIRST_PAUSE_S else logging.DEBUG
            log.log(level, "waiting for Kafka: %s", error.message)
            stop.wait(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        else:
            on_connection(None)
            for difference in more:
                log.warning("%s: more than planned, which is allowed", difference)
            return


def _prepare_memory() -> None:
    """Tune the interpreter for batches: thousands of objects that are freed together."""
    # Imported objects are never freed, and those of a batch are freed with it. Searching thousands
    # of live records for reference cycles takes a tenth of the time and finds none.
    gc.freeze()
    gc.set_threshold(_GC_THRESHOLD, 10, 10)
    # CPython returns an empty arena to the system, and the next batch allocates it again, which
    # causes more than half of all page faults. An object in the arena prevents that. There are two
    # objects for each arena, because arenas may begin between two of them.
    filled = [bytes(_OBJECT_BYTES) for _ in range(_KEPT_ARENAS * _ARENA_BYTES // _OBJECT_BYTES)]
    _kept.extend(filled[:: _ARENA_BYTES // _OBJECT_BYTES // 2])
