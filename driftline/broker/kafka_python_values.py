"""Between the port's values and errors and those of kafka-python."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import kafka
from kafka import errors as kafka_errors
from kafka.structs import OffsetAndMetadata

from driftline.broker.limits import fenced_instance, not_allowed
from driftline.broker.port import Committed, TopicPartition
from driftline.errors import BrokerError, BrokerUnavailable

# Answers of a broker that is there take milliseconds; this covers an election.
ANSWER_TIMEOUT_MS = 30_000
# Questions about progress are asked again a second later: they must not hold up the loop.
PROGRESS_TIMEOUT_MS = 5_000

# librdkafka (2.16) commits metadata with the zero byte that ends a string in C, and when it reads
# some without, it goes on into whatever follows in memory. So both adapters write it.
_END = "\0"


def kafka_partition(partition: TopicPartition) -> Any:
    """A kafka.TopicPartition."""
    return kafka.TopicPartition(*partition)


def committed_of(position: Any) -> Committed:
    """A committed position, with the metadata as they were given."""
    return Committed(position.offset, (position.metadata or "").rstrip(_END))


def kafka_offsets(offsets: Mapping[TopicPartition, Committed]) -> dict[Any, Any]:
    """What the client's commits take."""
    return {
        kafka_partition(partition): OffsetAndMetadata(
            position.offset, position.metadata and position.metadata + _END, -1
        )
        for partition, position in offsets.items()
    }


@contextlib.contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turn the client's errors into Driftline's."""
    try:
        yield
    except kafka_errors.FencedInstanceIdError as error:
        raise fenced_instance() from error
    except kafka_errors.AuthorizationError as error:
        raise not_allowed(doing, repr(error)) from error
    except kafka_errors.RetriableError as error:
        raise BrokerUnavailable(
            f"cannot {doing}: Kafka does not answer as it should ({error!r})",
            hint="check that the broker runs and can be reached",
        ) from error
    except (kafka_errors.KafkaError, ValueError) as error:
        raise BrokerError(f"cannot {doing}: {error!r}") from error
