"""Measure the default detector's false alarms on autocorrelated errors from real data files.

Input: the first model's errors on each data set. They are shuffled in blocks, which removes any
lasting change but keeps neighbouring errors together. Output: alarms per 1,000 rows, counting only
increases that are large enough to matter. The detector runs in three variants. The first assumes
independent errors, the second allows for the variance inflation of the model's held-out errors,
and the third also allows for the variance inflation of the watched errors.
"""

import sys
from pathlib import Path
from typing import Final
from unittest.mock import patch

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.evidence.estimate_sets import LABELLED, follow
from benchmarks.evidence.options import options
from driftline.config.measure import default_measure
from driftline.config.stream_sections import Task
from driftline.learning.metrics import Answers, losses
from monitor.decisions.autocorrelation_check import Autocorrelation
from monitor.decisions.detectors import ErrorDetector
from monitor.error_scale import error_scale
from monitor.variance_inflation import variance_inflation

# Rows per block. A block covers a week, or a month if the data set has one row per day. In data
# sets without calendar times, a block has 200 rows, enough to preserve the autocorrelation.
BLOCKS: Final = {
    "elec2": 336,
    "bike_sharing": 168,
    "metro_traffic": 168,
    "noaa_weather": 30,
    "california_housing_nml": 200,
    "phishing_sites": 200,
    "airlines_delayed_labels": 200,
    "car_loan_nml": 200,
}
LEAST_LOSS: Final = 0.1  # the default `min_metric_loss`
PANE: Final = 50


class AlarmRates(msgspec.Struct, frozen=True):
    """One data set's results: alarms per 1,000 rows, averaged over the shuffles."""

    set: str
    block: int
    variance_inflation: float
    independent: float
    held_out: float
    both: float


def main(argv: list[str]) -> int:
    """Run the measurement and print a table of alarms per 1,000 rows."""
    parser = options("errors_in_runs", __doc__)
    parser.add_argument("--sets", nargs="+", choices=list(BLOCKS), default=list(BLOCKS))
    parser.add_argument("--shuffles", type=int, default=10)
    asked = parser.parse_args(argv)
    rows = []
    print(
        "| set | rows of a block | inflation held out | as if independent | by held-out errors "
        "| and by its own |\n"
        "|---|---:|---:|---:|---:|---:|",
        flush=True,
    )
    for name in asked.sets:
        row = measure(name, asked.data, asked.shuffles)
        rows.append(row)
        print(
            f"| {name} | {row.block} | {row.variance_inflation:.1f} | {row.independent:.3f} "
            f"| {row.held_out:.3f} | {row.both:.3f} |",
            flush=True,
        )
    if asked.json:
        asked.json.write_bytes(msgspec.json.encode(rows))
    return 0


def measure(name: str, data: Path, shuffles: int) -> AlarmRates:
    """Return one data set's alarm rates."""
    followed = follow(next(item for item in LABELLED if item.name == name), data)
    task, block = followed.stream.task, BLOCKS[name]
    answers = Answers(followed.scores.predictions)
    metric = default_measure(task)
    found = losses(metric, followed.labels, answers)
    blocks = found[: len(found) // block * block].reshape(-1, block)
    more = variance_inflation(followed.reference.errors)
    scale = error_scale(metric, followed.reference.errors, followed.reference.held_labels)
    rng = np.random.default_rng(0)
    counts = [0, 0, 0]
    for _ in range(shuffles):
        shuffled = blocks[rng.permutation(len(blocks))].ravel()
        # With `add` patched out, the detector allows only for the given variance inflation.
        with patch.object(Autocorrelation, "add"):
            counts[0] += _alarms(_detector(task, 1.0, scale), shuffled)
            counts[1] += _alarms(_detector(task, more, scale), shuffled)
        counts[2] += _alarms(_detector(task, more, scale), shuffled)
    thousands = shuffles * blocks.size / 1000
    return AlarmRates(name, block, more, *(count / thousands for count in counts))


def _detector(task: Task, inflation: float, scale: float | None) -> ErrorDetector:
    detector = ErrorDetector("glr", task)
    detector.reset(inflation, scale)
    return detector


def _alarms(detector: ErrorDetector, values: NDArray[np.float64]) -> int:
    count = 0
    for start in range(0, len(values), PANE):
        detector.update(values[start : start + PANE].tolist())
        count += sum(
            increase.after >= increase.before * (1 + LEAST_LOSS) for increase in detector.increases
        )
    return count


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
