"""Run one retraining: collect, clean, split, search, judge, package and publish, in this order.

In: a request, the champion's announcement and the log of outcomes. Out: a `TrainingResult`, with an
announcement if the challenger won. The package is stored by then; announcing it is the handler's.
"""

import logging
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from driftline.codec.values import shown_time
from driftline.errors import BrokerError, DriftlineError, PackageError, StoreUnavailable
from driftline.evaluation import better
from driftline.events import ModelAnnounced, Removed, RetrainRequest, Trial
from driftline.models.load import Models
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
    """What is to be trained. `trained_at` is RFC 3339, from the handler's clock; `earlier` are
    models that answered, or might have, before the champion."""

    request: RetrainRequest
    champion: ModelAnnounced | None
    trained_at: str
    earlier: tuple[ModelAnnounced, ...] = ()


class TrainingResult(msgspec.Struct, frozen=True):
    """What came of it. `announcement` is None where the champion stays, or an earlier model's that
    is to answer again; `wait_for` is how many more outcomes since the change are needed first, 0
    for a result that stands."""

    reason: str
    announcement: ModelAnnounced | None = None
    challenger: float | None = None
    champion: float | None = None
    outcomes: int = 0
    removed: tuple[Removed, ...] = ()
    trials: tuple[Trial, ...] = ()
    wait_for: int = 0
    passes: bool = False  # the model store cannot be reached: to be tried again


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
    except StoreUnavailable as error:
        return TrainingResult(reason=error.message, passes=True)
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
    verdict, recalled = _compared(job, stream, rows.take(held), found, models)
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
    if recalled is not None:
        return msgspec.structs.replace(result, announcement=recalled)
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
        since = str(request.since) if stream.axis == "row" else shown_time(request.since)
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


def _compared(
    job: TrainingJob, stream: Stream, truth: TrainingRows, found: Found, models: Models
) -> tuple[Verdict, ModelAnnounced | None]:
    """The challenger against the champion on the same rows; or, if that knows them as well, an
    earlier model, of which a concept or a season that comes back may make the better one."""
    try:
        champion = None if job.champion is None else models.load(job.champion)
        theirs = None if champion is None else champion.predict(truth.columns).predictions
    except StoreUnavailable:
        raise  # a challenger must not win because the champion cannot be fetched now
    except PackageError as error:
        log.warning("the champion cannot be compared with: %s", error)
        verdict = judge(stream, truth.labels, objects(list(found.scores.predictions)), None)
        reason = f"{verdict.reason} that can be loaded: {error.message}"
        return msgspec.structs.replace(verdict, reason=reason), None
    at = judged_places(truth.positions, champion.manifest.last_position if champion else None)
    judged = truth.take(at)
    answers = None if theirs is None else objects(list(theirs))[at]
    verdict = judge(stream, judged.labels, objects(list(found.scores.predictions))[at], answers)
    best, recalled = verdict.challenger, None
    for announced, said in _answers(job.earlier, judged, models) if theirs is not None else ():
        again = judge(stream, judged.labels, said, answers)
        if again.won and not better(stream.judged_by, best, again.challenger):
            best, recalled = again.challenger, announced
            reason = f"{again.reason}, by the earlier model {announced.digest[:19]}"
            verdict = msgspec.structs.replace(again, reason=reason)
    return verdict, recalled


def _answers(
    earlier: Sequence[ModelAnnounced], judged: TrainingRows, models: Models
) -> Iterator[tuple[ModelAnnounced, NDArray[np.object_]]]:
    """What those of the earlier models say of these rows that still work and know none of them."""
    for announced in earlier:
        try:
            model = models.load(announced)
            if model.manifest.last_position >= judged.positions.min():
                continue
            model.check()
            said = model.predict(judged.columns).predictions
        except StoreUnavailable:
            raise
        except PackageError as error:
            log.info("earlier model %s is left out: %s", announced.digest, error)
            continue
        yield announced, objects(list(said))
