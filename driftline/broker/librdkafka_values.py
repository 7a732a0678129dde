"""Between the port's values and errors and those of confluent-kafka; the one place that imports it
first, so that its absence is told as a missing extra."""

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
    "ClientErrors",
    "ck",
    "ck_admin",
    "committed_of",
    "is_forbidden",
    "kafka_offsets",
    "kafka_partition",
    "translated",
]

# Answers of a broker that is there take milliseconds; this covers an election.
ANSWER_TIMEOUT_S = 30.0
# Questions about progress are asked again a second later: they must not hold up the loop.
PROGRESS_TIMEOUT_S = 5.0


class ClientErrors:
    """What a client has reported through its error callback."""

    def __init__(self) -> None:
        self.first: str | None = None
        self.fatal: str | None = None  # after it the client does nothing more

    def __call__(self, error: Any) -> None:
        self.first = self.first or error.str()
        if error.fatal():
            self.fatal = self.fatal or error.str()


def kafka_partition(partition: TopicPartition, offset: int | None = None) -> Any:
    """A confluent_kafka.TopicPartition, at an offset or at the committed one."""
    return ck.TopicPartition(*partition, ck.OFFSET_INVALID if offset is None else offset)


def kafka_offsets(offsets: Mapping[TopicPartition, Committed]) -> list[Any]:
    """What the client's commits take."""
    return [
        ck.TopicPartition(*partition, position.offset, metadata=position.metadata)
        for partition, position in offsets.items()
    ]


def committed_of(positions: Iterable[Any]) -> dict[TopicPartition, Committed]:
    """Committed positions as the client tells them, those that exist."""
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
    """Whether this error says that an ACL is missing."""
    return reason.code() in _FORBIDDEN


@contextlib.contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turn the client's errors, and TimeoutError, into Driftline's."""
    try:
        yield
    except TimeoutError as error:
        raise BrokerUnavailable(
            f"cannot {doing}: {error}", hint="check that the broker runs and can be reached"
        ) from error
    except ck.KafkaException as error:
        reason = error.args[0]
        if reason.code() == ck.KafkaError.FENCED_INSTANCE_ID:
            raise fenced_instance() from error
        if is_forbidden(reason):
            raise not_allowed(doing, reason.str()) from error
        if reason.code() in _UNREACHABLE:
            raise BrokerUnavailable(
                f"cannot {doing}: Kafka does not answer ({reason.str()})",
                hint="check that the broker runs and can be reached",
            ) from error
        raise BrokerError(f"cannot {doing}: {reason.str()}") from error
