"""Determine a stream's next record number (`@row`) from its Kafka topics.

Input: the newest records of the features topic and, if records were deleted from that topic, also
of the predictions and windows topics. Output: a number above the plausible numbers of all earlier
records.
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

# Number of offsets to read at the end of each partition. These usually include a numbered record,
# even among transaction markers and other programs' records without numbers. If no such record
# is found, ten times as many earlier offsets are read, and so on.
_TAIL_OFFSETS: Final = 100
_GIVE_IT: Final = (
    "set the first number: `driftline produce --first-row N`, or FeatureProducer's `first_row=N`"
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

    Returns 0 if no record has been sent yet. A number is plausible if inference accepts it and a
    `PartitionClock` that takes the numbers in ascending order accepts it too. Without this rule, a
    single record with a huge number from another program could use up all numbers.

    If retention has deleted all records of a partition, the result also exceeds the highest number
    in `predictions` and `windows`. One further number is then skipped for each record after the
    partition's newest prediction, because these records' numbers are unknown. Run only one producer
    for a numbered stream, because concurrent producers would use the same numbers.

    Raises BrokerError. Raises DataError if the numbers of earlier records cannot be determined, or
    if no number is left.
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
                f"{topics.windows} contains their numbers ({ROW})",
                hint=_GIVE_IT,
            )
        highest += unknown
    elif highest < 0:
        raise DataError(
            f"{topics.features} ends in records without {ROW!r}",
            hint="the stream file requires numbered records, but their producer does not number "
            "them",
        )
    if highest >= MAX_ROW:
        raise DataError(
            f"the numbers ({ROW}) of {topics.features} are used up: it ends with {MAX_ROW}, the "
            "largest number that inference accepts",
            hint="most likely another program sent the last records: delete them, or the topic",
        )
    return highest + 1


def highest_plausible(rows: Iterable[int], max_ahead: int) -> int:
    """Return the highest number that a `PartitionClock` accepts when given the sorted numbers.

    `rows` may be unsorted.

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
    """Return the highest number in predictions and windows, and the count of unknown numbers.

    The highest number is -1 if no number was found. `deleted` contains the partitions of the
    features topic whose records have been deleted, with their end offsets. In these partitions,
    the numbers of the records after the newest prediction are unknown.
    """
    try:
        spans = ranges(broker, [topics.predictions, topics.windows])
        tails = _tails(broker, spans, _published_of)
    except BrokerUnavailable:
        raise
    except BrokerError as error:  # a topic is missing, or this principal may not read it
        log.warning(
            "%s: ignoring the numbers of deleted records, because %s or %s cannot be read: %s",
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
            # An offset beyond `end` comes from an earlier features topic with the same name.
            unknown += end - max(after) if max(after) <= end else end
        # An end offset of 0 means that no prediction was ever published, so all records are
        # counted. A higher end offset means that the predictions have been deleted as well.
        elif place not in spans or not spans[place].end:
            unknown += end
    rows = [event.row for tail in tails.values() for event in tail if event.row is not None]
    return max(rows, default=-1), unknown


def _tails(
    broker: Broker,
    spans: Mapping[TopicPartition, OffsetRange],
    read: Callable[[bytes], T | None],
) -> dict[TopicPartition, list[T]]:
    """Apply `read` to each partition's newest records, and return all results except None."""
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
        return None  # inference dead-letters such a record, so it uses no number


def _published_of(value: bytes) -> _Published | None:
    try:
        event = msgspec.json.decode(value, type=_Published)
    except DECODE_ERRORS:
        return None
    return None if event.row is None or event.ahead else event
