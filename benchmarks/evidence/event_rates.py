"""Measure the monitor's false alarms of all kinds together, and its power, on dependent streams.

Input: streams without drift, generated or shuffled in blocks. Output for each stream and window
size: the drift events per window, by kind; and how often a shift of one standard deviation in one
column is found within two windows. Next to it stands the power of an oracle that knows the
stream's law, draws from it, and spends the whole budget on the numeric columns.
"""

import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from fnmatch import fnmatch
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from benchmarks.evidence.monitored import PredictedRows, drift_events, reference_of
from benchmarks.evidence.options import options
from benchmarks.evidence.oracle import WITHIN, Oracle
from benchmarks.evidence.stationary import Stationary, StationarySource, names, source
from driftline.config.stream import Stream, loads
from driftline.wire.columns import Columns
from driftline.wire.events import DriftEvent
from driftline_app.backtest.process_pool import cores

SIZES: Final = (500, 2_000)
KINDS: Final = ("data", "prediction", "quality", "performance")
SHIFT: Final = 1.0  # the injected shift, in standard deviations of the reference
WINDOWS: Final = 3_000
PER_REFERENCE: Final = 30
# With fewer windows per reference, most of the time would be spent on calibration.
MIN_PER_REFERENCE: Final = 2


class TableRow(msgspec.Struct, frozen=True):
    """The result for one source and window size."""

    source: str
    size: int
    references: int
    windows: int
    events: dict[str, int]  # opened events by kind
    alarms: int  # windows in which at least one event opened
    bound: float  # upper end of the alarm rate's 95% Clopper–Pearson interval
    open: float  # share of the windows at whose end an event is open
    trials: int
    found: int
    found_by_oracle: int

    @property
    def rate(self) -> float:
        """The share of windows in which at least one event opened."""
        return self.alarms / self.windows


def main(argv: list[str]) -> int:
    """Run the measurement and print the table."""
    parser = options("event_rates", __doc__)
    parser.add_argument("--windows", type=int, default=WINDOWS, help="windows of each table row")
    parser.add_argument("--per-reference", type=int, default=PER_REFERENCE, metavar="N",
                        help="largest number of windows that share a reference")  # fmt: skip
    parser.add_argument("--sizes", type=_numbers, default=SIZES, metavar="N,...",
                        help="window sizes in records")  # fmt: skip
    parser.add_argument("--rows", type=_patterns, default=("*",), metavar="NAME,...",
                        help="sources to measure, such as ar1,elec2-*; default: all")  # fmt: skip
    parser.add_argument("--processes", type=int, default=cores(), help="references in parallel")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(argv)
    chosen = [n for n in names(asked.data) if any(fnmatch(n, p) for p in asked.rows)]
    if not chosen:
        parser.error(f"--rows: expected one of {', '.join(names(asked.data))}")
    rows: list[TableRow] = []
    print(_HEAD, flush=True)
    for name in chosen:
        own = source(name, asked.data)
        for size in asked.sizes:
            per_reference = fitting(own, size, asked.per_reference)
            if per_reference < MIN_PER_REFERENCE:
                print(f"{name} is too short for windows of {size} records", file=sys.stderr)
                continue
            rows.append(
                measure(own, size, asked.windows, per_reference, asked.seed, asked.processes)
            )
            print(_line(rows[-1]), flush=True)
            if asked.json:
                _save(asked.json, rows)
    return 0


def fitting(own: StationarySource, size: int, most: int) -> int:
    """Return how many windows without drift fit between the reference and the shifted windows."""
    if own.total is None:
        return most
    return min(most, (own.total - own.reference) // size - WITHIN)


def measure(
    own: StationarySource,
    size: int,
    windows: int,
    per_reference: int,
    seed: int = 0,
    processes: int = 1,
) -> TableRow:
    """Measure one source, with `per_reference` windows of `size` records after each reference.

    At least `windows` windows are measured. Equal arguments give equal results, whatever
    `processes` is.
    """
    stream = loads(own.stream_file(size))
    entropy = [seed, size, *own.name.encode()]
    oracle = Oracle(own, size, per_reference, np.random.default_rng([*entropy, 1]))
    references = -(-windows // per_reference)
    run = partial(trial, stream, own, oracle, size, per_reference)
    seeds = [[*entropy, 0, place] for place in range(references)]
    if processes == 1:
        trials = list(map(run, seeds))
    else:
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            # Each chunk carries the whole source, so a process gets only a few chunks.
            trials = list(pool.map(run, seeds, chunksize=-(-references // (4 * processes))))
    count = references * per_reference
    alarms = sum(each.alarms for each in trials)
    return TableRow(
        source=own.name,
        size=size,
        references=references,
        windows=count,
        events=dict(sum((each.events for each in trials), Counter[str]())),
        alarms=alarms,
        bound=upper_bound(alarms, count),
        open=sum(each.open for each in trials) / count,
        trials=references,
        found=sum(each.found for each in trials),
        found_by_oracle=sum(each.found_by_oracle for each in trials),
    )


class Trial(msgspec.Struct, frozen=True):
    """The result for one reference: its windows without drift, then two with a shifted column."""

    events: Counter[str]  # opened events by kind
    alarms: int  # windows in which at least one event opened
    open: int  # windows at whose end an event is open
    found: bool
    found_by_oracle: bool


def trial(
    stream: Stream,
    own: StationarySource,
    oracle: Oracle,
    size: int,
    count: int,
    seed: Sequence[int],
) -> Trial:
    """Draw a reference and `count` windows, then shift one of the columns that are not constant."""
    rng = np.random.default_rng(seed)
    quiet_end = own.reference + count * size
    drawn = own.draw(rng, quiet_end + WITHIN * size)
    column = str(rng.choice(oracle.columns))
    rows = _shifted(drawn.rows, column, own.reference, quiet_end)
    # Windows begin at multiples of their size.
    first = -(-own.reference // size) * size
    reference = reference_of(stream.task, rows.take(slice(own.reference)), first - own.reference)
    events = drift_events(
        stream, reference, rows.take(slice(own.reference, None)), first, labelled=count * size
    )
    ends = first + size * np.arange(1, count + 1)
    quiet = [event for event in events if event.position <= ends[-1]]
    opened = [event for event in quiet if event.action == "opened"]
    named_before = any(
        event.kind == "data" and column in event.columns for event in open_at(quiet, int(ends[-1]))
    )
    return Trial(
        events=Counter(event.kind for event in opened),
        # Performance events open within a window, which counts as an alarm at its end.
        alarms=len({int(np.searchsorted(ends, event.position)) for event in opened}),
        open=sum(bool(open_at(quiet, int(end))) for end in ends),
        # An event that already names the column does not find the shift.
        found=not named_before
        and any(
            event.kind == "data" and event.action != "resolved" and column in event.columns
            for event in events
            if event.position > ends[-1]
        ),
        found_by_oracle=oracle.finds(Stationary(rows, drawn.seasons), column),
    )


def _shifted(rows: PredictedRows, name: str, reference: int, start: int) -> PredictedRows:
    """Shift a column from row `start` on. Predictions and labels stay the same."""
    values = rows.columns.numbers[name].copy()
    values[start:] += SHIFT * float(np.nanstd(values[:reference]))
    columns = Columns({**rows.columns.numbers, name: values}, rows.columns.categories, len(rows))
    return msgspec.structs.replace(rows, columns=columns)


def open_at(events: Sequence[DriftEvent], position: int) -> list[DriftEvent]:
    """Return the newest change of each event that is open at a position."""
    newest = {event.id: event for event in events if event.position <= position}
    return [event for event in newest.values() if event.action != "resolved"]


def upper_bound(successes: int, trials: int) -> float:
    """Return the upper end of the 95% Clopper–Pearson interval of a share.

    It assumes independent windows, although windows with the same reference are not independent.

    >>> round(upper_bound(0, 3000), 5), round(upper_bound(15, 3000), 5)
    (0.00123, 0.00823)
    """
    from scipy.stats import beta

    return 1.0 if successes == trials else float(beta.ppf(0.975, successes + 1, trials - successes))


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _patterns(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _save(path: Path, rows: list[TableRow]) -> None:
    path.write_bytes(msgspec.json.encode(rows))


_HEAD: Final = (
    "| stream | window | references | windows | " + " | ".join(KINDS) + " | windows with a new "
    "event | upper 95% bound | an event is open | shift of 1 sd found in 2 windows | by the oracle "
    "| ratio |\n|---|" + "---:|" * 13
)


def _line(row: TableRow) -> str:
    kinds = " | ".join(str(row.events.get(kind, 0)) for kind in KINDS)
    ratio = row.found / row.found_by_oracle if row.found_by_oracle else float("nan")
    return (
        f"| {row.source} | {row.size:,} | {row.references} | {row.windows:,} | {kinds} "
        f"| {row.rate:.2%} | {row.bound:.2%} | {row.open:.1%} | {row.found / row.trials:.0%} "
        f"| {row.found_by_oracle / row.trials:.0%} | {ratio:.2f} |"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
