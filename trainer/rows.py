"""Define `TrainingRows`: labelled records as NumPy arrays, passed between the training steps."""

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from driftline.config.stream import Stream
from driftline.wire.columns import Batch, Columns
from driftline.wire.events import Value

# The placeholder for a missing row number or time, smaller than any valid value.
NONE = np.iinfo(np.int64).min
# The revision of a record that the first model was trained on. An outcome with the same id replaces
# the record.
WARM_UP = -1


class TrainingRows(msgspec.Struct, frozen=True):
    """`n` labelled records. `clean` orders them by (position, id).

    `positions`, `rows`, `times_us`, `revisions`: int64 (n,). `labels`: object (n,) of class names,
    or float64 (n,). `errors`: float64 (n,) of the champion's errors when it served, NaN for
    records that it did not serve. `newest`: a few of the newest records as JSON, which become the
    package's check records.
    """

    ids: NDArray[np.object_]
    positions: NDArray[np.int64]
    rows: NDArray[np.int64]
    times_us: NDArray[np.int64]
    revisions: NDArray[np.int64]
    columns: Columns
    labels: NDArray[Any]
    errors: NDArray[np.float64]
    newest: tuple[bytes, ...] = ()

    @property
    def are_outcomes(self) -> NDArray[np.bool_]:
        """Return a bool mask (n,): false for records that only the first model was trained on."""
        return np.asarray(self.revisions != WARM_UP, dtype=bool)

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, indices: NDArray[np.intp]) -> "TrainingRows":
        """Return the records at these indices, in this order."""
        return TrainingRows(
            ids=self.ids[indices],
            positions=self.positions[indices],
            rows=self.rows[indices],
            times_us=self.times_us[indices],
            revisions=self.revisions[indices],
            columns=self.columns.take(indices),
            labels=self.labels[indices],
            errors=self.errors[indices],
            newest=self.newest,
        )

    @staticmethod
    def concat(parts: Sequence["TrainingRows"]) -> "TrainingRows":
        """Concatenate `parts`, which must not be empty."""
        return TrainingRows(
            ids=np.concatenate([part.ids for part in parts]),
            positions=np.concatenate([part.positions for part in parts]),
            rows=np.concatenate([part.rows for part in parts]),
            times_us=np.concatenate([part.times_us for part in parts]),
            revisions=np.concatenate([part.revisions for part in parts]),
            columns=Columns.concat([part.columns for part in parts]),
            labels=np.concatenate([part.labels for part in parts]),
            errors=np.concatenate([part.errors for part in parts]),
            newest=parts[-1].newest,
        )


def from_batch(
    stream: Stream,
    batch: Batch,
    labels: Sequence[Value],
    revisions: Sequence[int],
    served: Sequence[float],
) -> TrainingRows:
    """Combine the records of a decoded batch with one label, revision and served error each."""
    label_array: NDArray[Any] = objects(labels)
    if stream.task == "regression":
        # A label that is not a number becomes NaN. `clean` removes and counts such rows.
        label_array = np.array(
            [label if isinstance(label, int | float) else np.nan for label in labels],
            dtype=np.float64,
        )
    times_us = _whole(batch.times_us)
    rows = _whole(batch.rows)
    return TrainingRows(
        ids=objects(batch.ids),
        positions=rows if stream.axis == "row" else times_us,
        rows=rows,
        times_us=times_us,
        revisions=np.array(revisions, dtype=np.int64),
        columns=batch.columns,
        labels=label_array,
        errors=np.array(served, dtype=np.float64),
    )


def objects(values: Sequence[Any]) -> NDArray[np.object_]:
    """Return the values, which may be of any type, as an object array (n,)."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def _whole(values: Sequence[int | None]) -> NDArray[np.int64]:
    return np.array([NONE if value is None else value for value in values], dtype=np.int64)
