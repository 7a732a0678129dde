"""Send a plan's records to Kafka at a steady rate, and write each record's times to a file.

`python -m benchmarks.pacer BOOTSTRAP TOPIC FEATURES RULE FIRST COUNT PER_S OUT` writes an int64
NumPy array of shape (2, count) to OUT. Its first row contains the monotonic time in ns just before
each record is passed to the client, its second row the time of the broker's acknowledgement. On
SIGTERM, the process stops sending and writes the times recorded so far.
"""

import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import confluent_kafka as ck
import numpy as np

from benchmarks.data import Plan


def main() -> None:
    """Send the records, then write the times."""
    bootstrap, topic, *numbers, out = sys.argv[1:]
    features, rule, first, count, per_s = (int(number) for number in numbers)
    records = list(Plan("paced", features, rule=rule).records(count, first))
    all_times = times = np.zeros((2, count), dtype=np.int64)
    producer = ck.Producer(
        {"bootstrap.servers": bootstrap, "partitioner": "murmur2_random", "linger.ms": 0}
    )
    producer.list_topics(topic, timeout=10)  # connect before the measurement starts

    def acknowledged(i: int, error: Any, _: Any) -> None:
        if error is not None:
            raise RuntimeError(f"record {i}: {error}")
        all_times[1, i] = time.monotonic_ns()

    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    start_s = time.monotonic()
    for i, record in enumerate(records):
        if stopped:
            times = times[:, :i]
            break
        if (wait_s := start_s + i / per_s - time.monotonic()) > 0:
            time.sleep(wait_s)
        times[0, i] = time.monotonic_ns()
        producer.produce(topic, record.value, record.key, on_delivery=partial(acknowledged, i))
        producer.poll(0)
    producer.flush(30)
    np.save(Path(out), times)


if __name__ == "__main__":
    main()
