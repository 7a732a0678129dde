"""List dead letters from the `deadletters` topic, and resend their records after a fix.

Input: the `deadletters` topic. Output: single dead letters, or groups of dead letters with the same
reason. `replay` sends each record's original bytes to its original topic and partition. Nothing is
deleted.
"""

import logging
from collections.abc import Iterator

import msgspec

from driftline.broker.port import Broker, Message, OffsetRange, Outgoing, TopicPartition
from driftline.broker.scan import Progress, ranges, scan
from driftline.config.stream import Stream
from driftline.errors import DataError, MessageTooLarge
from driftline.logs import alike
from driftline.wire.column_decoders import id_reader
from driftline.wire.envelope import DeadLetterOrigin, dead_letter_origin
from driftline.wire.topics import Topics

log = logging.getLogger(__name__)

# Header that marks a replayed record. Its value is the dead letter's location, `PARTITION@OFFSET`.
REPLAYED = "driftline_replayed"
# Reasons can quote values from records, so without a limit there could be a group per dead letter.
MAX_GROUPS = 1000
OTHER_REASONS = "(other reasons)"


class Letter(msgspec.Struct, frozen=True):
    """A dead letter: its location and publish time, the rejected record and the record's origin."""

    partition: int
    offset: int
    timestamp_ms: int
    origin: DeadLetterOrigin
    id: str | None  # id of the rejected record; None if the record is unreadable
    message: Message

    @property
    def place(self) -> str:
        """Return the dead letter's location in the `deadletters` topic, as `PARTITION@OFFSET`."""
        return f"{self.partition}@{self.offset}"


class DeadLetterGroup(msgspec.Struct):
    """The dead letters that share a service, a source topic and a reason.

    `newest_ms` and `newest` are the newest dead letter's publish time and location.
    """

    service: str
    topic: str
    reason: str
    count: int = 0
    newest_ms: int = 0
    newest: str = ""


class Replay(msgspec.Struct, frozen=True):
    """The numbers of dead letters that `replay` sent and skipped."""

    sent: int  # dead letters sent; with `dry_run`, dead letters that a real run would send
    again: int  # dead letters skipped because an earlier replay has resent them
    other: int  # dead letters skipped because they contain neither feature records nor labels
    too_large: int  # skipped because the record is not in the dead letter, or too large to send


def letters(
    broker: Broker, stream: Stream, *, reason: str = "", progress: Progress | None = None
) -> Iterator[Letter]:
    """Yield the dead letters whose reason contains `reason`, in offset order per partition.

    A message that Driftline did not write is skipped with a warning. Raises BrokerError.
    """
    topics = Topics(stream)
    read_id = id_reader(stream.record.id)
    for messages in scan(broker, ranges(broker, [topics.deadletters]), progress=progress):
        for message in messages:
            try:
                origin = dead_letter_origin(message)
            except DataError as error:
                log.warning(
                    "skipping a foreign record: %s", error.message, extra=alike(topics.deadletters)
                )
                continue
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

    Once there are `MAX_GROUPS` groups, new reasons are counted as `(other reasons)`. Raises
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
    """Return the dead letters whose record id or location (`PARTITION@OFFSET`) is `name`.

    Raises BrokerError.
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
    """Resend the records of dead letters to their original topics and partitions.

    Only feature records and labels whose rejection reason contains `reason` are sent. Dead letters
    that an earlier replay has already resent are skipped unless `again` is set. With `dry_run`,
    nothing is sent.

    A resent record keeps its producer's headers and gets the header `driftline_replayed`. It is
    appended to its partition as a new record. Reconciliation counts it as a replayed record, not as
    a duplicate.
    Raises BrokerError (DeliveryFailed).
    """
    topics = Topics(stream)
    targets = (topics.features, topics.labels)
    done = set() if again else _replayed(broker, stream, targets)
    sent = left_out = other = too_large = 0
    producer = broker.producer(client_id="driftline-replay")
    try:
        for letter in letters(broker, stream, reason=reason, progress=progress):
            if letter.origin.topic not in targets:
                other += 1
            elif letter.place in done:
                left_out += 1
            elif letter.origin.value_bytes is not None:
                too_large += 1
            else:
                try:
                    if not dry_run:
                        producer.send(_original(letter))
                    sent += 1
                except MessageTooLarge as error:
                    log.warning("cannot resend %s: %s", letter.place, error.message)
                    too_large += 1
        producer.flush()
    finally:
        producer.close()
    return Replay(sent=sent, again=left_out, other=other, too_large=too_large)


def _original(letter: Letter) -> Outgoing:
    message = letter.message
    # Drop the failure headers. They remain in the dead letter that the new header points to.
    kept = tuple(header for header in message.headers if not header[0].startswith("driftline_"))
    return Outgoing(
        topic=letter.origin.topic,
        key=message.key,
        value=message.value,
        partition=letter.origin.partition,
        headers=(*kept, (REPLAYED, letter.place.encode())),
    )


def _replayed(broker: Broker, stream: Stream, targets: tuple[str, ...]) -> set[str]:
    """Return the locations (`PARTITION@OFFSET`) of the dead letters that were already resent.

    A replayed record has a larger offset than the original, so each partition is read from the
    offset of its earliest rejected record onwards.
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
