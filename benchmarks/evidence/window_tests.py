"""Time Driftline's drift tests and Evidently's preset on a window of random data.

Input: random columns, four fifths of them numeric. Output: the median times over several rounds,
and the time to compute thresholds. In each round, Driftline's tests and Evidently's preset run on
the same rows. Thresholds are computed once per model and window size.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.evidence.options import options
from driftline.config.stream import Stream, loads
from driftline.models.package_reference import Reference
from driftline.wire.columns import Columns
from monitor.bottom_k_sample import Sample
from monitor.reference.judge import Judge
from monitor.reference.profile import ReferenceProfile

ROWS = 10_000


class Timing(msgspec.Struct, frozen=True):
    """The median times in seconds, for windows with `columns` columns."""

    columns: int
    driftline: float
    evidently: float
    thresholds: float  # time to compute thresholds, once per model and window size


def main(argv: list[str]) -> int:
    """Run the measurement and print the table."""
    parser = options("window_tests", __doc__, data=False)
    parser.add_argument("--columns", type=int, nargs="+", default=(20, 100))
    parser.add_argument("--repeats", type=int, default=5)
    asked = parser.parse_args(argv)
    print(
        f"| columns × {ROWS:,} rows | Driftline | Evidently's preset | ratio | thresholds, once |"
    )
    print("|---:|---:|---:|---:|---:|")
    found = [measure(count, asked.repeats) for count in asked.columns]
    for one in found:
        print(
            f"| {one.columns} | {one.driftline:.3f} s | {one.evidently:.2f} s "
            f"| {one.evidently / one.driftline:.0f} × | {one.thresholds:.2f} s |"
        )
    if asked.json:
        asked.json.write_bytes(msgspec.json.encode(found))
    return 0


def measure(count: int, repeats: int) -> Timing:
    """Time the tests on windows with `count` columns."""
    rng = np.random.default_rng(0)
    stream = stream_of(count)
    old, new = drawn(rng, stream), drawn(rng, stream)
    predictions = np.array(["a", "b"] * (ROWS // 2), dtype=object)
    profile = ReferenceProfile(stream, reference_of(old, predictions))
    sample, judge = Sample(new, predictions), Judge(stream)
    thresholds = _seconds(lambda: profile.measure(sample))
    preset = evidently_preset(old, new)
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(repeats):
        ours.append(_seconds(lambda: judge.test("a", ROWS, sample, profile)))
        theirs.append(_seconds(preset))
    return Timing(count, statistics.median(ours), statistics.median(theirs), thresholds)


def stream_of(count: int) -> Stream:
    """Return a stream with `count` features. Every fifth feature is a category."""
    features = "\n".join(
        f'c{place} = "{"category" if place % 5 == 4 else "number"}"' for place in range(count)
    )
    head = 'version = 1\nname = "wide"\ntask = "classification"\ntarget = "y"'
    return loads(f"{head}\n[features]\n{features}\n")


def drawn(rng: np.random.Generator, stream: Stream) -> Columns:
    """Draw rows that do not drift."""
    numbers: dict[str, NDArray[Any]] = {}
    categories: dict[str, NDArray[Any]] = {}
    for name, feature in stream.inputs.items():
        if feature.kind == "number":
            numbers[name] = rng.normal(size=ROWS)
        else:
            categories[name] = rng.choice(np.array(list("abcde"), dtype=object), ROWS)
    return Columns(numbers, categories, ROWS)


def reference_of(columns: Columns, predictions: NDArray[Any]) -> Reference:
    """Return a model reference that contains these rows."""
    return Reference(
        columns=columns,
        positions=np.arange(ROWS),
        predictions=predictions,
        held_labels=predictions[:0],
        held_predictions=predictions[:0],
        held_scores=None,
        errors=np.empty(0),
        levels={},
        ranges={},
    )


def evidently_preset(old: Columns, new: Columns) -> Callable[[], object]:
    """Return a function that runs Evidently's data drift report as its documentation shows."""
    os.environ.setdefault("DO_NOT_TRACK", "1")
    import pandas as pd
    from evidently import Report
    from evidently.presets import DataDriftPreset

    tables = [pd.DataFrame(side.numbers | side.categories) for side in (old, new)]
    return lambda: Report([DataDriftPreset()]).run(reference_data=tables[0], current_data=tables[1])


def _seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
