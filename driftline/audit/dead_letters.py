"""List dead letters and their reasons, and send them again once the cause is fixed.

Input: the topic of dead letters. Output: groups by reason, and single letters. `replay` sends the
original bytes to the topic and partition that they came from. Nothing is deleted.
"""

from collections.abc import Iterator

import msgspec

from driftline.broker.port import Broker, Message, OffsetRange, Outgoing, TopicPartition
from driftline.broker.scan import Progress, ranges, scan
from driftline.config.stream import Stream
from driftline.wire.column_decoders import id_reader
from driftline.wire.envelope import DeadLetterOrigin, dead_letter_origin
from driftline.wire.topics import Topics

# Header of a record that was sent again. Its value is the place of the dead letter,
# `PARTITION@OFFSET`.
REPLAYED = "driftline_replayed"
# Limit the number of groups, because reasons can contain values of records.
MAX_GROUPS = 1000
OTHER_REASONS = "(other reasons)"


class Letter(msgspec.Struct, frozen=True):
    """One dead letter: its place and publish time, the origin of the record, and the record."""

    partition: int
    offset: int
    timestamp_ms: int
    origin: DeadLetterOrigin
    id: str | None  # id of the record, if it is readable
    message: Message

    @property
    def place(self) -> str:
        """Return `PARTITION@OFFSET` in the topic of dead letters."""
        return f"{self.partition}@{self.offset}"


class DeadLetterGroup(msgspec.Struct):
    """The dead letters with one service, source topic and reason.

    `newest_ms` and `newest` are the publish time and the place of the newest one.
    """

    service: str
    topic: str
    reason: str
    count: int = 0
    newest_ms: int = 0
    newest: str = ""


class Replay(msgspec.Struct, frozen=True):
    """The numbers of dead letters that `replay` sent or skipped."""

    sent: int  # letters that were sent, or with `dry_run` would have been sent
    again: int  # letters that were skipped because an earlier replay sent them
    other: int  # letters that were skipped because they are neither records nor labels


def letters(
    broker: Broker, stream: Stream, *, reason: str = "", progress: Progress | None = None
) -> Iterator[Letter]:
    """Return all dead letters whose reason contains `reason`, in the order of each partition.

    Raises DataError for a message that Driftline did not write, BrokerError.
    """
    topics = Topics(stream)
    read_id = id_reader(stream.record.id)
    for messages in scan(broker, ranges(broker, [topics.deadletters]), progress=progress):
        for message in messages:
            origin = dead_letter_origin(message)
            if reason not in origin.reason:
                continue
            yield Letter(
                partition=message.partition,
                offset=message.offset,
                timestamp_ms=message.timestamp_ms,
                origin=origin,
                id=read_id(message.value),
                message=message,
            )


def groups(broker: Broker, stream: Stream, *, reason: str = "") -> list[DeadLetterGroup]:
    """Count the dead letters by service, source topic and reason, most frequent first.

    Reasons beyond the first `MAX_GROUPS` groups are counted as `(other reasons)`. Raises DataError,
    BrokerError.
    """
    found: dict[tuple[str, str, str], DeadLetterGroup] = {}
    for letter in letters(broker, stream, reason=reason):
        origin = letter.origin
        key = (origin.service, origin.topic, origin.reason)
        if key not in found and len(found) >= MAX_GROUPS:
            key = (origin.service, origin.topic, OTHER_REASONS)
        group = found.setdefault(key, DeadLetterGroup(*key))
        group.count += 1
        if letter.timestamp_ms >= group.newest_ms:
            group.newest_ms, group.newest = letter.timestamp_ms, letter.place
    return sorted(found.values(), key=lambda group: (-group.count, group.reason))


def find(broker: Broker, stream: Stream, name: str) -> list[Letter]:
    """Return the dead letters with this record id, or the one at `PARTITION@OFFSET`.

    Raises DataError, BrokerError.
    """
    return [
        letter
        for letter in letters(broker, stream)
        if name == letter.place or (letter.id is not None and name == letter.id)
    ]


def replay(
    broker: Broker,
    stream: Stream,
    *,
    reason: str = "",
    dry_run: bool = False,
    again: bool = False,
    progress: Progress | None = None,
) -> Replay:
    """Send the original records of dead letters again, to their own topic and partition.

    Only dead letters of records and labels whose reason contains `reason` are sent. Those that were
    sent before are skipped, unless `again` is set. With `dry_run` nothing is sent, only counted.

    A record keeps the headers of its producer and gets the header `driftline_replayed`. It is
    appended to its partition as a new record, which reconciliation counts as replayed, not as a
    duplicate. Raises DataError, BrokerError (MessageTooLarge, DeliveryFailed).
    """
    topics = Topics(stream)
    targets = (topics.features, topics.labels)
    done = set() if again else _replayed(broker, stream, targets)
    sent = left_out = other = 0
    producer = broker.producer(client_id="driftline-replay")
    try:
        for letter in letters(broker, stream, reason=reason, progress=progress):
            if letter.origin.topic not in targets:
                other += 1
            elif letter.place in done:
                left_out += 1
            else:
                sent += 1
                if not dry_run:
                    producer.send(_original(letter))
        producer.flush()
    finally:
        producer.close()
    return Replay(sent=sent, again=left_out, other=other)


def _original(letter: Letter) -> Outgoing:
    message = letter.message
    # Drop the headers about failures. The dead letter keeps them, and the new header names it.
    kept = tuple(header for header in message.headers if not header[0].startswith("driftline_"))
    return Outgoing(
        topic=letter.origin.topic,
        key=message.key,
        value=message.value,
        partition=letter.origin.partition,
        headers=(*kept, (REPLAYED, letter.place.encode())),
    )


def _replayed(broker: Broker, stream: Stream, targets: tuple[str, ...]) -> set[str]:
    """Return the places (`PARTITION@OFFSET`) of the dead letters that were sent before.

    A replayed record has a larger offset than its original. So each partition is read only from
    the earliest original on.
    """
    first: dict[TopicPartition, int] = {}
    for letter in letters(broker, stream):
        origin = letter.origin
        partition = TopicPartition(origin.topic, origin.partition)
        first[partition] = min(origin.offset, first.get(partition, origin.offset))
    span = {
        partition: OffsetRange(max(first[partition], offsets.start), offsets.end)
        for partition, offsets in ranges(broker, targets).items()
        if partition in first
    }
    return {
        value.decode()
        for messages in scan(broker, span)
        for message in messages
        for name, value in message.headers
        if name == REPLAYED
    }
