"""Measure the CPU time of fitting each candidate, and of a search with the default candidates.

Output: the time of a fit with each candidate, including predictions for a quarter as many rows, and
the time of a search within the default budget, next to one with the first three candidates only.
"""

import time
from collections.abc import Iterator, Sequence

import msgspec
import numpy as np

from benchmarks.evidence.options import options
from driftline.config.stream import Stream, loads
from driftline.config.stream_sections import Task
from driftline.wire.columns import Columns
from driftline.wire.events import RetrainRequest
from trainer.candidates import NAMES, candidate
from trainer.retrain import ranges_and_held
from trainer.rows import TrainingRows
from trainer.search import fit, search

COLUMNS = 8  # as many as the data set elec2 has


def rows_of(task: Task, count: int) -> TrainingRows:
    """Return rows with numbers and a noisy label that depends on three of them."""
    random = np.random.default_rng(0)
    numbers = random.normal(size=(COLUMNS, count))
    value = numbers[0] + numbers[1] * numbers[2] + random.normal(0, 0.5, count)
    places = np.arange(count)
    ids = np.array([f"r{place}" for place in places], dtype=object)
    return TrainingRows(
        ids=ids,
        positions=places,
        rows=places,
        times_us=places,
        revisions=np.zeros(count, dtype=np.int64),
        columns=Columns({f"x{n}": column for n, column in enumerate(numbers)}, {}, count),
        labels=value if task == "regression" else np.where(value > 0, "yes", "no").astype(object),
        errors=np.full(count, np.nan),
    )


def stream_of(task: Task) -> Stream:
    """Return a stream with the default settings."""
    features = "\n".join(f'x{n} = "number"' for n in range(COLUMNS))
    return loads(
        f'version = 1\nname = "work"\ntask = "{task}"\ntarget = "y"\n[features]\n{features}\n'
    )


def _seconds_per_fit(stream: Stream, name: str, rows: TrainingRows, repeats: int) -> float:
    """Return the shortest CPU time of fitting on the rows and scoring a quarter as many."""
    kind = candidate(name, stream.task)
    held = rows.take(np.arange(len(rows) // 4))
    times = []
    for _ in range(repeats):
        began = time.process_time()
        fit(stream, kind, kind.grid[0], rows).score(stream, held)
        times.append(time.process_time() - began)
    return min(times)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the measured times."""
    parser = options("search_work", __doc__, data=False)
    parser.add_argument("--rows", type=int, nargs="+", default=[200, 1_000, 10_000])
    parser.add_argument("--repeats", type=int, default=3)
    chosen = parser.parse_args(arguments)
    tasks: tuple[Task, ...] = ("classification", "regression")
    lines: list[dict[str, object]] = []
    for task in tasks:
        stream = stream_of(task)
        wrong = "linear_regression" if task == "classification" else "logistic_regression"
        for count in chosen.rows:
            rows = rows_of(task, count)
            for name in NAMES:
                if name == wrong:
                    continue
                spent = _seconds_per_fit(stream, name, rows, chosen.repeats)
                print(f"{task} {count:>7,} rows  {name:<24}{spent * 1e3:>9.1f} ms")
                lines.append({"task": task, "rows": count, "candidate": name, "seconds": spent})
            lines += _searches(task, stream, rows)
    if chosen.json:
        chosen.json.write_bytes(msgspec.json.format(msgspec.json.encode(lines)))
    return 0


def _searches(task: Task, stream: Stream, rows: TrainingRows) -> Iterator[dict[str, object]]:
    names = stream.models.candidates
    asked = RetrainRequest(
        id="r", cause="manual", caused_by=(), reason="", position=None, since=None
    )
    ranges, held = ranges_and_held(stream, rows, np.arange(len(rows)), asked)
    for what, chosen in (("the first three", names[:3]), ("all", names)):
        changed = msgspec.structs.replace(stream.models, candidates=chosen)
        began = time.process_time()
        found, trials = search(msgspec.structs.replace(stream, models=changed), rows, ranges, held)
        spent = time.process_time() - began
        print(
            f"{task} {len(rows):>7,} rows  search with {what} default candidates: {spent:.2f} s, "
            f"{len(trials)} trials, best {found.fitted.candidate.name} {found.metric:.4f}"
        )
        yield {"task": task, "rows": len(rows), "search": what, "seconds": spent}
