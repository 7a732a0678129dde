"""Measure which losses show that a model of a rare class has become worse.

Input: generated records with scores, of which a given share belongs to the positive class. The
scores are calibrated probabilities. Output: for each share and metric, the performance events of
the detector on streams without change, on streams in which the positive class becomes twice as
frequent although the ranking stays the same, and the delay after ROC AUC drops from 0.86 to 0.70.
"""

import sys
from statistics import median
from typing import Final

import msgspec
import numpy as np

from benchmarks.evidence.options import options
from driftline.config.measure import Measure
from driftline.config.stream import Stream, loads
from driftline.learning.metrics import Answers, losses
from driftline.learning.ranking import Ranking
from driftline.wire.window_events import PerformancePane
from monitor.decisions.error_watch import ErrorWatch
from monitor.metric_sums import HeldErrors
from monitor.score_ranks import ranking_variance

PANE: Final = 50  # a twentieth of a window of 1,000 records
HELD: Final = 2_000
DISTANCE: Final = 1.5  # of the two classes' scores, in standard deviations; ROC AUC is 0.86
WORSE: Final = 0.75  # ROC AUC is 0.70
MEASURES: Final = {
    "accuracy": Measure("accuracy"),
    "log_loss": Measure("log_loss"),
    "average_precision": Measure("average_precision", positive="a"),
}


class RareClassResult(msgspec.Struct, frozen=True):
    """One share and metric: events without change and after a harmless change, and how many of the
    streams with a worse model were found, with the median delay in records."""

    share: float
    metric: str
    records: int
    unchanged: int
    more_frequent: int
    found: int
    streams: int
    delay: float | None


def main(argv: list[str]) -> int:
    """Run the measurement and print a table."""
    parser = options("rare_classes", __doc__, data=False)
    parser.add_argument("--streams", type=int, default=6)
    parser.add_argument("--panes", type=int, default=400, help="panes in each part of a stream")
    asked = parser.parse_args(argv)
    print(
        "| positive | metric | records | events, no change | events, twice as frequent "
        "| worse model found | median delay |\n|---:|---|---:|---:|---:|---:|---:|",
        flush=True,
    )
    rows = []
    for share in (0.005, 0.05, 0.3):
        for name in MEASURES:
            row = measure(name, share, asked.streams, asked.panes)
            rows.append(row)
            delay = "" if row.delay is None else f"{row.delay:,.0f}"
            print(
                f"| {share:.1%} | {name} | {row.records:,} | {row.unchanged} "
                f"| {row.more_frequent} | {row.found} of {row.streams} | {delay} |",
                flush=True,
            )
    if asked.json:
        asked.json.write_bytes(msgspec.json.encode(rows))
    return 0


def measure(name: str, share: float, streams: int, panes: int) -> RareClassResult:
    """Return one share's and metric's result. Each stream has `panes` panes without change,
    followed by `panes` panes of the worse model or of a more frequent class."""
    unchanged = more_frequent = 0
    delays = []
    for seed in range(streams):
        world = _World(name, share, seed)
        unchanged += len(world.events(panes, share, DISTANCE))
        if found := world.events(panes, share, WORSE):
            delays.append(found[0])
        again = _World(name, share, seed)
        again.events(panes, share, DISTANCE)
        more_frequent += len(again.events(panes, 2 * share, DISTANCE))
    delay = median(delays) if delays else None
    records = streams * panes * PANE
    return RareClassResult(
        share, name, records, unchanged, more_frequent, len(delays), streams, delay
    )


class _World:
    """A generated stream and its detector."""

    def __init__(self, name: str, share: float, seed: int) -> None:
        self._measure = MEASURES[name]
        self._rng = np.random.default_rng(seed)
        self._share = share  # in the training data, for which the scores are calibrated
        self._watch = ErrorWatch(_stream(self._measure))
        self._index = 0
        labels, answers = self._draw(HELD, share, DISTANCE)
        values = losses(self._measure, labels, answers)
        self._held = HeldErrors.of(values)
        if self._measure.is_ranking and answers.scores is not None:
            ranking = Ranking.of(answers.scores, np.array(labels) == "a")
            self._held = HeldErrors(values, ranking_variance("roc_auc", ranking))

    def events(self, panes: int, share: float, distance: float) -> list[int]:
        """Return how many records of this part had been read at each event."""
        found = []
        for number in range(1, panes + 1):
            errors = losses(self._measure, *self._draw(PANE, share, distance))
            if self._watch.update(self._pane(tuple(errors.tolist()))) is not None:
                found.append(number * PANE)
        return found

    def _draw(self, count: int, share: float, distance: float) -> tuple[list[str], Answers]:
        positive = self._rng.random(count) < share
        values = self._rng.normal(size=count) + distance * positive
        odds = DISTANCE * values - DISTANCE**2 / 2 + np.log(self._share / (1 - self._share))
        scores = (1.0 / (1.0 + np.exp(-odds))).round(6)
        predictions = ["a" if score > 0.5 else "b" for score in scores]
        used = scores if self._measure.is_ranking else np.where(positive, scores, 1.0 - scores)
        return ["a" if own else "b" for own in positive], Answers(predictions, used)

    def _pane(self, errors: tuple[float, ...]) -> PerformancePane:
        index, self._index = self._index, self._index + 1
        return PerformancePane(
            id=str(index),
            index=index,
            start=index * PANE,
            end=(index + 1) * PANE,
            model="m",
            records=PANE,
            errors=errors,
            reference_error=self._held.mean,
            first_position=index * PANE,
            last_position=(index + 1) * PANE - 1,
            row=None,
            time=None,
            error_inflation=self._held.dependence,
            loss=self._measure.loss,
        )


def _stream(measure: Measure) -> Stream:
    stream = loads(
        'version = 1\nname = "rare"\ntask = "classification"\ntarget = "y"\n'
        'features = { x = "number" }\n'
    )
    return msgspec.structs.replace(stream, metric=measure)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
