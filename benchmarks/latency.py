"""Measure the time from sending a record to receiving its result, for Driftline and its peers.

A producer in a separate process sends records to Kafka at a steady rate (`linger.ms` 0), and stores
each record's send time. A consumer in this process stores each prediction's arrival time. Both
processes use the machine's monotonic clock. The time until the broker acknowledges a record is also
measured.
"""

import re
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import confluent_kafka as ck
import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.arrivals import reader
from benchmarks.contestants import Contestant, Course, Peers, RunningProgram, start
from benchmarks.data import Plan
from benchmarks.process import BenchmarkError
from benchmarks.report import Report
from benchmarks.world import World

# Right after the broker starts, a request can take seconds; later it takes about a millisecond.
BROKER_WARM_UP_S = 15
# Records sent in the first `WARM_UP_S` seconds are not counted, because connections and caches are
# still being set up.
WARM_UP_S = 3
_READY_S = 60.0
_LATE_S = 15.0  # `Paced.read` stops if no prediction arrives for this long
_NUMBER = re.compile(rb'"r-(\d{9})"')


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """The latencies measured in one run of one program."""

    name: str
    features: int
    round: int
    per_s: int
    records: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    acknowledged_p50_ms: float  # median time from sending a record to its acknowledgement
    acknowledged_p99_ms: float


class PacedTimes(msgspec.Struct, frozen=True):
    """The times of all records sent by `Paced`, in sending order, as arrays of shape (n,).

    acknowledged_ms: time from sending the record until its acknowledgement, float64.
    latency_ms: time from sending the record until its first result arrived, float64.
    came_ns: monotonic time at which the record's first result arrived, int64.
    """

    acknowledged_ms: NDArray[np.float64]
    latency_ms: NDArray[np.float64]
    came_ns: NDArray[np.int64]


class Paced:
    """A producer that sends records at a steady rate, and a consumer that receives the results."""

    def __init__(
        self,
        world: World,
        plan: Plan,
        source: str,
        sink: str,
        *,
        first: int,
        count: int,
        per_s: int,
    ) -> None:
        self._first, self._count = first, count
        self._consumer = reader(world)
        self._consumer.assign(
            [ck.TopicPartition(sink, n, ck.OFFSET_END) for n in range(plan.partitions)]
        )
        self._consumer.poll(1.0)  # seek to the topic's end before any record is sent
        self._out = world.folder / "paced.npy"
        self._out.unlink(missing_ok=True)
        numbers = (plan.features, plan.rule, first, count, per_s)
        command = [sys.executable, "-m", "benchmarks.pacer", world.bootstrap, source]
        self._pacer = world.start("pacer", [*command, *map(str, numbers), str(self._out)])
        self.arrived: list[tuple[int, bytes]] = []

    def read(self) -> Iterator[tuple[int, bytes]]:
        """Yield pairs of a prediction's arrival time in ns and its value.

        Stops when all predictions have arrived, or when none arrives for 15 s (60 s for the first).
        """
        until_s = time.monotonic() + _READY_S
        while len(self.arrived) < self._count and time.monotonic() < until_s:
            message = self._consumer.poll(0.05)
            if message is not None and message.error() is None:
                now_ns = time.monotonic_ns()
                value = message.value()
                if (number := number_of(value)) is not None and number >= self._first:
                    until_s = time.monotonic() + _LATE_S
                    self.arrived.append((now_ns, value))
                    yield now_ns, value

    def stop(self) -> None:
        """Stop sending. `read` still yields the results of records that were already sent."""
        self._pacer.stop()
        self._count = np.load(self._out).shape[1]

    def times(self) -> PacedTimes:
        """Return the times of all records. Call this method once `read` has finished.

        Raises BenchmarkError if a result is missing.
        """
        self.close()
        sent, acknowledged = np.load(self._out)
        came = np.zeros(len(sent), dtype=np.int64)
        for at_ns, value in reversed(self.arrived):  # reversed, so that the first result wins
            came[(number_of(value) or 0) - self._first] = at_ns
        if missing := int((came == 0).sum()):
            raise BenchmarkError(f"{missing:,} of {len(sent):,} paced records have no result")
        return PacedTimes((acknowledged - sent) / 1e6, (came - sent) / 1e6, came)

    def close(self) -> None:
        """Stop the producer and close the consumer. Safe to call twice."""
        self._pacer.wait(5.0)
        self._consumer.close()


def number_of(value: bytes) -> int | None:
    """Return the number from a result's record id, or None if the result contains no such id.

    >>> number_of(b'{"type":"prediction","record_id":"r-000000017"}')
    17
    """
    found = _NUMBER.search(value)
    return int(found[1]) if found else None


def measure(
    world: World,
    peers: Peers,
    contestants: list[Contestant],
    *,
    features: Sequence[int],
    per_s: int,
    seconds: int,
    repeats: int,
    partitions: int,
    report: Report,
) -> Iterator[Latency]:
    """For each number of features, measure all programs in turn (A B C A B C …)."""
    for count in features:
        plan = Plan(name=f"paced-{count}", features=count, partitions=partitions)
        course = Course.prepare(world, plan)
        warm_up(world, plan, world.topics(course.file).features)
        for number in range(1, repeats + 1):
            for contestant in contestants:
                world.renew(course.file, world.topics(course.file).features)
                run = start(world, course, contestant, peers)
                try:
                    found = _one(world, course, run, per_s=per_s, seconds=seconds)
                except BenchmarkError as error:
                    report.fail(f"latency of {contestant.name}, {count} features: {error}")
                    continue
                finally:
                    run.program.stop()
                result = Latency(
                    name=contestant.name,
                    features=count,
                    round=number,
                    per_s=per_s,
                    records=len(found.latency_ms) - WARM_UP_S * per_s,
                    p50_ms=_percentile(found.latency_ms, per_s, 50),
                    p99_ms=_percentile(found.latency_ms, per_s, 99),
                    max_ms=_percentile(found.latency_ms, per_s, 100),
                    acknowledged_p50_ms=_percentile(found.acknowledged_ms, per_s, 50),
                    acknowledged_p99_ms=_percentile(found.acknowledged_ms, per_s, 99),
                )
                report.say(
                    f"{count} features, round {number} of {repeats}: {result.name:<28} "
                    f"p50 {result.p50_ms:6.1f} ms  p99 {result.p99_ms:6.1f} ms"
                    f"  (acknowledgement p50 {result.acknowledged_p50_ms:.1f} ms, p99 "
                    f"{result.acknowledged_p99_ms:.1f} ms)"
                )
                yield result


def warm_up(world: World, plan: Plan, topic: str) -> None:
    """Send records to the topic for a while, so that the broker's JVM compiles its hot code."""
    sink = f"{plan.name}.warm-up"
    world.create(sink, plan.partitions)
    paced = Paced(world, plan, topic, sink, first=0, count=1000 * BROKER_WARM_UP_S, per_s=1000)
    time.sleep(BROKER_WARM_UP_S)
    paced.close()
    world.delete(sink)


def _percentile(values_ms: NDArray[np.float64], per_s: int, percent: int) -> float:
    return float(np.percentile(values_ms[WARM_UP_S * per_s :], percent))


def _one(
    world: World, course: Course, run: RunningProgram, *, per_s: int, seconds: int
) -> PacedTimes:
    features = world.topics(course.file).features
    ready(world, course.plan, features, run)
    count = (WARM_UP_S + seconds) * per_s
    plan = course.plan
    paced = Paced(world, plan, features, run.sink, first=1000, count=count, per_s=per_s)
    try:
        for _ in paced.read():
            run.program.check()
        return paced.times()
    finally:
        paced.close()


def ready(world: World, plan: Plan, features: str, run: RunningProgram) -> None:
    """Send probe records until the program has published a result in each partition."""
    producer = world.producer({"linger.ms": 0})
    consumer = reader(world)
    consumer.assign([ck.TopicPartition(run.sink, n, 0) for n in range(plan.partitions)])
    silent = set(range(plan.partitions))
    deadline = time.monotonic() + _READY_S
    (probe,) = plan.records(1)
    while silent:
        if time.monotonic() > deadline:
            raise BenchmarkError(
                f"{run.program.name} has published no result:\n{run.program.log_end()}"
            )
        run.program.check()
        for partition in silent:
            producer.produce(features, probe.value, probe.key, partition)
        producer.flush(10)
        message: Any = consumer.poll(0.5)
        # One result from a peer is enough: it chooses the output partition by key, and all probes
        # have the same key.
        if message is not None and message.error() is None:
            silent.discard(message.partition())
            if run.group == run.sink:
                silent.clear()
    consumer.close()
