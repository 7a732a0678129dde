"""Compare two models on outcomes that are newer than everything used to choose them (decision 26).

Input: a pair of models and the outcome log. Output: a `ComparisonResult`. The handler repeats the
job when there are enough outcomes for the next look.
"""

import logging
from math import isnan

import msgspec
import numpy as np

from driftline.config.stream import Stream
from driftline.errors import BrokerError, DriftlineError, PackageError, StoreUnavailable
from driftline.learning.metrics import Answers, answers_of, evaluate
from driftline.models.load import ModelLoader
from driftline.models.score import Model, Scores
from driftline.wire.events import ModelAnnounced
from trainer.collect import Offsets, OutcomeLog, collect_after
from trainer.paired_test import MAX_ROWS, State, decide, looks, row_gains
from trainer.rows import TrainingRows

log = logging.getLogger(__name__)


class ModelPair(msgspec.Struct, frozen=True):
    """Two models to compare on the outcomes after a position.

    `dependence`, `largest_loss` and `classes` are explained in `paired_test`.
    """

    challenger: ModelAnnounced
    champion: ModelAnnounced
    after: int
    dependence: int = 1
    largest_loss: float = 0.0
    classes: tuple[str, ...] = ()


class ComparisonJob(msgspec.Struct, frozen=True):
    """A comparison's input. Looks at up to `looked` outcomes have left the comparison open.

    `read_from` contains offsets before the first outcome after `pair.after`, if they are known.
    """

    pair: ModelPair
    looked: int = 0
    read_from: Offsets | None = None


class ComparisonResult(msgspec.Struct, frozen=True):
    """The result of a comparison after `rows` outcomes, of which the newest is at `position`.

    If the comparison is open, the next look needs `wait_for` more outcomes. `passes` is True if
    Kafka or the model store failed, so that the job must be repeated. `failed` is True if the
    models could not be compared.
    """

    state: State
    reason: str
    rows: int = 0
    position: int | None = None
    challenger: float | None = None
    champion: float | None = None
    wait_for: int = 0
    passes: bool = False
    failed: bool = False


def compare(
    job: ComparisonJob, stream: Stream, outcomes: OutcomeLog, models: ModelLoader
) -> ComparisonResult:
    """Look at the outcomes that are available."""
    try:
        return _compare(job, stream, outcomes, models)
    except (BrokerError, StoreUnavailable) as error:
        return ComparisonResult("open", error.message, rows=job.looked, passes=True)
    except DriftlineError as error:
        return ComparisonResult("lost", f"the comparison failed: {error.message}", failed=True)
    except Exception as error:
        # If this error stopped the trainer, it would fail on the same request after each restart.
        log.exception("the comparison with %s failed", job.pair.challenger.digest)
        reason = f"the comparison failed: {type(error).__name__}: {error}"
        return ComparisonResult("lost", reason, failed=True)


def _compare(
    job: ComparisonJob, stream: Stream, outcomes: OutcomeLog, models: ModelLoader
) -> ComparisonResult:
    pair = job.pair
    rows = collect_after(outcomes.read(job.read_from), stream, pair.after, MAX_ROWS)
    due = [count for count in looks() if job.looked < count <= len(rows)]
    if not due:
        following = next((count for count in looks() if count > len(rows)), MAX_ROWS)
        reason = f"{len(rows)} newer outcomes; {following} are needed"
        return ComparisonResult(
            "open", reason, rows=job.looked, wait_for=max(1, following - len(rows))
        )
    rows = rows.take(np.arange(due[-1]))
    challenger = models.load(pair.challenger)
    scores = challenger.predict(rows.columns)
    if wrong := scores.not_finite():
        reason = f"{len(wrong)} of {len(rows)} predictions of the challenger are not finite"
        return ComparisonResult("lost", reason, rows=len(rows))
    ours = _answers(stream, challenger, rows, scores)
    try:
        champion = models.load(pair.champion)
        theirs = answers(stream, champion, rows)
    except StoreUnavailable:
        raise
    except PackageError as error:
        reason = f"there is no champion that can be loaded: {error.message}"
        position = int(rows.positions[due[0] - 1])
        return ComparisonResult("won", reason, rows=due[0], position=position)
    if not pair.classes:
        both = set(challenger.manifest.classes) & set(champion.manifest.classes)
        pair = msgspec.structs.replace(pair, classes=tuple(sorted(both)))
    result = ComparisonResult("open", "")
    for count in due:
        first = slice(0, count)
        result = _look(
            pair, stream, rows.take(np.arange(count)), ours.take(first), theirs.take(first)
        )
        if result.state != "open":
            return result
    following = next((count for count in looks() if count > due[-1]), MAX_ROWS)
    return msgspec.structs.replace(result, wait_for=following - due[-1])


def answers(stream: Stream, model: Model, rows: TrainingRows) -> Answers:
    """Return what the metric needs of a model's scores for these rows.

    Raises ValueError if the metric needs probabilities, and the model returns none.
    """
    return _answers(stream, model, rows, model.predict(rows.columns))


def _answers(stream: Stream, model: Model, rows: TrainingRows, scores: Scores) -> Answers:
    return answers_of(
        stream.judged_by,
        rows.labels,
        scores.predictions,
        scores.probabilities,
        model.manifest.classes,
    )


def _look(
    pair: ModelPair, stream: Stream, rows: TrainingRows, ours: Answers, theirs: Answers
) -> ComparisonResult:
    """Return the result after exactly these rows."""
    measure, labels = stream.judged_by, rows.labels
    challenger, champion = (evaluate(measure, labels, each) for each in (ours, theirs))
    if isnan(challenger) or isnan(champion):
        return _undefined(stream, rows)
    gains = row_gains(
        measure, labels, ours, theirs, largest_loss=pair.largest_loss, classes=pair.classes
    )
    state = decide(gains, pair.dependence)
    reason = (
        f"{measure.name} {challenger:.4g} against {champion:.4g} of the champion on {len(rows)} "
        "newer outcomes"
    )
    if state == "lost":
        reason += ": the champion stays, because the gain may be chance"
    return ComparisonResult(state, reason, len(rows), int(rows.positions[-1]), challenger, champion)


def _undefined(stream: Stream, rows: TrainingRows) -> ComparisonResult:
    """Return the result while the metric is undefined, such as a ranking without positives."""
    state: State = "lost" if len(rows) >= MAX_ROWS else "open"
    reason = f"{stream.judged_by.name} is undefined on {len(rows)} newer outcomes"
    return ComparisonResult(state, reason, len(rows), int(rows.positions[-1]))
