"""Continues the numbers (`@row`) of a stream where its features topic ends."""

from typing import Final

import msgspec

from driftline.broker.port import Broker, TopicPartition
from driftline.errors import BrokerUnavailable, DataError
from driftline.stream import ROW
from driftline.topics import Topics

# Offsets looked at in each partition: enough to step over transaction markers and records of
# others without a number, few enough to read at once.
_TAIL_OFFSETS: Final = 100
_POLL_S: Final = 1.0
_MAX_EMPTY_POLLS: Final = 30


class _Numbered(msgspec.Struct, rename={"row": ROW}):
    row: int | None = None


def next_row(broker: Broker, topics: Topics) -> int:
    """One more than the highest `@row` near the end of the features topic; 0 in an empty one.

    Two producers that number one stream at the same time would give numbers twice: there is one.
    Raises BrokerError, DataError where the topic ends in records without numbers.
    """
    admin = broker.admin()
    ends: dict[TopicPartition, int] = {}
    starts: dict[TopicPartition, int] = {}
    try:
        for partition, found in admin.offsets(topics.features).items():
            if found.end > found.start:
                ends[partition] = found.end
                starts[partition] = max(found.start, found.end - _TAIL_OFFSETS)
    finally:
        admin.close()
    if not ends:
        return 0
    highest = _highest(broker, starts, ends)
    if highest is None:
        raise DataError(
            f"{topics.features} ends in records without {ROW!r}",
            hint="their producer does not number them; this stream file needs numbers",
        )
    return highest + 1


def _highest(
    broker: Broker, starts: dict[TopicPartition, int], ends: dict[TopicPartition, int]
) -> int | None:
    decode = msgspec.json.Decoder(_Numbered).decode
    highest: int | None = None
    empty = 0
    consumer = broker.consumer()
    try:
        consumer.assign(starts)
        while any(consumer.position(partition) < end for partition, end in ends.items()):
            messages = consumer.poll(max_records=1000, timeout_s=_POLL_S)
            empty = 0 if messages else empty + 1
            if empty > _MAX_EMPTY_POLLS:
                raise BrokerUnavailable(
                    f"the end of {next(iter(ends)).topic} could not be read "
                    f"within {_MAX_EMPTY_POLLS * _POLL_S:g} s"
                )
            for message in messages:
                try:
                    row = decode(message.value or b"{}").row
                except (msgspec.DecodeError, RecursionError):
                    continue  # a record that inference dead-letters; it took no number
                if row is not None:
                    highest = row if highest is None else max(highest, row)
    finally:
        consumer.close()
    return highest
