"""One retraining from request to verdict: the steps in their order, with nothing of the loop.

In: a request, the champion's announcement and the log of outcomes. Out: a `TrainingResult`, with an
announcement if the challenger won. The package is stored by then; announcing it is the handler's.
"""

import logging
from typing import Final

import msgspec
import numpy as np

from driftline.codec.records import format_time
from driftline.errors import BrokerError, DriftlineError, PackageError
from driftline.events import ModelAnnounced, Removed, RetrainRequest, Trial
from driftline.models.load import Models
from driftline.models.score import Model
from driftline.stream import Stream
from trainer.assemble import Origin, assemble
from trainer.clean import clean
from trainer.collect import OutcomeLog, collect
from trainer.gate import Verdict, judge, judged_places
from trainer.publish import Publisher
from trainer.rows import TrainingRows, objects
from trainer.search import Found, Progress, Range, no_progress, search
from trainer.split import Places, split

log = logging.getLogger(__name__)

_SHORTER: Final = (("half", 2), ("quarter", 4))


class TrainingJob(msgspec.Struct, frozen=True):
    """What is to be trained. `trained_at` is RFC 3339, from the handler's clock."""

    request: RetrainRequest
    champion: ModelAnnounced | None
    trained_at: str


class TrainingResult(msgspec.Struct, frozen=True):
    """What came of it. `announcement` is None where the champion stays; `wait_for` is how many more
    outcomes since the change are needed first, 0 for a result that stands."""

    reason: str
    announcement: ModelAnnounced | None = None
    challenger: float | None = None
    champion: float | None = None
    outcomes: int = 0
    removed: tuple[Removed, ...] = ()
    trials: tuple[Trial, ...] = ()
    wait_for: int = 0


def retrain(
    job: TrainingJob,
    stream: Stream,
    outcomes: OutcomeLog,
    models: Models,
    publisher: Publisher,
    progress: Progress = no_progress,
) -> TrainingResult:
    """Collect, clean, split, search, judge and, if the challenger won, package and store.

    Raises BrokerError: that passes, and the request is worked again. Whatever else goes wrong
    would go wrong again, and is the result's reason.
    """
    try:
        return _retrain(job, stream, outcomes, models, publisher, progress)
    except BrokerError:
        raise
    except DriftlineError as error:
        return TrainingResult(reason=f"training failed: {error.message}")
    except Exception as error:
        # A request that kills the trainer would be read again and kill it for ever.
        log.exception("training for request %s failed", job.request.id)
        return TrainingResult(reason=f"training failed: {type(error).__name__}: {error}")


def _retrain(
    job: TrainingJob,
    stream: Stream,
    outcomes: OutcomeLog,
    models: Models,
    publisher: Publisher,
    progress: Progress,
) -> TrainingResult:
    progress("collecting", 0, 1)
    collected = collect(outcomes.read(), stream)
    rows, cleaned = clean(collected.rows, stream)
    removed = collected.removed + cleaned
    since = job.request.since
    recent = np.arange(len(rows)) if since is None else np.flatnonzero(rows.positions >= since)
    if len(recent) < stream.retrain.min_outcomes:
        return _too_few(stream, job.request, len(rows), len(recent), removed)
    ranges, held = ranges_and_held(stream, rows, recent, job.request)
    found, trials = search(stream, rows, ranges, held, progress)
    verdict = _against_champion(job, stream, rows, held, found, models)
    result = TrainingResult(
        reason=verdict.reason,
        challenger=verdict.challenger,
        champion=verdict.champion,
        outcomes=len(rows),
        removed=removed,
        trials=trials,
    )
    if not verdict.won:
        return result
    progress("packaging", 0, 1)
    parent = job.champion.digest if job.champion else None
    manifest, data = assemble(
        stream,
        rows,
        found,
        held,
        value=verdict.challenger,
        origin=Origin(parent, job.request.id, job.trained_at),
        removed=removed,
        trials=trials,
    )
    announcement = publisher.publish(manifest, data)
    progress("packaging", 1, 1)
    return msgspec.structs.replace(result, announcement=announcement)


def ranges_and_held(
    stream: Stream, rows: TrainingRows, recent: Places, request: RetrainRequest
) -> tuple[list[Range], Places]:
    """What to learn from, and what to judge on, as places among `rows`.

    `recent` are the rows since the change that the request names, or all. The held-out rows are of
    these alone: whoever is to answer what comes now is judged by what came last. Beside them and
    everything there are the newest half and quarter, for changes that nobody named; that the newest
    rows choose how far back to learn is Klinkenberg's "Learning drifting concepts: example
    selection vs. example weighting" (2004).
    """
    how = stream.models
    train, held = split(
        rows.labels[recent], share=how.holdout, how=how.split, task=stream.task, seed=how.seed
    )
    everything = np.setdiff1d(np.arange(len(rows)), recent[held])
    ranges = []
    if request.since is not None and len(recent) < len(rows):
        since = str(request.since) if stream.axis == "row" else format_time(request.since)
        ranges.append(Range(f"since {since}", recent[train]))
    last = f"last {stream.retrain.train_on}"
    ranges.append(Range(last, everything))
    for name, part in _SHORTER:
        count = len(everything) // part
        if count >= stream.retrain.min_outcomes:
            ranges.append(Range(f"newest {name} of the {last}", everything[-count:]))
    return ranges, recent[held]


def _too_few(
    stream: Stream, request: RetrainRequest, total: int, recent: int, removed: tuple[Removed, ...]
) -> TrainingResult:
    needed = stream.retrain.min_outcomes
    if request.since is None:
        reason = f"{total} outcomes in the last {stream.retrain.train_on}, {needed} are needed"
        return TrainingResult(reason=reason, outcomes=total, removed=removed)
    return TrainingResult(
        reason=f"{recent} outcomes since the change, {needed} are needed",
        outcomes=total,
        removed=removed,
        wait_for=needed - recent,
    )


def _against_champion(
    job: TrainingJob,
    stream: Stream,
    rows: TrainingRows,
    held: Places,
    found: Found,
    models: Models,
) -> Verdict:
    """Both models' answers on the same rows; the champion's by its package and its own schema."""
    truth = rows.take(held)
    ours = objects(list(found.scores.predictions))
    try:
        champion = _champion(job, models)
        theirs = None if champion is None else champion.predict(truth.columns).predictions
    except PackageError as error:
        log.warning("the champion cannot be compared with: %s", error)
        verdict = judge(stream, truth.labels, ours, None)
        reason = f"{verdict.reason} that can be loaded: {error.message}"
        return msgspec.structs.replace(verdict, reason=reason)
    last = champion.manifest.last_position if champion else None
    at = judged_places(truth.positions, last)
    return judge(
        stream,
        truth.labels[at],
        ours[at],
        None if theirs is None else objects(list(theirs))[at],
    )


def _champion(job: TrainingJob, models: Models) -> Model | None:
    return None if job.champion is None else models.load(job.champion)
