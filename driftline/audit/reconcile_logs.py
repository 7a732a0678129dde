"""Detect from watermarks which log each prediction belongs to, and which records were lost.

Input: the watermarks and predictions of each partition, in order. Output: whether a prediction is
of the current topic of feature records, and the ranges that were deleted before they were read.
"""

from collections.abc import Sequence

from driftline.audit.reconcile_findings import Lost
from driftline.wire.events import Gap, Log


class ReadLogs:
    """The logs that predictions were made from: the current topic of feature records, and earlier
    topics with its name."""

    def __init__(self, topic: str, topic_id: str) -> None:
        self._topic = topic
        self._topic_id = topic_id
        self._of: dict[int, str] = {}  # partition → id of the log whose predictions follow
        self._next: dict[int, int] = {}  # partition → offset after the newest prediction's source
        self._lost: dict[tuple[int, int], Lost] = {}

    def mark(self, partition: int, log: Log | None, gaps: Sequence[Gap]) -> None:
        """Apply a watermark with a log or gaps."""
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
        """Return whether a prediction with this source is of the current topic.

        True if no watermark has named the log yet. Call it for each prediction in order.
        """
        self._next[partition] = max(self._next.get(partition, 0), offset + 1)
        return self._of.get(partition, self._topic_id) == self._topic_id

    @property
    def lost(self) -> Sequence[Lost]:
        """Return the ranges that were deleted before they were read.

        If the newest log of a partition is of an earlier topic, all that follows its last
        prediction is lost, too.
        """
        for partition, topic_id in self._of.items():
            if topic_id != self._topic_id:
                self._lose(partition, self._next.get(partition, 0), None)
        return [self._lost[at] for at in sorted(self._lost)]

    def _lose(self, partition: int, start: int, end: int | None) -> None:
        self._lost[partition, start] = Lost(self._topic, partition, start, end)
