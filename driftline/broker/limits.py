"""Check each record's partition and size against its Kafka topic before the record is sent.

Input: records to send, and topic descriptions from a broker. Output: errors for invalid records.
Without these checks, a record that the broker rejects would abort its whole transaction.
"""

import time
from collections.abc import Callable, Iterable, Iterator

from driftline.broker.port import Outgoing, OutgoingBatch, TopicInfo, TopicPartition
from driftline.errors import (
    AccessDenied,
    BrokerError,
    DeliveryFailed,
    InstanceFenced,
    MessageTooLarge,
)

# Kafka's default for a topic's max.message.bytes, which limits a whole batch including its framing.
DEFAULT_TOPIC_BYTES = 1_048_588
# A batch header takes 61 bytes. The lengths and deltas of one record take at most 31 bytes.
FRAMING_BYTES = 100
# Each record header stores two lengths of at most 5 bytes each.
HEADER_FRAMING_BYTES = 10
MAX_MESSAGE_BYTES = DEFAULT_TOPIC_BYTES - FRAMING_BYTES
# The largest batch that a client may send. It is far above Kafka's default, so that only a topic's
# own limit matters. A dead-letter topic, for example, has a higher limit than its source topic.
CLIENT_MAX_BYTES = 16 * 1024 * 1024


def record_bytes(record: Outgoing) -> int:
    """Return a record's size in bytes before compression, without batch framing."""
    size = len(record.value or b"") + len(record.key or b"")
    if not record.headers:
        return size
    for name, value in record.headers:
        size += len(name.encode()) + len(value) + HEADER_FRAMING_BYTES
    return size


def topic_bytes(config: dict[str, str]) -> int:
    """Return the size in bytes of the largest record that a topic with this `config` accepts."""
    limit = int(config.get("max.message.bytes", DEFAULT_TOPIC_BYTES))
    return min(limit, CLIENT_MAX_BYTES) - FRAMING_BYTES


def unknown_topic(topic: str) -> BrokerError:
    """Return the error for a topic that does not exist."""
    return BrokerError(
        f"topic {topic!r} does not exist",
        hint="create it first (driftline topics apply); topics are never created implicitly",
    )


def not_allowed(doing: str, reason: str) -> AccessDenied:
    """Return the error for an operation that the broker's ACLs do not allow."""
    return AccessDenied(
        f"cannot {doing}: the broker denies this user access ({reason})",
        hint="`driftline topics acls` prints the rights that each service and command needs",
    )


def fenced_instance() -> InstanceFenced:
    """Return the error for a group member whose instance id another member has taken over."""
    return InstanceFenced(
        "another process has taken this one's place in the consumer group",
        hint="no two workers of a service may have the same --slot; the newer worker continues",
    )


def unpacked(batch: OutgoingBatch) -> Iterator[Outgoing]:
    """Yield a batch's records one by one."""
    for key, value in zip(batch.keys, batch.values, strict=True):
        yield Outgoing(batch.topic, value, key, batch.partition)


def check_partition(record: Outgoing, partitions: int) -> None:
    """Raise DeliveryFailed if the record's partition does not exist in its topic."""
    if record.partition is not None and not 0 <= record.partition < partitions:
        raise DeliveryFailed(
            f"topic {record.topic!r} has no partition {record.partition}; its partition count is "
            f"{partitions}",
            hint="all topics of a stream must have the same partition count",
        )


def check_size(record: Outgoing, limit: int) -> None:
    """Raise MessageTooLarge if the record is larger than `limit` bytes."""
    size = record_bytes(record)
    if size > limit:
        raise MessageTooLarge(
            f"a record of {size} bytes is too large for topic {record.topic!r}, which accepts up "
            f"to {limit} bytes",
            hint="raise the topic's max.message.bytes, or send smaller records",
        )


class TopicLimits:
    """A cache of topics' partition counts and size limits.

    `describe` returns a topic's description, or None if the topic does not exist.
    """

    def __init__(self, describe: Callable[[str], TopicInfo | None]) -> None:
        self._describe = describe
        # Partition count and size limit by topic. They are fetched again for a record beyond one of
        # them, because partitions may have been added, or the limit raised.
        self._known: dict[str, tuple[int, int]] = {}

    def partitions(self, topic: str) -> int:
        """Return a topic's partition count. Raises BrokerError if the topic does not exist."""
        return (self._known.get(topic) or self._ask(topic))[0]

    def check_exist(self, partitions: Iterable[TopicPartition]) -> None:
        """Raise BrokerError if one of these topics or partitions does not exist."""
        for topic, partition in partitions:
            if partition >= self.partitions(topic):
                raise BrokerError(f"topic {topic!r} has no partition {partition}")

    def check(self, record: Outgoing) -> None:
        """Raise MessageTooLarge, DeliveryFailed (unknown partition) or BrokerError (unknown topic)
        if the record cannot be sent."""
        partitions, limit = self._known.get(record.topic) or self._ask(record.topic)
        if record.partition is not None and record.partition >= partitions:
            partitions, limit = self._ask(record.topic)
        check_partition(record, partitions)
        if record_bytes(record) > limit:
            check_size(record, self._ask(record.topic)[1])  # the limit may have been raised

    def fits(self, batch: OutgoingBatch) -> bool:
        """Return True only if cached limits show that all records would pass `check`."""
        known = self._known.get(batch.topic)
        if known is None or not 0 <= batch.partition < known[0]:
            return False
        largest_key = max(map(len, filter(None, batch.keys)), default=0)
        return largest_key + max(map(len, batch.values), default=0) <= known[1]

    def _ask(self, topic: str) -> tuple[int, int]:
        info = self._describe(topic)
        if info is None:
            self._known.pop(topic, None)
            raise unknown_topic(topic)
        answer = (info.partitions, topic_bytes(dict(info.config)))
        self._known[topic] = answer
        return answer


def wait_until(holds: Callable[[], bool], otherwise: str, *, timeout_s: float = 30.0) -> None:
    """Wait until `holds` returns True. Metadata changes take time to reach all brokers.

    Raises BrokerError with the message `otherwise` after `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    pause_s = 0.01
    while not holds():
        if time.monotonic() > deadline:
            raise BrokerError(otherwise, hint=f"waited for {timeout_s:.0f} s")
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, 0.2)
