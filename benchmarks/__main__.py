"""Run the benchmarks on a temporary Kafka broker, print tables and write results as JSON.

usage: python -m benchmarks [PART …] [OPTIONS]

Exit codes: 0: success. 1: at least one run failed; the results of the other runs are reported.
2: the benchmark stopped because of an error. 130: interrupted.
"""

import argparse
import os
import platform
import signal
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import msgspec

from benchmarks import latency, services, swap, throughput
from benchmarks.contestants import CONTESTANTS, Contestant, Peers, choose
from benchmarks.process import BenchmarkError
from benchmarks.report import Report
from benchmarks.summary import (
    aligned,
    latency_table,
    memory_table,
    services_table,
    swap_table,
    throughput_table,
)
from benchmarks.world import World
from driftline.broker.local import KAFKA_VERSION
from driftline.errors import DriftlineError

WITH_PEERS: Final = ("throughput", "latency")


class Options(argparse.Namespace):
    """The command-line options."""

    parts: list[str]
    features: list[int] | None
    records: int
    repeats: int
    peers: list[str] | None
    partitions: int
    per_s: int
    seconds: int
    service_records: int
    window: int
    memory_records: int
    rows: int
    folder: Path
    json: bool


class Bench:
    """One run of the command: its options, Kafka broker, report, and the programs to compare."""

    def __init__(self, options: Options, world: World, peers: Peers, report: Report) -> None:
        self.options = options
        self.world = world
        self.peers = peers
        self.report = report
        self.contestants: list[Contestant] = []

    @property
    def features(self) -> list[int]:
        return self.options.features or [4, 30]

    def throughput(self) -> tuple[dict[str, Any], list[list[str]]]:
        """Measure the throughput, CPU time and memory of Driftline and the other programs."""
        options = self.options
        runs = list(
            throughput.measure(
                self.world,
                self.peers,
                self.contestants,
                features=self.features,
                records=options.records,
                repeats=options.repeats,
                partitions=options.partitions,
                report=self.report,
            )
        )
        return {"runs": runs}, throughput_table(runs)

    def latency(self) -> tuple[dict[str, Any], list[list[str]]]:
        """Measure the time from sending a record to receiving its prediction, for all programs."""
        options = self.options
        runs = list(
            latency.measure(
                self.world,
                self.peers,
                self.contestants,
                features=self.features[:1],
                per_s=options.per_s,
                seconds=options.seconds,
                repeats=options.repeats,
                partitions=options.partitions,
                report=self.report,
            )
        )
        return {"runs": runs}, latency_table(runs)

    def services(self) -> tuple[dict[str, Any], list[list[str]]]:
        """Measure the throughput of the outcomes service and the monitor."""
        runs = list(
            services.measure(
                self.world,
                records=self.options.service_records,
                window=self.options.window,
                repeats=self.options.repeats,
                partitions=self.options.partitions,
                report=self.report,
            )
        )
        return {"runs": runs}, services_table(runs)

    def memory(self) -> tuple[dict[str, Any], list[list[str]]]:
        """Measure the memory of the inference, outcomes and monitor services over a long run."""
        records = self.options.memory_records
        curves = services.memory(
            self.world, records=records, partitions=self.options.partitions, report=self.report
        )
        return {"curves": curves}, memory_table(curves, records)

    def swap(self) -> tuple[dict[str, Any], list[list[str]]]:
        """Measure the time from a retrain request to the new model's first prediction."""
        runs = list(
            swap.measure(
                self.world,
                rows=self.options.rows,
                per_s=self.options.per_s,
                repeats=self.options.repeats,
                partitions=self.options.partitions,
                report=self.report,
            )
        )
        return {"runs": runs}, swap_table(runs)


PARTS: Final = {
    "throughput": Bench.throughput,
    "latency": Bench.latency,
    "services": Bench.services,
    "memory": Bench.memory,
    "swap": Bench.swap,
}


def main() -> None:
    """Run the benchmarks named on the command line."""
    report = Report()
    # On SIGTERM, stop Kafka and the measured programs, as on Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        run(_options(), report)
    except (BenchmarkError, DriftlineError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    sys.exit(1 if report.failed else 0)


def run(options: Options, report: Report) -> None:
    """Run the chosen benchmarks in sequence. After each one, write all results so far to disk."""
    parts = options.parts or list(PARTS)
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    folder = options.folder / stamp
    peers = Peers(options.folder, report)
    results: dict[str, Any] = {"at": stamp, "command": sys.argv[1:], "machine": _machine()}
    with World(folder) as world:
        bench = Bench(options, world, peers, report)
        if set(parts) & set(WITH_PEERS):
            bench.contestants, results["absent"] = choose(options.peers, peers)
            results["versions"] = _versions(bench.contestants, peers)
            for name in results["absent"]:
                report.say(f"skipping {name}: its library is not installed")
        for part in parts:
            results[part], table = PARTS[part](bench)
            results["failed"] = report.failed
            (folder / "results.json").write_bytes(
                msgspec.json.format(msgspec.json.encode(results), indent=1)
            )
            if not options.json and len(table) > 1:
                print(f"\n{part}\n\n{aligned(table)}\n", flush=True)
    report.say(f"results: {folder / 'results.json'}")
    if options.json:
        print((folder / "results.json").read_text("utf-8"))


def _machine() -> dict[str, Any]:
    """Return a description of the machine, and the software versions that affect the results."""
    models = {
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        if line.startswith("model name")
    }
    return {
        "cpu": ", ".join(sorted(models)) or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "load_before": os.getloadavg()[0],
        "kernel": platform.release(),
        "python": platform.python_version(),
        "kafka": KAFKA_VERSION,
    }


def _versions(contestants: list[Contestant], peers: Peers) -> dict[str, str]:
    own = ("driftline", "confluent-kafka", "msgspec", "numpy", "onnxruntime")
    found = {name: version(name) for name in own}
    libraries = [c.library for c in contestants if c.library is not None]
    return found | {library: peers.version(library) for library in libraries}


def _options() -> Options:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Benchmark Driftline and comparable programs on a temporary Kafka broker. "
        "Print tables and write results.json.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    parts = f"benchmarks to run: {', '.join(PARTS)}; default: all"
    add("parts", nargs="*", metavar="PART", help=parts)
    features = "number of features per record; may be repeated; default: 4 and 30"
    add("--features", type=int, action="append", metavar="N", help=features)
    add("--records", type=int, default=1_000_000, help="throughput: records per run")
    add("--repeats", type=int, default=5, help="rounds; each runs every program once")
    names = ", ".join(contestant.name for contestant in CONTESTANTS)
    peers = f"comma-separated programs to compare, out of: {names}; default: all"
    add("--peers", type=lambda text: text.split(","), metavar="A,B", help=peers)
    add("--partitions", type=int, default=1, help="partitions per topic")
    add("--per-s", type=int, default=1000, help="latency and swap: records sent per second")
    add("--seconds", type=int, default=20, help="latency: seconds to measure after the warm-up")
    add("--service-records", type=int, default=3_000_000, help="services: records per run")
    add("--window", type=int, default=500_000, help="services: records per monitor window")
    add("--memory-records", type=int, default=5_000_000, help="memory: records per run")
    add("--rows", type=int, default=50_000, help="swap: outcomes to train the new model on")
    folder = "folder for results and logs"
    add("--folder", type=Path, default=Path(".driftline/benchmarks"), help=folder)
    add("--json", action="store_true", help="print the results as JSON instead of tables")
    options = parser.parse_args(namespace=Options())
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"unknown part {sorted(unknown)[0]!r}; expected one of {', '.join(PARTS)}")
    if options.service_records < 3 * options.window:
        parser.error("--service-records must be at least three times --window")
    return options


if __name__ == "__main__":
    main()
