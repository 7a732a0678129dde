"""Run one retraining job: read outcomes from the broker, train, and store the winning model.

The steps are collect, clean, split, search, judge, package and store, in this order. Input: a
request, the champion's announcement and the outcome log. Output: a `TrainingResult`, with an
announcement if a model beat the champion. The handler publishes the announcement.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from driftline.config.stream import Stream
from driftline.errors import BrokerError, DriftlineError, PackageError, StoreUnavailable
from driftline.learning.metrics import better
from driftline.models.load import ModelLoader
from driftline.wire.events import ModelAnnounced, Removed, RetrainRequest, Trial
from driftline.wire.values import shown_time
from trainer.assemble import Origin, assemble, without_failing
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
    """A training job's input. `trained_at` is an RFC 3339 time from the handler's clock. `earlier`
    contains earlier models that may become champion again."""

    request: RetrainRequest
    champion: ModelAnnounced | None
    trained_at: str
    earlier: tuple[ModelAnnounced, ...] = ()


class TrainingResult(msgspec.Struct, frozen=True):
    """A training job's result.

    `announcement` announces the new or earlier model to promote. It is None if the champion stays.
    `wait_for` is how many more outcomes since the change are needed, or 0 if the result is final.
    """

    reason: str
    announcement: ModelAnnounced | None = None
    challenger: float | None = None
    champion: float | None = None
    outcomes: int = 0
    removed: tuple[Removed, ...] = ()
    trials: tuple[Trial, ...] = ()
    wait_for: int = 0
    passes: bool = False  # True if Kafka or the model store failed, so the job must be retried


def retrain(
    job: TrainingJob,
    stream: Stream,
    outcomes: OutcomeLog,
    models: ModelLoader,
    publisher: Publisher,
    progress: Progress = no_progress,
) -> TrainingResult:
    """Collect, clean, split, search and judge. If the challenger won, package and store it.

    If the outcomes cannot be read or the model store is unreachable, the result's `passes` is True,
    so the caller should run the job again. Any other failure would recur, so it is returned as the
    result's reason.
    """
    try:
        return _retrain(job, stream, outcomes, models, publisher, progress)
    except (BrokerError, StoreUnavailable) as error:
        return TrainingResult(reason=error.message, passes=True)
    except DriftlineError as error:
        return TrainingResult(reason=f"training failed: {error.message}")
    except Exception as error:
        # If this error stopped the trainer, it would fail on the same request after each restart.
        log.exception("training for request %s failed", job.request.id)
        return TrainingResult(reason=f"training failed: {type(error).__name__}: {error}")


def _retrain(
    job: TrainingJob,
    stream: Stream,
    outcomes: OutcomeLog,
    models: ModelLoader,
    publisher: Publisher,
    progress: Progress,
) -> TrainingResult:
    # Collect and clean (steps 2 and 3 of docs/model-life.md).
    progress("collecting", 0, 1)
    collected = collect(outcomes.read(), stream)
    rows, cleaned = clean(collected.rows, stream)
    removed = collected.removed + cleaned
    since = job.request.since
    recent = np.arange(len(rows)) if since is None else np.flatnonzero(rows.positions >= since)
    if len(recent) < stream.retrain.min_outcomes:
        return _too_few(stream, job.request, len(rows), len(recent), removed)
    ranges, held = ranges_and_held(stream, rows, recent, job.request)  # split (step 6)
    training = _Training(job, stream, rows, ranges, held, removed)
    return without_failing(lambda failed: _searched(training, models, publisher, progress, failed))


class _Training(msgspec.Struct, frozen=True):
    """The input of the search and of all later steps."""

    job: TrainingJob
    stream: Stream
    rows: TrainingRows
    ranges: list[Range]
    held: Places
    removed: tuple[Removed, ...]


def _searched(
    training: _Training,
    models: ModelLoader,
    publisher: Publisher,
    progress: Progress,
    failed: Mapping[str, str],
) -> TrainingResult:
    """Search and judge; if the challenger won, package and store it. Raises CandidateFailed."""
    job, stream, rows = training.job, training.stream, training.rows
    held, removed = training.held, training.removed
    # Search (steps 4, 5, 6 and 8 of docs/model-life.md). Then compare the winner with the champion
    # and earlier models (step 7).
    found, trials = search(stream, rows, training.ranges, held, progress, failed=failed)
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
    if recalled is not None:  # an earlier model won; it is already stored and announced
        return msgspec.structs.replace(result, announcement=recalled)
    # Refit the winner, package it and store it (step 9).
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
    """Return the ranges to train on and the rows to judge on, as indices into `rows`.

    `recent` contains the indices of rows since `request.since`, or of all rows if `since` is None.
    Only `recent` rows are held out, because the newest rows best show how well a model will serve.
    The ranges are the remaining `recent` rows, all rows that are not held out, and two shorter
    ranges: the newest half and the newest quarter of all rows that are not held out. The shorter
    ranges help if a change was not detected.
    Using the newest rows to decide how far back to train follows Klinkenberg, "Learning drifting
    concepts: example selection vs. example weighting" (2004).
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
        reason = f"{total} outcomes in the last {stream.retrain.train_on}; {needed} are needed"
        return TrainingResult(reason=reason, outcomes=total, removed=removed)
    return TrainingResult(
        reason=f"{recent} outcomes since the change; {needed} are needed",
        outcomes=total,
        removed=removed,
        wait_for=needed - recent,
    )


def _compared(
    job: TrainingJob, stream: Stream, truth: TrainingRows, found: Found, models: ModelLoader
) -> tuple[Verdict, ModelAnnounced | None]:
    """Compare the challenger, and then each earlier model, with the champion on the same rows.

    Return the verdict and, if an earlier model won, its announcement. An earlier model can win when
    an old concept returns.
    """
    try:
        champion = None if job.champion is None else models.load(job.champion)
        theirs = None if champion is None else champion.predict(truth.columns).predictions
    except StoreUnavailable:
        raise  # a challenger must not win just because the store is unreachable
    except PackageError as error:
        log.warning("could not load the champion, so the challenger wins by default: %s", error)
        verdict = judge(stream, truth.labels, objects(list(found.scores.predictions)), None)
        reason = f"{verdict.reason} that can be loaded: {error.message}"
        return msgspec.structs.replace(verdict, reason=reason), None
    at = judged_places(truth.positions, champion.manifest.last_position if champion else None)
    judged = truth.take(at)
    of_champion = None if theirs is None else objects(list(theirs))[at]
    verdict = judge(stream, judged.labels, objects(list(found.scores.predictions))[at], of_champion)
    best, recalled = verdict.challenger, None
    earlier = () if theirs is None else _predictions_of(job.earlier, judged, models)
    for announced, predictions in earlier:
        again = judge(stream, judged.labels, predictions, of_champion)
        # An earlier model must beat the champion and be at least as good as the challenger.
        if again.won and not better(stream.judged_by, best, again.challenger):
            best, recalled = again.challenger, announced
            reason = f"{again.reason}, by the earlier model {announced.digest[:19]}"
            verdict = msgspec.structs.replace(again, reason=reason)
    return verdict, recalled


def _predictions_of(
    earlier: Sequence[ModelAnnounced], judged: TrainingRows, models: ModelLoader
) -> Iterator[tuple[ModelAnnounced, NDArray[np.object_]]]:
    """Yield (announcement, predictions) for each usable earlier model.

    A model is usable if it passes its check and was not trained on any of the `judged` rows.
    """
    for announced in earlier:
        try:
            model = models.load(announced)
            if model.manifest.last_position >= judged.positions.min():
                continue
            model.check()
            predictions = model.predict(judged.columns).predictions
        except (StoreUnavailable, MemoryError):
            raise
        except Exception as error:  # noqa: BLE001 - a model may raise anything
            log.info("skipping the earlier model %s: %s", announced.digest, error)
            continue
        yield announced, objects(list(predictions))
