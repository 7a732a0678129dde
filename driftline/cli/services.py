"""The services as commands: one worker of inference, outcomes, monitor or trainer."""

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
from driftline.cli.compose import build_loop
from driftline.cli.options import BootstrapServers, StreamFile, open_context
from driftline.cli.stream_file import find_stream_file
from driftline.cli.watched import Watched
from driftline.clock import SystemClock
from driftline.errors import BrokerUnavailable, DriftlineError
from driftline.handler import Handler
from driftline.logs import Speaker, log_service
from driftline.processes import file_digest, folder_of
from driftline.topics import Service, Topics, require

log = logging.getLogger(__name__)

# Objects made and not freed again before the collector looks at them; several batches' worth.
_GC_THRESHOLD = 50_000
# What a batch of 2,000 records makes lies in so many arenas (of CPython's allocator, 1 MB each).
_KEPT_ARENAS = 16
_ARENA_BYTES = 1 << 20
_OBJECT_BYTES = 400  # those below 512 lie in arenas
_kept: list[bytes] = []

# Between attempts to reach a broker at the start; each attempt itself takes up to 10 s.
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 8.0

Slot = Annotated[
    int,
    typer.Option(
        min=0,
        help="Number of this worker, from 0; no two workers of a service may share one. It makes "
        "the transactional id, which fences a predecessor that still lingers.",
    ),
]
LogFile = Annotated[
    Path | None,
    typer.Option(
        help="Write the log to this file, and begin a new one at 2 MB, keeping three old ones. "
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

    Waits while there is no model; swaps models between two batches; refuses those that are not
    signed by a trusted key. Start more, each with its own --slot, to share the partitions.

    Example: driftline inference elec2.toml -b local
    """
    _serve("inference", file, bootstrap_server, slot, log_file)


def outcomes(
    file: StreamFile = None,
    bootstrap_server: BootstrapServers = None,
    slot: Slot = 0,
    log_file: LogFile = None,
) -> None:
    """Join predictions with the labels that come for them, until Ctrl-C.

    Example: driftline outcomes elec2.toml -b local
    """
    _serve("outcomes", file, bootstrap_server, slot, log_file)


def monitor(
    file: StreamFile = None,
    bootstrap_server: BootstrapServers = None,
    slot: Slot = 0,
    log_file: LogFile = None,
) -> None:
    """Test windows for drift, open and resolve drift events, ask for retraining, until Ctrl-C.

    Start more, each with its own --slot, to share the partitions; one of them merges what all
    found and decides.

    Example: driftline monitor elec2.toml -b local
    """
    _serve("monitor", file, bootstrap_server, slot, log_file)


def trainer(
    file: StreamFile = None,
    bootstrap_server: BootstrapServers = None,
    slot: Slot = 0,
    log_file: LogFile = None,
) -> None:
    """Answer retrain requests: train, compare with the champion, sign, publish, until Ctrl-C.

    Example: driftline trainer elec2.toml -b local
    """
    _serve("trainer", file, bootstrap_server, slot, log_file)


def _serve(
    service: Service,
    file: Path | None,
    bootstrap_server: str | None,
    slot: int,
    log_file: Path | None,
) -> None:
    """Wait for the broker, check the topics, then run the loop until SIGINT or SIGTERM.

    Raises DriftlineError.
    """
    faulthandler.enable()  # a crash of the interpreter leaves a traceback on standard error
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
    watched: list[Watched] = []

    def count_members() -> int:
        admin = context.broker.admin()
        try:
            return admin.group_members(topics.group(service))
        finally:
            admin.close()

    def watch(handler: Handler) -> Handler:
        watched.append(
            Watched(
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
        # The log may be a file, and what Python prints at the end goes to standard error.
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
    """Wait until the broker answers, or until `stop` is set. Raises TopicMismatch."""
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
    """Set the interpreter up for batches: thousands of objects that come and go together."""
    # What was imported stays; what a batch makes goes with it. Looking for cycles among thousands
    # of live records costs a tenth of the time and finds none.
    gc.freeze()
    gc.set_threshold(_GC_THRESHOLD, 10, 10)
    # An arena that is empty goes back to the system, and the next batch faults it in again page by
    # page: more than half of all page faults. One object in it keeps it; two, because an arena need
    # not begin where one was kept.
    filled = [bytes(_OBJECT_BYTES) for _ in range(_KEPT_ARENAS * _ARENA_BYTES // _OBJECT_BYTES)]
    _kept.extend(filled[:: _ARENA_BYTES // _OBJECT_BYTES // 2])
