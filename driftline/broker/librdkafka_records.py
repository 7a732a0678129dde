"""Convert the records that librdkafka fetched, and separate them from its notices and errors."""

import logging
from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import Any, overload

from driftline.broker.librdkafka_values import ck, is_forbidden
from driftline.broker.limits import fenced_instance, not_allowed
from driftline.broker.port import Headers, Message, Messages
from driftline.errors import BrokerError, UnsupportedCodec

_log = logging.getLogger(__name__)

_SECOND = itemgetter(1)


def records_of(found: Sequence[Any], group: str | None) -> Sequence[Any]:
    """Return the records, and omit notices. Raises BrokerError for a permanent error."""
    if any(map(ck.Message.error, found)):
        return [record for record in found if not _is_notice(record, group)]
    return found


class Fetched(Messages):
    """Fetched records. A column takes 0.03 µs per record to create; a `Message` takes 0.3 µs."""

    def __init__(self, records: Sequence[Any]) -> None:
        self._records = records

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[Message]:
        published = map(_SECOND, map(ck.Message.timestamp, self._records))
        columns = (self.topics, self.partitions, self.offsets, self.keys, self.values, self.headers)
        return map(Message, *columns, published)

    @overload
    def __getitem__(self, at: int) -> Message: ...
    @overload
    def __getitem__(self, at: slice) -> Messages: ...
    def __getitem__(self, at: int | slice) -> Message | Messages:
        if isinstance(at, slice):
            return Fetched(self._records[at])
        return next(iter(Fetched((self._records[at],))))

    @property
    def topics(self) -> list[str]:
        return list(map(ck.Message.topic, self._records))

    @property
    def partitions(self) -> list[int]:
        return list(map(ck.Message.partition, self._records))

    @property
    def offsets(self) -> list[int]:
        return list(map(ck.Message.offset, self._records))

    @property
    def keys(self) -> list[bytes | None]:
        return list(map(ck.Message.key, self._records))

    @property
    def values(self) -> list[bytes | None]:
        return list(map(ck.Message.value, self._records))

    @property
    def headers(self) -> list[Headers]:
        return _headers(list(map(ck.Message.headers, self._records)))


def _headers(found: Sequence[Sequence[tuple[str, bytes | None]] | None]) -> list[Headers]:
    if not any(found):
        return [()] * len(found)
    return [tuple((name, value or b"") for name, value in each or ()) for each in found]


# Errors to raise. The client recovers from all other errors on its own, so they are only logged.
_LASTING = frozenset(
    {
        ck.KafkaError.UNKNOWN_TOPIC_OR_PART,
        ck.KafkaError._FATAL,
    }
)
_FENCED = ck.KafkaError(ck.KafkaError.FENCED_INSTANCE_ID).str()


def _is_notice(record: Any, group: str | None) -> bool:
    """Return whether `record` is a notice, not data. Raises BrokerError for a permanent error."""
    error = record.error()
    if error is None:
        return False
    if error.code() == ck.KafkaError._AUTO_OFFSET_RESET:
        return True  # `poll` raises this error
    if error.code() == ck.KafkaError._PARTITION_EOF:
        return True  # the position is now past the last transaction marker
    if is_forbidden(error):
        if error.code() == ck.KafkaError.TOPIC_AUTHORIZATION_FAILED:
            raise not_allowed(f"read topic {record.topic()!r}", error.str())
        if group is None:
            return True  # harmless, because the client never joins its group
        raise not_allowed(f"join group {group!r}", error.str())
    if error.code() == ck.KafkaError._NOT_IMPLEMENTED:
        raise UnsupportedCodec(
            f"cannot read {record.topic()}[{record.partition()}]: "
            f"this librdkafka build cannot decompress its records ({error.str()})",
            hint="reinstall confluent-kafka from a wheel, or set DRIFTLINE_CLIENT=kafka-python",
        )
    if error.fatal() or error.code() in _LASTING:
        raise fatal_error(error.str())
    _log.warning("%s", error.str())
    return True


def fatal_error(reason: str) -> BrokerError:
    """Return the exception to raise for a fatal error, which makes the client unusable."""
    if _FENCED in reason:  # compare the text, because every fatal error has the code `_FATAL`
        return fenced_instance()
    return BrokerError(f"cannot read: {reason}")
