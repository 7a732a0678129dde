"""Replay a data set through all services with one retrain policy, in original or random order.

Input: a `Job`, which can be sent to another process. Output: a `Played` with the result. The same
services run in the same steps as in `driftline run`, so a run with the same policy would give the
same result.
"""

import logging
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from driftline.clock import ManualClock
from driftline.config.settings import Settings
from driftline.config.spans import Span
from driftline.config.stream import Stream
from driftline.config.stream_sections import AT, ROW, Budget, Policy, Retrain
from driftline.errors import DataError
from driftline.wire.window_events import DataWindow
from driftline_app.replay.compared_metrics import ComparedPredictors
from driftline_app.replay.first_model import FirstModel, train_on_warm_up
from driftline_app.replay.observer import ObservedEvent
from driftline_app.replay.simulation import START_S, Alert, prepare
from monitor.estimates.coverage import Coverage
from producers.playback import Playback
from producers.rows import Row, RowSource
from producers.sources import open_source

log = logging.getLogger(__name__)

# Seed for the random order. It is fixed, so that false alarms are reproducible.
_SHUFFLE_SEED: Final = 1


class Job(msgspec.Struct, frozen=True):
    """One replay of the data set. If `first` is None, a model is trained on the warm-up rows."""

    name: str
    stream: Stream
    data: str
    folder: Path  # contains this backtest's models and keys
    warmup: float
    limit: int | None
    seed: int
    first: FirstModel | None = None
    shuffled: bool = False


class Played(msgspec.Struct, frozen=True):
    """The result of one replay."""

    name: str
    records: int
    compared: ComparedPredictors
    events: tuple[ObservedEvent, ...]
    windows: tuple[DataWindow, ...]
    alerts: tuple[Alert, ...]
    retrains: tuple[int, ...]
    train_seconds: float
    estimates: Coverage | None

    @property
    def metric(self) -> float | None:
        """Return the stream's metric, computed from the replay's predictions."""
        return self.compared.metric("loop")


def with_policy(stream: Stream, policy: Policy) -> Stream:
    """Return a copy of the stream with another retrain policy."""
    return _with_retrain(stream, msgspec.structs.replace(stream.retrain, policy=policy))


def periodic(stream: Stream, records: int, trainings: int) -> Stream:
    """Return a copy of the stream, set to retrain `trainings` times within `records` records.

    The retrainings are evenly spaced, without cooldown. The budget prevents an additional
    retraining at the end of the data, because its model would never be used.
    """
    every = Span(records=records // (trainings + 1))
    budget = Budget(requests=trainings, per=Span(records=2 * records))
    return _with_retrain(
        stream,
        msgspec.structs.replace(
            stream.retrain, policy="schedule", every=every, cooldown=Span(records=0), budget=budget
        ),
    )


def every_window(stream: Stream) -> Stream:
    """Return a copy of the stream, set to retrain after each window, without cooldown or budget."""
    return _with_retrain(
        stream,
        msgspec.structs.replace(
            stream.retrain, policy="always", cooldown=Span(records=0), budget=None
        ),
    )


def _with_retrain(stream: Stream, retrain: Retrain) -> Stream:
    return msgspec.structs.replace(stream, retrain=retrain)


def train_first_model(job: Job, progress: Callable[[str, int, int], None]) -> FirstModel:
    """Train the first model, which all policies share. Raises DriftlineError."""
    settings, clock = _settings(job.folder), ManualClock(START_S)
    return train_on_warm_up(job.stream, playback(job), job.warmup, settings, clock, progress)


def play(job: Job, progress: Callable[[int, int], None]) -> Played:
    """Run a job. `progress` is called with the number of rows replayed and the total number.

    Raises DriftlineError.
    """
    simulation = prepare(
        job.stream,
        playback(job),
        _settings(job.folder),
        warmup=job.warmup,
        first=job.first,
        on_progress=lambda row: progress(row, simulation.total_rows or row),
    )
    try:
        simulation.play()
        for item in simulation.too_large:
            log.warning("leaving out data row %d: %s", item.row, item.reason)
        return Played(
            name=job.name,
            records=simulation.records,
            compared=simulation.observer.compared,
            events=tuple(simulation.events),
            windows=tuple(simulation.observer.windows),
            alerts=simulation.alerts,
            retrains=simulation.retrains,
            train_seconds=simulation.training_s,
            estimates=simulation.estimates,
        )
    finally:
        simulation.close()


def _settings(folder: Path) -> Settings:
    return Settings(
        home=folder,
        bootstrap_servers="",
        client="memory",
        properties={},
        model_store=str(folder / "models"),
    )


def playback(job: Job) -> Playback:
    """Return a playback of the job's rows. Raises DataError if the data can be read only once."""
    if job.data == "-":
        raise DataError(
            "a backtest reads its data several times, which standard input does not allow",
            hint="write the data to a file first",
        )
    source = open_source(job.data)
    if job.shuffled:
        source = Shuffled(source, job.stream, job.limit)
    return Playback(job.stream, source, seed=job.seed, limit=job.limit)


class Shuffled:
    """A source's rows, with features and targets in random order.

    Ids, keys, event times and label delays stay in their rows, so that no record is late. A row's
    features and target move together. A label in a later row moves with its record.
    """

    def __init__(self, source: RowSource, stream: Stream, limit: int | None) -> None:
        self.name = source.name
        self.textual = source.textual
        self._source = source
        self._limit = limit
        self._id = stream.record.id if stream.simulate.delay is None else None
        self._target = stream.target
        time = stream.time.column
        own = (stream.record.id, stream.record.key, ROW, AT)
        self._stay = {*own, *([] if time is None else [time])}
        if time in stream.features:
            self._stay.remove(str(time))

    def count(self) -> int | None:
        return self._source.count()

    def rows(self) -> Iterator[Row]:
        yield from self._shuffled

    @cached_property
    def _shuffled(self) -> list[Row]:
        rows = [dict(row) for row in self._read() if not isinstance(row, bytes)]
        labels: dict[int, int] = {}  # index of a record → index of the row with its label
        first: dict[Any, int] = {}
        if self._id is not None:
            for place, row in enumerate(rows):
                if (known := first.setdefault(row.get(self._id), place)) != place:
                    labels.setdefault(known, place)
        later = set(labels.values())
        records = [place for place in range(len(rows)) if place not in later]
        # If labels are in later rows, shuffle only the records that have such a label.
        chosen = [place for place in records if place in labels] if labels else records
        order = np.random.default_rng(_SHUFFLE_SEED).permutation(len(chosen))
        result: list[Row] = list(rows)
        for place, other in zip(chosen, (chosen[i] for i in order), strict=True):
            result[place] = self._moved(rows[place], rows[other])
            if place in labels:
                ours = labels[place]
                truth = rows[labels[other]][self._target]
                result[ours] = {**rows[ours], self._target: truth}
        return result

    def _read(self) -> Iterator[Row]:
        for place, row in enumerate(self._source.rows()):
            if self._limit is not None and place >= self._limit:
                return
            yield row

    def _moved(self, place: dict[str, Any], content: dict[str, Any]) -> Row:
        return {**content, **{name: place[name] for name in self._stay if name in place}}
