"""Measure which challengers the trainer promotes: equal, better and worse models.

Input: seeded errors of pairs of models, and seeded stationary streams. Output: how often equal
models win, with independent errors and with error rates that change in blocks of rows; how many
rows better models need, compared with a test of fixed size; and how often a request promotes a
model that is worse on 20,000 fresh rows, at the worst stretch of a stream and at random moments.
"""

import math
import sys
from collections.abc import Callable
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

from benchmarks.evidence.options import options
from driftline.config.measure import Measure
from driftline.config.stream import loads
from driftline.learning.metrics import Answers, losses
from driftline.wire.columns import Columns
from driftline.wire.events import RetrainRequest
from trainer.gate import judge
from trainer.paired_test import MAX_ROWS, Gains, State, decide, dependence_of, looks, row_gains
from trainer.retrain import ranges_and_held
from trainer.rows import TrainingRows, objects
from trainer.search import Fitted, Range, fit, search
from trainer.split import split

Floats = NDArray[np.float64]
ACCURACY: Final = Measure("accuracy")

# Rows on which the champion has served before the request. They show the dependence of its errors.
EARLIER: Final = 8_000
BLOCKS: Final = (50, 200, 400)
# Better models: the gain, and the share of rows on which one of two models errs.
BETTER: Final = ((0.02, 0.03), (0.02, 0.1), (0.02, 0.2), (0.05, 0.1), (0.1, 0.15), (0.2, 0.3))
# A test of fixed size has a one-sided error of 1% and a power of 90%.
FIXED_Z: Final = 2.326 + 1.282
# A promoted model counts as worse if it loses at least this much on fresh rows.
WORSE: Final = 0.005
FRESH_ROWS: Final = 20_000
# A stationary stream: rows of the first model, rows that it serves, and rows of the worst stretch.
FIRST_ROWS, SERVED_ROWS, STRETCH_ROWS = 2_000, 8_000, 400

STREAM: Final = loads("""
version = 1
name = "stationary"
task = "classification"
target = "y"
features = { a = "number", b = "number", c = "number", d = "number", e = "number", f = "number" }
record = { id = "id" }
models = { candidates = ["logistic_regression", "decision_tree", "k_nearest_neighbours"] }
""")


class Line(msgspec.Struct, frozen=True):
    """One measured share: how many of `count` cases had the property."""

    name: str
    found: int
    count: int
    note: str = ""

    def text(self) -> str:
        """Return the line as a row of a Markdown table."""
        high = 1.0
        if self.found < self.count:  # Clopper and Pearson's bound
            high = float(beta.ppf(0.975, self.found + 1, self.count - self.found))
        share = f"{self.found} of {self.count} | {self.found / max(1, self.count):.2%}"
        return f"| {self.name} | {share} | {high:.2%} | {self.note} |"


def main(argv: list[str]) -> int:
    """Measure and print the tables."""
    parser = options("gate", __doc__, data=False)
    parser.add_argument("--pairs", type=int, default=1_000, help="pairs per line; default: 1000")
    parser.add_argument(
        "--requests", type=int, default=100, help="requests at each kind of moment; default: 100"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of all data; default: 0")
    chosen = parser.parse_args(argv)
    lines = [*equal(chosen.pairs, chosen.seed), *better(chosen.pairs, chosen.seed)]
    lines += worse(chosen.requests, chosen.seed)
    print("| case | found | share | 95% upper bound | |\n|---|---|---|---|---|")
    for line in lines:
        print(line.text())
    if chosen.json:
        chosen.json.write_bytes(msgspec.json.format(msgspec.json.encode(lines)))
    return 0


def played(gains: Callable[[int], Gains], dependence: int) -> tuple[State, int]:
    """Return the test's result, and the number of rows after which it is known."""
    for count in looks():
        state = decide(gains(count), dependence)
        if state != "open":
            return state, count
    return "open", MAX_ROWS


def _of(values: Floats) -> Callable[[int], Gains]:
    return lambda count: Gains(values[:count], 1.0)


# ---- pairs of models -----------------------------------------------------------------------------


def equal(pairs: int, seed: int) -> list[Line]:
    """Compare equally good models whose error rates are constant, or change in blocks."""
    lines = []
    for size in (0, *BLOCKS):
        won = 0
        rows: list[int] = []
        for number in range(pairs):
            random = np.random.default_rng([seed, size, number])
            champion, challenger = _errors(random, size), _errors(random, size)
            values = (champion - challenger)[EARLIER:]
            state, count = played(_of(values), dependence_of(champion[:EARLIER]))
            won += state == "won"
            rows.append(count)
        name = f"blocks of {size} rows" if size else "independent rows"
        note = f"median of {np.median(rows):,.0f} rows"
        lines.append(Line(f"equal models win, {name}", won, pairs, note))
    return lines


def _errors(random: np.random.Generator, size: int) -> Floats:
    """Return errors at a rate of 20%, or at rates of 5% and 35% that change every `size` rows."""
    count = EARLIER + MAX_ROWS
    rates = np.full(count, 0.2)
    if size:
        rates = np.repeat(random.choice([0.05, 0.35], size=-(-count // size)), size)[:count]
    return (random.random(count) < rates).astype(np.float64)


def better(pairs: int, seed: int) -> list[Line]:
    """Compare models of which one is better by a known gain."""
    lines = []
    for gain, differing in BETTER:
        fixed = math.ceil(FIXED_Z**2 * (differing - gain**2) / gain**2)
        shares = [(differing - gain) / 2, 1 - differing, (differing + gain) / 2]
        in_time = 0
        rows: list[int] = []
        for number in range(pairs):
            random = np.random.default_rng([seed, int(1e4 * gain), int(1e4 * differing), number])
            values = random.choice([-1.0, 0.0, 1.0], size=MAX_ROWS, p=shares)
            state, count = played(_of(values), 1)
            in_time += state == "won" and count <= 2 * fixed
            if state == "won":
                rows.append(count)
        half, most = np.quantile(rows, [0.5, 0.9]) if rows else (math.nan, math.nan)
        note = f"fixed-size test: {fixed:,} rows; won after {half:,.0f} (median), {most:,.0f} (90%)"
        name = f"gain of {gain:g} on {differing:g} differing rows wins within twice the fixed size"
        lines.append(Line(name, in_time, pairs, note))
    return lines


# ---- requests on stationary streams --------------------------------------------------------------


def worse(requests: int, seed: int) -> list[Line]:
    """Train at the worst stretch of stationary streams and at random moments, and count promotions.

    As before decision 26, "selected" counts the models that won on the held-out rows alone.
    """
    lines = []
    for moment in ("worst stretch", "random moment"):
        selected = promoted = worse_selected = worse_promoted = 0
        for number in range(requests):
            random = np.random.default_rng([seed, number, moment == "worst stretch"])
            gains = _request(random, at_worst=moment == "worst stretch")
            if gains is None:
                continue
            truth, state = gains
            selected, worse_selected = selected + 1, worse_selected + (truth <= -WORSE)
            promoted += state == "won"
            worse_promoted += state == "won" and truth <= -WORSE
        lines += [
            Line(f"worse model selected, {moment}", worse_selected, requests, f"of {selected}"),
            Line(f"worse model promoted, {moment}", worse_promoted, requests, f"of {promoted}"),
        ]
    return lines


def _request(random: np.random.Generator, *, at_worst: bool) -> tuple[float, State] | None:
    """Return the challenger's true gain and the comparison's result. None if none is selected."""
    weights = random.normal(size=6)
    first = _rows(random, weights, FIRST_ROWS, 0)
    served = _rows(random, weights, SERVED_ROWS, FIRST_ROWS)
    champion = _first_model(first)
    wrong = _wrong(champion, served)
    stretches = np.convolve(wrong, np.ones(STRETCH_ROWS), "valid")
    start = int(stretches.argmax() if at_worst else random.integers(len(stretches)))
    known = served.take(np.arange(start + STRETCH_ROWS))
    request = RetrainRequest(
        id="r", cause="drift", caused_by=(), reason="", position=None, since=FIRST_ROWS + start
    )
    recent = np.arange(start, start + STRETCH_ROWS)
    ranges, held = ranges_and_held(STREAM, known, recent, request)
    found, _ = search(STREAM, known, ranges, held)
    truth = known.take(held)
    theirs = _predictions(champion, truth)
    verdict = judge(STREAM, truth.labels, found.answers, Answers(theirs))
    if not verdict.won:
        return None
    winner = found.fitted
    final = known.take(np.union1d(found.range.places, held))
    challenger = fit(STREAM, winner.candidate, winner.parameters, final)
    newer, fresh = (_rows(random, weights, n, 0) for n in (MAX_ROWS, FRESH_ROWS))
    ours, theirs = (_predictions(model, newer) for model in (challenger, champion))

    def gains(count: int) -> Gains:
        answers = Answers(ours[:count]), Answers(theirs[:count])
        return row_gains(ACCURACY, newer.labels[:count], *answers)

    state, _ = played(gains, dependence_of(wrong[:start]) if start else 1)
    return float(_wrong(champion, fresh).mean() - _wrong(challenger, fresh).mean()), state


def _first_model(rows: TrainingRows) -> Fitted:
    """Return the best candidate, fitted on all rows."""
    how = STREAM.models
    train, held = split(rows.labels, share=how.holdout, how="time", task=STREAM.task, seed=how.seed)
    found, _ = search(STREAM, rows, [Range("all", train)], held)
    return fit(STREAM, found.fitted.candidate, found.fitted.parameters, rows)


def _wrong(model: Fitted, rows: TrainingRows) -> Floats:
    return losses(ACCURACY, rows.labels, Answers(_predictions(model, rows)))


def _predictions(model: Fitted, rows: TrainingRows) -> NDArray[np.object_]:
    return objects(list(model.score(STREAM, rows).predictions))


def _rows(random: np.random.Generator, weights: Floats, count: int, first: int) -> TrainingRows:
    """Return rows whose label depends on the features through a noisy, curved boundary."""
    values = random.normal(size=(count, len(weights)))
    score = values @ weights + 0.8 * values[:, 0] * values[:, 1] + random.logistic(size=count)
    positions = np.arange(first, first + count)
    return TrainingRows(
        ids=objects([f"r{place}" for place in positions]),
        positions=positions,
        rows=positions,
        times_us=positions,
        revisions=np.zeros(count, dtype=np.int64),
        columns=Columns({n: values[:, i] for i, n in enumerate("abcdef")}, {}, count),
        labels=objects(np.where(score > 0, "yes", "no").tolist()),
        errors=np.full(count, np.nan),
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
