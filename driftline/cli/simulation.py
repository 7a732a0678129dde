"""The whole loop in one thread: a data set played through all services until it is through.

In: a stream, a source, a broker. Out: what happened and the metric, as `RunResult`. On the
in-memory broker with its hand-moved clock, the same input and seed give the same topics, byte for
byte; on a real Kafka the same steps are taken, at Kafka's own pace.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np

from driftline.broker import connect
from driftline.broker.memory import MemoryBroker
from driftline.broker.port import Broker, Outgoing
from driftline.cli.compose import build_loop
from driftline.cli.observer import Comparison, Happening, Observer
from driftline.clock import ManualClock, SystemClock
from driftline.codec.labels import LabelCodec
from driftline.errors import TopicMismatch
from driftline.events import DriftEvent, RetrainDecision, RolePointer, Value
from driftline.loop import Loop
from driftline.models.load import Models
from driftline.models.score import Model
from driftline.reconcile import Reconciliation, reconcile
from driftline.settings import Settings
from driftline.stream import DriftKind, Metric, Stream
from driftline.topics import SERVICES, Service, Topics, apply, require
from producers.playback import Play, Playback
from producers.sources import open_source
from trainer.first import train_first

# Rows sent between two turns of the services: how exactly `row` is known, and how soon a new model
# answers. On Kafka each turn waits for commits, so they are fewer.
ROWS_A_TURN = 100
ROWS_A_TURN_ON_KAFKA = 2000
# The hand-moved clock starts in the year 2000: a run stamps the same times whenever it runs.
START_S = 946_684_800.0
# A round in which no service does anything may fall between two transactions.
IDLE_ROUNDS_ON_KAFKA = 3


E = TypeVar("E")


class Alert(msgspec.Struct, frozen=True):
    """A drift event as it opened."""

    kind: DriftKind
    row: int
    columns: tuple[str, ...]


class MetricResult(msgspec.Struct, frozen=True):
    """The stream's metric by the loop, by the first model alone, and by the baseline."""

    name: Metric
    static: float | None
    loop: float | None
    baseline: float | None
    gain: float | None
    gain_error: float | None


class RunResult(msgspec.Struct, frozen=True):
    """The outcome of a run; the last line of `run --json`."""

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
    seconds: float


class FirstModel(msgspec.Struct, frozen=True):
    """The model that the warm-up trained, and where the stream begins."""

    digest: str
    candidate: str
    value: float  # the stream's metric on its held-out rows
    prior: Value  # what a model without inputs would say
    rows: int  # data rows of the warm-up
    unlabelled: int  # of these without a label


class Simulation:
    """Plays a source through the services, turn by turn."""

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
        on_happening: Callable[[Happening], None],
        on_progress: Callable[[int], None],
    ) -> None:
        self.observer = Observer(stream, broker, static)
        self.happenings: list[Happening] = []
        self.stream = stream
        self.first = first
        self.total_rows = playback.total
        self._broker = broker
        self._loops = loops
        self._playback = playback
        self._clock = clock  # None on a real Kafka, where time passes by itself
        self._on_happening = on_happening
        self._on_progress = on_progress
        self._topics = Topics(stream)
        self._last_known = first.prior  # what the baseline would say now
        self._producer = broker.producer(client_id="driftline-run")
        self._label_codec = LabelCodec(stream)

    def run(self) -> RunResult:
        """Play everything, then let the services finish. Raises BrokerError, DataError."""
        started_s = time.perf_counter()
        plays = self._playback.play()
        size = ROWS_A_TURN if self._clock else ROWS_A_TURN_ON_KAFKA
        self._settle()  # the services read the models topic before the first record comes
        row = 0
        while turn := list(islice(plays, size)):
            for play in turn:
                self._send(play)
            self._producer.flush()
            row = turn[-1].row
            if self._clock:
                self._clock.advance(len(turn) / 1000)  # some pace: a thousand records a second
            self._settle()
            self._look(row)
            self._on_progress(row + 1)
        self._let_idle()
        self._look(row)
        for loop in self._loops.values():
            loop.close()
        counts = reconcile(self._broker, self.stream)
        return self._result(counts, time.perf_counter() - started_s)

    def save(self, folder: Path) -> None:
        """Keep the topics of an in-memory broker; those of a Kafka stay there."""
        if isinstance(self._broker, MemoryBroker):
            self._broker.save(folder)

    def close(self) -> None:
        """Free all clients. Safe to call twice."""
        for loop in self._loops.values():
            loop.close()
        self._producer.close()
        self.observer.close()

    def _send(self, play: Play) -> None:
        if play.kind == "record":
            self._producer.send(Outgoing(self._topics.features, play.value, play.key))
            if play.record_id is not None:
                self.observer.expect(play.record_id, play.row, self._last_known)
        else:
            self._producer.send(Outgoing(self._topics.labels, play.value, play.key))
            if self.stream.baseline == "previous_label":
                self._last_known = self._label_codec.decode(play.value).label

    def _settle(self) -> None:
        """Step all services in their order until none has anything left to do."""
        idle_rounds = 0
        needed, wait_s = (1, 0.0) if self._clock else (IDLE_ROUNDS_ON_KAFKA, 0.05)
        while idle_rounds < needed:
            busy = False
            for service in SERVICES:
                while self._loops[service].step(wait_s):
                    busy = True
            idle_rounds = 0 if busy else idle_rounds + 1

    def _let_idle(self) -> None:
        """Wait until silent partitions are seen as silent, so that the last windows close."""
        idle_s = (self.stream.windows.idle.us or 0) / 1e6 + 0.001
        if self._clock:
            self._clock.advance(idle_s)
        else:
            until_s = time.monotonic() + idle_s
            while time.monotonic() < until_s:
                self._settle()
        self._settle()

    def _look(self, row: int) -> None:
        for happening in self.observer.poll(row):
            self.happenings.append(happening)
            self._on_happening(happening)

    # ---- result ---------------------------------------------------------------------------------

    def _result(self, counts: Reconciliation, seconds: float) -> RunResult:
        compared: Comparison = self.observer.comparison()
        return RunResult(
            records=counts.records,
            predictions=counts.predictions,
            outcomes=self.observer.counts["outcomes"],
            dead_letters=counts.dead_letters,
            lost=counts.missing + counts.labels.missing,
            windows=self.observer.counts["windows"],
            alerts=tuple(
                Alert(event.kind, row, event.columns)
                for row, event in self._events(DriftEvent)
                if event.action == "opened"
            ),
            retrains=tuple(row for row, event in self._events(RetrainDecision) if event.trials),
            models=(self.first.digest, *(e.digest for _, e in self._events(RolePointer))),
            metric=MetricResult(
                name=self.stream.judged_by,
                static=compared.static,
                loop=compared.loop,
                baseline=compared.baseline,
                gain=compared.gain,
                gain_error=compared.gain_error,
            ),
            seconds=round(seconds, 2),
        )

    def _events(self, kind: type[E]) -> list[tuple[int, E]]:
        return [(h.row, h.event) for h in self.happenings if isinstance(h.event, kind)]


def prepare(
    stream: Stream,
    data: str,
    settings: Settings,
    *,
    reports: Path,
    warmup: float,
    limit: int | None,
    seed: int,
    on_kafka: bool,
    on_happening: Callable[[Happening], None],
    on_progress: Callable[[int], None],
    on_training: Callable[[str, int, int], None],
) -> Simulation:
    """Topics, first model and services for a run. Raises DriftlineError.

    On Kafka the stream's own topics are used, and must be empty.
    """
    clock = None if on_kafka else ManualClock(START_S)
    broker = (
        MemoryBroker(clock)
        if clock
        else connect(settings.client, settings.bootstrap_servers, settings.properties)
    )
    topics = Topics(stream)
    admin = broker.admin()
    try:
        apply(admin, topics)
        require(admin, topics)
        if any(offsets.end for offsets in admin.offsets(topics.features).values()):
            raise TopicMismatch(
                f"{topics.features} has records already",
                hint="set [kafka] topic_prefix in the stream file to give this run its own topics",
            )
    finally:
        admin.close()
    playback = Playback(stream, open_source(data), seed=seed, limit=limit)
    warm = playback.warm_up(warmup)
    trained = train_first(
        stream,
        warm.records,
        warm.labels,
        settings=settings,
        clock=clock or SystemClock(),
        progress=on_training,
    )
    producer = broker.producer(client_id="driftline-run")
    for record in trained.records:
        producer.send(record)
    producer.close()
    models = Models.of(settings, stream)
    return Simulation(
        stream,
        broker,
        {
            service: build_loop(
                service,
                stream,
                settings,
                broker,
                clock=clock or SystemClock(),
                reports=reports,
                in_process=True,
                commit_interval_s=0.0 if clock else None,
            )
            for service in SERVICES
        },
        playback,
        static=models.load(trained.announcement),
        first=FirstModel(
            digest=trained.digest,
            candidate=trained.candidate,
            value=trained.value,
            prior=prior_prediction(stream, warm.labels),
            rows=warm.rows,
            unlabelled=warm.unlabelled,
        ),
        clock=clock,
        on_happening=on_happening,
        on_progress=on_progress,
    )


def prior_prediction(stream: Stream, labels: Sequence[Value]) -> Value:
    """What a model without inputs would say: the most frequent class, the median for `mae`, else
    the mean."""
    if stream.task == "classification":
        counts = Counter(labels)
        return max(sorted(counts, key=str), key=lambda label: counts[label])
    numbers = np.array(labels, dtype=np.float64)
    return float(np.median(numbers) if stream.judged_by == "mae" else np.mean(numbers))
