"""Compare how well three drift tests detect dependence drift, on generated and elec2 rows.

Input: generated windows of 20 columns, and shuffled elec2 rows; no single column drifts. Output:
the power and CPU time of three tests at the same false-alarm rate: Driftline's score with column
pairs, its score without pairs, and a domain classifier. In both inputs, rows are independent, with
neither autocorrelation nor seasonality.
"""

import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.evidence.options import options
from benchmarks.evidence.related import (
    QUIET,
    Columns,
    Draw,
    generated_source,
    real_source,
)
from monitor.reference.domain_classifier import DomainClassifier
from monitor.reference.histograms import Histograms
from monitor.reference.thresholds import ThresholdCalibration

RATE: Final = 0.005  # false alarms per window, the same for all tests
SIZES: Final = (500, 2_000)
# Each of Driftline's scores gets `NULLS` windows without drift, from which its limit is computed,
# and `WINDOWS` windows per change. The classifier is slower and gets fewer windows.
NULLS: Final = 2_000
WINDOWS: Final = 200


class Power(msgspec.Struct, frozen=True):
    """The share of windows in which each test raises an alarm."""

    change: str
    size: int
    pairs: float
    columns: float
    classifier: float


class Cost(msgspec.Struct, frozen=True):
    """A test's CPU seconds per window and per calibration.

    Each reference and window size needs its own calibration.
    """

    data: str
    size: int
    method: str
    window: float
    calibration: float


class WindowTest(Protocol):
    """A test that compares windows with a reference.

    limit: the test raises an alarm if a window's score exceeds this limit. It is None if the limit
    must first be measured on windows without drift.
    """

    limit: float | None

    def score(self, window: Columns) -> float: ...


class CalibratedDistance:
    """Driftline's score: the largest distance, relative to the distances that occur by chance."""

    limit: float | None = None

    def __init__(self, reference: Columns, size: int, *, paired: bool) -> None:
        self._known = Histograms(reference, paired=len(reference) if paired else 0)
        self._thresholds = ThresholdCalibration(self._known, rate=RATE).of(size)

    def score(self, window: Columns) -> float:
        distances = self._known.distances(self._known.count(window), self._known.total)
        return float(self._thresholds.scores(distances).max())


class Classifier:
    """Driftline's domain classifier (`[drift] classifier`), which computes its own limit."""

    limit: float | None = 1.0

    def __init__(self, reference: Columns, size: int) -> None:
        self._classifier = DomainClassifier(
            Histograms(reference), columns=len(reference), rate=RATE, block=1
        )
        self.score([values[:size] for values in reference])

    def score(self, window: Columns) -> float:
        result = self._classifier.test(window)
        assert result is not None  # it is None only for small windows or short references
        return result.excess


def main(argv: list[str]) -> int:
    """Run the measurement and print the tables."""
    parser = options("relations", __doc__)
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=SIZES, help="window sizes in records"
    )
    parser.add_argument("--windows", type=int, default=25, help="windows per change (classifier)")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(argv)
    powers: list[Power] = []
    costs: list[Cost] = []
    print("| change | window | pairs | columns alone | classifier |\n|---|---:|---:|---:|---:|")
    for source in (generated_source(asked.seed), real_source(asked.seed, asked.data)):
        reference, changes = source.reference, source.changes
        for size in asked.sizes:
            ways: dict[str, tuple[Callable[[], WindowTest], int, int]] = {
                "pairs": (
                    partial(CalibratedDistance, reference, size, paired=True),
                    NULLS,
                    WINDOWS,
                ),
                "columns": (
                    partial(CalibratedDistance, reference, size, paired=False),
                    NULLS,
                    WINDOWS,
                ),
                "classifier": (partial(Classifier, reference, size), 0, asked.windows),
            }
            found: dict[str, dict[str, float]] = {}
            for method, (make, nulls, windows) in ways.items():
                found[method], seconds = measure(make, changes, size, nulls, windows, asked.seed)
                costs.append(Cost(source.name, size, method, *seconds))
            for change in changes:
                power = Power(
                    f"{source.name}: {change}", size, *(found[way][change] for way in ways)
                )
                powers.append(power)
                print(
                    f"| {power.change} | {size:,} | {power.pairs:.1%} | {power.columns:.1%} "
                    f"| {power.classifier:.0%} |",
                    flush=True,
                )
    print("\n| data | window | method | per window | calibration |\n|---|---:|---|---:|---:|")
    for cost in costs:
        print(
            f"| {cost.data} | {cost.size:,} | {cost.method} | {cost.window:.4f} s "
            f"| {cost.calibration:.2f} s |"
        )
    if asked.json:
        asked.json.write_bytes(msgspec.json.encode({"power": powers, "cost": costs}))
    return 0


def measure(
    make: Callable[[], WindowTest],
    changes: Mapping[str, Draw],
    size: int,
    nulls: int,
    windows: int,
    seed: int,
) -> tuple[dict[str, float], tuple[float, float]]:
    """Return, for each change, the share of windows with an alarm, and the CPU seconds.

    The CPU seconds are a pair: the mean per window, and the seconds for calibration. All tests get
    the same sequence of windows, but slow tests stop earlier.
    """

    took, seen = 0.0, 0

    def scores(change: str, count: int, part: int) -> NDArray[np.float64]:
        nonlocal took, seen
        found = np.empty(count)
        for number in range(count):
            rng = np.random.default_rng([seed, part, number, *change.encode()])
            window = changes[change](rng, size)
            began = time.process_time()
            found[number] = watch.score(window)
            took += time.process_time() - began
            seen += 1
        return found

    began = time.process_time()
    watch = make()
    made = time.process_time() - began
    quiet = scores(QUIET, nulls, 1)
    limit = float(np.quantile(quiet, 1.0 - RATE)) if watch.limit is None else watch.limit
    power = {change: float((scores(change, windows, 2) > limit).mean()) for change in changes}
    return power, (took / seen, made)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
