"""Build each service from a stream, settings and a broker. This is the composition root.

A service is imported only when it is built, so that each process loads the libraries of its own
service only.
"""

import logging
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from driftline.broker.port import Broker
from driftline.clock import Clock
from driftline.config.settings import Settings
from driftline.config.stream import Stream
from driftline.models.load import Models
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
    reports: Path | None,
    synchronous: bool = False,
) -> Handler:
    """Return the handler of a service.

    `reports` is the folder for reports by Evidently; without it none are written. With
    `synchronous` (`driftline run`), training and reports run synchronously in this thread.
    Otherwise they run in processes of their own, while the loop keeps polling.
    """
    match service:
        case "inference":
            from consumers.inference.handler import InferenceHandler

            return InferenceHandler(
                stream, Models.of(settings, stream), clock, background=not synchronous
            )
        case "outcomes":
            from consumers.outcomes.handler import OutcomesHandler

            # A run in memory is never restarted, so it needs no state on disk.
            state = None if synchronous else state_of(settings, stream) / "outcomes"
            return OutcomesHandler(stream, clock, state=state)
        case "monitor":
            from monitor.service import MonitorHandler

            return MonitorHandler(
                stream,
                Models.of(settings, stream),
                reports=_if_drawable(reports),
                state=None if synchronous else state_of(settings, stream) / "monitor",
                synchronous=synchronous,
            )
        case "trainer":
            from trainer.build import build_trainer

            return build_trainer(stream, settings, broker, clock, synchronous=synchronous)


def build_loop(
    service: Service,
    stream: Stream,
    settings: Settings,
    broker: Broker,
    *,
    clock: Clock,
    reports: Path | Literal["default"] | None = "default",
    slot: int = 0,
    synchronous: bool = False,
    commit_interval_s: float | None = None,
    wrap: Callable[[Handler], Handler] = lambda handler: handler,
    on_connection: OnConnection = lambda problem: None,
) -> Loop:
    """Return the loop that runs worker number `slot` of a service.

    `wrap` may wrap the handler, to observe it. `on_connection` is called when the connection to
    Kafka fails or recovers.
    """
    if commit_interval_s is None and service == "monitor" and stream.drift.classifier:
        # Training the classifier for a new model takes longer than a transaction may stay open.
        commit_interval_s = 0.0
    return Loop(
        wrap(
            build_handler(
                service,
                stream,
                settings,
                broker,
                clock,
                reports=settings.home / "reports" / stream.name
                if reports == "default"
                else reports,
                synchronous=synchronous,
            )
        ),
        broker,
        group=Topics(stream).group(service),
        delivery=stream.kafka.inference_delivery if service == "inference" else "exactly_once",
        clock=clock,
        slot=slot,
        max_records=stream.kafka.max_batch,
        commit_interval_s=commit_interval_s,
        on_connection=on_connection,
    )


def _if_drawable(reports: Path | None) -> Path | None:
    """Return the folder for reports, or None if Evidently, which draws them, is not installed."""
    if reports is None or find_spec("evidently") is not None:
        return reports
    log.warning(
        "Evidently is not installed, so drift events have no HTML report of their window; "
        "pip install 'driftline[evidently]' adds these reports and more drift tests"
    )
    return None


def state_of(settings: Settings, stream: Stream) -> Path:
    """Return the folder for caches of services. Streams of the same name may differ in prefix."""
    return settings.home / "state" / f"{stream.kafka.topic_prefix}{stream.name}"
