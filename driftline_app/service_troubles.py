"""Detect what keeps a service from working: no broker, too few partitions, no progress, no model.

Input: connection errors, positions, lags and partition counts from `ObservedHandler`. Output: a
`Trouble` with a start time for each problem, for the state file. `driftline health` decides how
long a problem may last.
"""

import logging
from collections.abc import Callable, Mapping, Sequence, Set

from driftline.broker.port import TopicPartition
from driftline.errors import BrokerError
from driftline.ops.processes import Trouble, TroubleKind

log = logging.getLogger(__name__)

# A worker counts the service's workers at these intervals, unless it has all partitions. The
# shorter interval applies while the worker has too few partitions, because other workers may have
# just joined.
_COUNT_EVERY_S = 30.0
_COUNT_AGAIN_S = 10.0


class Troubles:
    """One worker's current problems.

    `partitions` contains the partition count of each topic that the service consumes.
    """

    def __init__(
        self,
        partitions: Sequence[int],
        count_members: Callable[[], int] | None,
        monotonic_s: Callable[[], float],
    ) -> None:
        self._all_partitions = partitions
        self._count_members = count_members
        self._monotonic_s = monotonic_s
        self._troubles: dict[TroubleKind, Trouble] = {}
        self._share = 0  # the smallest number of partitions that this worker should have
        self._counted_s = float("-inf")
        # Partition with unread records → the worker's position, and the time when the position
        # last changed.
        self._stopped: dict[TopicPartition, tuple[int, str]] = {}

    def now(self) -> tuple[Trouble, ...]:
        """Return the current problems."""
        return tuple(self._troubles.values())

    @property
    def waits_for_kafka(self) -> bool:
        return "waiting for Kafka" in self._troubles

    def note_connection(self, problem: str | None, now: str) -> None:
        """Record why Kafka is unavailable. If it is available, `problem` is None."""
        self._set("waiting for Kafka", problem, now)

    def note_progress(
        self,
        positions: Mapping[TopicPartition, int],
        lags: Mapping[TopicPartition, int],
        paused: Set[TopicPartition],
        now: str,
    ) -> None:
        """Record positions and lags, but ignore partitions that the handler has paused."""
        work = {p for p, lag in lags.items() if lag > 0 and p not in paused}
        before = self._stopped
        self._stopped = {
            p: before[p] if p in before and before[p][0] == positions[p] else (positions[p], now)
            for p in work
        }
        if not self._stopped:
            self._set("no progress", None, now)
            return
        oldest = min(self._stopped, key=lambda p: (self._stopped[p][1], p))
        position, since = self._stopped[oldest]
        where = f"{oldest.topic}[{oldest.partition}]@{position}"
        self._set("no progress", f"{lags[oldest]:,} to read at {where}", since, anew=True)

    def note_partitions(self, count: int, now: str) -> None:
        """Record this worker's number of partitions. At intervals, count the service's workers."""
        total = sum(self._all_partitions)
        if count >= total or self._count_members is None:
            self._set("too few partitions", None, now)
            return
        every_s = _COUNT_AGAIN_S if count < self._share else _COUNT_EVERY_S
        if self._monotonic_s() - self._counted_s >= every_s:
            self._counted_s = self._monotonic_s()
            self._count(self._count_members)
        missing = count < self._share
        detail = f"{count} of {total}, its fair share is {self._share}"
        self._set("too few partitions", detail if missing else None, now)

    def note_model(self, missing: str | None, now: str) -> None:
        """Record whether no model is in use although there is a champion.

        In this case, `missing` is the champion's digest; otherwise, it is None.
        """
        detail = None if missing is None else f"the champion {missing} does not serve"
        self._set("no model", detail, now)

    def _count(self, count_members: Callable[[], int]) -> None:
        try:
            # Count at least this worker, even if it is not in the group at the moment.
            members = max(1, count_members())
        except BrokerError as error:
            log.debug("cannot count the workers of this service: %s", error.message)
            return
        self._share = sum(partitions // members for partitions in self._all_partitions)

    def _set(self, kind: TroubleKind, detail: str | None, now: str, *, anew: bool = False) -> None:
        """Record that a problem exists or, if `detail` is None, that it has ended."""
        if detail is None:
            self._troubles.pop(kind, None)
            return
        known = self._troubles.get(kind)
        since = now if known is None or anew else known.since
        self._troubles[kind] = Trouble(kind, since, detail)
