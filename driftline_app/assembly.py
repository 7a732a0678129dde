"""Build each service's handler and loop. This module is the composition root.

Input: a stream, settings and a broker. Output: a `Handler` and a `Loop`. A service is imported only
when it is built, so that each process loads only its own service's libraries.
"""

import logging
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from driftline.broker.port import Broker
from driftline.clock import Clock
from driftline.config.settings import Settings
from driftline.config.stream import Stream
from driftline.models.load import ModelLoader
from driftline.runtime.handler import Handler
from driftline.runtime.loop import Loop, OnConnection
from driftline.wire.topics import Service, Topics

log = logging.getLogger(__name__)


def build_handler(
    service: Service,
    stream: Stream,
    settings: Settings,
    broker: Broker,
    clock: Clock,
    *,
    reports: Path | None = None,
    synchronous: bool = False,
) -> Handler:
    """Return a service's handler.

    `reports` is the folder for Evidently reports; if it is None, no reports are written. With
    `synchronous`, which `driftline run` uses, the calling thread trains models and generates
    reports, and no state is stored on disk, because a run is never restarted. Otherwise, separate
    processes train models and generate reports while the loop keeps polling.
    """
    state = None if synchronous else state_of(settings, stream)
    match service:
        case "inference":
            from consumers.inference.handler import InferenceHandler

            return InferenceHandler(
                stream, ModelLoader.of(settings, stream), clock, background=not synchronous
            )
        case "outcomes":
            from consumers.outcomes.handler import OutcomesHandler

            return OutcomesHandler(stream, clock, state=state and state / "outcomes")
        case "monitor":
            from monitor.service import MonitorHandler

            return MonitorHandler(
                stream,
                ModelLoader.of(settings, stream),
                reports=_if_drawable(reports),
                state=state and state / "monitor",
                synchronous=synchronous,
            )
        case "trainer":
            from trainer.build import build_trainer

            return build_trainer(stream, settings, broker, clock, synchronous=synchronous)


def build_loop(
    service: Service,
    stream: Stream,
    broker: Broker,
    handler: Handler,
    *,
    clock: Clock,
    slot: int = 0,
    commit_interval_s: float | None = None,
    commits_file: Path | None = None,
    on_connection: OnConnection = lambda problem: None,
    on_turn: Callable[[], None] = lambda: None,
) -> Loop:
    """Return the loop that runs a handler as worker number `slot` of a service.

    `on_connection` is called when the connection to Kafka fails or recovers, and `on_turn` before
    each step of `Loop.run`.
    """
    if commit_interval_s is None and service == "monitor" and stream.drift.classifier:
        # Commit in every iteration, because training the domain classifier for a new model takes
        # longer than a transaction may stay open.
        commit_interval_s = 0.0
    return Loop(
        handler,
        broker,
        group=Topics(stream).group(service),
        delivery=stream.kafka.inference_delivery if service == "inference" else "exactly_once",
        clock=clock,
        slot=slot,
        max_records=stream.kafka.max_batch,
        commit_interval_s=commit_interval_s,
        commits_file=commits_file,
        on_connection=on_connection,
        on_turn=on_turn,
    )


def without_evidently() -> str | None:
    """Return a message that explains how to install Evidently, or None if it is installed."""
    if find_spec("evidently") is not None:
        return None
    return (
        "Evidently is not installed: pip install 'driftline[evidently]' adds more drift tests, "
        "and an HTML report for each window that opened a drift event"
    )


def _if_drawable(reports: Path | None) -> Path | None:
    """Return `reports`, or None if Evidently, which generates the reports, is not installed."""
    if reports is None or (missing := without_evidently()) is None:
        return reports
    log.info(missing)
    return None


def state_of(settings: Settings, stream: Stream) -> Path:
    """Return the folder for the services' caches.

    The folder's name includes the topic prefix, because two streams with different prefixes may
    have the same name.
    """
    return settings.home / "state" / f"{stream.kafka.topic_prefix}{stream.name}"
