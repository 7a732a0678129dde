"""Collect events, data windows and predictions from a run's topics while the run is in progress.

Input: the topics `outcomes`, `windows`, `drift`, `retrain` and `models`. Output: events, data
windows, and for each outcome the predictions of the model in use, the first model and the
baselines. The observer publishes nothing.
"""

from collections import Counter, deque
from collections.abc import Iterator
from contextlib import closing
from typing import Final

import msgspec
import numpy as np

from driftline.broker.port import Broker, Consumer
from driftline.config.stream import Stream
from driftline.models.score import Model
from driftline.wire.columns import Columns
from driftline.wire.envelope import (
    decode,
    drift_decoder,
    models_decoder,
    outcomes_decoder,
    retrain_decoder,
    windows_decoder,
)
from driftline.wire.events import DriftEvent, Outcome, RetrainEvent, RolePointer, Value
from driftline.wire.feature_records import RecordCodec
from driftline.wire.topics import Topics
from driftline.wire.window_events import DataWindow, PerformanceWindow
from driftline_app.replay.compared_metrics import Answer, ComparedPredictors
from monitor.estimates.coverage import Truth

# Maximum number of records with the same id whose baseline predictions are buffered. If there are
# more, the oldest are evicted.
MAX_REPEATS: Final = 1000

ServiceEvent = DriftEvent | RetrainEvent | RolePointer


class ObservedEvent(msgspec.Struct, frozen=True):
    """An event, and the data row (from 0) at which it was observed."""

    row: int
    event: ServiceEvent


class Observer:
    """Reads a run's topics while the services publish to them."""

    def __init__(self, stream: Stream, broker: Broker, static: Model) -> None:
        self._stream = stream
        self._static = static
        self._codec = RecordCodec(stream)
        topics = Topics(stream)
        self._topics = topics
        self._consumer: Consumer = broker.consumer(client_id="driftline-run")
        watched = (topics.outcomes, topics.windows, topics.drift, topics.retrain, topics.models)
        with closing(broker.admin()) as admin:
            self._consumer.assign(
                {p: offsets.end for name in watched for p, offsets in admin.offsets(name).items()}
            )
        # Record id → row and baseline answers of each record with this id that has no outcome
        # yet, in the order in which the records were sent. Most ids have only one record.
        self._baselines: dict[str, deque[tuple[int, dict[str, Answer]]]] = {}
        self.compared = ComparedPredictors(
            stream.judged_by, ("loop", "static", "baseline", "persistence")
        )
        self.windows: list[DataWindow] = []
        self.truth = Truth(stream)  # outcomes, for comparison with the windows' estimates
        self.counts: Counter[str] = Counter()

    def expect(self, record_id: str, row: int, baselines: dict[str, Answer]) -> None:
        """Register a record that was sent, with the baselines' answers for it."""
        self._baselines.setdefault(record_id, deque(maxlen=MAX_REPEATS)).append((row, baselines))

    def poll(self, row: int) -> Iterator[ObservedEvent]:
        """Yield the events published since the last call. `row` is the last row that was sent."""
        while messages := self._consumer.poll(max_records=5000, timeout_s=0):
            outcomes = []
            for message in messages:
                if message.topic == self._topics.outcomes:
                    event = decode(outcomes_decoder, message)
                    if isinstance(event, Outcome) and event.revision == 0:
                        outcomes.append(event)
                elif message.topic == self._topics.windows:
                    window = decode(windows_decoder, message)
                    self.counts["windows"] += isinstance(window, DataWindow | PerformanceWindow)
                    if isinstance(window, DataWindow):
                        self.windows.append(window)
                elif message.topic == self._topics.drift:
                    yield ObservedEvent(row, decode(drift_decoder, message))
                elif message.topic == self._topics.retrain:
                    yield ObservedEvent(row, decode(retrain_decoder, message))
                elif isinstance(model := decode(models_decoder, message), RolePointer):
                    yield ObservedEvent(row, model)
            self._compare(outcomes)
            self.truth.add(outcomes)

    def _compare(self, outcomes: list[Outcome]) -> None:
        known = [outcome for outcome in outcomes if outcome.record_id in self._baselines]
        self.counts["outcomes"] += len(outcomes)
        if not known:
            return
        batch = self._codec.decode([bytes(outcome.record) for outcome in known])
        for index, static in zip(batch.kept, self._static_answers(batch.columns), strict=True):
            outcome = known[index]
            waiting = self._baselines.get(outcome.record_id)
            if not waiting:
                continue  # another program may have sent a record with the same id
            row, baselines = waiting.popleft()
            if not waiting:
                del self._baselines[outcome.record_id]
            loop = Answer(outcome.prediction, outcome.scores)
            self.compared.add(row, outcome.label, {"loop": loop, "static": static, **baselines})

    def _static_answers(self, columns: Columns) -> list[Answer]:
        """Return the first model's answers."""
        scores = self._static.predict(columns)
        values: list[Value] = (
            scores.predictions.tolist()
            if isinstance(scores.predictions, np.ndarray)
            else [*scores.predictions]
        )
        if scores.probabilities is None:
            return [Answer(value) for value in values]
        classes = self._static.manifest.classes
        rows = scores.probabilities.tolist()
        return [
            Answer(value, dict(zip(classes, row, strict=True)))
            for value, row in zip(values, rows, strict=True)
        ]

    def close(self) -> None:
        """Close the consumer."""
        self._consumer.close()
