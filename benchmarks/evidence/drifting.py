"""Generate streams with concept changes, and compute how soon a test can detect each change.

Input: a family and a seed. Output: rows, labels, and the rows at which the concept changes.
"""

import math
from collections.abc import Callable
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Rng = np.random.Generator

TRAINING: Final = 2_000
# Without jitter, changes are `SPACING` rows apart. Each change is moved by at most `JITTER` rows.
SPACING: Final = 4_000
JITTER: Final = 500
CHANGES: Final = 3
ROWS: Final = TRAINING + SPACING * (CHANGES + 1)
WIDTH: Final = 1_000  # number of rows over which a gradual change takes place
# The best possible test raises one false alarm per this many rows.
BOUND_ROWS: Final = 10_000


class ConceptChange(msgspec.Struct, frozen=True):
    """A concept change that begins at `row` and is complete `width` rows later."""

    row: int
    width: int


class Family(msgspec.Struct, frozen=True):
    """A kind of stream. `draw(rng)` returns a function (rng, rows, concept number) → (x, y)."""

    name: str
    draw: Callable[[Rng], Callable[[Rng, int, int], tuple[Floats, Floats]]]
    regression: bool = False


class Drifting(msgspec.Struct, frozen=True):
    """A stream: `x` (n, columns) and `y` (n,). `fresh(concept)` draws new rows from a concept."""

    x: Floats
    y: Floats
    changes: tuple[ConceptChange, ...]
    regression: bool
    fresh: Callable[[int], tuple[Floats, Floats]]
    training: int = TRAINING


def draw(family: Family, seed: int, *, gradual: bool) -> Drifting:
    """Draw a stream from a family. The same seed always gives the same stream."""
    rng = np.random.default_rng([seed, gradual, *family.name.encode()])
    sample = family.draw(rng)
    width = WIDTH if gradual else 0
    changes = tuple(
        ConceptChange(TRAINING + SPACING * (i + 1) + int(rng.integers(-JITTER, JITTER)), width)
        for i in range(CHANGES)
    )
    rows = np.arange(ROWS)
    concepts = np.zeros(ROWS, dtype=int)
    for change in changes:
        share = (rows >= change.row) if not width else np.clip((rows - change.row) / width, 0, 1)
        concepts += rng.random(ROWS) < share
    parts = [sample(rng, ROWS, concept) for concept in range(CHANGES + 1)]
    x = np.stack([part[0] for part in parts])[concepts, rows]
    y = np.stack([part[1] for part in parts])[concepts, rows]
    # Draw fresh rows with another seed, so that errors are not measured on training rows.
    others = np.random.default_rng([seed, gradual, 1, *family.name.encode()])
    return Drifting(x, y, changes, family.regression, lambda c: sample(others, 4_000, c))


def bound(before: float, after: float) -> float:
    """Return how many rows the best possible test needs to detect an increase in the error rate.

    This test knows both error rates and raises one false alarm per `BOUND_ROWS` rows. It needs
    log(rows between false alarms) / KL(after‖before) rows (G. Lorden, 1971). The result is infinite
    if the error does not increase.
    """
    if after <= before:
        return math.inf
    before, after = (min(max(p, 1e-4), 1 - 1e-4) for p in (before, after))
    divergence = after * math.log(after / before) + (1 - after) * math.log(
        (1 - after) / (1 - before)
    )
    return math.log(BOUND_ROWS) / divergence


def bound_of_errors(before: Floats, after: Floats) -> float:
    """Return the same bound as `bound`, but for an increase in the mean absolute error.

    before, after: absolute errors before and after the change, shape (n,). They are treated as
    normally distributed, with the variance of `before`.
    """
    rise = float(after.mean() - before.mean())
    if rise <= 0.0:
        return math.inf
    return math.log(BOUND_ROWS) * 2.0 * float(before.var()) / rise**2


# ---- families -----------------------------------------------------------------------------------


def _noisy(rng: Rng, y: Any, share: float) -> Floats:
    flipped: Floats = np.where(rng.random(len(y)) < share, 1 - y, y).astype(float)
    return flipped


def _sea(rng: Rng) -> Callable[[Rng, int, int], tuple[Floats, Floats]]:
    # W. N. Street and Y. Kim, 2001, with their four thresholds in random order.
    thresholds = rng.permutation([7.0, 8.0, 9.0, 9.5])

    def sample(rng: Rng, rows: int, concept: int) -> tuple[Floats, Floats]:
        x = rng.uniform(0, 10, (rows, 3))
        return x, _noisy(rng, x[:, 0] + x[:, 1] <= thresholds[concept], 0.1)

    return sample


def _sine(rng: Rng) -> Callable[[Rng, int, int], tuple[Floats, Floats]]:
    # J. Gama et al., 2004: a sine curve separates the classes. There are four concepts: for
    # each of two curves, class 1 lies either below or above the curve.
    order = rng.permutation(4)

    def sample(rng: Rng, rows: int, concept: int) -> tuple[Floats, Floats]:
        x = rng.uniform(0, 1, (rows, 2))
        kind = order[concept]
        edge = np.sin(x[:, 0]) if kind < 2 else 0.5 + 0.3 * np.sin(3 * np.pi * x[:, 0])
        return x, _noisy(rng, (x[:, 1] < edge) ^ bool(kind % 2), 0.05)

    return sample


def _mixed(rng: Rng) -> Callable[[Rng, int, int], tuple[Floats, Floats]]:
    # J. Gama et al., 2004: the class is 1 if at least two of three conditions hold. In every second
    # concept, the classes are swapped in part of the input space.
    shares = rng.uniform(0.2, 1.0, CHANGES + 1)

    def sample(rng: Rng, rows: int, concept: int) -> tuple[Floats, Floats]:
        x = np.column_stack([rng.integers(0, 2, (rows, 2)), rng.uniform(0, 1, (rows, 2))])
        curve = x[:, 3] < 0.5 + 0.3 * np.sin(3 * np.pi * x[:, 2])
        y = (x[:, 0] + x[:, 1] + curve) >= 2
        reverse = (concept % 2 == 1) & (x[:, 2] < shares[concept])
        return x, _noisy(rng, y ^ reverse, 0.05)

    return sample


def _stagger(rng: Rng) -> Callable[[Rng, int, int], tuple[Floats, Floats]]:
    # J. Schlimmer and R. Granger, 1986: three recurring rules on size, colour and shape.
    order = [*rng.permutation(3), *rng.permutation(3)]
    order = [rule for i, rule in enumerate(order) if not i or rule != order[i - 1]]
    noise = rng.uniform(0.0, 0.2)

    def sample(rng: Rng, rows: int, concept: int) -> tuple[Floats, Floats]:
        x = rng.integers(0, 3, (rows, 3)).astype(float)
        rules = [
            (x[:, 0] == 0) & (x[:, 1] == 0),
            (x[:, 1] == 1) | (x[:, 2] == 1),
            (x[:, 0] == 1) | (x[:, 0] == 2),
        ]
        return x, _noisy(rng, rules[order[concept]], noise)

    return sample


def _hyperplane(rng: Rng) -> Callable[[Rng, int, int], tuple[Floats, Floats]]:
    # G. Hulten et al., 2001, but each change rotates the hyperplane by 10 to 90 degrees.
    weights = [rng.normal(size=5)]
    for _ in range(CHANGES):
        last = weights[-1] / np.linalg.norm(weights[-1])
        aside = rng.normal(size=5)
        aside -= aside @ last * last
        angle = np.radians(rng.uniform(10, 90))
        weights.append(np.cos(angle) * last + np.sin(angle) * aside / np.linalg.norm(aside))

    def sample(rng: Rng, rows: int, concept: int) -> tuple[Floats, Floats]:
        x = rng.uniform(-1, 1, (rows, 5))
        return x, _noisy(rng, x @ weights[concept] > 0, 0.05)

    return sample


def _circles(rng: Rng) -> Callable[[Rng, int, int], tuple[Floats, Floats]]:
    # J. Gama et al., 2004: the class is 1 inside a circle. Each concept has its own centre and
    # radius.
    centres = rng.uniform(0.3, 0.7, (CHANGES + 1, 2))
    radii = rng.uniform(0.15, 0.35, CHANGES + 1)

    def sample(rng: Rng, rows: int, concept: int) -> tuple[Floats, Floats]:
        x = rng.uniform(0, 1, (rows, 2))
        inside = np.hypot(*(x - centres[concept]).T) < radii[concept]
        return x, _noisy(rng, inside, 0.02)

    return sample


def _friedman(rng: Rng) -> Callable[[Rng, int, int], tuple[Floats, Floats]]:
    # J. Friedman, 1991. At each change, two columns swap roles (E. Ikonomovska et al., 2011).
    orders = [np.arange(5)]
    for _ in range(CHANGES):
        order = orders[-1].copy()
        pair = rng.choice(5, 2, replace=False)
        order[pair] = order[pair[::-1]]
        orders.append(order)

    def sample(rng: Rng, rows: int, concept: int) -> tuple[Floats, Floats]:
        x = rng.uniform(0, 1, (rows, 5))
        a, b, c, d, e = x[:, orders[concept]].T
        clean = 10 * np.sin(np.pi * a * b) + 20 * (c - 0.5) ** 2 + 10 * d + 5 * e
        return x, clean + rng.normal(size=rows)

    return sample


FAMILIES: Final = (
    Family("sea", _sea),
    Family("sine", _sine),
    Family("mixed", _mixed),
    Family("stagger", _stagger),
    Family("hyperplane", _hyperplane),
    Family("circles", _circles),
    Family("friedman", _friedman, regression=True),
)
