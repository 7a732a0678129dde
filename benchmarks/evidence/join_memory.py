"""Measure the outcomes join with and without its memory tier in front of RocksDB (decision 14).

Input: generated predictions and labels of four features. Each label arrives a given number of
records after its prediction. Output: the join's CPU time per record, including RocksDB's threads,
and its peak memory, for each size of the memory tier. Every run is a process of its own, and runs
of different sizes alternate.
"""

import itertools
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import psutil

from benchmarks.data import EncodedRecord, Plan
from benchmarks.evidence.options import options
from consumers.outcomes.handler import MEMORY_RECORDS, OutcomesHandler
from driftline.broker.port import Committed, Message, Messages, TopicPartition
from driftline.clock import SystemClock
from driftline.config.stream import loads
from driftline.runtime.handler import GroupProgress
from driftline.wire.envelope import encode
from driftline.wire.events import Prediction, Source
from driftline.wire.topics import Topics

BATCH = 5000  # records per call of `handle`, as in the loop
# The smallest tier that the join accepts: it evicts each block as soon as the cache has stored it.
NO_TIER = 0


class JoinRun(msgspec.Struct, frozen=True):
    """One run. `delay` is the number of records between a prediction and its label."""

    memory_records: int
    delay: int
    cpu_us_per_record: float
    peak_mb: float
    outcomes: int


def main(argv: list[str]) -> int:
    """Run the measurement and print a table of medians."""
    parser = options("join_memory", __doc__, data=False)
    parser.add_argument("--records", type=int, default=600_000)
    parser.add_argument("--delays", type=int, nargs="+", default=[0, 100_000, 400_000])
    parser.add_argument("--sizes", type=int, nargs="+", default=[NO_TIER, MEMORY_RECORDS])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", action="store_true", help="one run, in this process, as JSON")
    asked = parser.parse_args(argv)
    if asked.one:
        run = measure(asked.records, asked.delays[0], asked.sizes[0])
        print(msgspec.json.encode(run).decode())
        return 0
    runs = []
    for _, delay, size in itertools.product(range(asked.repeats), asked.delays, asked.sizes):
        runs.append(_in_a_process(asked.records, delay, size))
        print(msgspec.json.encode(runs[-1]).decode(), file=sys.stderr, flush=True)
    print(table(runs))
    if asked.json:
        asked.json.write_bytes(msgspec.json.encode(runs))
    return 0


def table(runs: Sequence[JoinRun]) -> str:
    """Return a Markdown table with the medians of the runs with equal delay and size."""
    lines = [
        "| delay of labels, records | records in memory | CPU, µs per record | peak memory, MB |",
        "|---:|---:|---:|---:|",
    ]
    for delay, size in sorted({(run.delay, run.memory_records) for run in runs}):
        equal = [run for run in runs if (run.delay, run.memory_records) == (delay, size)]
        cpu_us = statistics.median(run.cpu_us_per_record for run in equal)
        peak_mb = statistics.median(run.peak_mb for run in equal)
        lines.append(f"| {delay:,} | {size:,} | {cpu_us:.1f} | {peak_mb:.0f} |")
    return "\n".join(lines)


def measure(records: int, delay: int, memory_records: int) -> JoinRun:
    """Join `records` predictions with their labels, and measure only the join's own calls."""
    plan = Plan("join", 4, window=records)
    stream = loads(plan.toml())
    process, cpu_s, peak = psutil.Process(), 0.0, 0
    before = process.memory_info().rss
    with tempfile.TemporaryDirectory() as folder:
        handler = OutcomesHandler(
            stream, SystemClock(), state=Path(folder), memory_records=memory_records
        )
        positions = dict.fromkeys((TopicPartition(topic, 0) for topic in handler.inputs), 0)
        handler.on_assigned({partition: Committed(0) for partition in positions})
        for messages in _batches(plan, Topics(stream), records, delay):
            started_s = time.process_time()
            handler.handle(messages)
            for partition, at in messages.runs:
                positions[partition] = messages[at.stop - 1].offset + 1
            handler.on_group_progress(GroupProgress(positions, positions, dict))
            handler.on_tick()
            handler.offsets_to_commit()
            handler.on_committed()
            cpu_s += time.process_time() - started_s
            peak = max(peak, process.memory_info().rss)
        outcomes = handler.counts["outcomes"]
        handler.close()
    return JoinRun(memory_records, delay, cpu_s / records * 1e6, (peak - before) / 1e6, outcomes)


def _batches(plan: Plan, topics: Topics, records: int, delay: int) -> Iterator[Messages]:
    """Yield predictions, and each label as soon as `delay` more predictions have been yielded."""
    predictions, labels = plan.records(records), plan.records(records)
    for end in range(BATCH, records + delay + 1, BATCH):
        batch = [
            Message(topics.predictions, 0, i, record.key, _prediction(record, i))
            for i, record in enumerate(itertools.islice(predictions, BATCH), end - BATCH)
        ]
        if end > delay:
            batch += [
                Message(topics.labels, 0, i, record.key, record.label)
                for i, record in enumerate(itertools.islice(labels, BATCH), end - BATCH - delay)
            ]
        yield Messages(batch)


def _prediction(record: EncodedRecord, row: int) -> bytes:
    return encode(
        Prediction(
            record_id=f"r-{row:09d}",
            time=None,
            row=row,
            prediction="sound",
            scores={"failing": 0.25, "sound": 0.75},
            model="sha256:" + "0" * 64,
            source=Source("join.features", 0, row),
            record=msgspec.Raw(record.value),
        )
    )


def _in_a_process(records: int, delay: int, size: int) -> JoinRun:
    command = [sys.executable, "-m", "benchmarks.evidence", "join_memory", "--one"]
    command += ["--records", str(records), "--delays", str(delay), "--sizes", str(size)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return msgspec.json.decode(done.stdout, type=JoinRun)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
