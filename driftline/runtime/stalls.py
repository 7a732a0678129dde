"""Detect that a worker's clients have stalled, although the broker responds.

Input: about once a second, the worker's positions and its partitions' log ends. Output: the error
Stuck, after which the loop replaces the clients.
"""

from collections.abc import Collection, Mapping

from driftline.broker.port import TopicPartition
from driftline.clock import Clock
from driftline.errors import Stuck

# Clients are replaced after this long without progress. The clients' own limits are longer: if the
# response to a request to join the group is lost, librdkafka waits for 5 minutes.
PATIENCE_S = 30.0
# Between two checks, no more than this counts as waiting. The rest was spent in the handler, or
# this process was suspended. `[kafka] max_wait_ms` has the same limit.
_LONGEST_WAIT_S = 10.0


class StallDetector:
    """Measure how long a worker has not been assigned, or has read nothing although it could.

    One detector serves all sessions of a loop. `restart` must be called by each new session.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        # Positions of unpaused partitions with unread records. Set by `check`, reset by `restart`.
        self._behind: Mapping[TopicPartition, int] = {}
        # The positions at which clients were last replaced. Reading may stall there again for a
        # reason that new clients cannot remove, so the clients are not replaced a second time.
        self._replaced_at: Mapping[TopicPartition, int] = {}
        self._checked_s: float | None = None  # time of the session's last check
        self._stalled_s = 0.0  # how long the positions in `_behind` have not changed
        self._unassigned_s = 0.0  # how long there has been no assignment

    def restart(self) -> None:
        """Forget the previous session's checks."""
        self._behind = {}
        self._checked_s = None
        self._stalled_s = self._unassigned_s = 0.0

    def check(
        self,
        positions: Mapping[TopicPartition, int],
        ends: Mapping[TopicPartition, int],
        paused: Collection[TopicPartition],
        *,
        is_assigned: bool,
    ) -> bool:
        """Return whether records are unread. `is_assigned` is also true for an empty assignment.

        Raises Stuck if there has been no assignment, or if the same unread records have not been
        read, for `PATIENCE_S`.
        """
        now_s = self._clock.monotonic()
        waited_s = 0.0 if self._checked_s is None else now_s - self._checked_s
        waited_s = min(waited_s, _LONGEST_WAIT_S)
        self._checked_s = now_s
        self._unassigned_s = 0.0 if is_assigned else self._unassigned_s + waited_s
        if self._unassigned_s >= PATIENCE_S:
            raise Stuck("the group completes no assignment; retrying with new clients")
        behind = {
            partition: position
            for partition, position in positions.items()
            if partition not in paused and position < ends.get(partition, 0)
        }
        is_stalled = bool(behind) and behind == self._behind
        self._stalled_s = self._stalled_s + waited_s if is_stalled else 0.0
        self._behind = behind
        if self._stalled_s >= PATIENCE_S and behind != self._replaced_at:
            self._replaced_at = behind
            raise Stuck(
                "no records arrive, but the log has unread records; retrying with new clients"
            )
        return bool(behind)
