"""Read topics from a broker once, from their start to the end they had when the scan began.

Input: a broker and partitions' offset ranges. Output: batches of messages, loaded one at a time. A
scan joins no consumer group and commits nothing, so it does not affect services.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping

from driftline.broker.port import Broker, Message, OffsetRange, TopicPartition
from driftline.errors import BrokerUnavailable
from driftline.interrupts import check

# Large batches need fewer calls. With 1 kB records, a batch takes 5 MB.
_BATCH_RECORDS = 5000
_POLL_S = 0.2
# The scan fails if unread records remain but none arrives for this long.
_PATIENCE_S = 30.0

Progress = Callable[[int], None]


def ranges(broker: Broker, topics: Iterable[str]) -> dict[TopicPartition, OffsetRange]:
    """Return the currently readable offset range of each partition in these topics.

    Raises BrokerError, including for an unknown topic.
    """
    admin = broker.admin()
    try:
        return {
            partition: offsets
            for topic in topics
            for partition, offsets in admin.offsets(topic).items()
        }
    finally:
        admin.close()


def size(span: Mapping[TopicPartition, OffsetRange]) -> int:
    """Return the number of offsets in these ranges, including those of transaction markers."""
    return sum(offsets.end - offsets.start for offsets in span.values())


def scan(
    broker: Broker,
    span: Mapping[TopicPartition, OffsetRange],
    *,
    progress: Progress | None = None,
) -> Iterator[list[Message]]:
    """Yield all messages in these ranges, in batches. Each partition's messages stay in order.

    `progress` is called with the number of offsets read since its last call. Raises BrokerError,
    and BrokerUnavailable if no record arrives for 30 s.

    >>> from driftline.broker.memory import MemoryBroker
    >>> from driftline.broker.port import NewTopic, Outgoing
    >>> broker = MemoryBroker()
    >>> broker.admin().create([NewTopic("words", 2)])
    >>> broker.producer().send(Outgoing("words", b"hello", partition=1))
    >>> [m.value for batch in scan(broker, ranges(broker, ["words"])) for m in batch]
    [b'hello']
    """
    todo = {
        partition: offsets.start
        for partition, offsets in span.items()
        if offsets.start < offsets.end
    }
    if not todo:
        return
    consumer = broker.consumer(client_id="driftline-scan")
    try:
        consumer.assign(todo)
        last_move_s = time.monotonic()
        while todo:
            check()
            messages = consumer.poll(max_records=_BATCH_RECORDS, timeout_s=_POLL_S)
            inside = [
                m for m in messages if m.offset < span[TopicPartition(m.topic, m.partition)].end
            ]
            if inside:
                yield inside
            passed, done = 0, []
            for partition, before in todo.items():
                position = min(consumer.position(partition), span[partition].end)
                passed += position - before
                todo[partition] = position
                if position >= span[partition].end:
                    done.append(partition)
            for partition in done:
                del todo[partition]
            if done:
                consumer.pause(done)
            if passed:
                last_move_s = time.monotonic()
                if progress is not None:
                    progress(passed)
            elif time.monotonic() - last_move_s > _PATIENCE_S:
                partition, position = next(iter(todo.items()))
                raise _stalled(partition, position, span[partition].end)
    finally:
        consumer.close()


def _stalled(partition: TopicPartition, position: int, end: int) -> BrokerUnavailable:
    return BrokerUnavailable(
        f"{partition.topic}[{partition.partition}]: no record arrived for {_PATIENCE_S:g} s "
        f"at offset {position} of {end}",
        hint="check the broker's log, then try again",
    )
