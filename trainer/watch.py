"""Compare a new champion with the model that it replaced, and roll it back if it is worse.

Input: the current champion pointer. Output: comparison jobs, and the pointer that rolls back. The
comparison uses outcomes that are newer than those that promoted the champion (decision 26).
"""

import logging
from collections.abc import Callable
from typing import Final

from driftline.clock import Clock
from driftline.models.catalog import Catalog
from driftline.wire.events import RolePointer
from trainer.collect import Offsets
from trainer.compare import ComparisonJob, ComparisonResult, ModelPair
from trainer.runner import Runner
from trainer.work import Wait

log = logging.getLogger(__name__)

# After a failure to reach the model store, wait so long.
RETRY_S: Final = 60.0
# Creates the pointer to a model, given its digest, the reason and the cause.
PointerTo = Callable[[str, str, str | None], RolePointer]


class RollbackWatch:
    """Watches the champion that the trainer promoted last, while no request is being processed.

    The watch needs no stored state: the pointer contains the position after which it compares, and
    after a restart, the same outcomes give the same result.
    """

    def __init__(
        self,
        catalog: Catalog,
        runner: Runner,
        clock: Clock,
        count: Callable[[], int],
        look_again_s: float,
    ) -> None:
        self._catalog = catalog
        self._runner = runner
        self._clock = clock
        self._count = count
        self._look_again_s = look_again_s
        self._read_from: tuple[str, Offsets] | None = None  # set by `promoted`
        # `_job` resets the attributes below for each new pointer.
        self._pointer: str | None = None  # id of the watched pointer
        self._ended = False
        self._looked = 0  # number of outcomes at the last look
        self._wait: Wait | None = None  # until the next look
        self._counted: int | None = None  # records in the topic when the running job began

    def promoted(self, pointer: RolePointer, read_from: Offsets | None) -> None:
        """Remember offsets before the first outcome to compare the new champion on."""
        self._read_from = None if read_from is None else (pointer.id, read_from)

    def tick(self, pointer_to: PointerTo) -> RolePointer | None:
        """Start a job if a look is due, or take its result. Return the pointer that rolls back."""
        if self._counted is not None:
            result = self._runner.poll()
            if result is None:
                return None
            counted, self._counted = self._counted, None
            if not isinstance(result, ComparisonResult):  # the job's process has died
                result = ComparisonResult("lost", result.reason, failed=True)
            return self._finish(result, counted, pointer_to)
        job, wait = self._job(), self._wait
        if job is None or (
            wait is not None and not wait.is_over(self._clock, self._count, self._look_again_s)
        ):
            return None
        self._counted = self._count()
        self._runner.start(job)
        return None

    def cancel(self) -> None:
        """Stop the running job, if there is one. A later `tick` starts it again."""
        if self._counted is not None:
            self._runner.cancel()
            self._counted = None

    def reset(self) -> None:
        """Stop the running job and watch the champion anew: a pointer that `tick` has returned may
        not have been published."""
        self.cancel()
        self._pointer = None

    def _job(self) -> ComparisonJob | None:
        """Return the job for the next look, or None if there is nothing to watch.

        Nothing is watched while promotion is frozen, or if an operator chose the champion.
        """
        pointer = self._catalog.champion
        if pointer is None or pointer.chosen_at is None or self._catalog.frozen:
            return None
        if pointer.id != self._pointer:
            self._pointer, self._ended, self._looked, self._wait = pointer.id, False, 0, None
        replaced = self._catalog.announcements.get(pointer.replaced or "")
        champion = self._catalog.announcements.get(pointer.digest)
        if self._ended or replaced is None or champion is None:
            return None
        pair = ModelPair(replaced, champion, pointer.chosen_at, pointer.dependence)
        known = self._read_from if self._read_from and self._read_from[0] == pointer.id else None
        return ComparisonJob(pair, self._looked, known[1] if known else None)

    def _finish(
        self, result: ComparisonResult, counted: int, pointer_to: PointerTo
    ) -> RolePointer | None:
        pointer = self._catalog.champion
        if pointer is None or pointer.id != self._pointer or self._catalog.frozen:
            return None  # an operator changed the champion or froze promotion during the job
        self._looked = max(self._looked, result.rows)
        self._ended = result.state != "open"
        pause_s = RETRY_S if result.passes else self._look_again_s
        self._wait = Wait(counted + result.wait_for, self._clock.monotonic() + pause_s, counted)
        if result.failed:
            log.warning("the champion is not compared with its predecessor: %s", result.reason)
        if result.state != "won" or result.challenger is None or pointer.replaced is None:
            return None
        reason = f"rolled back to the model that it replaced: {result.reason}"
        return pointer_to(pointer.replaced, reason, pointer.cause)
