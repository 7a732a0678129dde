"""Count performance events on stationary errors, and the delay after their rate has doubled.

Input: generated errors: independent, in blocks, autocorrelated, seasonal, or mostly zero. Output:
events per window without a change, and the share of doubled error rates that open an event, with
the delay. Each model serves for a number of windows, and has 2,000 held-out errors.
"""

import sys
from collections.abc import Callable
from functools import partial
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.evidence.error_inflation import in_blocks, independent
from benchmarks.evidence.models_over import (
    PANES,
    Tallies,
    WatchedModel,
    add,
    pane_event,
    window_event,
)
from benchmarks.evidence.options import options
from driftline.config.stream import Stream, loads
from driftline.wire.events import DriftEvent
from monitor.decisions.decider import Decider

Floats = NDArray[np.float64]
Rng = np.random.Generator

HELD_OUT: Final = 2_000
# A change is found if an event opens within this many windows.
WITHIN: Final = 10


class Kind(msgspec.Struct, frozen=True):
    """A kind of errors. `draw(rng, rows, factor)` draws errors whose usual rate is multiplied by
    `factor`. `block` is the season that the stream file states."""

    name: str
    draw: Callable[[Rng, int, float], Floats]
    block: int | None = None
    regression: bool = False


class Row(msgspec.Struct, frozen=True):
    """One table row: events in windows without a change, and delays after changes, in windows."""

    errors: str
    windows: int
    events: int
    upper: float  # upper end of the 95% Clopper-Pearson interval for events per window
    changes: int
    found: int
    median: float | None


def plain(rng: Rng, rows: int, factor: float, *, rate: float) -> Floats:
    """Draw independent errors of 0 and 1."""
    return independent(rng, rows, rate * factor)


def blocks(rng: Rng, rows: int, factor: float, *, block: int) -> Floats:
    """Draw errors whose rate of 15% differs between blocks by a standard deviation of 6%."""
    return in_blocks(rng, rows, block, 0.15 * factor, 0.06 * factor)


def latent(rng: Rng, rows: int, factor: float, *, memory: float) -> Floats:
    """Draw errors whose log-rate follows an AR(1) process; their mean rate is about 15%."""
    from scipy.signal import lfilter

    noise = rng.normal(size=rows + 1_000) * np.sqrt(1.0 - memory**2)
    level: Floats = 0.5 * lfilter([1.0], [1.0, -memory], noise)[1_000:]
    return (rng.random(rows) < np.minimum(0.13 * factor * np.exp(level), 1.0)).astype(np.float64)


def seasonal(rng: Rng, rows: int, factor: float, *, period: int, start: int = 0) -> Floats:
    """Draw errors with a season: a quarter of each period has a rate of 35%, the rest 5 to 15%."""
    phase = (start + np.arange(rows)) % period / period
    rates = np.where((phase * 8.0).astype(int) % 4 == 3, 0.35, 0.05 + 0.1 * np.sin(np.pi * phase))
    return (rng.random(rows) < np.minimum(rates * factor, 1.0)).astype(np.float64)


def rain(rng: Rng, rows: int, factor: float) -> Floats:
    """Draw absolute errors: rounding noise, except for 5% of amounts (log-normal)."""
    amounts = rng.lognormal(0.0, 0.8, rows)
    return np.where(rng.random(rows) < 0.05 * factor, amounts, rng.random(rows) * 1e-15)


KINDS: Final = (
    *(Kind(f"independent, {rate:.0%}", partial(plain, rate=rate)) for rate in (0.02, 0.2)),
    *(Kind(f"15%, in blocks of {n}", partial(blocks, block=n)) for n in (50, 200)),
    Kind("15%, AR(1) 0.95", partial(latent, memory=0.95)),
    *(
        Kind(f"season of {n} (stated)", partial(seasonal, period=n), block=n)
        for n in (24, 288, 1_440)
    ),
    Kind("mostly zero, absolute", rain, regression=True),
)


def stream_of(kind: Kind, window: int) -> Stream:
    """Return a stream with default settings, apart from the window and the season."""
    task = "regression" if kind.regression else "classification"
    block = "" if kind.block is None else f"block = {kind.block}\n"
    return loads(
        f'version = 1\nname = "evidence"\ntask = "{task}"\ntarget = "y"\n'
        f'[features]\nx = "number"\n[windows]\nrecords = {window}\n[drift]\n{block}'
    )


def first_events(kind: Kind, config: Stream, rng: Rng, windows: int) -> tuple[int, int | None]:
    """Serve with a new model for `windows` windows, then double its error rate. Return the number
    of events before the change, and the rows from the change to the next event, or None. A model
    with an event before the change is not measured after it."""
    size, pane = config.window_size, config.window_size // PANES
    held_out = kind.draw(rng, HELD_OUT, 1.0)
    if kind.regression:
        held_out[:150] = 1e-16  # the scale must not come from the first errors
    model = WatchedModel.of("m", config.task, held_out, held_out)
    errors, change = kind.draw(rng, (windows + WITHIN) * size, 1.0), windows * size
    errors[change:] = kind.draw(rng, len(errors), 2.0)[change:]  # a season keeps its phase
    if kind.regression:
        errors[:150] = 1e-16
    decider, events = Decider(config), 0
    tallies: Tallies = {}
    for start in range(0, len(errors), pane):
        end = start + pane
        if start == change and events:
            return events, None
        found = decider.read(pane_event(model, start, errors[start:end]))
        add(tallies, config, model, errors[start:end])
        if end % size == 0:
            found = [*found, *decider.read(window_event(config, end, tallies))]
            tallies = {}
        opened = sum(isinstance(event, DriftEvent) and event.action == "opened" for event in found)
        if opened and start >= change:
            return events, end - change
        events += opened
    return events, None


def measure(kind: Kind, window: int, windows: int, per_model: int, seed: int) -> Row:
    """Return a table row."""
    from scipy.stats import beta

    config = stream_of(kind, window)
    events = changes = 0
    delays: list[float] = []
    models = -(-windows // per_model)
    for number in range(models):
        rng = np.random.default_rng([seed, number, window])
        before, delay = first_events(kind, config, rng, per_model)
        events += before
        changes += not before
        if delay is not None:
            delays.append(delay / window)
    count = models * per_model
    upper = 1.0 if events >= count else float(beta.ppf(0.975, events + 1, count - events))
    median = float(np.median(delays)) if delays else None
    return Row(kind.name, count, events, upper, changes, len(delays), median)


def main(argv: list[str]) -> int:
    """Run the measurement and print the table."""
    parser = options("performance_events", __doc__, data=False)
    parser.add_argument("--sizes", type=int, nargs="+", default=(500, 2_000), help="window sizes")
    parser.add_argument("--windows", type=int, default=3_000, help="windows per row of the table")
    parser.add_argument("--per-model", type=int, default=50, help="windows per model")
    parser.add_argument("--kinds", nargs="*", default=[kind.name for kind in KINDS])
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(argv)
    print(
        "| errors | window | windows | events | 95% upper bound | doubled rates found "
        "| median delay, windows |\n|---|---:|---:|---:|---:|---:|---:|",
        flush=True,
    )
    rows = []
    for kind in (kind for kind in KINDS if kind.name in asked.kinds):
        for size in asked.sizes:
            row = measure(kind, size, asked.windows, asked.per_model, asked.seed)
            rows.append(row)
            median = "" if row.median is None else f"{row.median:.2f}"
            print(
                f"| {kind.name} | {size:,} | {row.windows:,} | {row.events} | {row.upper:.2%} "
                f"| {row.found} of {row.changes} | {median} |",
                flush=True,
            )
    if asked.json:
        asked.json.write_bytes(msgspec.json.encode(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
