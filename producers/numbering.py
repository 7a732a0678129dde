"""Find the number (`@row`) with which a stream's features topic continues.

In: the end of the features topic. If records were deleted there, also the ends of `predictions` and
`windows`. Out: a number above those of all earlier records.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Final, TypeVar

import msgspec

from driftline.broker.port import Broker, OffsetRange, TopicPartition
from driftline.broker.scan import ranges, scan
from driftline.config.stream import Stream
from driftline.config.stream_sections import ROW
from driftline.errors import BrokerError, BrokerUnavailable, DataError
from driftline.runtime.partition_clock import MAX_AHEAD_ROWS, PartitionClock
from driftline.wire.column_decoders import DECODE_ERRORS
from driftline.wire.events import MAX_ROW, RowNumber, Source
from driftline.wire.topics import Topics

log = logging.getLogger(__name__)

# Offsets to read at the end of each partition: enough to include a numbered record despite
# transaction markers and other programs' records without numbers, and few enough to read at once.
# If they include none, ten times as many are read before them, and so on.
_TAIL_OFFSETS: Final = 100
_GIVE_IT: Final = (
    "give the first number: `driftline produce --first-row N`, or `first_row=N` of FeatureProducer"
)

T = TypeVar("T")


class _Record(msgspec.Struct, rename={"row": ROW}):
    row: RowNumber | None = None


class _Published(msgspec.Struct):
    """The fields of a prediction or a window that this module needs."""

    row: RowNumber | None = None
    source: Source | None = None
    ahead: bool = False


def next_row(broker: Broker, stream: Stream) -> int:
    """Return one more than the highest plausible `@row` of the records sent so far.

    Returns 0 if there was no record yet. A number counts only if inference accepts it and if it is
    not too far above the next lower ones; a `PartitionClock` decides that. So a single record of
    another program with a huge number does not use up the numbers. If retention has emptied a
    partition, the result is above the numbers of its newest prediction and of the windows. It
    leaves room for the records after that prediction. Run only one producer for a numbered stream,
    because two at the same time would use the same numbers.

    Raises BrokerError, and DataError if the numbers of earlier records cannot be found, or if no
    number is left.
    """
    topics = Topics(stream)
    spans = ranges(broker, [topics.features])
    tails = _tails(broker, spans, _row_of)
    rows = [row for tail in tails.values() for row in tail]
    max_ahead = stream.max_ahead if stream.axis == "row" else MAX_AHEAD_ROWS
    highest = highest_plausible(rows, max_ahead) if rows else -1
    deleted = {
        partition.partition: span.end
        for partition, span in spans.items()
        if span.start and not tails[partition]
    }
    if deleted or not any(span.end for span in spans.values()):
        published, unknown = _published(broker, topics, deleted)
        highest = max(highest, published)
        if deleted and highest < 0:
            raise DataError(
                f"records of {topics.features} were deleted, and neither {topics.predictions} nor "
                f"{topics.windows} has their numbers ({ROW})",
                hint=_GIVE_IT,
            )
        highest += unknown
    elif highest < 0:
        raise DataError(
            f"{topics.features} ends in records without {ROW!r}",
            hint="their producer does not number them; this stream file needs numbers",
        )
    if highest >= MAX_ROW:
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
    return ordered[0] if clock.max_position is None else clock.max_position


def _published(broker: Broker, topics: Topics, deleted: Mapping[int, int]) -> tuple[int, int]:
    """Return the highest number in predictions and windows, and the number of unknown records.

    The highest number is -1 if there is none. `deleted` maps partitions of the features topic
    without readable records to their end. Records after their newest prediction are unknown.
    """
    try:
        spans = ranges(broker, [topics.predictions, topics.windows])
        tails = _tails(broker, spans, _published_of)
    except BrokerUnavailable:
        raise
    except BrokerError as error:  # the topic is missing, or this user may not read it
        log.warning(
            "%s: the numbers of deleted records are not taken into account, because %s or %s "
            "cannot be read: %s",
            topics.features,
            topics.predictions,
            topics.windows,
            error.message,
        )
        return -1, 0
    unknown = 0
    for partition, end in deleted.items():
        place = TopicPartition(topics.predictions, partition)
        after = [event.source.offset + 1 for event in tails.get(place, ()) if event.source]
        if after:
            # A prediction beyond the end is of an earlier topic with the same name.
            unknown += end - max(after) if max(after) <= end else end
        # If the partition has an end, it had predictions, which have expired, too.
        elif place not in spans or not spans[place].end:
            unknown += end
    rows = [event.row for tail in tails.values() for event in tail if event.row is not None]
    return max(rows, default=-1), unknown


def _tails(
    broker: Broker,
    spans: Mapping[TopicPartition, OffsetRange],
    read: Callable[[bytes], T | None],
) -> dict[TopicPartition, list[T]]:
    """Return what `read` finds at the end of each partition; skip records where it is None."""
    found: dict[TopicPartition, list[T]] = {partition: [] for partition in spans}
    length = _TAIL_OFFSETS
    todo = dict(spans)
    while todo:
        tail = {
            p: OffsetRange(max(span.start, span.end - length), span.end) for p, span in todo.items()
        }
        for messages in scan(broker, tail):
            for message in messages:
                if (value := read(message.value or b"{}")) is not None:
                    found[TopicPartition(message.topic, message.partition)].append(value)
        todo = {
            p: OffsetRange(span.start, tail[p].start)
            for p, span in todo.items()
            if not found[p] and tail[p].start > span.start
        }
        length *= 10
    return found


def _row_of(value: bytes) -> int | None:
    try:
        return msgspec.json.decode(value, type=_Record).row
    except DECODE_ERRORS:
        return None  # inference dead-letters such a record, so it has used no number


def _published_of(value: bytes) -> _Published | None:
    try:
        event = msgspec.json.decode(value, type=_Published)
    except DECODE_ERRORS:
        return None
    return None if event.row is None or event.ahead else event
