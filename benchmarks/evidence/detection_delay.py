"""Measure how soon an increase in the error rate is detected, next to the best possible test.

Input: error rates before and after a change, for independent errors or errors in blocks. Output:
the average number of rows between false alarms without a change, and the delay after a change,
divided by the bound ln(rows between false alarms) / KL(after‖before) for a test that knows both
rates (G. Lorden, "Procedures for reacting to a change in distribution", 1971). The monitor's
`ErrorWatch` knows neither rate. An alarm is raised at the end of a pane.
"""

import argparse
import math
import sys
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.evidence.error_inflation import in_blocks, independent
from benchmarks.evidence.models_over import PANES, WatchedModel, pane_event, stream_with
from benchmarks.evidence.options import options
from monitor.decisions.error_watch import ErrorWatch
from monitor.variance_inflation import variance_inflation

Floats = NDArray[np.float64]
Rng = np.random.Generator

CHANGES: Final = (
    (0.02, 0.05),
    (0.05, 0.10),
    (0.10, 0.15),
    (0.10, 0.20),
    (0.20, 0.26),
    (0.20, 0.30),
    (0.30, 0.40),
    (0.40, 0.50),
)
HELD_OUT: Final = 2_000  # number of held-out errors, from which the variance inflation is estimated
# The bound is an average over rows. If it is shorter than this many panes, the delay is also given
# in panes, because a pane's errors are known only at its end.
FEW_PANES: Final = 5
# An alarm has to be raised within this many times the bound for 10,000 rows between false alarms;
# otherwise the delay is infinite.
LONGEST: Final = 40


class Setting(msgspec.Struct, frozen=True):
    """The stream: rows per window, and rows per block (1: independent) with the blocks' deviation
    of the error rate, as a fraction of the rate."""

    window: int
    block: int
    deviation: float

    @property
    def pane(self) -> int:
        return self.window // PANES

    def draw(self, rng: Rng, count: int, rate: float) -> Floats:
        """Draw errors of 0 and 1."""
        if self.block == 1:
            return independent(rng, count, rate)
        return in_blocks(rng, count, self.block, rate, self.deviation * rate)


class Delays(msgspec.Struct, frozen=True):
    """One table row. Delays and the bound are in rows; `alarms` counts false alarms in `rows`."""

    before: float
    after: float
    rows: int
    alarms: int
    run_length: float
    bound: float
    median: float
    high: float  # 90% quantile
    repeats: int


class _Watch:
    """The monitor's watch of one model's errors, from the model's first pane on."""

    def __init__(self, setting: Setting, rng: Rng, rate: float) -> None:
        self._watch = ErrorWatch(stream_with(("glr",), window=setting.window))
        held_out = setting.draw(rng, HELD_OUT, rate)
        self._model = WatchedModel("m", held_out, variance_inflation(held_out), 1.0)
        self._start = 0

    def first_alarm(self, errors: Floats, pane: int) -> int | None:
        """Add errors pane by pane up to the first alarm. Return the number of errors added, or None
        if there is no alarm."""
        for added in range(pane, len(errors) + 1, pane):
            event = pane_event(self._model, self._start, errors[added - pane : added])
            self._start += pane
            if self._watch.update(event) is not None:
                return added
        return None


def false_alarms(setting: Setting, rate: float, rows: int, seed: int) -> int:
    """Return the number of alarms in `rows` rows without a change."""
    rng = np.random.default_rng([seed, round(1_000 * rate)])
    watch = _Watch(setting, rng, rate)
    errors = setting.draw(rng, rows // setting.pane * setting.pane, rate)
    alarms = 0
    while (added := watch.first_alarm(errors, setting.pane)) is not None:
        alarms, errors = alarms + 1, errors[added:]
    return alarms


def delays(
    setting: Setting, change: tuple[float, float], run_in: int, repeats: int, seed: int
) -> Floats:
    """Return the delays (r,) of repeats without an alarm before the change, which comes about
    `run_in` rows after the model's first row. A delay is infinite if there is no alarm."""
    before, after = change
    found = []
    for repeat in range(repeats):
        rng = np.random.default_rng([seed, repeat, *(round(1_000 * rate) for rate in change)])
        watch = _Watch(setting, rng, before)
        # The change comes at a random place in a pane.
        panes, place = run_in // setting.pane, int(rng.integers(setting.pane))
        errors = setting.draw(rng, panes * setting.pane + place, before)
        if watch.first_alarm(errors[: panes * setting.pane], setting.pane) is not None:
            continue
        least = math.ceil(LONGEST * bound(change, 1e4) / setting.pane) * setting.pane
        later = np.concatenate(
            (errors[panes * setting.pane :], setting.draw(rng, least - place, after))
        )
        added = watch.first_alarm(later, setting.pane)
        # An alarm in the pane of the change cannot come before the change by more than its place.
        found.append(math.inf if added is None else float(added - place))
    return np.array(found)


def bound(change: tuple[float, float], run_length: float) -> float:
    """Return the bound on the mean delay, in rows."""
    before, after = change
    divergence = after * math.log(after / before) + (1.0 - after) * math.log(
        (1.0 - after) / (1.0 - before)
    )
    return math.log(run_length) / divergence


def main(argv: list[str]) -> int:
    """Run the measurement and print the table."""
    parser = options("detection_delay", __doc__, data=False)
    parser.add_argument("--window", type=int, default=1_000, help="rows per window")
    parser.add_argument("--block", type=int, default=1, help="rows per block of errors")
    parser.add_argument(
        "--deviation",
        type=float,
        default=0.5,
        help="standard deviation of the error rate between blocks, as a fraction of the rate",
    )
    parser.add_argument("--rows", type=int, default=3_000_000, help="rows without a change")
    parser.add_argument("--run-in", type=int, default=10_000, help="rows before the change")
    parser.add_argument("--repeats", type=int, default=400, help="number of changes")
    parser.add_argument("--changes", type=int, nargs="*", default=range(len(CHANGES)))
    parser.add_argument("--seed", type=int, default=1_000)
    asked = parser.parse_args(argv)
    setting = Setting(asked.window, asked.block, asked.deviation)
    print(
        "| change | false alarms / rows | bound | median delay | / bound | 90% quantile | / bound "
        "|\n|---|---:|---:|---:|---:|---:|---:|",
        flush=True,
    )
    rows = []
    counts: dict[float, int] = {}
    for change in (CHANGES[place] for place in asked.changes):
        if change[0] not in counts:
            counts[change[0]] = false_alarms(setting, change[0], asked.rows, asked.seed)
        row = measure(setting, change, counts[change[0]], asked)
        rows.append(row)
        print(_line(row, setting), flush=True)
    if asked.json:
        asked.json.write_bytes(msgspec.json.encode(rows))
    return 0


def measure(
    setting: Setting, change: tuple[float, float], alarms: int, asked: argparse.Namespace
) -> Delays:
    """Return a table row. Without any false alarm, the run length is taken as a third of the rows,
    which it exceeds with 95% confidence."""
    run_length = asked.rows / max(alarms, 3)
    found = delays(setting, change, asked.run_in, asked.repeats, asked.seed)
    median, high = (float(np.quantile(found, share, method="higher")) for share in (0.5, 0.9))
    limit = bound(change, run_length)
    return Delays(*change, asked.rows, alarms, run_length, limit, median, high, len(found))


def _line(row: Delays, setting: Setting) -> str:
    def shown(delay: float) -> str:
        panes = f" ({delay / setting.pane:.1f} panes)"
        return f"{delay:,.0f}" + (panes if row.bound < FEW_PANES * setting.pane else "")

    return (
        f"| {row.before:.2f} → {row.after:.2f} | {row.alarms} / {row.rows:,} | {row.bound:,.0f} "
        f"| {shown(row.median)} | {row.median / row.bound:.2f} "
        f"| {shown(row.high)} | {row.high / row.bound:.2f} |"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
