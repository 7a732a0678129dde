"""Detect that a worker's clients have stalled, although the broker responds.

Input: once a second, the worker's positions and its partitions' log ends. Output: the error Stuck,
after which the loop replaces the clients.
"""

from collections.abc import Collection, Mapping

from driftline.broker.port import TopicPartition
from driftline.errors import Stuck

# Clients are replaced after this many checks without progress, about 30 s. Kafka's own limits are
# longer: librdkafka waits 60 s for a lost response, and up to 5 minutes for other group members.
PATIENT_CHECKS = 30


class StallDetector:
    """Count the checks in which a worker has not been assigned, or reads nothing although it could.

    One detector serves all sessions of a loop. `restart` must be called by each new session.
    """

    def __init__(self) -> None:
        # Positions of unpaused partitions with unread records. Set by `check`.
        self._behind: Mapping[TopicPartition, int] = {}
        # The positions at which clients were last replaced. Reading may stall there again for a
        # reason that new clients cannot remove, so the clients are not replaced a second time.
        self._replaced_at: Mapping[TopicPartition, int] = {}
        self._stalled_checks = 0  # consecutive checks without progress
        self._unassigned_checks = 0  # consecutive checks without an assignment

    def restart(self) -> None:
        """Forget the previous session's checks."""
        self._behind = {}
        self._stalled_checks = self._unassigned_checks = 0

    def check(
        self,
        positions: Mapping[TopicPartition, int],
        ends: Mapping[TopicPartition, int],
        paused: Collection[TopicPartition],
        *,
        is_assigned: bool,
    ) -> bool:
        """Return whether records are unread. `is_assigned` is also true for an empty assignment.

        Raises Stuck after `PATIENT_CHECKS` consecutive checks without an assignment, or in which
        the same unread records were not read.
        """
        self._unassigned_checks = 0 if is_assigned else self._unassigned_checks + 1
        if self._unassigned_checks >= PATIENT_CHECKS:
            raise Stuck("the group assigns no partitions; retrying with new clients")
        behind = {
            partition: position
            for partition, position in positions.items()
            if partition not in paused and position < ends.get(partition, 0)
        }
        is_stalled = bool(behind) and behind == self._behind
        self._stalled_checks = self._stalled_checks + 1 if is_stalled else 0
        self._behind = behind
        if self._stalled_checks >= PATIENT_CHECKS and behind != self._replaced_at:
            self._replaced_at = behind
            raise Stuck(
                "no records arrive, but the log has unread records; retrying with new clients"
            )
        return bool(behind)
