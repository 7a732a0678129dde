"""Trainer's model search: tune and train all candidates on in-memory rows, and pick the best.

This module covers steps 4 (features), 5 (model choice), 6 (training) and 8 (tuning) of
docs/model-life.md.

Input: cleaned rows, ranges to train on, and the held-out rows. Output: all trials, and the model
with the best metric on the held-out rows. No candidate is ever fitted on a held-out row.
"""

import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, Final

import msgspec
import numpy as np

from driftline.config.stream import Stream
from driftline.errors import TrainingError
from driftline.learning.encoding import FeatureSchema, encode_matrix, fit_schema
from driftline.learning.metrics import better, evaluate
from driftline.models.score import Scores, SklearnScorer
from driftline.wire.events import Trial
from trainer.budget import TUNE_ROWS, LeftOut, fitted_rows, spend
from trainer.candidates import Candidate, Parameters, candidate
from trainer.rows import TrainingRows
from trainer.split import Places, split

log = logging.getLogger(__name__)

NOT_FINITE: Final = "its predictions are not finite"
# The controller that limits library threads, keyed by the number of modules loaded at its creation.
_controllers: dict[int, Any] = {}

Progress = Callable[
    [str, int, int], None
]  # name of the step, number of finished parts, total number of parts


def no_progress(step: str, done: int, total: int) -> None:
    """Ignore progress reports."""


class Range(msgspec.Struct, frozen=True):
    """A range of rows to train on: its name and the sorted indices of its rows."""

    name: str
    places: Places


class Fitted(msgspec.Struct, frozen=True):
    """A fitted estimator. A classifier's labels are encoded as indices into `schema.classes`."""

    candidate: Candidate
    parameters: Parameters
    schema: FeatureSchema
    estimator: Any

    def score(self, stream: Stream, rows: TrainingRows) -> Scores:
        """Return the model's scores for these rows."""
        scorer = SklearnScorer(self.estimator, stream.task, self.schema.classes)
        # On busy machines, the threads of a boosted model spend more time waiting than scoring.
        with one_thread():
            return scorer.score(encode_matrix(self.schema, rows.columns))


class Found(msgspec.Struct, frozen=True):
    """The best model of all trials. `scores` contains its scores on the held-out rows."""

    fitted: Fitted
    range: Range
    scores: Scores
    metric: float


def search(
    stream: Stream,
    rows: TrainingRows,
    ranges: Sequence[Range],
    held: Places,
    progress: Progress = no_progress,
    *,
    failed: Mapping[str, str] = MappingProxyType({}),
) -> tuple[Found, tuple[Trial, ...]]:
    """Try the candidates on the ranges. Return the best model (in a tie, the first) and all trials.

    `trainer.budget` chooses what to try within `[models] budget`. `failed` contains the candidates
    to leave out, with reasons. Raises TrainingError if a candidate is unknown or does not support
    the task, or if no candidate could be trained.
    """
    names = [name for name in stream.models.candidates if name not in failed]
    candidates = [candidate(name, stream.task) for name in names]
    attempts = _Attempts(stream, rows, ranges, rows.take(held), len(names), progress)
    attempts.failures += [f"{name}: {reason}" for name, reason in failed.items()]
    if candidates:
        lengths = [len(span.places) for span in ranges]
        budget = stream.models.budget
        left_out = spend(candidates, lengths, budget, attempts, tune=stream.models.tune)
        attempts.note(dict(zip(names, left_out, strict=True)))
    progress("training", attempts.total, attempts.total)
    if attempts.best is None:
        raise TrainingError(
            f"stream {stream.name!r}: no candidate could be trained: "
            f"{'; '.join(attempts.failures)}",
            hint="check [models.candidates] and the labels",
        )
    return attempts.best, tuple(attempts.trials)


class _Attempts:
    """Trains models for `spend`, and remembers the best one and all trials."""

    def __init__(
        self,
        stream: Stream,
        rows: TrainingRows,
        ranges: Sequence[Range],
        truth: TrainingRows,
        candidates: int,
        progress: Progress,
    ) -> None:
        self._stream = stream
        self._rows = rows
        self._ranges = ranges
        self._truth = truth
        self._progress = progress
        self._begun = 0  # number of trainings; `train` counts them
        self.total = candidates * len(ranges) * (2 if stream.models.tune else 1)  # at most
        self.best: Found | None = None
        self.trials: list[Trial] = []
        self.failures: list[str] = []

    def train(self, kind: Candidate, place: int, parameters: Parameters) -> float | None:
        """Train a model and evaluate it on the held-out rows. Return its loss, or None."""
        stream, span, truth = self._stream, self._ranges[place], self._truth
        self._progress(f"training {kind.name} on {span.name}", self._begun, self.total)
        self._begun += 1
        train = self._rows.take(span.places)
        try:
            fitted = fit(stream, kind, parameters, train)
            scores = fitted.score(stream, truth)
            metric = evaluate(stream.judged_by, stream.task, truth.labels, scores.predictions)
        except Exception as error:  # noqa: BLE001 - libraries may raise anything; try the next
            log.warning("candidate %s on %s failed: %s", kind.name, span.name, error)
            self.failures.append(f"{kind.name}: {error}")
            return None
        if not np.isfinite(metric) or scores.not_finite():
            log.warning("candidate %s on %s failed: %s", kind.name, span.name, NOT_FINITE)
            self.failures.append(f"{kind.name}: {NOT_FINITE}")
            return None
        count = fitted_rows(kind, len(train))
        self.trials.append(Trial(kind.name, fitted.parameters, span.name, count, metric))
        if self.best is None or better(stream.judged_by, metric, self.best.metric):
            self.best = Found(fitted, span, scores, metric)
        return metric if better(stream.judged_by, 0.0, 1.0) else -metric

    def tune(self, kind: Candidate, place: int, rows: int, points: int) -> Parameters:
        """Tune a candidate on the newest rows of a range."""
        train = self._rows.take(self._ranges[place].places)
        return tune(self._stream, kind, train, rows, points)

    def note(self, left_out: Mapping[str, LeftOut]) -> None:
        """Log what the budget left out, and add it to the first trial of each candidate."""
        for name, item in left_out.items():
            if not item:
                continue
            text = self._text(item)
            log.info("the budget of %s left out: %s", name, text)
            for number, trial in enumerate(self.trials):
                if trial.candidate == name:
                    self.trials[number] = msgspec.structs.replace(trial, left_out=text)
                    break

    def _text(self, item: LeftOut) -> str:
        first = self._ranges[0].name
        parts = [f"{item.rows} older rows of {first}"] if item.rows else []
        for what, places in (
            ("training on", item.ranges),
            ("tuning on", item.untuned),
            ("part of the tuning on", item.tuned_less),
        ):
            if places:
                names = ", ".join(self._ranges[place].name for place in sorted(places))
                parts.append(f"{what} {names}")
        return "; ".join(parts)


def tune(
    stream: Stream,
    kind: Candidate,
    train: TrainingRows,
    rows: int = TUNE_ROWS,
    points: int | None = None,
) -> Parameters:
    """Return the best of the grid's first `points` points, by default all.

    They are tuned on the newest `rows` rows. For each point, a model is fitted on one part of these
    rows and evaluated on the other part. If every fit fails, the default parameters are returned.
    """
    if not stream.models.tune or len(kind.grid) == 1:
        return kind.grid[0]
    recent = train.take(np.arange(max(0, len(train) - rows), len(train)))
    fit_on, judge_on = split(
        recent.labels,
        share=stream.models.holdout,
        how=stream.models.split,
        task=stream.task,
        seed=stream.models.seed + 1,  # differs from the seed that drew the held-out rows
    )
    learn, truth = recent.take(fit_on), recent.take(judge_on)
    best, best_metric = kind.grid[0], None
    for parameters in kind.grid[:points]:
        try:
            scores = fit(stream, kind, parameters, learn).score(stream, truth)
        except Exception as error:  # noqa: BLE001 - libraries may raise anything
            log.info("candidate %s with %s failed: %s", kind.name, parameters, error)
            continue
        metric = evaluate(stream.judged_by, stream.task, truth.labels, scores.predictions)
        if best_metric is None or better(stream.judged_by, metric, best_metric):
            best, best_metric = parameters, metric
    return best


def fit(stream: Stream, kind: Candidate, parameters: Parameters, train: TrainingRows) -> Fitted:
    """Fit a candidate on these rows, or on the newest `max_rows` rows if the candidate has a limit.

    Raises whatever the candidate's library raises, and TrainingError if there is only one class.
    """
    if kind.max_rows is not None and len(train) > kind.max_rows:
        train = train.take(np.arange(len(train) - kind.max_rows, len(train)))
    schema = fit_schema(stream, train.columns, train.labels.tolist())
    target = train.labels
    if stream.task == "classification":
        if len(schema.classes) < 2:
            raise TrainingError(f"only one class in {len(train)} rows: {schema.classes}")
        places = {name: place for place, name in enumerate(schema.classes)}
        target = np.array([places[name] for name in train.labels], dtype=np.int64)
    estimator = kind.build(parameters, stream.models.seed)
    with one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # poor convergence shows up in the metric
        estimator.fit(encode_matrix(schema, train.columns), target)
    return Fitted(kind, parameters, schema, estimator)


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit libraries to one thread: sums then have a fixed order, so models are reproducible."""
    # threadpoolctl is always installed, because scikit-learn depends on it.
    from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

    # Creating a controller takes 7 ms, and a search uses a controller hundreds of times. A new
    # controller is needed only when more libraries, and so more modules, have been loaded.
    modules = len(sys.modules)
    if modules not in _controllers:
        _controllers.clear()
        _controllers[modules] = ThreadpoolController()
    with _controllers[modules].limit(limits=1):
        yield
