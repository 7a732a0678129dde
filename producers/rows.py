"""Define the interface of data sources: their rows in order, the row count, and known changes."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

# A mapping from column names to values, or the bytes of a line that could not be parsed as a row.
Row: TypeAlias = Mapping[str, Any] | bytes


class RowSource(Protocol):
    """A data source. Each call to `rows` starts at the first row, except on standard input."""

    @property
    def name(self) -> str: ...

    @property
    def textual(self) -> bool:
        """True if all values are text, as in CSV, so that numbers must be parsed."""

    def count(self) -> int | None:
        """Return the number of rows, or None if it is unknown before all rows have been read."""

    def rows(self) -> Iterator[Row]: ...


class Change(NamedTuple):
    """A known change in the data, starting at `row` (counted from 0).

    `text` is a clause such as "the camera was knocked". `detail` describes the effect on the data.
    """

    row: int
    text: str
    detail: str = ""


@runtime_checkable
class Changing(Protocol):
    """A data source whose changes are known. It is used in demos and benchmarks."""

    @property
    def changes(self) -> tuple[Change, ...]: ...
