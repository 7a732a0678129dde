"""Measure false alarms and power on generated streams whose columns depend on time.

Input: 20 generated columns without drift: seasons, AR(1), categories in runs, missing values in
runs. Output: the share of windows with evidence of drift or of missing values, and the share of
shifts by one standard deviation that are found within two windows. Each seed has its own reference.
"""

import sys
from collections.abc import Callable
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.evidence.options import options
from monitor.reference.histograms import Histograms
from monitor.reference.quality import QUALITIES, before, faults_of_numbers, rising
from monitor.reference.thresholds import IN_A_ROW, ThresholdCalibration, Thresholds

RATE: Final = 0.005
REFERENCE: Final = 8_000
ROWS: Final = 16_000  # number of rows in windows, for each seed
COLUMNS: Final = 20
WITHIN: Final = 2

Columns = list[NDArray[Any]]
Floats = NDArray[np.float64]


class Row(msgspec.Struct, frozen=True):
    """The results for one kind of stream and one window size."""

    kind: str
    size: int
    windows: int
    drift: int  # windows with evidence of drift
    quality: int  # windows with a rise of missing values
    shifts: int
    found: int
    uncalibrated: int  # columns, of all seeds together
    insensitive: int


def independent(rng: np.random.Generator, rows: int) -> Columns:
    """Return independent normal columns."""
    return [rng.normal(size=rows) for _ in range(COLUMNS)]


def season(period: int) -> Callable[[np.random.Generator, int], Columns]:
    """Return a generator whose last column has a season."""

    def generate(rng: np.random.Generator, rows: int) -> Columns:
        found = independent(rng, rows)
        phase = rng.uniform(0, 2 * np.pi)
        found[-1] += 0.7 * np.sin(2 * np.pi * np.arange(rows) / period + phase)
        return found

    return generate


def autoregressive(rng: np.random.Generator, rows: int) -> Columns:
    """Return AR(1) columns with a correlation of 0.95 and unit variance."""
    from scipy.signal import lfilter

    noise = rng.normal(size=(COLUMNS, rows + 500)) * np.sqrt(1 - 0.95**2)
    return list(lfilter([1.0], [1.0, -0.95], noise)[:, 500:])


def sticky(rng: np.random.Generator, rows: int) -> Columns:
    """Return independent columns and, as the last one, 20 stations in runs of 10 to 200 rows."""
    lengths = rng.integers(10, 201, size=rows // 10)
    names = np.array([f"station {n}" for n in range(20)], dtype=object)
    return [
        *independent(rng, rows)[:-1],
        np.repeat(rng.choice(names, len(lengths)), lengths)[:rows],
    ]


def missing(rng: np.random.Generator, rows: int) -> Columns:
    """Return independent columns, of which five miss values in runs of 10 to 200 rows."""
    found = independent(rng, rows)
    for values in found[:5]:
        starts = np.flatnonzero(rng.random(rows) < 1 / 1500)
        for start, length in zip(starts, rng.integers(10, 201, size=len(starts)), strict=True):
            values[start : start + length] = np.nan
    return found


KINDS: Final[dict[str, Callable[[np.random.Generator, int], Columns]]] = {
    "independent": independent,
    "season 24": season(24),
    "season 288": season(288),
    "season 1440": season(1440),
    "ar1 0.95": autoregressive,
    "sticky": sticky,
    "missing": missing,
}


def main(argv: list[str]) -> int:
    """Run the measurement and print the table."""
    parser = options("dependent_columns", __doc__, data=False)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=[*KINDS])
    parser.add_argument("--sizes", type=int, nargs="+", default=[500, 2000])
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument(
        "--no-pairs", action="store_true", help="test columns only; 10 times faster"
    )
    asked = parser.parse_args(argv)
    rows = []
    print(_HEAD, flush=True)
    for kind in asked.kinds:
        for size in asked.sizes:
            row = measure(kind, size, seeds=asked.seeds, pairs=not asked.no_pairs)
            rows.append(row)
            print(_line(row), flush=True)
    if asked.json:
        asked.json.write_bytes(msgspec.json.encode(rows))
    return 0


def measure(kind: str, size: int, *, seeds: int, pairs: bool) -> Row:
    """Measure one kind of stream."""
    drift = quality = shifts = found = uncalibrated = insensitive = 0
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        columns = KINDS[kind](rng, REFERENCE + ROWS)
        rows = np.arange(REFERENCE + ROWS)
        known = Histograms(
            [values[:REFERENCE] for values in columns],
            paired=COLUMNS if pairs else 0,
            positions=rows[:REFERENCE],
        )
        calibration = ThresholdCalibration(known, rate=RATE)
        limits = calibration.of(size)
        windows = [rows[at : at + size] for at in range(REFERENCE, REFERENCE + ROWS, size)]
        drift += int(evidence(_scores(known, limits, columns, windows), limits).sum())
        quality += _missing(columns, windows)
        uncalibrated += len(calibration.uncalibrated)
        insensitive += int(limits.insensitive.sum())
        # Every second seed shifts the last column, which is the special one.
        moved = COLUMNS - 1 if seed % 2 else int(rng.integers(COLUMNS - 1))
        if columns[moved].dtype.kind == "f":
            columns[moved] = columns[moved] + float(np.nanstd(columns[moved][:REFERENCE]))
            scores = _scores(known, limits, columns, windows[:WITHIN])[[moved]]
            shifts += 1
            found += bool(evidence(scores, limits).any())
    count = seeds * (ROWS // size)
    return Row(kind, size, count, drift, quality, shifts, found, uncalibrated, insensitive)


def evidence(scores: Floats, limits: Thresholds) -> NDArray[np.bool_]:
    """Return which windows (n,) have evidence of drift, given scores (columns, n)."""
    warned = np.greater_equal(scores, limits.warning)
    again = [warned[:, max(0, n - IN_A_ROW + 1) : n].any(axis=1) for n in range(scores.shape[1])]
    found = np.logical_and(warned, np.stack(again, axis=1))
    if limits.alarm is not None:
        found = np.logical_or(found, np.greater_equal(scores, limits.alarm))
    result: NDArray[np.bool_] = np.any(found, axis=0)
    return result


def _scores(
    known: Histograms, limits: Thresholds, columns: Columns, windows: list[NDArray[np.int64]]
) -> Floats:
    counts = [known.count([values[at] for values in columns], at) for at in windows]
    return limits.scores(known.distances(np.stack(counts, axis=1), known.total[:, None]))


def _missing(columns: Columns, windows: list[NDArray[np.int64]]) -> int:
    """Return the number of windows in which a column's missing values rose."""
    level = RATE / (len(QUALITIES) * COLUMNS + 2)
    numbers = [values for values in columns if values.dtype.kind == "f"]
    known = [before(faults_of_numbers(values[:REFERENCE], None)) for values in numbers]
    return sum(
        any(
            rising((int(np.isnan(values[at]).sum()), 0, 0), len(at), own, REFERENCE, level)
            for values, own in zip(numbers, known, strict=True)
        )
        for at in windows
    )


_HEAD: Final = (
    "| stream | window | windows | with evidence of drift | with more missing values | shift of 1 "
    "sd found in 2 windows | uncalibrated columns | insensitive columns |\n"
    "|---|---:|---:|---:|---:|---:|---:|---:|"
)


def _line(row: Row) -> str:
    return (
        f"| {row.kind} | {row.size:,} | {row.windows:,} | {row.drift / row.windows:.2%} | "
        f"{row.quality / row.windows:.2%} | {row.found} of {row.shifts} | {row.uncalibrated} | "
        f"{row.insensitive} |"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
