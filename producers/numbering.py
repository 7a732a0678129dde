"""Find the number (`@row`) with which a stream's features topic continues."""

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from driftline.broker.port import Broker, TopicPartition
from driftline.codec.schema import DECODE_ERRORS
from driftline.errors import BrokerUnavailable, DataError
from driftline.events import MAX_ROW, RowNumber
from driftline.partition_clock import MAX_AHEAD_ROWS, PartitionClock
from driftline.stream import ROW, Stream
from driftline.topics import Topics

# Offsets to read at the end of each partition: enough to include a numbered record despite
# transaction markers and other programs' records without numbers, and few enough to read at once.
_TAIL_OFFSETS: Final = 100
_POLL_S: Final = 1.0
_MAX_EMPTY_POLLS: Final = 30


class _Numbered(msgspec.Struct, rename={"row": ROW}):
    row: RowNumber | None = None


def next_row(broker: Broker, stream: Stream) -> int:
    """Return one more than the highest plausible `@row` near the end of the features topic.

    Returns 0 if the topic is empty. A number counts only if inference accepts it and if it is not
    too far above the next lower ones; a `PartitionClock` decides that. So a single record of
    another program with a huge number does not use up the numbers. Run only one producer for a
    numbered stream, because two at the same time would use the same numbers.

    Raises BrokerError, and DataError if the last records have no numbers or no number is left.
    """
    topics = Topics(stream)
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
    rows = _rows(broker, starts, ends)
    if not rows:
        raise DataError(
            f"{topics.features} ends in records without {ROW!r}",
            hint="their producer does not number them; this stream file needs numbers",
        )
    max_ahead = stream.max_ahead if stream.axis == "row" else MAX_AHEAD_ROWS
    highest = highest_plausible(rows, max_ahead)
    if highest == MAX_ROW:
        raise DataError(
            f"the numbers ({ROW}) of {topics.features} are used up: it ends with {MAX_ROW}, the "
            "largest that inference accepts",
            hint="most likely they are another program's records: delete them, or the topic",
        )
    return highest + 1


def highest_plausible(rows: Iterable[int], max_ahead: int) -> int:
    """Return the highest number that is not too far above the others. `rows` may be unsorted.

    >>> highest_plausible([7, 3, 5, 9_999], max_ahead=100)
    7
    >>> highest_plausible([1, *range(5_000, 5_010)], max_ahead=100)
    5009
    """
    clock = PartitionClock(max_ahead)
    ordered = sorted(set(rows))
    clock.take(ordered)
    return ordered[0] if clock.reached is None else clock.reached


def _rows(
    broker: Broker, starts: Mapping[TopicPartition, int], ends: Mapping[TopicPartition, int]
) -> list[int]:
    """Return the numbers of the records from `starts` to `ends`; skip records without one."""
    decode = msgspec.json.Decoder(_Numbered).decode
    rows: list[int] = []
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
                except DECODE_ERRORS:
                    continue  # inference dead-letters such a record, so it has used no number
                if row is not None:
                    rows.append(row)
    finally:
        consumer.close()
    return rows
