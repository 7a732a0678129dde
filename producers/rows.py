"""The interface of a data source: its rows in order, their number, and known changes."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

# A mapping of column to value, or the bytes of a line that could not be read as a row.
Row: TypeAlias = Mapping[str, Any] | bytes


class RowSource(Protocol):
    """Rows in order. Each call of `rows` starts at the first row, except on standard input."""

    @property
    def name(self) -> str: ...

    @property
    def textual(self) -> bool:
        """True if all values are text, as in CSV, so that numbers must be parsed."""

    def count(self) -> int | None:
        """Return the number of rows, or None if it is unknown before they are read."""

    def rows(self) -> Iterator[Row]: ...


class Change(NamedTuple):
    """A known change in the data, which begins at `row` (counted from 0).

    `text` is a clause such as "the camera was knocked". `detail` describes the effect on the data.
    """

    row: int
    text: str
    detail: str = ""


@runtime_checkable
class Changing(Protocol):
    """A source that knows at which rows its data change, for demonstrations and benchmarks."""

    @property
    def changes(self) -> tuple[Change, ...]: ...
