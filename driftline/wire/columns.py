"""Hold decoded records in memory as NumPy columns, for models, the monitor and the trainer."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from driftline.config.stream_sections import Axis


class Columns:
    """The columns of n records, in the order in which the stream file lists them.

    `numbers` are float64 arrays (n,), with NaN for missing values; derived features come last.
    `categories` are object arrays (n,) of str, with None for missing values.
    """

    __slots__ = ("_length", "categories", "numbers")

    def __init__(
        self,
        numbers: Mapping[str, NDArray[np.float64]],
        categories: Mapping[str, NDArray[np.object_]],
        length: int | None = None,
    ) -> None:
        self.numbers = dict(numbers)
        self.categories = dict(categories)
        if length is None:
            first = next(iter((*self.numbers.values(), *self.categories.values())), ())
            length = len(first)
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, name: str) -> NDArray[Any]:
        """Return the number or category column with this name. Raises KeyError."""
        return self.numbers[name] if name in self.numbers else self.categories[name]

    def take(self, indices: Sequence[int] | NDArray[np.intp] | slice) -> "Columns":
        """Return the records at these indices, in the given order."""
        at = indices if isinstance(indices, slice) else np.asarray(indices, dtype=np.intp)
        length = len(range(self._length)[at]) if isinstance(at, slice) else len(at)
        return Columns(
            {name: values[at] for name, values in self.numbers.items()},
            {name: values[at] for name, values in self.categories.items()},
            length,
        )

    @classmethod
    def concat(cls, parts: Sequence["Columns"]) -> "Columns":
        """Concatenate one or more parts, which must all have the same columns."""
        first = parts[0]
        return cls(
            {
                name: np.concatenate([part.numbers[name] for part in parts])
                for name in first.numbers
            },
            {
                name: np.concatenate([part.categories[name] for part in parts])
                for name in first.categories
            },
            sum(len(part) for part in parts),
        )


class Rejected(msgspec.Struct, frozen=True):
    """A record or label that cannot be used: its index in the input, and the reason."""

    index: int
    reason: str


class Batch(msgspec.Struct, frozen=True):
    """A decoded batch of records.

    `ids`, `times_us`, `rows` and `columns` contain the accepted records. `kept[i]` is the index of
    accepted record i in the input. `rejected` lists the rejected records.
    """

    ids: list[str]
    times_us: list[int | None]
    rows: list[int | None]
    columns: Columns
    kept: list[int]
    rejected: list[Rejected]

    def __len__(self) -> int:
        return len(self.ids)

    def positions(self, axis: Axis) -> list[int]:
        """Return the records' positions. `axis` must be the stream's axis."""
        found = self.times_us if axis == "time" else self.rows
        return [position for position in found if position is not None]
