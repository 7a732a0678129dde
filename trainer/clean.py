"""Remove duplicates, errors and noise from training rows (step 3 of docs/model-life.md).

Input: collected rows in any order, as arrays. Output: one row per record id, ordered by (position,
id). Only the ranges declared in the stream file decide which values are out of range. Rows with
out-of-range values are removed only if they are rare, so that drift is not mistaken for noise.
Identical records with different ids are all kept.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from driftline.config.stream import Stream
from driftline.wire.events import Removed
from trainer.rows import TrainingRows

# If at most 1% of the rows have a value outside a column's declared range, treat these values as
# measurement errors. If more rows do, assume that the stream has changed.
MAX_NOISE_SHARE: Final = 0.01


def clean(rows: TrainingRows, stream: Stream) -> tuple[TrainingRows, tuple[Removed, ...]]:
    """Return the sorted rows to train on, and the number of removed rows by reason."""
    removed: list[Removed] = []

    def drop(rows: TrainingRows, bad: NDArray[np.bool_], reason: str) -> TrainingRows:
        count = int(bad.sum())
        if not count:
            return rows
        removed.append(Removed(reason, count))
        return rows.take(np.flatnonzero(~bad))

    rows = _ordered(rows)
    rows = drop(rows, _superseded(rows), "duplicate: a record id that is repeated or revised later")
    rows = drop(rows, _bad_labels(rows, stream), f"error: {stream.target!r} is {_expected(stream)}")
    for name, feature in stream.inputs.items():
        if feature.min is None and feature.max is None:
            continue
        values = rows.columns.numbers.get(name)
        if values is None:
            continue
        out = np.zeros(len(rows), dtype=bool)
        if feature.min is not None:
            out |= values < feature.min
        if feature.max is not None:
            out |= values > feature.max
        if out.mean() <= MAX_NOISE_SHARE if len(out) else False:
            rows = drop(rows, out, f"noise: {name!r} outside {_bounds(feature.min, feature.max)}")
    return rows, tuple(removed)


def _ordered(rows: TrainingRows) -> TrainingRows:
    """Sort by (position, id, revision), so that the order of partitions does not matter."""
    keys = list(zip(rows.positions.tolist(), rows.ids, rows.revisions.tolist(), strict=True))
    order = sorted(range(len(keys)), key=keys.__getitem__)
    return rows.take(np.array(order, dtype=np.intp))


def _superseded(rows: TrainingRows) -> NDArray[np.bool_]:
    """Return a mask (n,) that is False only for the last row of each id's highest revision."""
    best: dict[str, int] = {}
    revisions = rows.revisions
    for place, record_id in enumerate(rows.ids):
        before = best.get(record_id)
        if before is None or revisions[place] >= revisions[before]:
            best[record_id] = place
    bad = np.ones(len(rows), dtype=bool)
    bad[list(best.values())] = False
    return bad


def _bad_labels(rows: TrainingRows, stream: Stream) -> NDArray[np.bool_]:
    if stream.task == "regression":
        return np.asarray(~np.isfinite(rows.labels), dtype=bool)
    return np.array([not isinstance(label, str) or not label for label in rows.labels], dtype=bool)


def _expected(stream: Stream) -> str:
    return "not a finite number" if stream.task == "regression" else "not a class name"


def _bounds(low: float | None, high: float | None) -> str:
    if high is None:
        return f"[{low:g}, …]"
    return f"[…, {high:g}]" if low is None else f"[{low:g}, {high:g}]"
