"""Measure the throughput and memory of Driftline's services on Kafka topics filled in advance.

For inference and outcomes, progress is measured as the number of records in the output topic. The
monitor publishes only when a window closes, so its progress is measured by the offsets that its
consumer group has committed in the predictions topic. These offsets advance one window at a time.
"""

from collections.abc import Iterator
from pathlib import Path

import msgspec

from benchmarks.arrivals import Ends, GroupOffsets, Observation, values, watch
from benchmarks.data import Plan
from benchmarks.process import BenchmarkError
from benchmarks.report import Report
from benchmarks.throughput import rates
from benchmarks.world import World
from driftline.wire.topics import Service

MONITORED_COLUMNS = 20


class ServiceRun(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one run of one service."""

    service: Service
    features: int
    round: int
    records: int
    records_per_s: float
    cpu_us_per_record: float
    peak_mb: float


class Point(msgspec.Struct, frozen=True):
    """A service's memory after processing `records` records."""

    records: int
    mb: float


class Curve(msgspec.Struct, frozen=True):
    """A service's memory over a long run."""

    service: Service
    points: tuple[Point, ...]

    def at(self, records: int) -> float:
        """Return the memory (MB) after this many records.

        >>> Curve("monitor", (Point(0, 80.0), Point(900, 90.0), Point(2000, 95.0))).at(1000)
        95.0
        """
        return next((p.mb for p in self.points if p.records >= records), self.points[-1].mb)


class Filled:
    """A stream whose topics are filled in order, each service reading its predecessor's output."""

    def __init__(self, world: World, plan: Plan, records: int) -> None:
        self.world, self.plan, self.records = world, plan, records
        self.file = world.stream(plan)
        self.topics = world.topics(self.file)

    def run(self, service: Service, home: Path | None = None) -> tuple[list[Observation], int]:
        """Run a service on the filled topics; return the samples and the peak memory in bytes."""
        partitions = self.plan.partitions
        group = self.topics.group(service)
        self.world.delete_group(group)
        if service == "monitor":
            # Do not wait for the last window, which may never close.
            expected = self.records - self.plan.window
            progress: Ends | GroupOffsets = GroupOffsets(
                self.world, group, self.topics.predictions, partitions
            )
        else:
            expected = self.records
            made = self.topics.outcomes if service == "outcomes" else self.topics.predictions
            progress = Ends(self.world, made, partitions)
        program = self.world.service(service, self.file, home=home)
        try:
            samples = watch(progress.total, program, expected, settled_s=_settled_s(service))
            return samples, program.peak_bytes()
        finally:
            program.stop()
            progress.close()

    def predict(self) -> None:
        """Fill the features topic, run inference on it, then delete the feature records."""
        self.world.fill_features(self.plan, self.topics, self.records)
        self.run("inference")
        self.world.renew(self.file, self.topics.features)


def _settled_s(service: Service) -> float:
    # While the monitor tests a window, its offsets can stay unchanged for several seconds.
    return 5.0 if service == "monitor" else 1.0


def measure(
    world: World, *, records: int, window: int, repeats: int, partitions: int, report: Report
) -> Iterator[ServiceRun]:
    """Measure, in turn, the outcomes service with 4 features and the monitor with 20.

    window: number of records in each of the monitor's windows.
    """
    report.say(f"filling predictions and labels, {records:,} records each")
    joined = Filled(world, Plan("joined", 4, partitions), records)
    joined.predict()
    world.fill_labels(joined.plan, joined.topics, records)
    watched = Filled(world, Plan("watched", MONITORED_COLUMNS, partitions, window=window), records)
    watched.predict()
    turns: tuple[tuple[Filled, Service], ...] = ((joined, "outcomes"), (watched, "monitor"))
    for number in range(1, repeats + 1):
        for filled, service in turns:
            try:
                found = _one(filled, service, number)
            except BenchmarkError as error:
                report.fail(f"{service}: {error}")
                continue
            report.say(
                f"round {number} of {repeats}: {service:<10} {found.records_per_s:>9,.0f}/s  "
                f"{found.cpu_us_per_record:6.2f} µs CPU  {found.peak_mb:,.0f} MB"
            )
            yield found


def _one(filled: Filled, service: Service, number: int) -> ServiceRun:
    world, topics = filled.world, filled.topics
    world.renew(filled.file, *((topics.outcomes,) if service == "outcomes" else (topics.windows,)))
    samples, peak = filled.run(service, world.fresh_home())
    if service == "outcomes":
        found = values(world, topics.outcomes, filled.plan.partitions)
        made = sum(value.startswith(b'{"type":"outcome"') for value in found)
        if made != filled.records:
            raise BenchmarkError(f"{made:,} outcomes for {filled.records:,} labelled predictions")
    per_s, cpu_us, _ = rates(samples)
    return ServiceRun(
        service=service,
        features=filled.plan.features,
        round=number,
        records=filled.records,
        records_per_s=per_s,
        cpu_us_per_record=cpu_us,
        peak_mb=peak / 1e6,
    )


def memory(world: World, *, records: int, partitions: int, report: Report) -> list[Curve]:
    """Measure the memory use of inference, outcomes and the monitor, in one long run each."""
    filled = Filled(world, Plan("long", 4, partitions), records)
    report.say(f"memory: writing {records:,} records and labels")
    world.fill_features(filled.plan, filled.topics, records)
    world.fill_labels(filled.plan, filled.topics, records)
    curves = []
    services: tuple[Service, ...] = ("inference", "outcomes", "monitor")
    for service in services:
        report.say(f"memory: {service} over {records:,} records")
        try:
            samples, _ = filled.run(service)
        except BenchmarkError as error:
            report.fail(f"memory of {service}: {error}")
            break  # the next service needs the failed service's output
        curves.append(Curve(service, tuple(_thinned(samples))))
    return curves


def _thinned(samples: list[Observation], points: int = 200) -> Iterator[Point]:
    """Yield about `points` samples at equal record intervals, including the first and the last."""
    step = max(1, samples[-1].records // points)
    due = 0
    for sample in samples:
        if sample.records >= due or sample is samples[-1]:
            yield Point(sample.records, sample.memory_bytes / 1e6)
            due = sample.records + step
