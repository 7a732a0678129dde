"""Measure the estimated variance inflation of errors whose true inflation is known.

Input: generated errors that are independent, autoregressive or constant in rate per block. Output:
the median and the 10% and 90% quantiles of the estimate, next to the true value.
"""

import sys
from collections.abc import Callable
from functools import partial
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.evidence.options import options
from monitor.variance_inflation import variance_inflation

Floats = NDArray[np.float64]
Rng = np.random.Generator
RATES: Final = (0.01, 0.02, 0.05, 0.2, 0.4)
SIZES: Final = (400, 2_000, 4_000)


class Estimates(msgspec.Struct, frozen=True):
    """The estimates for one kind of errors."""

    errors: str
    count: int
    true: float
    low: float  # 10% quantile
    median: float
    high: float  # 90% quantile
    inflated: float  # share of estimates above 1


def independent(rng: Rng, count: int, rate: float) -> Floats:
    """Draw independent errors of 0 and 1."""
    return (rng.random(count) < rate).astype(np.float64)


def in_blocks(rng: Rng, count: int, block: int, rate: float, deviation: float) -> Floats:
    """Draw errors of 0 and 1 whose rate is drawn anew in each block, from a beta distribution."""
    total = rate * (1.0 - rate) / deviation**2 - 1.0
    rates = rng.beta(rate * total, (1.0 - rate) * total, -(-count // block))
    return (rng.random(count) < np.repeat(rates, block)[:count]).astype(np.float64)


def autoregressive(rng: Rng, count: int, memory: float) -> Floats:
    """Draw normal values, each of which contains the share `memory` of the one before."""
    from scipy.signal import lfilter

    values: Floats = lfilter([1.0], [1.0, -memory], rng.normal(size=count + 1_000))[1_000:]
    return values


def kinds() -> dict[str, tuple[float, Callable[[Rng, int], Floats]]]:
    """Map each kind of errors to its true variance inflation and a function that draws errors."""
    found: dict[str, tuple[float, Callable[[Rng, int], Floats]]] = {
        f"independent, {rate:.0%}": (1.0, partial(independent, rate=rate)) for rate in RATES
    }
    found["independent, 90% zero, else exponential"] = (
        1.0,
        lambda rng, n: rng.exponential(size=n) * independent(rng, n, 0.1),
    )
    for memory in (0.5, 0.9):
        true = (1.0 + memory) / (1.0 - memory)
        found[f"AR(1), {memory}"] = (true, partial(autoregressive, memory=memory))
    for block in (50, 200):
        true = 1.0 + (block - 1) * 0.1**2 / (0.2 * 0.8)
        found[f"20%, sd of 10% between blocks of {block}"] = (
            true,
            partial(in_blocks, block=block, rate=0.2, deviation=0.1),
        )
    return found


def main(argv: list[str]) -> int:
    """Run the measurement and print the table."""
    parser = options("error_inflation", __doc__, data=False)
    parser.add_argument("--repeats", type=int, default=200, help="number of series per row")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(argv)
    rows = []
    print("| errors | count | true | 10% | median | 90% | share above 1 |")
    print("|---|---:|---:|---:|---:|---:|---:|", flush=True)
    for name, (true, draw) in kinds().items():
        for count in SIZES:
            rng = np.random.default_rng([asked.seed, count])
            found = [variance_inflation(draw(rng, count)) for _ in range(asked.repeats)]
            low, median, high = (float(x) for x in np.quantile(found, (0.1, 0.5, 0.9)))
            inflated = float(np.mean(np.array(found) > 1.0))
            rows.append(Estimates(name, count, true, low, median, high, inflated))
            print(
                f"| {name} | {count:,} | {true:.1f} | {low:.2f} | {median:.2f} | {high:.2f} "
                f"| {inflated:.0%} |",
                flush=True,
            )
    if asked.json:
        asked.json.write_bytes(msgspec.json.encode(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
