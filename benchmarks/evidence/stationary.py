"""Draw predicted streams that do not drift, with every kind of dependence that real streams have.

Input: a random generator and a number of rows. Output: rows with predictions and labels, and the
part of each column that is a known season. The generated streams have 16 numeric columns and 4
categories; the public sets are shuffled in blocks.
"""

from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.evidence.drifting import Floats, Rng
from benchmarks.evidence.estimate_sets import LABELLED, LabelledSet
from benchmarks.evidence.false_alarms import columns_of
from benchmarks.evidence.monitored import PredictedRows
from benchmarks.evidence.related import generated
from benchmarks.evidence.series import (
    autoregressive,
    in_runs,
    runs,
    season,
    stations,
)
from benchmarks.evidence.sets import shuffled_blocks
from driftline.config.stream_sections import Task
from driftline.wire.columns import Columns

REFERENCE: Final = 12_000  # rows that the model was trained on
SHARE: Final = 0.4  # a public set's reference has at most this share of its rows
BLOCKS: Final = (50, 200)  # rows per block of the shuffled public sets
PERIODS: Final = (24, 288, 1_440)
_DEPENDENT: Final = 4  # number of columns with the dependence of a generated stream
_SIGNAL: Final = 3  # the label depends on this many columns, the first of which is dependent
_CLASSES: Final = ("no", "yes")


class Stationary(msgspec.Struct, frozen=True):
    """A stream without drift. `seasons` has the known season (n,) of each seasonal column."""

    rows: PredictedRows
    seasons: Mapping[str, Floats] = {}


class StationarySource(msgspec.Struct, frozen=True):
    """A kind of stream. `draw(rng, n)` draws n rows, of which the first `reference` train a model.

    `total` is the largest n, or None if there is no limit. `numbers` and `categories` are the
    number of columns.
    """

    name: str
    draw: Callable[[Rng, int], Stationary]
    numbers: int
    categories: int
    task: Task = "classification"
    reference: int = REFERENCE
    total: int | None = None

    def stream_file(self, window: int) -> str:
        """Return a stream file with the defaults, apart from the window size."""
        kinds = ["number"] * self.numbers + ["category"] * self.categories
        features = "\n".join(f'x{place} = "{kind}"' for place, kind in enumerate(kinds))
        return (
            f'version = 1\nname = "{self.name}"\ntask = "{self.task}"\ntarget = "y"\n'
            f'[record]\nmissing = "impute"\n[features]\n{features}\n'
            f"[windows]\nrecords = {window}\n[kafka]\npartitions = 1\n"
        )


# ---- generated streams --------------------------------------------------------------------------

_Change = Callable[[Rng, list[NDArray[Any]]], dict[int, Floats]]


def _generated(change: _Change, rng: Rng, rows: int) -> Stationary:
    """Draw independent rows, make them dependent with `change`, and add predictions and labels."""
    columns = generated(rng, rows)
    seasons = change(rng, columns)
    signal = _signal(columns)
    positive = 1 / (1 + np.exp(-2 * signal))
    labels = rng.random(rows) < positive
    found = _classified(_columns(columns), positive, labels)
    return Stationary(found, {f"x{place}": values for place, values in seasons.items()})


def _independent(rng: Rng, columns: list[NDArray[Any]]) -> dict[int, Floats]:
    return {}


def _ar1(rng: Rng, columns: list[NDArray[Any]]) -> dict[int, Floats]:
    for place, coefficient in zip(range(_DEPENDENT), (0.5, 0.8, 0.9, 0.95), strict=True):
        columns[place] = autoregressive(rng, len(columns[place]), coefficient)
    return {}


def _bursts(rng: Rng, columns: list[NDArray[Any]]) -> dict[int, Floats]:
    """Rows come in bursts of 10–100 rows with a common level, which has half of the variance."""
    burst = runs(rng, len(columns[0]), 10, 100)
    for place in range(_DEPENDENT):
        level = rng.normal(size=burst[-1] + 1)[burst]
        columns[place] = np.sqrt(0.5) * (level + columns[place])
    return {}


def _ties(rng: Rng, columns: list[NDArray[Any]]) -> dict[int, Floats]:
    """Counts, coarse measurements, flags, and amounts that are mostly zero."""
    columns[0] = np.round(columns[0])
    columns[1] = np.floor(np.exp(columns[1]))
    columns[2] = (columns[2] > 1.0).astype(float)
    columns[3] = np.maximum(0.0, columns[3] - 1.3)
    return {}


def _seasonal(period: int, rng: Rng, columns: list[NDArray[Any]]) -> dict[int, Floats]:
    """Seasons explain between a ninth and nine tenths of the variance."""
    found = {}
    for place, amplitude in zip(range(_DEPENDENT), (0.5, 1.0, 2.0, 4.0), strict=True):
        first = int(rng.integers(period))
        found[place] = amplitude * season(len(columns[0]), period, first=first)
        columns[place] = columns[place] + found[place]
    return found


def _sticky(rng: Rng, columns: list[NDArray[Any]]) -> dict[int, Floats]:
    """Three categories come in blocks of 20–200 rows, with 4, 8 and 12 levels.

    The reference has about 110 blocks, and therefore nearly always all levels.
    """
    for place, count in zip((-1, -2, -3), (4, 8, 12), strict=True):
        block = runs(rng, len(columns[0]), 20, 200)
        columns[place] = stations(rng.integers(0, count, block[-1] + 1)[block])
    return {}


def _missing(rng: Rng, columns: list[NDArray[Any]]) -> dict[int, Floats]:
    """Values are missing in runs of 10–200 rows."""
    for place, share in zip(range(_DEPENDENT), (0.02, 0.05, 0.1, 0.3), strict=True):
        columns[place][in_runs(rng, len(columns[0]), share, 10, 200)] = np.nan
    return {}


def _zero_errors(rng: Rng, rows: int) -> Stationary:
    """Amounts that are mostly 0, such as rain; 5% of the errors are not 0, in short spells."""
    columns = generated(rng, rows)
    predictions = np.maximum(0.0, columns[0] - 1.0)
    spell = in_runs(rng, rows, 0.05, 1, 10)
    labels = predictions + np.where(spell, rng.lognormal(0.0, 1.0, rows), 0.0)
    return Stationary(PredictedRows(_columns(columns), predictions, labels))


def _seasonal_errors(rng: Rng, rows: int) -> Stationary:
    """Additional errors, in 0% to 20% of the rows, depend on the time of a day of 1,440 rows."""
    columns = generated(rng, rows)
    positive = 1 / (1 + np.exp(-2 * _signal(columns)))
    more = 0.1 + 0.1 * season(rows, 1_440, first=int(rng.integers(1_440)))
    labels = (rng.random(rows) < positive) ^ (rng.random(rows) < more)
    return Stationary(_classified(_columns(columns), 0.1 + 0.8 * positive, labels))


def _signal(columns: list[NDArray[Any]]) -> Floats:
    """Return a signal (n,) for the label. A missing value has no influence."""
    found: Floats = np.nan_to_num(np.stack(columns[:_SIGNAL])).sum(axis=0) / np.sqrt(_SIGNAL)
    return found


def _columns(columns: list[NDArray[Any]]) -> Columns:
    named = {f"x{place}": values for place, values in enumerate(columns)}
    return Columns(
        {name: values for name, values in named.items() if values.dtype.kind == "f"},
        {name: values for name, values in named.items() if values.dtype.kind != "f"},
    )


def _classified(columns: Columns, positive: Floats, labels: NDArray[np.bool_]) -> PredictedRows:
    names = np.array(_CLASSES, dtype=object)
    return PredictedRows(
        columns,
        names[(positive > 0.5).astype(int)],
        names[labels.astype(int)],
        np.column_stack((1 - positive, positive)),
        _CLASSES,
    )


_CHANGES: Final[Mapping[str, _Change]] = {
    "independent": _independent,
    "ar1": _ar1,
    "bursts": _bursts,
    "ties": _ties,
    **{f"season-{period}": partial(_seasonal, period) for period in PERIODS},
    "sticky-categories": _sticky,
    "missing-in-runs": _missing,
}


# ---- public sets --------------------------------------------------------------------------------


@cache
def _predicted(item: LabelledSet, data: Path) -> tuple[PredictedRows, Task]:
    """Return a set's labelled rows. Each row is predicted by trees that were trained on others."""
    import pandas as pd
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    from sklearn.model_selection import KFold, cross_val_predict

    columns = columns_of(item.data, data)
    target = item.data.target
    read = pd.read_csv(item.data.file(data), usecols=[target], nrows=item.data.rows)[target]
    known = read.notna().to_numpy()
    columns = [values[known] for values in columns]
    columns.sort(key=lambda values: values.dtype.kind != "f")  # as in the stream file
    codes = [
        values if values.dtype.kind == "f" else pd.factorize(values)[0].astype(float)
        for values in columns
    ]
    inputs, folds = np.column_stack(codes), KFold(5, shuffle=True, random_state=0)
    if item.metric in ("mae", "rmse"):
        labels = read[known].to_numpy(np.float64)
        model = HistGradientBoostingRegressor(max_iter=50, random_state=0)
        predictions = cross_val_predict(model, inputs, labels, cv=folds)
        return PredictedRows(_columns(columns), predictions, labels), "regression"
    labels = read[known].astype(str).to_numpy(object)
    model = HistGradientBoostingClassifier(max_iter=50, random_state=0)
    scores = cross_val_predict(model, inputs, labels, cv=folds, method="predict_proba")
    classes = np.array(sorted(set(labels)), dtype=object)
    predictions = classes[scores.argmax(axis=1)]
    rows = PredictedRows(_columns(columns), predictions, labels, scores, tuple(classes))
    return rows, "classification"


def _shuffled(rows: PredictedRows, block: int, rng: Rng, count: int) -> Stationary:
    """Draw whole blocks of rows without replacement. `count` must not exceed the whole blocks."""
    return Stationary(rows.take(shuffled_blocks(rng, len(rows), block)[:count]))


def names(data: Path) -> list[str]:
    """Return the names of all sources. Sets that `data` does not contain are left out."""
    sets = [item.name for item in LABELLED if item.data.file(data).exists()]
    shuffled = [f"{name}-{block}" for name in sets for block in BLOCKS]
    return [*_CHANGES, "zero-errors", "seasonal-errors", *shuffled]


def source(name: str, data: Path) -> StationarySource:
    """Return the source with this name. Raises KeyError if there is none."""
    if name in _CHANGES:
        return StationarySource(name, partial(_generated, _CHANGES[name]), 16, 4)
    if name == "zero-errors":
        return StationarySource(name, _zero_errors, 16, 4, "regression")
    if name == "seasonal-errors":
        return StationarySource(name, _seasonal_errors, 16, 4)
    own, _, block = name.rpartition("-")
    item = {item.name: item for item in LABELLED}[own]
    rows, task = _predicted(item, data)
    total = len(rows) // int(block) * int(block)
    return StationarySource(
        name.replace("_", "-"),
        partial(_shuffled, rows, int(block)),
        len(rows.columns.numbers),
        len(rows.columns.categories),
        task,
        min(REFERENCE, int(SHARE * total)),
        total,
    )
