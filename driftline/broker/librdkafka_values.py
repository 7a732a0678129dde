"""Convert values and errors between the broker interface (`port`) and confluent-kafka.

No other module imports confluent-kafka. If the library is not installed, importing this module
raises MissingExtra.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from driftline.broker.limits import fenced_instance, not_allowed
from driftline.broker.port import Committed, TopicPartition
from driftline.errors import BrokerError, BrokerUnavailable, MissingExtra

try:
    import confluent_kafka as ck
    from confluent_kafka import admin as ck_admin
except ImportError as error:
    raise MissingExtra("confluent-kafka", "librdkafka") from error

__all__ = [
    "ANSWER_TIMEOUT_S",
    "PROGRESS_TIMEOUT_S",
    "READ_TIMEOUT_S",
    "ClientErrors",
    "ck",
    "ck_admin",
    "committed_of",
    "is_forbidden",
    "kafka_offsets",
    "kafka_partition",
    "translated",
]

# A reachable broker replies in milliseconds. This timeout also allows for a leader election.
ANSWER_TIMEOUT_S = 30.0
# For requests that only read, which can be repeated at no risk. After a broker has stalled, a
# request may get no response at all, and the worker needs one to resume.
READ_TIMEOUT_S = 15.0
# Progress requests are repeated every second, so they must not block the loop for long.
PROGRESS_TIMEOUT_S = 5.0


class ClientErrors:
    """A client's error callback, which stores the first error and the first fatal error."""

    def __init__(self) -> None:
        self.first: str | None = None
        self.fatal: str | None = None  # the first fatal error, which makes the client unusable

    def __call__(self, error: Any) -> None:
        self.first = self.first or error.str()
        if error.fatal():
            self.fatal = self.fatal or error.str()


def kafka_partition(partition: TopicPartition, offset: int | None = None) -> Any:
    """Convert a partition, with an optional offset, to the client's type."""
    return ck.TopicPartition(*partition, ck.OFFSET_INVALID if offset is None else offset)


def kafka_offsets(offsets: Mapping[TopicPartition, Committed]) -> list[Any]:
    """Convert offsets for a commit to the client's type."""
    return [
        ck.TopicPartition(*partition, position.offset, metadata=position.metadata)
        for partition, position in offsets.items()
    ]


def committed_of(positions: Iterable[Any]) -> dict[TopicPartition, Committed]:
    """Convert the client's committed offsets to checkpoints. Omit partitions without a committed
    offset. Raises KafkaException."""
    result = {}
    for position in positions:
        if position.error is not None:
            raise ck.KafkaException(position.error)
        if position.offset >= 0:
            partition = TopicPartition(position.topic, position.partition)
            result[partition] = Committed(position.offset, position.metadata or "")
    return result


_UNREACHABLE = frozenset(
    {
        ck.KafkaError._TRANSPORT,
        ck.KafkaError._TIMED_OUT,
        ck.KafkaError._ALL_BROKERS_DOWN,
        ck.KafkaError._WAIT_COORD,
    }
)


_FORBIDDEN = frozenset(
    {
        ck.KafkaError.TOPIC_AUTHORIZATION_FAILED,
        ck.KafkaError.GROUP_AUTHORIZATION_FAILED,
        ck.KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        ck.KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    }
)


def is_forbidden(reason: Any) -> bool:
    """Return whether an error means that an ACL is missing."""
    return reason.code() in _FORBIDDEN


@contextlib.contextmanager
def translated(doing: str) -> Iterator[None]:
    """Convert the client's errors, and TimeoutError, to Driftline's errors."""
    try:
        yield
    except TimeoutError as error:
        raise BrokerUnavailable(
            f"cannot {doing}: {error}", hint="check that the broker is running and reachable"
        ) from error
    except ck.KafkaException as error:
        reason = error.args[0]
        if reason.code() == ck.KafkaError.FENCED_INSTANCE_ID:
            raise fenced_instance() from error
        if is_forbidden(reason):
            raise not_allowed(doing, reason.str()) from error
        if reason.code() in _UNREACHABLE:
            raise BrokerUnavailable(
                f"cannot {doing}: Kafka does not respond ({reason.str()})",
                hint="check that the broker is running and reachable",
            ) from error
        raise BrokerError(f"cannot {doing}: {reason.str()}") from error
