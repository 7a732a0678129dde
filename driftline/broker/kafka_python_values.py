"""Convert values and errors between the port and kafka-python."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import kafka
from kafka import errors as kafka_errors
from kafka.structs import OffsetAndMetadata

from driftline.broker.limits import fenced_instance, not_allowed
from driftline.broker.port import Committed, TopicPartition
from driftline.errors import BrokerError, BrokerUnavailable, UnsupportedCodec

# A reachable broker replies in milliseconds. This timeout also covers the election of a leader.
ANSWER_TIMEOUT_MS = 30_000
# Requests about progress are repeated a second later, so they must not block the loop for long.
PROGRESS_TIMEOUT_MS = 5_000

# librdkafka (2.16) commits metadata with the zero byte that ends strings in C. When it reads
# metadata without this byte, it continues into other memory. So this adapter writes the byte, too.
_END = "\0"

# Compression codec → the package that the client decompresses it with. Driftline requires them all,
# but they may be missing after `pip install --no-deps`.
_CODECS = {"lz4": "lz4", "snappy": "python-snappy", "zstd": "zstandard"}


def kafka_partition(partition: TopicPartition) -> Any:
    """Return the client's value for a partition."""
    return kafka.TopicPartition(*partition)


def committed_of(position: Any) -> Committed:
    """Return a checkpoint, with its metadata as they were given to `kafka_offsets`."""
    return Committed(position.offset, (position.metadata or "").rstrip(_END))


def kafka_offsets(offsets: Mapping[TopicPartition, Committed]) -> dict[Any, Any]:
    """Return the client's value for offsets to commit."""
    return {
        kafka_partition(partition): OffsetAndMetadata(
            position.offset, position.metadata and position.metadata + _END, -1
        )
        for partition, position in offsets.items()
    }


def unsupported_codec(doing: str, error: Exception) -> UnsupportedCodec:
    """Return the error for records or a setting with a codec that the client does not have."""
    for codec, package in _CODECS.items():
        if codec in str(error):
            return UnsupportedCodec(
                f"cannot {doing} with {codec} compression: {package} is not installed",
                hint=f"pip install {package}",
            )
    return UnsupportedCodec(
        f"cannot {doing}: kafka-python does not know its compression ({error})",
        hint="set DRIFTLINE_CLIENT=librdkafka, or write with gzip, lz4, snappy or zstd",
    )


@contextlib.contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turn errors of the client into Driftline's."""
    try:
        yield
    except kafka_errors.FencedInstanceIdError as error:
        raise fenced_instance() from error
    except kafka_errors.AuthorizationError as error:
        raise not_allowed(doing, repr(error)) from error
    except kafka_errors.RetriableError as error:
        raise BrokerUnavailable(
            f"cannot {doing}: Kafka did not respond as expected ({error!r})",
            hint="check that the broker runs and can be reached",
        ) from error
    except (kafka_errors.KafkaError, ValueError) as error:
        raise BrokerError(f"cannot {doing}: {error!r}") from error
