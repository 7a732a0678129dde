"""What a source of data gives: rows in order, and how many there are."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

# A mapping of column to value; or, for a line that is no row, its bytes.
Row: TypeAlias = Mapping[str, Any] | bytes


class Source(Protocol):
    """Rows in order. `rows` starts from the first row each time, except on standard input."""

    @property
    def name(self) -> str: ...

    @property
    def textual(self) -> bool:
        """Whether all values are text, as in CSV, so that numbers must be read from it."""

    def count(self) -> int | None:
        """How many rows there are; None where that cannot be known before reading them."""

    def rows(self) -> Iterator[Row]: ...


class Change(NamedTuple):
    """A known change in the data, from this row on (counted from 0). `text` is a clause such as
    "the camera was knocked"; `detail` states what that does to the data."""

    row: int
    text: str
    detail: str = ""


@runtime_checkable
class Changing(Protocol):
    """A source that knows where its data change, for demonstrations and benchmarks."""

    @property
    def changes(self) -> tuple[Change, ...]: ...
