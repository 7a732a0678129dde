"""Use watermarks to detect recreated feature topics and to find lost records.

Input: each partition's watermarks and predictions, in order. Output: whether a prediction's source
record was in the current feature topic, and the ranges of records that were deleted before
inference read them. This module reads no topic; `TableLoader` passes it the watermarks.
"""

from collections.abc import Sequence

from driftline.audit.reconcile_findings import Lost
from driftline.wire.events import Gap, Log


class ReadLogs:
    """The logs that inference has read: the current feature topic, and any earlier topics with the
    same name."""

    def __init__(self, topic: str, topic_id: str) -> None:
        self._topic = topic
        self._topic_id = topic_id
        self._of: dict[int, str] = {}  # partition → id of the topic that inference read last
        self._next: dict[int, int] = {}  # partition → offset right after the last scored record
        self._lost: dict[tuple[int, int], Lost] = {}

    def mark(self, partition: int, log: Log | None, gaps: Sequence[Gap]) -> None:
        """Store the log and the gaps that a watermark reports."""
        for gap in gaps:
            self._lose(partition, gap.start, gap.end)
        if log is None:
            return
        if self._of.get(partition, log.topic_id) != log.topic_id and not gaps:
            self._lose(partition, self._next.get(partition, 0), None)
        if self._of.get(partition) != log.topic_id:
            self._of[partition] = log.topic_id
            self._next[partition] = log.offset

    def is_present(self, partition: int, offset: int) -> bool:
        """Return whether a prediction's source record was in the current topic.

        Also return True if no watermark has identified the partition's topic yet. Call this method
        for each prediction, in order.
        """
        self._next[partition] = max(self._next.get(partition, 0), offset + 1)
        return self._of.get(partition, self._topic_id) == self._topic_id

    @property
    def lost(self) -> Sequence[Lost]:
        """Return the ranges of records that were deleted before inference read them.

        If inference has read a partition only in an earlier topic, all of its records after the
        last scored record count as lost, because that topic was deleted.
        """
        for partition, topic_id in self._of.items():
            if topic_id != self._topic_id:
                self._lose(partition, self._next.get(partition, 0), None)
        return [self._lost[at] for at in sorted(self._lost)]

    def _lose(self, partition: int, start: int, end: int | None) -> None:
        self._lost[partition, start] = Lost(self._topic, partition, start, end)
