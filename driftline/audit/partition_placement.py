"""Detect from sampled keys whether record and label producers choose partitions differently.

Input: keys of records and labels, with their partitions. Output: a description of the problem.
Records and labels are joined within a partition, so a label in a different partition from its
record is never joined. This module checks samples; `driftline reconcile` checks every label.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Final, Literal

from driftline.broker.partitioner import MURMUR2, PARTITIONERS, partitioners_for

Side = Literal["records", "labels"]
# Number of keys to sample from a batch. Hashing a key with murmur2 takes 2 µs in Python, so a
# larger sample would slow the join down.
_KEYS_OF_A_BATCH: Final = 8
# In a sample with fewer keys, all keys could match a partitioner by chance.
_LEAST_KEYS: Final = 20
# When a sample reaches this many keys, its counts are halved. Newer keys therefore count more, and
# the check notices when a producer has been corrected.
_REMEMBERED: Final = 2_000
# Assume that a producer uses a partitioner if at least this share of its keys are in the partitions
# that the partitioner chooses. The share is below 1, because the sample may still contain keys from
# a producer that was replaced.
_MOST: Final = 0.95


class Placement:
    """Samples of one stream's record and label keys, matched against the known partitioners."""

    def __init__(self, partitions: int) -> None:
        self._partitions = partitions
        self._seen: Counter[Side] = Counter()
        self._matching: dict[Side, Counter[str]] = {"records": Counter(), "labels": Counter()}

    def see(self, side: Side, partition: int, keys: Sequence[bytes | None]) -> None:
        """Sample the keys of a batch from one partition.

        Records without a key are skipped, because watermarks have no key, and no partitioner
        chooses a watermark's partition.
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
        """Return the reason why labels and records are in different partitions, or None if no
        problem is detected or a sample is too small."""
        if min(self._seen["records"], self._seen["labels"]) < _LEAST_KEYS:
            return None
        records, labels = self._used("records"), self._used("labels")
        if records & labels or not records | labels:
            return None  # records and labels use the same partitioner, or neither use a known one
        if not records:
            expected = MURMUR2 if MURMUR2 in labels else min(labels)
            wrong = self._seen["records"] - self._matching["records"][expected]
            return (
                f"{wrong} of {self._seen['records']} sampled records are not in the partition of "
                f"their labels: labels are partitioned by {expected}, but records are not; use "
                f"{expected} in every producer of records"
            )
        expected = MURMUR2 if MURMUR2 in records else min(records)
        wrong = self._seen["labels"] - self._matching["labels"][expected]
        found = (
            f"{wrong} of {self._seen['labels']} sampled labels are not in the partition of their "
            f"record: records are partitioned by {expected}, but labels "
        )
        if labels:
            return f"{found}by {min(labels)}; use {expected} in the producer of the labels"
        return (
            f"{found}are not; send each label with its record's key, and do not choose its "
            "partition"
        )

    def _used(self, side: Side) -> frozenset[str]:
        seen, matching = self._seen[side], self._matching[side]
        return frozenset(name for name in PARTITIONERS if matching[name] >= _MOST * seen)
