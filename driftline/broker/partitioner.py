"""Compute the Kafka partition for a record key with murmur2, as Java clients do.

All adapters use murmur2, so they write records with the same key to the same partition. Other
programs may use other hash functions. `partitioners_for` recognises the hash functions of common
clients.
"""

import struct
import zlib
from collections.abc import Callable, Mapping
from typing import Final

_MASK = 0xFFFFFFFF
_SEED = 0x9747B28C
_M = 0x5BD1E995
# `_WORDS[n]` reads n 32-bit words at once. This halves the run time of `murmur2` for keys of up to
# 131 bytes.
_WORDS = [struct.Struct(f"<{words}I").unpack_from for words in range(33)]


def murmur2(data: bytes) -> int:
    """Return Kafka's 32-bit murmur2 hash of `data`, signed as in Java.

    >>> murmur2(b"21")
    -973932308
    """
    length = len(data)
    words = length >> 2
    h = _SEED ^ length
    read = _WORDS[words] if words < 33 else struct.Struct(f"<{words}I").unpack_from
    for k in read(data):
        k = k * _M & _MASK
        h = (h * _M ^ (k ^ k >> 24) * _M) & _MASK
    tail = data[words << 2 :]
    if tail:
        h = (h ^ int.from_bytes(tail, "little")) * _M & _MASK
    h = (h ^ h >> 13) * _M & _MASK
    h ^= h >> 15
    return h - (1 << 32) if h >> 31 else h


def partition_for(key: bytes, partitions: int) -> int:
    """Return the partition for this key, from 0 to `partitions` - 1.

    >>> partition_for(b"21", 6)
    0
    """
    return (murmur2(key) & 0x7FFFFFFF) % partitions


def _crc32(key: bytes, partitions: int) -> int:
    return zlib.crc32(key) % partitions


def _fnv1a(key: bytes, partitions: int) -> int:
    h = 0x811C9DC5
    for byte in key:
        h = (h ^ byte) * 0x01000193 & _MASK
    return abs(h - (1 << 32) if h >> 31 else h) % partitions


MURMUR2: Final = "murmur2"
# Each partitioner has a name that users would search for. librdkafka itself calls murmur2
# `murmur2_random`.
PARTITIONERS: Final[Mapping[str, Callable[[bytes, int], int]]] = {
    MURMUR2: partition_for,
    "CRC32 (librdkafka's default)": _crc32,
    "FNV-1a (Sarama's default)": _fnv1a,
}


def partitioners_for(key: bytes | None, partition: int, partitions: int) -> frozenset[str]:
    """Return the names of the `PARTITIONERS` that select this partition for this key.

    >>> sorted(partitioners_for(b"21", 0, 6)), sorted(partitioners_for(None, 0, 6))
    (["FNV-1a (Sarama's default)", 'murmur2'], [])
    """
    if key is None:
        return frozenset()
    return frozenset(name for name, of in PARTITIONERS.items() if of(key, partitions) == partition)
