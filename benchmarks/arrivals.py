"""Count the records that a measured program has written to Kafka, and read their values.

Throughput is measured from end offsets. Requesting end offsets costs the broker next to nothing,
whereas a consumer would compete with the measured program for CPU time. Only committed records
are counted.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import confluent_kafka as ck
import msgspec

from benchmarks.process import BenchmarkError, MeasuredProcess
from benchmarks.world import World

SAMPLE_S = 0.02
_PATIENCE_S = 30.0


class Observation(msgspec.Struct, frozen=True):
    """A sample: the monotonic time, the number of records that have arrived, and the measured
    program's CPU time and memory."""

    at_s: float
    records: int
    cpu_s: float
    memory_bytes: int


def retried(ask: Callable[[], Any]) -> Any:
    """Call `ask`, and retry as long as the broker returns an error.

    On a busy machine, a request may report that a new topic has no leader, even if an earlier
    request found one. Raises BenchmarkError if the errors persist for 30 s.
    """
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return ask()
        except ck.KafkaException as error:
            if time.monotonic() > deadline:
                raise BenchmarkError(f"Kafka keeps returning an error: {error}") from error
            time.sleep(0.1)


class Ends:
    """A topic's end offsets, summed over its partitions."""

    def __init__(self, world: World, topic: str, partitions: int) -> None:
        self._consumer = reader(world)
        self._partitions = [ck.TopicPartition(topic, number) for number in range(partitions)]

    def total(self) -> int:
        """Return the number of committed records. Transaction markers are counted as records."""
        return sum(
            retried(partial(self._consumer.get_watermark_offsets, partition, 10))[1]
            for partition in self._partitions
        )

    def close(self) -> None:
        self._consumer.close()


class GroupOffsets:
    """A consumer group's committed offsets in one topic, summed over the topic's partitions.

    The offsets are requested with the group's id, but without joining the group.
    """

    def __init__(self, world: World, group: str, topic: str, partitions: int) -> None:
        self._consumer = reader(world, group)
        self._partitions = [ck.TopicPartition(topic, number) for number in range(partitions)]

    def total(self) -> int:
        """Return the sum of the committed offsets. A partition without a commit adds 0."""
        found = retried(lambda: self._consumer.committed(self._partitions, 10))
        return sum(max(0, partition.offset) for partition in found)

    def close(self) -> None:
        self._consumer.close()


def reader(world: World, group: str = "benchmark") -> Any:
    """Return a consumer that reads only committed records and is not subscribed to any topic."""
    return ck.Consumer(
        {
            "bootstrap.servers": world.bootstrap,
            "group.id": group,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "fetch.queue.backoff.ms": 5,
        }
    )


def watch(
    progress: Callable[[], int],
    program: MeasuredProcess,
    expected: int,
    *,
    settled_s: float = 1.0,
    stalled_s: float = 60.0,
) -> list[Observation]:
    """Take samples until `expected` records have arrived and the count stops increasing.

    The count must stay the same for `settled_s` seconds. Raises BenchmarkError if the program
    exits, or if records are missing and none has arrived for `stalled_s` seconds.
    """
    samples = [_sample(progress, program)]
    moved_s = samples[0].at_s
    while True:
        now = _sample(progress, program)
        if now.records > samples[-1].records:
            moved_s = now.at_s
        samples.append(now)
        if now.records >= expected and now.at_s - moved_s > settled_s:
            return samples
        if now.at_s - moved_s > stalled_s:
            raise BenchmarkError(
                f"{program.name}: {now.records:,} of {expected:,} records arrived; none in "
                f"the last {stalled_s:.0f} s:\n{program.log_end()}"
            )
        program.check()
        time.sleep(SAMPLE_S)


def _sample(progress: Callable[[], int], program: MeasuredProcess) -> Observation:
    return Observation(time.monotonic(), progress(), program.cpu_s(), program.memory_bytes())


def values(world: World, topic: str, partitions: int) -> Iterator[bytes]:
    """Yield the values of all committed records in a topic, up to its current end."""
    consumer = reader(world)
    ends = {
        number: retried(
            partial(consumer.get_watermark_offsets, ck.TopicPartition(topic, number), 10)
        )[1]
        for number in range(partitions)
    }
    consumer.assign([ck.TopicPartition(topic, number, 0) for number in ends])
    try:
        while any(
            position.offset < ends[position.partition]
            for position in consumer.position([ck.TopicPartition(topic, n) for n in ends])
            if ends[position.partition]
        ):
            for message in consumer.consume(10_000, 0.2):
                if message.error() is not None:
                    raise BenchmarkError(f"{topic}: {message.error()}")
                yield message.value()
    finally:
        consumer.close()
