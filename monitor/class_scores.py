"""Pack many records' class scores into uint16 NumPy arrays that can be concatenated in any order.

Input: each record's scores by class, as published in predictions. Output: one array per class, or a
matrix with one column for each requested class. Each score takes 2 bytes and is rounded to a
multiple of 1.5e-5, a step too small to affect any calibration.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

SCALE: Final = 65_534
NONE: Final = 65_535  # marks a missing score

Packed = NDArray[np.uint16]


class ClassScores:
    """The class scores of n records. `by_class` maps class names, in any order, to uint16 arrays
    (n,) of scores. Records may have scores for different classes, or no scores at all. Missing
    scores are stored as `NONE`."""

    __slots__ = ("_length", "by_class")

    def __init__(self, by_class: Mapping[str, Packed], length: int) -> None:
        self.by_class = dict(by_class)
        self._length = length

    def __len__(self) -> int:
        return self._length

    @classmethod
    def none(cls, length: int) -> "ClassScores":
        """Return an instance for `length` records without scores."""
        return cls({}, length)

    @classmethod
    def of(cls, records: Sequence[Mapping[str, float] | None]) -> "ClassScores":
        """Build an instance from the predictions' scores. Clip scores to the range from 0 to 1."""
        names = dict.fromkeys(name for record in records if record is not None for name in record)
        return cls(
            {
                name: packed(
                    np.array(
                        [np.nan if r is None else r.get(name, np.nan) for r in records], np.float64
                    )
                )
                for name in names
            },
            len(records),
        )

    @classmethod
    def concat(cls, parts: Sequence["ClassScores"]) -> "ClassScores":
        """Concatenate the class scores of all `parts`, in order."""
        names = dict.fromkeys(name for part in parts for name in part.by_class)
        return cls(
            {name: np.concatenate([part.own(name) for part in parts]) for name in names},
            sum(map(len, parts)),
        )

    def own(self, name: str) -> Packed:
        """Return one class's scores (n,), with `NONE` for each missing score."""
        found = self.by_class.get(name)
        return np.full(self._length, NONE, dtype=np.uint16) if found is None else found

    def take(self, at: NDArray[np.intp] | NDArray[np.bool_] | slice) -> "ClassScores":
        """Return the scores of the records that `at` selects."""
        length = len(np.empty(self._length, dtype=np.bool_)[at])
        return ClassScores({name: own[at] for name, own in self.by_class.items()}, length)

    def matrix(self, classes: Sequence[str]) -> NDArray[np.float64]:
        """Return scores (n, k), with a column for each of `classes` and NaN for missing scores."""
        return unpacked(np.column_stack([self.own(name) for name in classes]))


def packed(scores: NDArray[np.float64]) -> Packed:
    """Encode scores as uint16 for storage. NaN becomes `NONE`."""
    whole = np.rint(np.minimum(np.maximum(scores, 0.0), 1.0) * SCALE)  # NaN stays NaN
    return np.where(np.isnan(scores), NONE, whole).astype(np.uint16)


def unpacked(kept: Packed) -> NDArray[np.float64]:
    """Decode scores that `packed` has encoded. `NONE` becomes NaN.

    >>> unpacked(packed(np.array([0.0, 0.25, 1.0, np.nan]))).round(4).tolist()
    [0.0, 0.25, 1.0, nan]
    """
    return np.where(kept == NONE, np.nan, kept / SCALE)
