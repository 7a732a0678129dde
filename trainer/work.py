"""The trainer's current request: its state, and the records that describe its progress.

Input: a request and the results of its jobs. Output: structs for the `retrain` topic. This module
performs no I/O.
"""

from collections.abc import Callable, Mapping
from typing import Annotated

import msgspec
from msgspec import Meta

from driftline.broker.port import TopicPartition
from driftline.clock import Clock
from driftline.config.stream import Stream
from driftline.models.catalog import Catalog
from driftline.wire.events import (
    ComparisonStarted,
    ModelAnnounced,
    RetrainDecision,
    RetrainRequest,
    RolePointer,
    event_id,
)
from trainer.collect import Offsets
from trainer.compare import ComparisonResult, ModelPair
from trainer.retrain import TrainingResult


class Asked(msgspec.Struct, frozen=True):
    """A request, and where it was read."""

    request: RetrainRequest
    partition: TopicPartition
    offset: int


class Wait(msgspec.Struct):
    """A wait for more outcomes, or for the model store.

    It ends when the outcomes topic contains `until` records, or fewer than `counted`, because it
    was recreated. They are counted at the monotonic time `look_at_s`.
    """

    until: int
    look_at_s: float
    counted: int  # number of records when the wait began

    def is_over(self, clock: Clock, count: Callable[[], int], look_again_s: float) -> bool:
        """Return whether the wait is over. Count only if it is time, at most each interval."""
        if clock.monotonic() < self.look_at_s:
            return False
        self.look_at_s = clock.monotonic() + look_again_s
        found = count()
        return found >= self.until or found < self.counted


class Work(msgspec.Struct):
    """The current request. `_begin` sets `pointer` and `counted`, and resets `wait`."""

    asked: Asked
    attempt: int
    pointer: str | None = None  # id of the champion pointer when the training began
    counted: int = 0  # number of records in the outcomes topic when the job began
    wait: Wait | None = None  # None while a job runs
    retry_s: float = 0.0  # the last delay for the model store; 0 while it is reachable
    # The comparison of the challenger with the champion, after the training, and its models.
    comparison: ComparisonStarted | None = None
    pair: ModelPair | None = None
    looked: int = 0  # number of outcomes at the last look
    read_from: Offsets | None = None  # offsets before the first outcome to compare on, if known


class Held(msgspec.Struct, frozen=True):
    """Metadata stored with the current request's committed offset."""

    attempt: Annotated[int, Meta(ge=0, le=1_000)] = 0


def outdates(newer: RetrainRequest, current: RetrainRequest) -> bool:
    """Return whether a newer request makes the comparison of an older one pointless.

    That is the case if it is manual, or if it reports a later change. A request that repeats the
    same cause waits until the comparison has ended. Otherwise, no comparison would end while the
    cause lasts.
    """
    if newer.cause == "manual":
        return True
    if newer.since is None or newer.caused_by == current.caused_by:
        return False
    return current.since is None or newer.since > current.since


def comparison_started(
    stream: Stream, asked: Asked, pointer: str, pair: ModelPair, result: TrainingResult
) -> ComparisonStarted:
    """Return the event that starts the comparison of a request's challenger."""
    return ComparisonStarted(
        id=event_id("comparison", asked.request.id),
        request=asked.request.id,
        challenger=pair.challenger.digest,
        champion=pair.champion.digest,
        pointer=pointer,
        after=pair.after,
        dependence=pair.dependence,
        largest_loss=pair.largest_loss,
        classes=pair.classes,
        reason=result.reason,
        metric=stream.judged_by.name,
        challenger_value=result.challenger,
        champion_value=result.champion,
        outcomes=result.outcomes,
        removed=result.removed,
        trials=result.trials,
    )


def pair_of(
    started: ComparisonStarted, announcements: Mapping[str, ModelAnnounced]
) -> ModelPair | None:
    """Return the models that a comparison compares, or None if an announcement is missing."""
    challenger = announcements.get(started.challenger)
    champion = announcements.get(started.champion)
    if challenger is None or champion is None:
        return None
    return ModelPair(
        challenger,
        champion,
        started.after,
        started.dependence,
        started.largest_loss,
        started.classes,
    )


def training_result(
    started: ComparisonStarted, result: TrainingResult | ComparisonResult
) -> TrainingResult:
    """Return the training's result with the comparison's reason and metrics.

    If the comparison made no look, these are the metrics on the held-out outcomes.
    """
    looked = result.challenger is not None
    return TrainingResult(
        reason=result.reason,
        challenger=result.challenger if looked else started.challenger_value,
        champion=result.champion if looked else started.champion_value,
        outcomes=started.outcomes,
        removed=started.removed,
        trials=started.trials,
        position=result.position if isinstance(result, ComparisonResult) else None,
    )


def decision(
    stream: Stream,
    asked: Asked,
    result: TrainingResult,
    *,
    published: bool = False,
    promoted: bool = False,
    model: str | None = None,
    stays: str | None = None,
) -> RetrainDecision:
    """Return a request's decision. `stays` is the reason why a better model is not promoted."""
    return RetrainDecision(
        id=event_id("decision", asked.request.id),
        request=asked.request.id,
        published=published,
        promoted=promoted,
        model=model,
        reason=result.reason if stays is None else f"{result.reason}; not promoted: {stays}",
        metric=stream.judged_by.name,
        challenger=result.challenger,
        champion=result.champion,
        outcomes=result.outcomes,
        removed=result.removed,
        trials=result.trials,
    )


def why_not_promoted(stream: Stream, catalog: Catalog, pointer: str | None) -> str | None:
    """Return the reason why a better model must not be promoted, or None if it may be promoted.

    `pointer` is the id of the champion pointer when the training began.
    """
    if (changed := who_changed(catalog.champion, pointer)) is not None:
        return changed
    if catalog.freeze is not None and catalog.frozen:
        return f"promotion is frozen: {catalog.freeze.reason}"
    if stream.retrain.promote == "manual":
        return "[retrain] promote is manual: use `driftline models promote`"
    return None


def who_changed(current: RolePointer | None, pointer: str | None) -> str | None:
    """Return who changed the champion since `pointer` was current, or None if it is current."""
    if (current.id if current else None) == pointer:
        return None
    by_person = current is not None and current.by == "person"
    who = "an operator" if by_person else "another trainer"
    return f"{who} changed the champion during the training"
