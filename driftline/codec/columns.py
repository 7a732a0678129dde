"""Many records as columns: what decoding gives, and what models, monitor and trainer work on."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray


class Columns:
    """Records as columns. `numbers`: float64 (n,), NaN = missing. `categories`: object (n,) of
    str | None. Both in the stream file's order, derived features last among the numbers."""

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
        """A column, number or category. Raises KeyError."""
        return self.numbers[name] if name in self.numbers else self.categories[name]

    def take(self, indices: Sequence[int] | NDArray[np.intp] | slice) -> "Columns":
        """The records at these places, in this order."""
        at = indices if isinstance(indices, slice) else np.asarray(indices, dtype=np.intp)
        length = len(range(self._length)[at]) if isinstance(at, slice) else len(at)
        return Columns(
            {name: values[at] for name, values in self.numbers.items()},
            {name: values[at] for name, values in self.categories.items()},
            length,
        )

    @classmethod
    def concat(cls, parts: Sequence["Columns"]) -> "Columns":
        """All records of `parts`, which have the same columns; at least one part."""
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
    """A record that cannot be scored: its index in the input, and why."""

    index: int
    reason: str


class Batch(msgspec.Struct, frozen=True):
    """What was decoded. `kept[i]` is the input's index of record i; `rejected` are the others."""

    ids: list[str]
    times_us: list[int | None]
    rows: list[int | None]
    columns: Columns
    kept: list[int]
    rejected: list[Rejected]

    def __len__(self) -> int:
        return len(self.ids)

    def positions(self, axis: Literal["time", "row"]) -> list[int]:
        """The records' positions; the axis must be the stream's."""
        found = self.times_us if axis == "time" else self.rows
        return [position for position in found if position is not None]
