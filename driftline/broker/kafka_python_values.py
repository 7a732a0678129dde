"""Convert values and errors between the broker interface (`port`) and kafka-python."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import kafka
from kafka import errors as kafka_errors
from kafka.structs import OffsetAndMetadata

from driftline.broker.limits import fenced_instance, not_allowed
from driftline.broker.port import Committed, TopicPartition
from driftline.errors import BrokerError, BrokerUnavailable, UnsupportedCodec

# A reachable broker replies in milliseconds. This timeout also allows for a leader election.
ANSWER_TIMEOUT_MS = 30_000
# Progress requests are repeated every second, so they must not block the loop for long.
PROGRESS_TIMEOUT_MS = 5_000

# librdkafka (2.16) commits metadata with a trailing zero byte, as in C strings. When that byte is
# missing, librdkafka reads past the end of the metadata. So this adapter also appends a zero byte.
_END = "\0"

# Compression codec → package that the client needs for it. Driftline depends on all of these
# packages, but `pip install --no-deps` does not install them.
_CODECS = {"lz4": "lz4", "snappy": "python-snappy", "zstd": "zstandard"}


def kafka_partition(partition: TopicPartition) -> Any:
    """Convert a partition to the client's type."""
    return kafka.TopicPartition(*partition)


def committed_of(position: Any) -> Committed:
    """Convert the client's committed offset to a checkpoint, without the trailing zero byte."""
    return Committed(position.offset, (position.metadata or "").rstrip(_END))


def kafka_offsets(offsets: Mapping[TopicPartition, Committed]) -> dict[Any, Any]:
    """Convert offsets for a commit to the client's types. Append a zero byte to any metadata."""
    return {
        kafka_partition(partition): OffsetAndMetadata(
            position.offset, position.metadata and position.metadata + _END, -1
        )
        for partition, position in offsets.items()
    }


def unsupported_codec(doing: str, error: Exception) -> UnsupportedCodec:
    """Return the error for a compression codec that the client does not support."""
    for codec, package in _CODECS.items():
        if codec in str(error):
            return UnsupportedCodec(
                f"cannot {doing} with {codec} compression: {package} is not installed",
                hint=f"pip install {package}",
            )
    return UnsupportedCodec(
        f"cannot {doing}: kafka-python does not support the compression codec ({error})",
        hint="set DRIFTLINE_CLIENT=librdkafka, or write with gzip, lz4, snappy or zstd",
    )


@contextlib.contextmanager
def translated(doing: str) -> Iterator[None]:
    """Convert the client's errors to Driftline's errors."""
    try:
        yield
    except kafka_errors.FencedInstanceIdError as error:
        raise fenced_instance() from error
    except kafka_errors.AuthorizationError as error:
        raise not_allowed(doing, repr(error)) from error
    except kafka_errors.RetriableError as error:
        raise BrokerUnavailable(
            f"cannot {doing}: Kafka did not respond as expected ({error!r})",
            hint="check that the broker is running and reachable",
        ) from error
    except (kafka_errors.KafkaError, ValueError) as error:
        raise BrokerError(f"cannot {doing}: {error!r}") from error
