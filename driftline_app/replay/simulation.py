"""Stream a data set through all services, step by step in one thread.

Input: a stream, a playback and a broker. Output: a `RunResult` with the drift events and the
metric. On the in-memory broker, whose clock the simulation advances, the same input and seed
produce the same topics, byte for byte. On Kafka, the same steps run in real time.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from itertools import islice
from pathlib import Path
from typing import TypeVar

import msgspec

from driftline.audit.reconcile import Reconciliation, reconcile
from driftline.broker import connect
from driftline.broker.memory import MemoryBroker
from driftline.broker.port import Broker
from driftline.clock import ManualClock, SystemClock
from driftline.config.measure import Metric
from driftline.config.settings import Settings
from driftline.config.stream import Stream
from driftline.config.stream_sections import DriftKind
from driftline.errors import DataError, TopicMismatch
from driftline.interrupts import check
from driftline.models.load import ModelLoader
from driftline.models.score import Model
from driftline.runtime.loop import Loop
from driftline.wire.events import ComparisonStarted, DriftEvent, RetrainDecision, RolePointer
from driftline.wire.labels import LabelCodec
from driftline.wire.topics import SERVICES, Service, Topics, apply, require
from driftline_app.assembly import build_handler, build_loop
from driftline_app.replay.compared_metrics import repeated
from driftline_app.replay.first_model import FirstModel, train_on_warm_up
from driftline_app.replay.observer import ObservedEvent, Observer
from monitor.estimates.coverage import Coverage, coverage
from producers.delivery import Delivery, TooLarge
from producers.playback import Play, Playback

# Number of rows to send before the services run again. A larger number delays new models, and makes
# the rows reported for events less exact. On Kafka, the number is larger, because each time the
# services run, they wait for their commits.
ROWS_A_TURN = 100
ROWS_A_TURN_ON_KAFKA = 2000
# The simulated clock starts in the year 2000, so that every run has the same timestamps.
START_S = 946_684_800.0
# On Kafka, wait for several idle rounds, because an idle round may fall between two transactions.
IDLE_ROUNDS_ON_KAFKA = 3


E = TypeVar("E")


class Alert(msgspec.Struct, frozen=True):
    """A drift event that was opened."""

    kind: DriftKind
    row: int
    columns: tuple[str, ...]


class MetricResult(msgspec.Struct, frozen=True):
    """The stream's metric for the run (`loop`), the first model (`static`) and the baseline."""

    name: Metric
    static: float | None
    loop: float | None
    baseline: float | None
    gain: float | None
    gain_error: float | None


class RunResult(msgspec.Struct, frozen=True):
    """A run's result: the output of `driftline run --json`."""

    records: int
    predictions: int
    outcomes: int
    dead_letters: int
    lost: int
    windows: int
    alerts: tuple[Alert, ...]
    retrains: tuple[int, ...]
    models: tuple[str, ...]
    metric: MetricResult
    estimates: Coverage | None
    seconds: float
    duplicate_ids: int = 0  # records that repeat an earlier record's id
    too_large: int = 0  # records and labels that were not sent because they are too large


class Simulation:
    """A run, which sends a playback's rows and runs all services after each batch of rows."""

    def __init__(
        self,
        stream: Stream,
        broker: Broker,
        loops: Mapping[Service, Loop],
        playback: Playback,
        *,
        static: Model,
        first: FirstModel,
        clock: ManualClock | None,
        on_event: Callable[[ObservedEvent], None],
        on_progress: Callable[[int], None],
    ) -> None:
        self.observer = Observer(stream, broker, static)
        self.events: list[ObservedEvent] = []
        self.stream = stream
        self.first = first
        self.total_rows = playback.total
        self.changes = playback.changes
        self._broker = broker
        self._loops = loops
        self._playback = playback
        self._clock = clock  # None on Kafka, where runs use the system clock
        self._on_event = on_event
        self._on_progress = on_progress
        self._last_known = first.prior  # the baseline that repeats the previous label
        self.training_s = 0.0  # CPU time of the trainer
        self._producer = broker.producer(client_id="driftline-run")
        self._delivery = Delivery(self._producer, Topics(stream))
        self._label_codec = LabelCodec(stream)

    def run(self) -> RunResult:
        """Stream all rows, then reconcile the topics. Raises BrokerError, DataError."""
        started_s = time.perf_counter()
        self.play()
        return self._result(reconcile(self._broker, self.stream), time.perf_counter() - started_s)

    def play(self) -> None:
        """Stream all rows, then let the services finish. Raises BrokerError, DataError."""
        plays = self._playback.play()
        size = ROWS_A_TURN if self._clock else ROWS_A_TURN_ON_KAFKA
        self._settle()  # let the services read the models topic before sending any record
        row = 0
        while turn := list(islice(plays, size)):
            check()
            for play in turn:
                self._send(play)
            self._delivery.confirm()
            row = turn[-1].row
            if self._clock:
                self._clock.advance(len(turn) / 1000)  # simulate a thousand records per second
            self._settle()
            self._observe(row)
            self._on_progress(row + 1)
        self._let_idle()
        self._observe(row)
        for loop in self._loops.values():
            loop.close()

    def save(self, folder: Path) -> None:
        """Save an in-memory broker's topics atomically. Topics on Kafka are not saved."""
        if isinstance(self._broker, MemoryBroker):
            part = folder.with_name(f"{folder.name}.part")
            self._broker.save(part)
            part.rename(folder)

    def close(self) -> None:
        """Close all clients. Calling this method again has no effect."""
        for loop in self._loops.values():
            loop.close()
        self._producer.close()
        self.observer.close()

    def _send(self, play: Play) -> None:
        self._delivery.send(play)
        if play.kind == "label":
            with suppress(DataError):  # the label becomes a dead letter
                self._last_known = repeated(self._label_codec.decode(play.value).label)
        elif play.record_id is not None:
            last = self._last_known
            prior = self.first.prior if self.stream.baseline == "prior" else last
            self.observer.expect(play.record_id, play.row, {"baseline": prior, "persistence": last})

    def _settle(self) -> None:
        """Step all services in order until none has work left."""
        idle_rounds = 0
        needed, wait_s = (1, 0.0) if self._clock else (IDLE_ROUNDS_ON_KAFKA, 0.05)
        while idle_rounds < needed:
            busy = False
            for service in SERVICES:
                began_s = time.thread_time()
                while self._loops[service].step(wait_s):
                    busy = True
                if service == "trainer":
                    self.training_s += time.thread_time() - began_s
            idle_rounds = 0 if busy else idle_rounds + 1

    def _let_idle(self) -> None:
        """Wait until the monitor treats all partitions as idle, so that the last windows close."""
        idle_s = (self.stream.windows.idle.us or 0) / 1e6 + 0.001
        if self._clock:
            self._clock.advance(idle_s)
        else:
            until_s = time.monotonic() + idle_s
            while time.monotonic() < until_s:
                self._settle()
        self._settle()

    def _observe(self, row: int) -> None:
        for observed in self.observer.poll(row):
            self.events.append(observed)
            self._on_event(observed)

    # ---- result ---------------------------------------------------------------------------------

    @property
    def alerts(self) -> tuple[Alert, ...]:
        """Return an alert for each drift event that was opened, in order."""
        return tuple(
            Alert(event.kind, row, event.columns)
            for row, event in self._events_of(DriftEvent)
            if event.action == "opened"
        )

    @property
    def retrains(self) -> tuple[int, ...]:
        """Return the rows at which models were trained, whether or not they were promoted."""
        found = {event.request: row for row, event in self._events_of(ComparisonStarted)}
        for row, event in self._events_of(RetrainDecision):
            if event.trials:
                found.setdefault(event.request, row)
        return tuple(sorted(found.values()))

    @property
    def records(self) -> int:
        """Return the number of records that were sent."""
        return self._playback.counts.records

    @property
    def too_large(self) -> tuple[TooLarge, ...]:
        """Return the records and labels that were not sent because they are too large."""
        return tuple(self._delivery.too_large)

    @property
    def estimates(self) -> Coverage | None:
        """Return how accurate the metric's estimates were; None if there were no estimates."""
        return coverage(self.observer.truth.compare(self.observer.windows))

    def _result(self, counts: Reconciliation, seconds: float) -> RunResult:
        compared = self.observer.compared
        gain, error = compared.gain("loop", "static")
        return RunResult(
            records=counts.records,
            predictions=counts.predictions,
            outcomes=self.observer.counts["outcomes"],
            dead_letters=counts.dead_letters,
            lost=counts.missing + counts.labels.missing,
            duplicate_ids=counts.duplicate_ids,
            too_large=len(self.too_large),
            windows=self.observer.counts["windows"],
            alerts=self.alerts,
            retrains=self.retrains,
            models=(
                self.first.trained.digest,
                *(e.digest for _, e in self._events_of(RolePointer)),
            ),
            metric=MetricResult(
                name=self.stream.judged_by.name,
                static=compared.metric("static"),
                loop=compared.metric("loop"),
                baseline=compared.metric("baseline"),
                gain=gain,
                gain_error=error,
            ),
            estimates=self.estimates,
            seconds=round(seconds, 2),
        )

    def _events_of(self, kind: type[E]) -> list[tuple[int, E]]:
        return [(h.row, h.event) for h in self.events if isinstance(h.event, kind)]


def prepare(
    stream: Stream,
    playback: Playback,
    settings: Settings,
    *,
    warmup: float,
    reports: Path | None = None,
    on_kafka: bool = False,
    first: FirstModel | None = None,
    on_event: Callable[[ObservedEvent], None] = lambda observed: None,
    on_progress: Callable[[int], None],
    on_training: Callable[[str, int, int], None] = lambda step, done, total: None,
) -> Simulation:
    """Create a run's topics, first model and services. Raises DriftlineError.

    On Kafka, the run uses the stream's topics, and the features topic must be empty. `first` is a
    model that was already trained on the same warm-up rows. Without `reports`, no Evidently reports
    are written.
    """
    simulated = None if on_kafka else ManualClock(START_S)
    clock = simulated or SystemClock()
    if simulated:
        broker: Broker = MemoryBroker(simulated)
    else:
        broker = connect(settings.client, settings.bootstrap_servers, settings.properties)
    _create_topics(broker, Topics(stream))
    if first is None:
        first = train_on_warm_up(stream, playback, warmup, settings, clock, on_training)
    else:
        playback.warm_up(warmup)  # skip the warm-up rows
    with closing(broker.producer(client_id="driftline-run")) as producer:
        for record in first.trained.records:
            producer.send(record)

    def loop(service: Service) -> Loop:
        handler = build_handler(
            service, stream, settings, broker, clock, reports=reports, synchronous=True
        )
        interval_s = 0.0 if simulated else None
        return build_loop(
            service, stream, broker, handler, clock=clock, commit_interval_s=interval_s
        )

    return Simulation(
        stream,
        broker,
        {service: loop(service) for service in SERVICES},
        playback,
        static=ModelLoader.of(settings, stream).load(first.trained.announcement),
        first=first,
        clock=simulated,
        on_event=on_event,
        on_progress=on_progress,
    )


def _create_topics(broker: Broker, topics: Topics) -> None:
    """Create missing topics.

    Raises TopicMismatch if a topic differs from the plan, or if the features topic is not empty.
    """
    with closing(broker.admin()) as admin:
        apply(admin, topics)
        require(admin, topics)
        if any(offsets.end for offsets in admin.offsets(topics.features).values()):
            raise TopicMismatch(
                f"topic {topics.features} is not empty",
                hint="set [kafka] topic_prefix in the stream file to give the run its own topics",
            )
