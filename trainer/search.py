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
from driftline.learning.metrics import Answers, answers_of, better, evaluate, unsuitable
from driftline.models.score import Scores, SklearnScorer
from driftline.wire.events import Trial
from trainer.candidates import Candidate, Parameters, candidate
from trainer.rows import TrainingRows
from trainer.split import Places, split

log = logging.getLogger(__name__)

# With this many rows, the metric differs between parameters by more than its noise, and tuning a
# whole grid takes only seconds.
TUNE_ROWS: Final = 10_000
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
        return scorer.score(encode_matrix(self.schema, rows.columns))

    def answers(self, stream: Stream, rows: TrainingRows, scores: Scores) -> Answers:
        """Return what the metric needs of the model's scores for these rows.

        Raises ValueError if the metric needs probabilities, and the model returns none.
        """
        classes, probabilities = self.schema.classes, scores.probabilities
        return answers_of(stream.judged_by, rows.labels, scores.predictions, probabilities, classes)


class Found(msgspec.Struct, frozen=True):
    """The best model of all trials. `scores` contains its scores on the held-out rows, and
    `answers` what the metric needs of them."""

    fitted: Fitted
    range: Range
    scores: Scores
    answers: Answers
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
    """Try all candidates on all ranges. Return the best model (in a tie, the first) and all trials.

    `failed` contains the candidates to leave out, with reasons. Raises TrainingError if a candidate
    is unknown or does not support the task, or if no candidate could be trained.
    """
    names = [name for name in stream.models.candidates if name not in failed]
    candidates = [candidate(name, stream.task) for name in names]
    truth = rows.take(held)
    total = len(candidates) * len(ranges)
    best: Found | None = None
    trials: list[Trial] = []
    failures = [f"{name}: {reason}" for name, reason in failed.items()]
    for number, (span, kind) in enumerate((s, c) for s in ranges for c in candidates):
        progress(f"training {kind.name} on {span.name}", number, total)
        train = rows.take(span.places)
        try:
            fitted = fit(stream, kind, tune(stream, kind, train), train)
            scores = fitted.score(stream, truth)
            answers = fitted.answers(stream, truth, scores)
            metric = evaluate(stream.judged_by, truth.labels, answers)
        except Exception as error:  # noqa: BLE001 - libraries may raise anything; try the next
            log.warning("candidate %s on %s failed: %s", kind.name, span.name, error)
            failures.append(f"{kind.name}: {error}")
            continue
        if scores.not_finite() or not np.isfinite(metric):
            reason = NOT_FINITE if scores.not_finite() else undefined(stream)
            log.warning("candidate %s on %s failed: %s", kind.name, span.name, reason)
            failures.append(f"{kind.name}: {reason}")
            continue
        trials.append(Trial(kind.name, fitted.parameters, span.name, len(train), metric))
        if best is None or better(stream.judged_by, metric, best.metric):
            best = Found(fitted, span, scores, answers, metric)
    progress("training", total, total)
    if best is None:
        raise TrainingError(
            f"stream {stream.name!r}: no candidate could be trained: {'; '.join(failures)}",
            hint="check [models.candidates] and the labels",
        )
    return best, tuple(trials)


def tune(stream: Stream, kind: Candidate, train: TrainingRows) -> Parameters:
    """Return the grid's best parameters, tuned on the newest `TUNE_ROWS` rows.

    For each point of the grid, a model is fitted on one part of these rows and evaluated on the
    other part. If every fit fails, the default parameters are returned.
    """
    if not stream.models.tune or len(kind.grid) == 1:
        return kind.grid[0]
    recent = train.take(np.arange(max(0, len(train) - TUNE_ROWS), len(train)))
    fit_on, judge_on = split(
        recent.labels,
        share=stream.models.holdout,
        how=stream.models.split,
        task=stream.task,
        seed=stream.models.seed + 1,  # differs from the seed that drew the held-out rows
    )
    learn, truth = recent.take(fit_on), recent.take(judge_on)
    best, best_metric = kind.grid[0], None
    for parameters in kind.grid:
        try:
            fitted = fit(stream, kind, parameters, learn)
            answers = fitted.answers(stream, truth, fitted.score(stream, truth))
            metric = evaluate(stream.judged_by, truth.labels, answers)
        except Exception as error:  # noqa: BLE001 - libraries may raise anything
            log.info("candidate %s with %s failed: %s", kind.name, parameters, error)
            continue
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
        if reason := unsuitable(stream.judged_by, schema.classes, has_scores=True):
            raise TrainingError(reason)
        places = {name: place for place, name in enumerate(schema.classes)}
        target = np.array([places[name] for name in train.labels], dtype=np.int64)
    estimator = kind.build(parameters, stream.models.seed)
    with one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # poor convergence shows up in the metric
        estimator.fit(encode_matrix(schema, train.columns), target)
    return Fitted(kind, parameters, schema, estimator)


def undefined(stream: Stream) -> str:
    """Return why the metric is undefined on the held-out rows of a model with finite scores."""
    measure = stream.judged_by
    if measure.positive is None:
        return f"{measure.name} is not finite on the held-out rows"
    return (
        f"{measure.name} is undefined on the held-out rows: it needs rows of the class "
        f"{measure.positive!r}" + (" and of other classes" if measure.name == "roc_auc" else "")
    )


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
