"""Trainer's model search: tune and train all candidates on in-memory rows, and pick the best.

This module covers steps 4 (features), 5 (model choice), 6 (training) and 8 (tuning) of
docs/model-life.md.

Input: cleaned rows, ranges to train on, and the held-out rows. Output: all trials, and the model
with the best metric on the held-out rows. No candidate is ever fitted on a held-out row. The work
is limited (`trainer.work_budget`).
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
from trainer.work_budget import LEAST_ROWS, WorkBudget

log = logging.getLogger(__name__)

# With this many rows, the metric differs between parameters by more than its noise, and tuning a
# whole grid takes only seconds.
TUNE_ROWS: Final = 10_000
# The ranges on which all candidates are compared: the rows since a change, and all rows.
COMPARED_RANGES: Final = 2
# The share of the budget for comparing all candidates. The rest serves the best ones.
COMPARED_SHARE: Final = 0.5
# The second candidate may overtake the first when it is tuned or gets more rows.
IMPROVED_CANDIDATES: Final = 2
# The share of the remaining budget for tuning a candidate. The rest is needed for its ranges.
TUNED_SHARE: Final = 0.5
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

    def newest(self, count: int) -> "Range":
        """Return the newest `count` rows, or the whole range if it has no more."""
        if len(self.places) <= count:
            return self
        return Range(f"newest {count:,} of {self.name}", self.places[-count:])


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
    """Search for the best model within `[models] budget`. Return it (in a tie, the first one) and
    all trials.

    First, every candidate is fitted with its default parameters on the same newest rows of the
    first two ranges, for half of the budget. Then the best two candidates are tuned and fitted on
    all ranges, as far as the budget allows. If rows, parameters or ranges are left out, the log
    says so, and the trials show what was tried.

    `failed` contains the candidates to leave out, with reasons. Raises TrainingError if a candidate
    is unknown or does not support the task, or if no candidate could be trained.
    """
    names = [name for name in stream.models.candidates if name not in failed]
    candidates = [candidate(name, stream.task) for name in names]
    failures = [f"{name}: {reason}" for name, reason in failed.items()]
    run = _Search(stream, rows, rows.take(held), progress, failures)
    run.compare(candidates, ranges[:COMPARED_RANGES])
    run.improve(ranges)
    progress("training", 1, 1)
    if run.best is None:
        raise TrainingError(
            f"stream {stream.name!r}: no candidate could be trained: {'; '.join(failures)}",
            hint="check [models.candidates] and the labels",
        )
    return run.best, tuple(run.trials)


class _Search:
    """The trials of one search. `best` and `trials` contain the results."""

    def __init__(
        self,
        stream: Stream,
        rows: TrainingRows,
        truth: TrainingRows,
        progress: Progress,
        failures: list[str],
    ) -> None:
        self.best: Found | None = None
        self.trials: list[Trial] = []
        self._stream = stream
        self._rows = rows
        self._truth = truth
        self._progress = progress
        self._failures = failures  # the reasons, added to the error message if all trials fail
        self._budget = WorkBudget(stream.models.budget)
        self._found: list[Found] = []
        # Kind and parameters; first row, last row, and number of rows.
        self._tried: set[tuple[str, int, int, int]] = set()

    def compare(self, kinds: Sequence[Candidate], ranges: Sequence[Range]) -> None:
        """Fit every candidate with its default parameters on the same rows."""
        limit = self._limit(kinds, ranges)
        if len({len(span.newest(limit).places) for span in ranges}) < len(ranges):
            # Cut to the limit, the ranges consist of the same rows.
            ranges = ranges[:1]
            limit = self._limit(kinds, ranges)
        for span in ranges:
            for kind in kinds:
                self._try(kind, kind.grid[0], span.newest(limit))

    def _limit(self, kinds: Sequence[Candidate], ranges: Sequence[Range]) -> int:
        sizes = [len(span.places) for span in ranges]
        return self._budget.equal_rows(kinds, sizes, COMPARED_SHARE)

    def improve(self, ranges: Sequence[Range]) -> None:
        """Tune the best candidates, and fit them on all ranges."""
        for found in self._ranked()[:IMPROVED_CANDIDATES]:
            kind = found.fitted.candidate
            parameters = self._tuned(kind, self._rows.take(found.range.places))
            for span in ranges:
                affordable = self._budget.rows(kind)
                if affordable >= min(len(span.places), LEAST_ROWS):
                    self._try(kind, parameters, span.newest(affordable))
                else:
                    log.info("the search left out %s on %s: no budget", kind.name, span.name)

    def _ranked(self) -> list[Found]:
        """Return the best trial of each candidate, the best candidates first."""
        by_kind: dict[str, Found] = {}
        for found in self._found:
            name = found.fitted.candidate.name
            if name not in by_kind or self._is_better(found, by_kind[name]):
                by_kind[name] = found
        ranked: list[Found] = []
        for found in by_kind.values():  # insertion sort keeps the order of equal candidates
            place = next(
                (n for n, other in enumerate(ranked) if self._is_better(found, other)), len(ranked)
            )
            ranked.insert(place, found)
        return ranked

    def _is_better(self, one: Found, other: Found) -> bool:
        return better(self._stream.judged_by, one.metric, other.metric)

    def _tuned(self, kind: Candidate, train: TrainingRows) -> Parameters:
        """Return a candidate's best parameters, tuned for at most half of the remaining budget."""
        points = len(kind.grid)
        most = min(TUNE_ROWS, self._budget.rows(kind, share=TUNED_SHARE, fits=points))
        if not self._stream.models.tune or points == 1 or len(train) < LEAST_ROWS:
            return kind.grid[0]
        if most < LEAST_ROWS:
            log.info("the search did not tune %s: no budget", kind.name)
            return kind.grid[0]
        self._progress(f"tuning {kind.name}", round(self._budget.spent), round(self._budget.total))
        self._budget.spend(kind, min(most, len(train)), fits=points)
        return tune(self._stream, kind, train, most)

    def _try(self, kind: Candidate, parameters: Parameters, span: Range) -> None:
        """Fit a candidate on a range, unless this was tried before."""
        train = self._rows.take(span.places)
        places = span.places
        trial = (f"{kind.name} {parameters}", int(places[0]), int(places[-1]), len(places))
        if trial in self._tried:
            return
        self._tried.add(trial)
        done = min(round(self._budget.spent), round(self._budget.total))
        self._progress(f"training {kind.name} on {span.name}", done, round(self._budget.total))
        self._budget.spend(kind, len(train))
        stream, truth = self._stream, self._truth
        try:
            fitted = fit(stream, kind, parameters, train)
            scores = fitted.score(stream, truth)
            answers = fitted.answers(stream, truth, scores)
            metric = evaluate(stream.judged_by, truth.labels, answers)
        except Exception as error:  # noqa: BLE001 - libraries may raise anything; try the next
            self._fail(kind, span, str(error))
            return
        if scores.not_finite() or not np.isfinite(metric):
            self._fail(kind, span, NOT_FINITE if scores.not_finite() else undefined(stream))
            return
        used = kind.used(len(train))
        self.trials.append(Trial(kind.name, fitted.parameters, span.name, used, metric))
        found = Found(fitted, span, scores, answers, metric)
        self._found.append(found)
        if self.best is None or self._is_better(found, self.best):
            self.best = found

    def _fail(self, kind: Candidate, span: Range, reason: str) -> None:
        log.warning("candidate %s on %s failed: %s", kind.name, span.name, reason)
        self._failures.append(f"{kind.name}: {reason}")


def tune(stream: Stream, kind: Candidate, train: TrainingRows, most: int = TUNE_ROWS) -> Parameters:
    """Return the grid's best parameters, tuned on the newest `most` rows.

    For each point of the grid, a model is fitted on one part of these rows and evaluated on the
    other part. If every fit fails, the default parameters are returned.
    """
    if not stream.models.tune or len(kind.grid) == 1:
        return kind.grid[0]
    recent = train.take(np.arange(max(0, len(train) - most), len(train)))
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
    train = train.take(np.arange(len(train) - kind.used(len(train)), len(train)))
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
