"""Samples of keys show why records and labels are in different partitions."""

from collections.abc import Callable, Sequence

import pytest

from driftline.audit.partition_placement import Placement, Side
from driftline.broker.partitioner import PARTITIONERS, partition_for

PARTITIONS = 6
MURMUR2, CRC32, FNV1A = PARTITIONERS.values()
KEYS = [f"key {number}".encode() for number in range(200)]


def placement(
    records: Callable[[bytes, int], int], labels: Callable[[bytes, int], int], *, count: int = 200
) -> Placement:
    found = Placement(PARTITIONS)
    sides: Sequence[tuple[Side, Callable[[bytes, int], int]]] = (
        ("records", records),
        ("labels", labels),
    )
    for side, of in sides:
        for key in KEYS[:count]:
            found.see(side, of(key, PARTITIONS), [key])
    return found


def by_hand(key: bytes, partitions: int) -> int:
    return len(key) % partitions


@pytest.mark.parametrize("of", [MURMUR2, CRC32, FNV1A, by_hand])
def test_the_same_partitioner_for_records_and_labels_is_no_problem(
    of: Callable[[bytes, int], int],
) -> None:
    assert placement(of, of).problem is None


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (CRC32, "labels by CRC32 (librdkafka's default); use murmur2 in the producer of the"),
        (FNV1A, "labels by FNV-1a (Sarama's default); use murmur2 in the producer of the labels"),
        (by_hand, "send each label with its record's key, and do not choose its partition"),
    ],
)
def test_another_partitioner_for_labels_is_a_problem_with_its_cause(
    labels: Callable[[bytes, int], int], words: str
) -> None:
    problem = placement(MURMUR2, labels).problem
    assert problem is not None
    assert words in problem


def test_two_producers_of_records_with_different_partitioners_are_a_problem() -> None:
    def mixed(key: bytes, partitions: int) -> int:
        return (CRC32 if key.endswith((b"3", b"7")) else MURMUR2)(key, partitions)

    problem = placement(mixed, MURMUR2).problem
    assert problem is not None
    assert "use murmur2 in every producer of records" in problem
    assert placement(mixed, mixed).problem is None


def test_a_few_keys_are_not_enough_to_report_a_problem() -> None:
    assert placement(MURMUR2, CRC32, count=10).problem is None


def test_watermarks_without_a_key_are_ignored() -> None:
    found = placement(MURMUR2, MURMUR2)
    for _ in range(1000):
        found.see("records", 0, [None])
    assert found.problem is None


def test_a_topic_with_one_partition_is_never_a_problem() -> None:
    found = Placement(1)
    found.see("labels", 0, KEYS)
    assert found.problem is None


def test_a_problem_ends_soon_after_the_producer_is_corrected() -> None:
    found = placement(MURMUR2, CRC32)
    for number in range(20_000):
        key = str(number).encode()
        found.see("labels", partition_for(key, PARTITIONS), [key])
    assert found.problem is None


def test_only_some_keys_of_a_large_batch_are_examined(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[bytes | None] = []

    def count(key: bytes | None, partition: int, partitions: int) -> frozenset[str]:
        looked_at.append(key)
        return frozenset()

    monkeypatch.setattr("driftline.audit.partition_placement.partitioners_for", count)
    Placement(PARTITIONS).see("labels", 0, KEYS)
    assert 1 < len(looked_at) < 10
