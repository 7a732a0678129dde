"""Finds out whether records and labels are spread over partitions in the same way.

In: keys of both, with the partitions that they came in. Out: what is wrong, in words. Records and
labels are joined partition by partition, so a label in another partition than its record never
finds it. It sees samples only; `driftline reconcile` looks at every label.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Final, Literal

from driftline.broker.partitioner import MURMUR2, PARTITIONERS, partitioners_for

Side = Literal["records", "labels"]
# Murmur2 takes 2 µs a key in Python: so few of a batch do not slow a join down.
_KEYS_OF_A_BATCH: Final = 8
# Fewer keys may be where a partitioner puts them by chance.
_LEAST_KEYS: Final = 20
# Newer keys weigh more, so that a producer that was put right is seen to be.
_REMEMBERED: Final = 2_000
# A producer that was replaced leaves some keys behind in the sample.
_MOST: Final = 0.95


class Placement:
    """What is known of the partitions of one stream's records and labels."""

    def __init__(self, partitions: int) -> None:
        self._partitions = partitions
        self._seen: Counter[Side] = Counter()
        self._matching: dict[Side, Counter[str]] = {"records": Counter(), "labels": Counter()}

    def see(self, side: Side, partition: int, keys: Sequence[bytes | None]) -> None:
        """Look at some keys of a batch that came in a partition.

        Among records those without a key are passed over: watermarks have none, and no partitioner
        chooses where they go.
        """
        if self._partitions == 1:
            return
        step = max(1, len(keys) // _KEYS_OF_A_BATCH)
        for key in keys[::step][:_KEYS_OF_A_BATCH]:
            if key is None and side == "records":
                continue
            if self._seen[side] >= _REMEMBERED:
                self._forget_half(side)
            self._seen[side] += 1
            self._matching[side].update(partitioners_for(key, partition, self._partitions))

    def _forget_half(self, side: Side) -> None:
        self._seen[side] //= 2
        for name in self._matching[side]:
            self._matching[side][name] //= 2

    @property
    def problem(self) -> str | None:
        """What separates labels from their records; None if nothing is known to."""
        if min(self._seen["records"], self._seen["labels"]) < _LEAST_KEYS:
            return None
        records, labels = self._used("records"), self._used("labels")
        if records & labels or not records | labels:
            return None  # both alike, or both chosen in some other way
        if not records:
            expected = MURMUR2 if MURMUR2 in labels else min(labels)
            wrong = self._seen["records"] - self._matching["records"][expected]
            return (
                f"{wrong} of {self._seen['records']} sampled records are not in the partition of "
                f"their labels: labels are spread by {expected}, records in another way; use "
                f"{expected} in every producer of records"
            )
        expected = MURMUR2 if MURMUR2 in records else min(records)
        wrong = self._seen["labels"] - self._matching["labels"][expected]
        found = (
            f"{wrong} of {self._seen['labels']} sampled labels are not in the partition of their "
            f"record: records are spread by {expected}, labels "
        )
        if labels:
            return f"{found}by {min(labels)}; use {expected} in the producer of the labels"
        return (
            f"{found}in another way; send labels with their record's key, and without choosing "
            "a partition"
        )

    def _used(self, side: Side) -> frozenset[str]:
        seen, matching = self._seen[side], self._matching[side]
        return frozenset(name for name in PARTITIONERS if matching[name] >= _MOST * seen)
