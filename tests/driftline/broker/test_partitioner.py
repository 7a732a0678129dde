"""Our murmur2 partitioner gives the same partitions as that of Java clients."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka.partitioner.default import murmur2 as kafka_python_murmur2

from driftline.broker.partitioner import murmur2, partition_for


@pytest.mark.parametrize(
    ("key", "expected"),
    [  # from org.apache.kafka.common.utils.UtilsTest
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2_gives_the_same_hashes_as_java(key: bytes, expected: int) -> None:
    assert murmur2(key) == expected


@given(st.binary(max_size=300))
def test_murmur2_agrees_with_kafka_python_on_any_key(key: bytes) -> None:
    assert murmur2(key) % (1 << 32) == kafka_python_murmur2(key)


@given(st.binary(), st.integers(1, 1000))
def test_the_partition_of_any_key_exists(key: bytes, partitions: int) -> None:
    assert 0 <= partition_for(key, partitions) < partitions
