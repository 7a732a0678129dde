"""What a run sees of its own topics: events as they happen, and the metric beside its rivals.

In: the topics of a stream that is being played. Out: happenings, and for every outcome the loop's
prediction beside those of the first model and of the baseline. It publishes nothing.
"""

from collections import Counter
from collections.abc import Iterator

import msgspec
import numpy as np
from numpy.typing import NDArray

from driftline.broker.port import Broker, Consumer
from driftline.codec.envelope import (
    decode,
    drift_decoder,
    models_decoder,
    outcomes_decoder,
    retrain_decoder,
    windows_decoder,
)
from driftline.codec.records import RecordCodec
from driftline.evaluation import evaluate, higher_is_better
from driftline.events import (
    DataWindow,
    DriftEvent,
    Outcome,
    PerformanceWindow,
    RetrainDecision,
    RetrainRequest,
    RolePointer,
    Value,
)
from driftline.models.score import Model
from driftline.stream import Stream
from driftline.topics import Topics

# Blocks over which the difference of two models is averaged before its error is computed: errors
# of neighbouring records are correlated, those of distant blocks hardly.
BLOCKS = 30

Noteworthy = DriftEvent | RetrainRequest | RetrainDecision | RolePointer


class Happening(msgspec.Struct, frozen=True):
    """An event, and the data's row (from 0) that had been reached when it was seen."""

    row: int
    event: Noteworthy


class Comparison(msgspec.Struct, frozen=True):
    """The stream's metric of three ways to predict the same records, and how sure it is."""

    loop: float | None
    static: float | None
    baseline: float | None
    gain: float | None  # by which the loop is better than static; negative: worse
    gain_error: float | None  # standard error of `gain`, over blocks of rows


class Observer:
    """Reads a stream's topics while they are written."""

    def __init__(self, stream: Stream, broker: Broker, static: Model) -> None:
        self._stream = stream
        self._static = static
        self._codec = RecordCodec(stream)
        topics = Topics(stream)
        self._topics = topics
        self._consumer: Consumer = broker.consumer(client_id="driftline-run")
        admin = broker.admin()
        watched = (topics.outcomes, topics.windows, topics.drift, topics.retrain, topics.models)
        self._consumer.assign(
            {p: offsets.end for name in watched for p, offsets in admin.offsets(name).items()}
        )
        admin.close()
        self._rivals: dict[str, tuple[int, Value]] = {}  # id → data row, baseline's prediction
        self._rows: list[int] = []
        self._labels: list[Value] = []
        self._predicted: dict[str, list[Value]] = {"loop": [], "static": [], "baseline": []}
        self.counts: Counter[str] = Counter()

    def expect(self, record_id: str, row: int, baseline: Value) -> None:
        """A record was sent; the baseline knew at that moment what it says here."""
        self._rivals[record_id] = (row, baseline)

    def poll(self, row: int) -> Iterator[Happening]:
        """What came since the last call, `row` being the data's row reached."""
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
                elif message.topic == self._topics.drift:
                    yield Happening(row, decode(drift_decoder, message))
                elif message.topic == self._topics.retrain:
                    yield Happening(row, decode(retrain_decoder, message))
                elif isinstance(model := decode(models_decoder, message), RolePointer):
                    yield Happening(row, model)
            self._compare(outcomes)

    def _compare(self, outcomes: list[Outcome]) -> None:
        known = [outcome for outcome in outcomes if outcome.record_id in self._rivals]
        self.counts["outcomes"] += len(outcomes)
        if not known:
            return
        batch = self._codec.decode([bytes(outcome.record) for outcome in known])
        scores = self._static.predict(batch.columns).predictions
        values = scores.tolist() if isinstance(scores, np.ndarray) else scores
        for index, static in zip(batch.kept, values, strict=True):
            outcome = known[index]
            row, baseline = self._rivals.pop(outcome.record_id)
            self._rows.append(row)
            self._labels.append(outcome.label)
            self._predicted["loop"].append(outcome.prediction)
            self._predicted["static"].append(static)
            self._predicted["baseline"].append(baseline)

    # ---- results --------------------------------------------------------------------------------

    def comparison(self) -> Comparison:
        """The metric over all outcomes so far."""
        everything = np.arange(len(self._rows))
        gain, error = self._gain()
        return Comparison(
            loop=self._metric("loop", everything),
            static=self._metric("static", everything),
            baseline=self._metric("baseline", everything),
            gain=gain,
            gain_error=error,
        )

    def over_time(self, block: int) -> tuple[list[int], dict[str, list[float | None]]]:
        """The metric in blocks of `block` data rows: last row of each, and the values."""
        if not self._rows:
            return [], {name: [] for name in self._predicted}
        rows = np.array(self._rows)
        first = int(rows.min())
        number = (rows - first) // block
        ends, values = [], {name: list[float | None]() for name in self._predicted}
        for index in range(int(number.max()) + 1):
            chosen = np.flatnonzero(number == index)
            ends.append(min(first + (index + 1) * block - 1, int(rows.max())))
            for name, series in values.items():
                series.append(self._metric(name, chosen))
        return ends, values

    def _metric(self, name: str, chosen: NDArray[np.intp]) -> float | None:
        if not len(chosen):
            return None
        predicted = self._predicted[name]
        return evaluate(
            self._stream.judged_by,
            self._stream.task,
            [self._labels[i] for i in chosen],
            [predicted[i] for i in chosen],
        )

    def _gain(self) -> tuple[float | None, float | None]:
        """Mean and standard error of (loop better than static) over blocks of rows."""
        if len(self._rows) < 2 * BLOCKS:
            return None, None
        blocks = np.array_split(np.argsort(np.array(self._rows), kind="stable"), BLOCKS)
        sign = 1 if higher_is_better(self._stream.judged_by) else -1
        gains = np.array(
            [
                sign * ((self._metric("loop", b) or 0.0) - (self._metric("static", b) or 0.0))
                for b in blocks
            ]
        )
        return float(gains.mean()), float(gains.std(ddof=1) / np.sqrt(BLOCKS))

    def close(self) -> None:
        """Free the consumer."""
        self._consumer.close()
