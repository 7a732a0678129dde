"""Inject a small shift into one column of a data set, and measure how often an event names it.

Input: data sets with the stream files that `driftline init` drafts. Each watched column in turn is
shifted by a part of its standard deviation in the reference, from a window's first row on. The
shift counts as found only if a data event names the column within two windows, and the same rows
without the shift have no such event. Output: for each column, the shares of trials in which
Driftline and an oracle find the shift.

- **Order.** `stream` keeps the order of the rows; each trial starts at another row. `blocks`
  shuffles the rows in whole blocks in each trial (a day of `elec2`, a month of `noaa_weather`),
  which keeps the dependence within a block and removes lasting changes.
- **Rows.** The reference has a fifth of the set's rows, as in `driftline run`, and four windows
  follow. The shift begins with the third. The Hoeffding tree that makes the predictions is trained
  on the reference and learns nothing after it. Labels are not sent.
- **Oracle.** It knows the null distribution of its statistic, which is the Kolmogorov-Smirnov
  distance of a column between the reference and a window. The null distribution comes from windows
  of the set without a shift: in `stream`, the four windows after every possible start (one per
  pane); in `blocks`, windows of other shuffles. The oracle divides the stream's false-alarm rate
  evenly among the watched columns. Driftline divides the same rate among more tests: columns, pairs
  of columns, and predictions.
- A column that is constant in a reference is left out of this reference's trials and distances.
"""

import itertools
import multiprocessing
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from functools import lru_cache
from pathlib import Path
from statistics import fmean
from typing import Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.evidence.detectors import table as markdown
from benchmarks.evidence.injection import (
    LISTED,
    Floats,
    Learner,
    Table,
    listed,
    read_table,
    warm_up,
    watch,
)
from benchmarks.evidence.options import options
from benchmarks.evidence.retraining import stream_of
from benchmarks.evidence.sets import SETS, shuffled_blocks
from driftline.config.stream import Stream
from driftline_app.backtest.process_pool import cores
from monitor.panes import PANES
from monitor.watched_columns import watched

NAMES: Final = ("elec2", "noaa_weather")
ORDERS: Final = ("stream", "blocks")
SIZE: Final = 0.5
REFERENCE: Final = 0.2  # the share of rows that `driftline run` trains on by default
LEAD: Final = 2  # windows before the shift, so that a warning there can confirm one after it
WITHIN: Final = 2
# The oracle's threshold for one of eight columns is a quantile of 0.9994. With 20,000 distances,
# about 12 are larger.
NULLS: Final = 20_000
CHUNK: Final = 20  # references for which one process computes distances at a time
SIDES: Final[tuple[Literal["left", "right"], ...]] = ("left", "right")


class Task(msgspec.Struct, frozen=True):
    """A data set in one order. `numbers` are the numbers of the trials or shuffles to draw."""

    set: str
    order: str
    numbers: tuple[int, ...]
    trials: int  # total number of trials
    size: float  # of the shift, in standard deviations
    seed: int
    data: Path


class Found(msgspec.Struct, frozen=True):
    """One column's results in one trial.

    named, named_before: whether an event named the column with and without the shift. distance,
    distance_before: the largest distance in the shifted windows with and without the shift.
    """

    column: str
    named: bool
    named_before: bool
    distance: float
    distance_before: float


class Power(msgspec.Struct, frozen=True):
    """One column's results: shares of trials, and the oracle's threshold for the distance."""

    column: str
    trials: int
    driftline: float
    oracle: float
    named_before: float
    threshold: float
    nulls: int  # number of distances without a shift from which the threshold comes


class Prepared(msgspec.Struct, frozen=True):
    """A data set, and the numbers of rows in a reference and in a trial."""

    stream: Stream
    table: Table
    block: int
    reference: int
    trial: int

    @property
    def watched(self) -> tuple[int, ...]:
        """The places of the watched columns in the table."""
        return tuple(self.table.names.index(column.name) for column in watched(self.stream))


@lru_cache(1)
def prepared(name: str, data: Path) -> Prepared:
    """Read a data set with the columns of its drafted stream file."""
    stream = stream_of(SETS[name], data)
    table = read_table(SETS[name], data, tuple(stream.features))
    reference = int(REFERENCE * len(table.x))
    trial = reference + (LEAD + WITHIN) * stream.window_size
    return Prepared(stream, table, SETS[name].block, reference, trial)


def shuffled(rows: int, block: int, seed: Sequence[int]) -> NDArray[np.int64]:
    """Return the indices of the rows in whole blocks, which are in random order."""
    return shuffled_blocks(np.random.default_rng(seed), rows, block)


# ---- trials --------------------------------------------------------------------------------------


def run(task: Task) -> list[Found]:
    """Watch the rows of each trial without a shift, and with a shift of each column in turn."""
    return [found for number in task.numbers for found in _trial(task, number)]


def _trial(task: Task, number: int) -> Iterator[Found]:
    has = prepared(task.set, task.data)
    if task.order == "blocks":
        rows = shuffled(len(has.table.x), has.block, (task.seed, 0, number))[: has.trial]
    else:
        start = number * (len(has.table.x) - has.trial) // max(1, task.trials - 1)
        rows = np.arange(start, start + has.trial)
    old, new = (has.table.take(part) for part in np.split(rows, [has.reference]))
    learner = Learner(old.names, old.classes)
    reference = warm_up(learner, old)
    window = has.stream.window_size
    first = -(-has.reference // window) * window  # windows begin at multiples of their length
    shift_at = LEAD * window

    def named(table: Table) -> set[str]:
        events = watch(has.stream, reference, table, learner.score(table.x), first=first)
        return {
            column
            for event in events
            if event.kind == "data" and event.action != "resolved"
            if event.position > first + shift_at
            for column in event.columns
        }

    before = named(new)
    for place in has.watched:
        column, by = old.names[place], task.size * float(old.x[:, place].std())
        if not by:
            continue
        x = new.x.copy()
        x[shift_at:, place] += by
        yield Found(
            column,
            column in named(msgspec.structs.replace(new, x=x)),
            column in before,
            *(
                float(distances(old.x[:, place], side[shift_at:, place], window).max())
                for side in (x, new.x)
            ),
        )


# ---- oracle --------------------------------------------------------------------------------------


def nulls(task: Task) -> dict[str, list[float]]:
    """Return each column's distances in windows without a shift.

    In `stream`, a number is the first row of a reference. In `blocks`, it is that of a shuffle.
    """
    has = prepared(task.set, task.data)
    found: dict[str, list[float]] = {has.table.names[place]: [] for place in has.watched}
    for number in task.numbers:
        if task.order == "blocks":
            rows = shuffled(len(has.table.x), has.block, (task.seed, 1, number))
        else:
            rows = np.arange(number, number + has.trial)
        x = has.table.x[rows]
        for place in has.watched:
            old, new = np.split(x[:, place], [has.reference])
            if old.std():
                found[has.table.names[place]] += distances(
                    old, new, has.stream.window_size
                ).tolist()
    return found


def null_numbers(has: Prepared, order: str) -> list[int]:
    """Return the numbers for `nulls`."""
    total = len(has.table.x)
    if order == "stream":
        return list(range(0, total - has.trial + 1, has.stream.window_size // PANES))
    return list(range(-(-NULLS // ((total - has.reference) // has.stream.window_size))))


def distances(reference: Floats, values: Floats, window: int) -> Floats:
    """Return the Kolmogorov-Smirnov distance of each whole window of `values`."""
    old, found = np.sort(reference), []
    for start in range(0, len(values) - window + 1, window):
        # Between two values of the window, its distribution function is constant, so the largest
        # difference is next to one of these values, on either side.
        new = np.sort(values[start : start + window])
        apart = [
            np.searchsorted(old, new, side) / len(old) - np.searchsorted(new, new, side) / window
            for side in SIDES
        ]
        found.append(float(np.abs(apart).max()))
    return np.array(found)


# ---- results -------------------------------------------------------------------------------------


def power(found: Sequence[Found], null: Sequence[float], rate: float) -> Power:
    """Return one column's results. `rate` is the oracle's false-alarm rate for this column."""
    threshold = float(np.quantile(null, 1.0 - rate, method="higher"))
    return Power(
        found[0].column,
        len(found),
        fmean(one.named and not one.named_before for one in found),
        fmean(one.distance > threshold >= one.distance_before for one in found),
        fmean(one.named_before for one in found),
        threshold,
        len(null),
    )


HEAD: Final = (
    "column",
    "trials",
    "found by Driftline",
    "by the oracle",
    "ratio",
    "named without the shift",
    "distances without a shift",
)


def _row(one: Power) -> list[str]:
    return [
        one.column,
        f"{one.trials}",
        f"{one.driftline:.0%}",
        f"{one.oracle:.0%}",
        f"{one.driftline / one.oracle:.2f}" if one.oracle else "—",
        f"{one.named_before:.0%}",
        f"{one.nulls:,}",
    ]


def measure(base: Task, pool: Executor) -> list[Power]:
    """Return the results of each column of one set in one order."""
    has = prepared(base.set, base.data)

    def parts(numbers: Sequence[int], size: int) -> list[Task]:
        chunks = [tuple(numbers[at : at + size]) for at in range(0, len(numbers), size)]
        return [msgspec.structs.replace(base, numbers=chunk) for chunk in chunks]

    trials = [one for part in pool.map(run, parts(range(base.trials), 1)) for one in part]
    null = list(pool.map(nulls, parts(null_numbers(has, base.order), CHUNK)))
    rate = has.stream.drift.false_alarm_rate / len(has.watched)
    found = []
    for place in has.watched:
        column = has.table.names[place]
        if own := [one for one in trials if one.column == column]:
            found.append(power(own, [distance for part in null for distance in part[column]], rate))
    return found


def main(argv: list[str]) -> int:
    """Run the trials and print one table for each set and order."""
    parser = options("injected_shift", __doc__)
    parser.add_argument("--sets", type=listed(*NAMES), default=NAMES, help=LISTED)
    parser.add_argument("--orders", type=listed(*ORDERS), default=ORDERS, help=LISTED)
    parser.add_argument(
        "--size", type=float, default=SIZE, help="shift in standard deviations of the reference"
    )
    parser.add_argument("--repeats", type=int, default=20, help="trials per column")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=cores(), help="trials to run in parallel")
    asked = parser.parse_args(argv)
    found = []
    with ProcessPoolExecutor(asked.processes, multiprocessing.get_context("spawn")) as pool:
        for name, order in itertools.product(asked.sets, asked.orders):
            base = Task(name, order, (), asked.repeats, asked.size, asked.seed, asked.data)
            powers = measure(base, pool)
            print(f"\n{name}, order: {order}, shift of {asked.size:g} standard deviations\n")
            print(markdown(HEAD, [_row(one) for one in powers]), flush=True)
            found.append({"set": name, "order": order, "columns": powers})
            if asked.json:
                asked.json.write_bytes(msgspec.json.format(msgspec.json.encode(found)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
