"""Measure the throughput of Driftline and its peers, which process the same Kafka records in turn.

Throughput and CPU time are measured between two samples: the first with at least a tenth of the
results, and the first with all results. This excludes process start-up and joining the consumer
group. Afterwards, a consumer counts the results, to check that none is missing.
"""

from collections.abc import Iterator

import msgspec

from benchmarks.arrivals import Ends, Observation, values, watch
from benchmarks.contestants import Contestant, Course, Peers, start
from benchmarks.data import Plan
from benchmarks.process import BenchmarkError
from benchmarks.report import Report
from benchmarks.world import World

# The measurement starts once this share of the results has arrived.
STARTED = 0.1

_WATERMARK = b'{"type":"watermark"'


class Throughput(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one run of one program."""

    name: str
    features: int
    round: int
    records: int
    seconds: float
    records_per_s: float
    cpu_us_per_record: float
    peak_mb: float


def measure(
    world: World,
    peers: Peers,
    contestants: list[Contestant],
    *,
    features: list[int],
    records: int,
    repeats: int,
    partitions: int,
    report: Report,
) -> Iterator[Throughput]:
    """For each number of features, fill the topic and run the programs in turn (A B C A B C …)."""
    for count in features:
        plan = Plan(name=f"machine-{count}", features=count, partitions=partitions)
        report.say(f"{count} features: training the model, writing {records:,} records")
        course = Course.prepare(world, plan)
        world.fill_features(plan, world.topics(course.file), records)
        for number in range(1, repeats + 1):
            for contestant in contestants:
                try:
                    run = one(world, peers, course, contestant, records=records, number=number)
                except BenchmarkError as error:
                    report.fail(f"throughput of {contestant.name}, {count} features: {error}")
                    continue
                report.say(
                    f"{count} features, round {number} of {repeats}: {run.name:<28} "
                    f"{run.records_per_s:>9,.0f}/s  {run.cpu_us_per_record:6.2f} µs CPU"
                )
                yield run
        world.delete(world.topics(course.file).features)


def one(
    world: World, peers: Peers, course: Course, contestant: Contestant, *, records: int, number: int
) -> Throughput:
    """Run one program once on the filled topic. Raises BenchmarkError if a result is missing."""
    run = start(world, course, contestant, peers)
    ends = Ends(world, run.sink, course.plan.partitions)
    try:
        samples = watch(ends.total, run.program, records)
        peak = run.program.peak_bytes()
    finally:
        run.program.stop()
        ends.close()
    # Do not count watermark records, which Driftline publishes in addition to its results.
    arrived = sum(
        not value.startswith(_WATERMARK)
        for value in values(world, run.sink, course.plan.partitions)
    )
    if arrived != records:
        raise BenchmarkError(f"{contestant.name}: {arrived:,} results for {records:,} records")
    world.delete(run.sink)
    per_s, cpu_us, seconds = rates(samples)
    return Throughput(
        name=contestant.name,
        features=course.plan.features,
        round=number,
        records=records,
        seconds=seconds,
        records_per_s=per_s,
        cpu_us_per_record=cpu_us,
        peak_mb=peak / 1e6,
    )


def rates(samples: list[Observation]) -> tuple[float, float, float]:
    """Return records per second, CPU time per record in µs, and the measured period in seconds.

    >>> rates([Observation(0, 0, 0, 0), Observation(5, 10, 1, 0), Observation(7, 100, 10, 0),
    ...        Observation(9, 100, 11, 0)])
    (45.0, 100000.0, 2)
    """
    final = samples[-1].records
    first = next(sample for sample in samples if sample.records >= STARTED * final)
    last = next(sample for sample in samples if sample.records == final)
    records, seconds = last.records - first.records, last.at_s - first.at_s
    if records <= 0 or seconds <= 0:
        raise BenchmarkError("all results arrived between two samples: use more records")
    return records / seconds, 1e6 * (last.cpu_s - first.cpu_s) / records, seconds
