"""Run one retraining job: read outcomes from the broker, train, and store the best challenger.

The steps are collect, clean, split, search, judge, package and store, in this order. Input: a
request, the champion's announcement and the outcome log. Output: a `TrainingResult`, with an
announcement if a model did better than the champion on the held-out outcomes. The handler publishes
the announcement, and compares the model with the champion on newer outcomes.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import msgspec
import numpy as np

from driftline.config.stream import Stream
from driftline.errors import BrokerError, DriftlineError, PackageError, StoreUnavailable
from driftline.learning.metrics import Answers, better
from driftline.models.load import ModelLoader
from driftline.wire.events import ModelAnnounced, Removed, RetrainRequest, Trial
from driftline.wire.values import shown_time
from trainer.assemble import Origin, assemble, without_failing
from trainer.clean import clean
from trainer.collect import Offsets, OutcomeLog, collect
from trainer.compare import ModelPair, answers
from trainer.first_rows import with_first_rows
from trainer.gate import Verdict, judge, judged_places
from trainer.paired_test import dependence_of, row_gains
from trainer.publish import Publisher
from trainer.rows import TrainingRows
from trainer.search import Found, Progress, Range, no_progress, search
from trainer.split import Places, split

log = logging.getLogger(__name__)

# The dependence of errors is measured on at most this many rows. Fewer rows would contain too few
# blocks if errors depend on each other over several hundred rows.
_DEPENDENCE_ROWS: Final = 8_000
# A metric of classes can be compared without the classes that fewer than 1% of the rows have.
_RARE: Final = 0.01


class TrainingJob(msgspec.Struct, frozen=True):
    """A training job's input. `trained_at` is an RFC 3339 time from the handler's clock. `earlier`
    contains earlier models that may become champion again. `first` is the champion's newest
    ancestor that was trained on a data set."""

    request: RetrainRequest
    champion: ModelAnnounced | None
    trained_at: str
    earlier: tuple[ModelAnnounced, ...] = ()
    first: ModelAnnounced | None = None


class TrainingResult(msgspec.Struct, frozen=True):
    """A training job's result.

    `announcement` announces the new or earlier model to promote. It is None if the champion stays.
    If `pair` is not None, the model must first win a comparison with the champion, whose outcomes
    are at `read_to` or later in the topic.
    `wait_for` is how many more outcomes since the change are needed, or 0 if the result is final.
    """

    reason: str
    announcement: ModelAnnounced | None = None
    pair: ModelPair | None = None
    read_to: Offsets | None = None
    position: int | None = None  # of the newest outcome that decided a comparison
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
    """Collect, clean, split, search and judge. Package and store a promising challenger.

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
    read_to = outcomes.ends()  # `read` may return later outcomes, too
    digest = job.champion.digest if job.champion else None
    collected = collect(outcomes.read(), stream, digest)
    known, cleaned = clean(collected.rows, stream)
    removed, since = collected.removed + cleaned, job.request.since
    is_recent = np.full(len(known), True) if since is None else known.positions >= since
    if is_recent.sum() < stream.retrain.min_outcomes:
        return _too_few(stream, job.request, len(known), int(is_recent.sum()), removed)
    rows, places = with_first_rows(known, job.first, stream, models)
    # Split (step 6). Only outcomes are held out, because the first model knows its own rows.
    ranges, held = ranges_and_held(stream, rows, places[is_recent], job.request)
    after = int(collected.rows.positions.max())
    training = _Training(job, stream, rows, len(known), ranges, held, removed, after)
    result = without_failing(
        lambda failed: _searched(training, models, publisher, progress, failed)
    )
    return msgspec.structs.replace(result, read_to=read_to if result.pair else None)


class _Training(msgspec.Struct, frozen=True):
    """The input of the search and of all later steps."""

    job: TrainingJob
    stream: Stream
    rows: TrainingRows
    outcomes: int  # number of rows that are outcomes; the others are rows of the first model
    ranges: list[Range]
    held: Places
    removed: tuple[Removed, ...]
    after: int  # newest position of the collected outcomes


def _searched(
    training: _Training,
    models: ModelLoader,
    publisher: Publisher,
    progress: Progress,
    failed: Mapping[str, str],
) -> TrainingResult:
    """Search and judge. Package and store a promising challenger. Raises CandidateFailed."""
    job, stream, rows = training.job, training.stream, training.rows
    held, removed = training.held, training.removed
    # Search (steps 4, 5, 6 and 8 of docs/model-life.md). Then compare the winner with the champion
    # and earlier models (step 7).
    found, trials = search(stream, rows, training.ranges, held, progress, failed=failed)
    selected = _selected(job, stream, rows.take(held), found, models)
    verdict = selected.verdict
    result = TrainingResult(
        reason=verdict.reason,
        challenger=verdict.challenger,
        champion=verdict.champion,
        outcomes=training.outcomes,
        removed=removed,
        trials=trials,
    )
    if not verdict.won:
        return result
    if selected.recalled is not None:  # an earlier model; it is already stored and announced
        return _with_pair(result, selected.recalled, training, selected.largest_loss)
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
    return _with_pair(result, announcement, training, selected.largest_loss)


def _with_pair(
    result: TrainingResult,
    announcement: ModelAnnounced,
    training: _Training,
    largest_loss: float,
) -> TrainingResult:
    """Add the announcement and, if there is a champion, the comparison that must be won."""
    champion, rows = training.job.champion, training.rows
    if champion is None or result.champion is None:
        return msgspec.structs.replace(result, announcement=announcement)
    pair = ModelPair(
        announcement,
        champion,
        training.after,
        _dependence(rows, training.job.request.since),
        largest_loss,
        _classes(rows) if training.stream.task == "classification" else (),
    )
    return msgspec.structs.replace(result, announcement=announcement, pair=pair)


def _dependence(rows: TrainingRows, since: int | None) -> int:
    """Return the number of neighbouring rows whose errors are related.

    Only errors that the champion made while it served are used, either before or after the change,
    whichever are more, because the change itself is no dependence.
    """
    served = np.isfinite(rows.errors)
    before = served & (rows.positions < since) if since is not None else served
    part = max((before, served & ~before), key=lambda chosen: int(chosen.sum()))
    return dependence_of(rows.errors[part][-_DEPENDENCE_ROWS:])


def _classes(rows: TrainingRows) -> tuple[str, ...]:
    """Return the classes that are not rare."""
    names, counts = np.unique(rows.labels.astype(str), return_counts=True)
    return tuple(names[counts >= _RARE * len(rows)].tolist())


def ranges_and_held(
    stream: Stream, rows: TrainingRows, recent: Places, request: RetrainRequest
) -> tuple[list[Range], Places]:
    """Return the ranges to train on and the rows to judge on, as indices into `rows`.

    `recent` contains the indices of rows since `request.since`, or of all rows if `since` is None.
    Only `recent` rows are held out, because the newest rows best show how well a model will serve.
    The ranges are the remaining `recent` rows, all rows that are not held out, and their newest
    half, quarter, eighth and so on. The shorter ranges help if a change was not detected.
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
    whole = Range(_reach(stream), everything)
    ranges.append(whole)
    count = len(everything) // 2
    while count >= stream.retrain.min_outcomes:
        ranges.append(whole.newest(count))
        count //= 2
    return ranges, recent[held]


def _reach(stream: Stream) -> str:
    reach = stream.retrain.train_on
    return "all rows" if reach is None else f"last {reach}"


def _too_few(
    stream: Stream, request: RetrainRequest, total: int, recent: int, removed: tuple[Removed, ...]
) -> TrainingResult:
    needed = stream.retrain.min_outcomes
    if request.since is None:
        reach = "" if stream.retrain.train_on is None else f" in the {_reach(stream)}"
        reason = f"{total} outcomes{reach}; {needed} are needed"
        return TrainingResult(reason=reason, outcomes=total, removed=removed)
    return TrainingResult(
        reason=f"{recent} outcomes since the change; {needed} are needed",
        outcomes=total,
        removed=removed,
        wait_for=needed - recent,
    )


class _Selected(msgspec.Struct, frozen=True):
    """The model to compare with the champion: an earlier model, or the search's best model."""

    verdict: Verdict
    recalled: ModelAnnounced | None = None
    largest_loss: float = 0.0


def _selected(
    job: TrainingJob, stream: Stream, truth: TrainingRows, found: Found, models: ModelLoader
) -> _Selected:
    """Judge the challenger, and then each earlier model, against the champion on the same rows.

    An earlier model is selected when an old concept returns.
    """
    try:
        champion = None if job.champion is None else models.load(job.champion)
        theirs = None if champion is None else answers(stream, champion, truth)
    except StoreUnavailable:
        raise  # a challenger must not win just because the store is unreachable
    except PackageError as error:
        log.warning("could not load the champion, so the challenger wins by default: %s", error)
        verdict = judge(stream, truth.labels, found.answers, None)
        reason = f"{verdict.reason} that can be loaded: {error.message}"
        return _Selected(msgspec.structs.replace(verdict, reason=reason))
    if champion is None or theirs is None:
        return _Selected(judge(stream, truth.labels, found.answers, None))
    at = judged_places(truth.positions, champion.manifest.last_position)
    judged, of_champion, chosen = truth.take(at), theirs.take(at), found.answers.take(at)
    verdict, recalled = judge(stream, judged.labels, chosen, of_champion), None
    for announced, others in _answers_of(stream, job.earlier, judged, models):
        again = judge(stream, judged.labels, others, of_champion)
        # An earlier model must beat the champion and be at least as good as the challenger.
        if again.won and not better(stream.judged_by, verdict.challenger, again.challenger):
            recalled, chosen = announced, others
            reason = f"{again.reason}, by the earlier model {announced.digest[:19]}"
            verdict = msgspec.structs.replace(again, reason=reason)
    loss = 0.0
    if stream.judged_by.is_mean:
        loss = row_gains(stream.judged_by, judged.labels, chosen, of_champion).largest_loss
    return _Selected(verdict, recalled, loss)


def _answers_of(
    stream: Stream, earlier: Sequence[ModelAnnounced], judged: TrainingRows, models: ModelLoader
) -> Iterator[tuple[ModelAnnounced, Answers]]:
    """Yield (announcement, answers) for each usable earlier model.

    A model is usable if it passes its check and was not trained on any of the `judged` rows.
    """
    for announced in earlier:
        try:
            model = models.load(announced)
            if model.manifest.last_position >= judged.positions.min():
                continue
            model.check()
            theirs = answers(stream, model, judged)
        except (StoreUnavailable, MemoryError):
            raise
        except Exception as error:  # noqa: BLE001 - a model may raise anything
            log.info("skipping the earlier model %s: %s", announced.digest, error)
            continue
        yield announced, theirs
