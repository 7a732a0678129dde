"""Measure the drift tests' false-alarm rate and power, on shuffled data files.

Input: data sets, shuffled row by row or in whole blocks, so that they do not drift. Output: events
per window with a confidence interval, the share of windows that Evidently's default tests flag, and
the shares of injected shifts that Driftline and Evidently detect. Many references are drawn. The
interval accounts for the correlation between windows that share a reference.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.evidence.options import options
from benchmarks.evidence.sets import SETS, DataSet, shuffled_blocks
from driftline.config.stream import loads
from monitor.reference.default_tests import jensenshannon, wasserstein
from monitor.reference.domain_classifier import ClassifierResult, DomainClassifier
from monitor.reference.histograms import Histograms
from monitor.reference.judge import DEPENDENCE_EFFECT
from monitor.reference.thresholds import IN_A_ROW, ThresholdCalibration, Thresholds
from monitor.watched_columns import watched
from producers.draft import draft
from producers.profile import look
from producers.sources import open_source

RATE: Final = 0.005
# The default `effect_size`. Evidently has the same threshold for the Wasserstein and the
# Jensen-Shannon distance.
EFFECT: Final = 0.1
SIZES: Final = (100, 500, 5000)
ORDERS: Final = ("rows", "blocks")
# A reference has `REFERENCE` rows, as in a model package, but at most `SHARE` of the data set's
# rows, so that enough rows remain for windows.
REFERENCE: Final = 10_000
SHARE: Final = 0.4
MAX_WINDOWS: Final = 40  # maximum number of windows per reference
RESOLVE_AFTER: Final = 2
# The injected drift shifts one numeric column by this many standard deviations.
SHIFT: Final = 0.5
WITHIN: Final = 3  # a shift counts as found if an event opens within this many windows

Columns = list[NDArray[Any]]


# The data sets used to develop the detection rule. The sets in `OTHERS` were used only
# for the measurement.
TUNED_ON: Final = ("sea_abrupt", "car_loan_nml", "elec2", "noaa_weather", "phishing_sites")
OTHERS: Final = (
    "bike_sharing",
    "metro_traffic",
    "california_housing_nml",
    "airlines_delayed_labels",
    "thu_mixed_0101_gradual",
)


class Count(msgspec.Struct):
    """Counts of windows, events and shifts for one reference."""

    windows: int = 0
    events: int = 0  # events according to the calibrated scores alone
    large: int = 0  # events with an effect large enough for the monitor to publish them
    evidently: int = 0  # windows in which Evidently flags at least one column
    shifts: int = 0
    found: int = 0
    found_by_evidently: int = 0


class TableRow(msgspec.Struct, frozen=True):
    """One row of the table: the rates over all references."""

    order: str
    size: int
    references: int
    windows: int
    rate: float
    error: float  # half the width of the 95% interval
    large: float
    evidently: float
    power: float
    evidently_power: float


def main(argv: list[str]) -> int:
    """Run the measurement and print the tables."""
    parser = options("false_alarms", __doc__)
    parser.add_argument("--sets", choices=("tuned", "others", "all"), default="all")
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=SIZES, help="window sizes in records"
    )
    parser.add_argument("--windows", type=int, default=2000, help="windows per size and order")
    parser.add_argument("--orders", nargs="+", choices=ORDERS, default=ORDERS)
    parser.add_argument("--classifier", action="store_true", help="enable [drift] classifier")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(argv)
    rows: list[tuple[str, TableRow]] = []
    for title, group, names in (("tuned on", "tuned", TUNED_ON), ("others", "others", OTHERS)):
        if asked.sets not in ("all", group):
            continue
        sets = {SETS[name]: columns_of(SETS[name], asked.data) for name in names}
        print(f"\n{title}: {', '.join(s.name for s in sets)}\n\n{_HEAD}", flush=True)
        for order in asked.orders:
            for size in asked.sizes:
                counts: list[Count] = []
                each = asked.windows / len(sets)
                for item, columns in sets.items():
                    rng = np.random.default_rng(asked.seed)
                    own: list[Count] = []
                    while sum(count.windows for count in own) < each:
                        block = item.block if order == "blocks" else 1
                        own.append(measure(columns, size, block, rng, asked.classifier))
                    counts += own
                row = pooled(order, size, counts)
                rows.append((title, row))
                print(_line(row), flush=True)
    if asked.json:
        asked.json.write_bytes(msgspec.json.encode(rows))
    return 0


def columns_of(item: DataSet, data: Path) -> Columns:
    """Read the columns that the monitor would watch with the stream file from `driftline init`.

    Rows after the data set's first known drift are left out.
    """
    import pandas as pd

    path = item.file(data)
    profile = look(open_source(str(path)), item.target, drop=item.no_features)
    stream = loads(draft(profile, item.name.replace("_", "-")))
    table = pd.read_csv(path, nrows=item.rows, keep_default_na=True)
    found: Columns = []
    for column in watched(stream):
        values = table[column.name]
        if column.kind == "number":
            found.append(values.to_numpy(np.float64))
        else:
            texts = np.empty(len(values), dtype=object)
            texts[:] = [None if pd.isna(value) else str(value) for value in values]
            found.append(texts)
    return found


def measure(
    columns: Columns, size: int, block: int, rng: np.random.Generator, classifier: bool = False
) -> Count:
    """Shuffle the rows, use the first rows as the reference, and test the windows after it."""
    total = len(columns[0])
    order = shuffled_blocks(rng, total, block)
    columns = [values[order] for values in columns]
    length = min(REFERENCE, int(SHARE * total))
    reference = [values[:length] for values in columns]
    rows = np.arange(total)
    known = Histograms(reference, paired=len(reference), positions=rows[:length])
    # As in the monitor, if the classifier runs, the drift tests and the classifier each get half of
    # the false-alarm rate.
    rate = RATE / 2 if classifier else RATE
    calibration = ThresholdCalibration(known, rate=rate)
    thresholds = calibration.of(size)
    starts = range(length, min(len(order), length + MAX_WINDOWS * size) - size + 1, size)
    windows = [[values[at : at + size] for values in columns] for at in starts]
    positions = [rows[at : at + size] for at in starts]
    count = Count(windows=len(windows))
    distances = _distances(known, windows, positions)
    scores = thresholds.scores(distances)
    effects = np.array([_effects(reference, window) for window in windows]).T
    relations = distances[len(columns) :] >= EFFECT * DEPENDENCE_EFFECT
    is_large = np.concatenate((effects >= EFFECT, relations))
    if classifier:
        trees = DomainClassifier(known, columns=len(reference), rate=rate, block=calibration.block)
        results = [
            trees.test(window, at) or ClassifierResult(0.0, 0.0, ())
            for window, at in zip(windows, positions, strict=True)
        ]
        alarms = [(thresholds.alarm or 0.0) * one.excess * (one.excess >= 1.0) for one in results]
        scores = np.vstack((scores, alarms))
        is_large = np.vstack(
            (is_large, [[one.effect >= EFFECT * DEPENDENCE_EFFECT for one in results]])
        )
    count.events = events(scores, thresholds)
    count.large = events(np.where(is_large, scores, 0.0), thresholds)
    count.evidently = int((effects >= EFFECT).any(axis=0).sum())
    numbers = [place for place, values in enumerate(columns) if values.dtype.kind == "f"]
    if numbers:
        moved = int(rng.choice(numbers))
        by = SHIFT * float(np.nanstd(reference[moved]))
        shifted = [
            [values + by if place == moved else values for place, values in enumerate(window)]
            for window in windows[:WITHIN]
        ]
        count.shifts = 1
        moved_by = _distances(known, shifted, positions[:WITHIN])
        count.found = events(thresholds.scores(moved_by), thresholds) > 0
        count.found_by_evidently = any(
            (_effects(reference, window)[moved] >= EFFECT) for window in shifted
        )
    return count


def events(scores: NDArray[np.float64], thresholds: Thresholds) -> int:
    """Return how many events the monitor would open for scores of shape (columns, windows)."""
    opened, is_open, quiet = 0, False, 0
    warned = scores >= thresholds.warning
    for at in range(scores.shape[1]):
        again = warned[:, max(0, at - IN_A_ROW + 1) : at].any(axis=1)
        alarm = thresholds.alarm is not None and (scores[:, at] >= thresholds.alarm).any()
        quiet = 0 if warned[:, at].any() else quiet + 1
        if is_open:
            is_open = quiet < RESOLVE_AFTER
        elif alarm or (warned[:, at] & again).any():
            opened, is_open = opened + 1, True
    return opened


def _distances(
    known: Histograms, windows: Sequence[Columns], positions: Sequence[NDArray[np.int64]]
) -> NDArray[np.float64]:
    """Return the windows' distances from the reference, with shape (columns + pairs, windows)."""
    pairs = zip(windows, positions, strict=True)
    counts = np.stack([known.count(window, at) for window, at in pairs], axis=1)
    return known.distances(counts, known.total[:, None])


def _effects(reference: Columns, window: Columns) -> list[float]:
    """Return, for each column, the distance between the reference and the window.

    It is the Wasserstein distance for numeric columns and the Jensen-Shannon distance for
    categorical columns, Evidently's defaults for a reference of more than 1,000 rows.
    """
    found = []
    for old, new in zip(reference, window, strict=True):
        if old.dtype.kind == "f":
            found.append(wasserstein(old[~np.isnan(old)], new[~np.isnan(new)]))
        else:
            levels = {value: code for code, value in enumerate({*old, *new} - {None})}
            codes = [np.array([levels[v] for v in side if v is not None]) for side in (old, new)]
            found.append(jensenshannon(*codes))
    return found


def pooled(order: str, size: int, counts: Sequence[Count]) -> TableRow:
    """Pool the counts of all references into a table row.

    The rate is the number of events divided by the number of windows, over all references. Its
    error is computed as for a ratio estimator, with each reference as one sampling unit.
    """
    windows = np.array([count.windows for count in counts])
    opened = np.array([count.events for count in counts])
    rate = float(opened.sum() / windows.sum())
    error = 1.96 * float(np.sqrt(((opened - rate * windows) ** 2).sum()) / windows.sum())
    shifts = max(1, sum(count.shifts for count in counts))
    return TableRow(
        order=order,
        size=size,
        references=len(counts),
        windows=int(windows.sum()),
        rate=rate,
        error=error,
        large=sum(count.large for count in counts) / int(windows.sum()),
        evidently=sum(count.evidently for count in counts) / int(windows.sum()),
        power=sum(count.found for count in counts) / shifts,
        evidently_power=sum(count.found_by_evidently for count in counts) / shifts,
    )


_HEAD: Final = (
    "| shuffled by | window | references | windows | events a window | 95% interval | published "
    "(effect ≥ 0.1) | Evidently flags | shift of 0.5 sd found in 3 windows | by Evidently |\n"
    "|---|---:|---:|---:|---:|---|---:|---:|---:|---:|"
)


def _line(row: TableRow) -> str:
    low, high = max(0.0, row.rate - row.error), row.rate + row.error
    return (
        f"| {row.order} | {row.size:,} | {row.references} | {row.windows:,} | {row.rate:.2%} "
        f"| {low:.2%}–{high:.2%} | {row.large:.2%} | {row.evidently:.1%} | {row.power:.0%} "
        f"| {row.evidently_power:.0%} |"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
