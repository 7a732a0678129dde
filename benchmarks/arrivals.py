"""Observe from outside what arrived in a topic, by its end offsets or with a consumer.

Throughput is measured by end offsets, because a request for them costs the broker next to nothing,
whereas a consumer would compete with the measured program for the machine. Only committed records
count.
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
    """One observation: time on a monotonic clock, records that have arrived, and the program's CPU
    time and memory."""

    at_s: float
    records: int
    cpu_s: float
    memory_bytes: int


def retried(ask: Callable[[], Any]) -> Any:
    """Call `ask`, and try again while the broker returns an error.

    On a busy machine, a request may find no leader for a new topic although an earlier request
    found one. Raises BenchmarkError after 30 s.
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
    """The end offsets of a topic, summed over its partitions."""

    def __init__(self, world: World, topic: str, partitions: int) -> None:
        self._consumer = reader(world)
        self._partitions = [ck.TopicPartition(topic, number) for number in range(partitions)]

    def total(self) -> int:
        """Return the number of committed records. Markers of transactions count as records."""
        return sum(
            retried(partial(self._consumer.get_watermark_offsets, partition, 10))[1]
            for partition in self._partitions
        )

    def close(self) -> None:
        self._consumer.close()


class GroupOffsets:
    """The committed offsets of a consumer group in a topic, summed over the topic's partitions.

    The offsets are requested under the group's id, without joining the group.
    """

    def __init__(self, world: World, group: str, topic: str, partitions: int) -> None:
        self._consumer = reader(world, group)
        self._partitions = [ck.TopicPartition(topic, number) for number in range(partitions)]

    def total(self) -> int:
        """Return the sum of the committed offsets; a partition without one counts as 0."""
        found = retried(lambda: self._consumer.committed(self._partitions, 10))
        return sum(max(0, partition.offset) for partition in found)

    def close(self) -> None:
        self._consumer.close()


def reader(world: World, group: str = "benchmark") -> Any:
    """Return a consumer that reads only committed records and does not subscribe to a topic."""
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
    """Sample until `expected` records have arrived and no more arrive for `settled_s`.

    Raises BenchmarkError if the program ends, or if no record arrives for `stalled_s`.
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
                f"{program.name}: {now.records:,} of {expected:,} records, and nothing new for "
                f"{stalled_s:.0f} s:\n{program.log_end()}"
            )
        program.check()
        time.sleep(SAMPLE_S)


def _sample(progress: Callable[[], int], program: MeasuredProcess) -> Observation:
    return Observation(time.monotonic(), progress(), program.cpu_s(), program.memory_bytes())


def values(world: World, topic: str, partitions: int) -> Iterator[bytes]:
    """Yield the values of all committed records of a topic, up to its current end."""
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
