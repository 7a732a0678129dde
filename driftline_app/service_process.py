"""Run one worker of a service in this process until SIGINT or SIGTERM stops the worker.

Input: a service, its stream and a broker. Output: the worker's log and state file, and the messages
that the service publishes.
"""

import ctypes
import faulthandler
import gc
import logging
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final

from driftline.broker.port import Broker
from driftline.clock import SystemClock
from driftline.errors import BrokerUnavailable, DriftlineError
from driftline.logs import Speaker, log_service
from driftline.ops.processes import file_digest, folder_of
from driftline.runtime.watchdog import Watchdog, end_process
from driftline.wire.topics import Service, Topics, require
from driftline_app.assembly import build_handler, build_loop
from driftline_app.context import Context
from driftline_app.service_observer import ObservedHandler

log = logging.getLogger(__name__)

# Start a garbage collection when allocations exceed deallocations by this number, which is enough
# for several batches of records.
_GC_THRESHOLD: Final = 50_000
# A batch of 2,000 records fills this many arenas (1 MiB each) of CPython's allocator.
_KEPT_ARENAS: Final = 16
_ARENA_BYTES: Final = 1 << 20
_OBJECT_BYTES: Final = 400  # objects up to 512 bytes are allocated in arenas
_kept: list[bytes] = []

_M_ARENA_MAX: Final = -8  # a constant from glibc's malloc.h

# Pauses between attempts to reach the broker at startup. Each attempt takes up to 10 s.
_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 8.0


def service_command(service: Service, slot: int, file: Path, servers: str) -> tuple[str, ...]:
    """Return the command that runs one worker of a service in its own process."""
    return (
        *(sys.executable, "-m", "driftline_app.cli", service, "--stream", str(file.absolute())),
        *("--bootstrap-server", servers, "--slot", str(slot)),
    )


def run_service(
    context: Context, service: Service, slot: int, *, file: Path, log_file: Path | None
) -> None:
    """Wait for the broker, check the topics, then run a worker until SIGINT or SIGTERM.

    `file` is the stream file. Raises DriftlineError.
    """
    faulthandler.enable()  # print a traceback if the interpreter crashes
    _limit_heaps()
    stop = threading.Event()
    for sign in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sign, lambda *_: stop.set())
    settings, stream, broker = context.settings, context.stream, context.broker
    log_service(
        Speaker(f"{stream.kafka.topic_prefix}{stream.name}", service, slot),
        level=settings.log_level,
        format=settings.log_format,
        file=log_file,
    )
    handler: ObservedHandler | None = None
    watchdog = Watchdog(SystemClock(), end_process)
    try:
        handler = _observed_handler(context, service, slot, file_digest(file))
        loop = build_loop(
            service,
            stream,
            broker,
            handler,
            clock=SystemClock(),
            slot=slot,
            commits_file=folder_of(settings, stream) / f"{service}-{slot}.commits",
            on_connection=handler.on_connection,
            on_turn=watchdog.beat,
        )
        servers, client = settings.bootstrap_servers, settings.client
        log.info(
            "starting %s for stream %s; Kafka: %s via %s", service, stream.name, servers, client
        )
        watchdog.start()
        await_topics(
            broker, Topics(stream), service, stop, handler.on_connection, on_turn=watchdog.beat
        )
        _prepare_memory()
        loop.run(stop, max_wait_s=stream.kafka.max_wait_ms / 1000)
    except BaseException as error:
        if handler is not None:
            handler.write("failed", error=str(error) or type(error).__name__)
        # Log the error as well: Python prints it to standard error, but the log may be a file.
        log.error("failed: %s", error, exc_info=not isinstance(error, DriftlineError))
        raise
    handler.write("stopped")


def _observed_handler(
    context: Context, service: Service, slot: int, digest: str
) -> ObservedHandler:
    """Return a service's handler, wrapped to write the worker's state file."""
    settings, stream, broker = context.settings, context.stream, context.broker
    clock, topics, folder = SystemClock(), Topics(stream), folder_of(settings, stream)

    def count_members() -> int:
        with closing(broker.admin()) as admin:
            return admin.group_members(topics.group(service))

    return ObservedHandler(
        build_handler(service, stream, settings, broker, clock, reports=folder / "reports"),
        service,
        topics,
        clock=clock,
        slot=slot,
        folder=folder,
        stream_digest=digest,
        count_members=count_members,
    )


def await_topics(
    broker: Broker,
    topics: Topics,
    service: Service,
    stop: threading.Event,
    on_connection: Callable[[str | None], None],
    on_turn: Callable[[], None] = lambda: None,
) -> None:
    """Wait until the broker is reachable, and check the service's topics.

    Call `on_turn` before each attempt. Return early if `stop` is set. Raises TopicMismatch if a
    topic is missing or differs from the plan.
    """
    pause_s = _FIRST_PAUSE_S
    while not stop.is_set():
        on_turn()
        try:
            with closing(broker.admin()) as admin:
                more = require(admin, topics, role=service)
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


def _limit_heaps() -> None:
    """Limit glibc to two heaps, shared by all threads. glibc's default limit is eight per core.

    Each Kafka client has several threads, and each heap holds on to freed memory. With 16 heaps, a
    monitor that used 41 MB of heap memory held 119 MB after ten outages.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # other C libraries have no `mallopt`
        mallopt(_M_ARENA_MAX, 2)


def _prepare_memory() -> None:
    """Tune the interpreter's memory management for batches of records.

    A batch consists of thousands of objects that are freed together.
    """
    # Imported objects are never freed, and a batch's objects are freed with the batch. Searching
    # thousands of live records for reference cycles takes a tenth of the run time and finds none.
    gc.freeze()
    gc.set_threshold(_GC_THRESHOLD, 10, 10)
    # CPython returns empty arenas to the system, and allocates arenas again for the next batch.
    # These allocations cause more than half of all page faults. To avoid them, keep an object in
    # each arena. The kept objects are half an arena apart, so every arena contains at least one.
    filled = [bytes(_OBJECT_BYTES) for _ in range(_KEPT_ARENAS * _ARENA_BYTES // _OBJECT_BYTES)]
    _kept.extend(filled[:: _ARENA_BYTES // _OBJECT_BYTES // 2])
