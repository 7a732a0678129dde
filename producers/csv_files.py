"""Read the rows of a CSV file.

A fault that could hide other rows, such as an unterminated quote, is an error with its line. A line
with too many cells is passed on as bytes, and becomes a dead letter.
"""

import csv
import io
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import IO, Final

from driftline.errors import DataError
from producers.opening import opened, readable
from producers.rows import Row

# A record may have 1 MiB, so a cell may be longer than the csv module's default limit of 128 KiB.
_MAX_CELL_CHARACTERS: Final = 1_048_576
# Longer cells are most likely not text but rows that follow an unterminated quote.
_MAX_LINES: Final = 100


class CsvSource:
    """A UTF-8 CSV file with a header line, gzipped or not.

    The separator is a comma, semicolon or tab. Values stay text, because the first lines of a file
    may not show what later ones contain. An empty cell becomes None.
    """

    textual: Final = True

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path

    def count(self) -> int:
        with self._open() as file:
            return sum(1 for cells in self._read(file)[1] if cells)

    def rows(self) -> Iterator[Row]:
        with self._open() as file:
            header, records = self._read(file)
            width = len(header)
            for cells in records:
                if len(cells) == width:
                    yield {name: cell or None for name, cell in zip(header, cells, strict=True)}
                elif cells:
                    yield self._uneven(header, cells)

    def _uneven(self, header: list[str], cells: list[str]) -> Row:
        if len(cells) > len(header):
            return ",".join(cells).encode()
        return {name: cell or None for name, cell in zip(header, cells, strict=False)}

    def _open(self) -> IO[str]:
        # newline="" lets the csv module handle line ends itself, including those inside quotes
        return io.TextIOWrapper(opened(self._path), encoding="utf-8-sig", newline="")

    def _read(self, file: IO[str]) -> tuple[list[str], Iterator[list[str]]]:
        """Return the header, and an iterator over the cells of each record."""
        csv.field_size_limit(_MAX_CELL_CHARACTERS)
        records = _Records(self.name, file).cells()
        header = next(records, [])
        if not header:
            raise DataError(
                f"{self.name}: the file is empty",
                hint="the first line must contain the names of the columns",
            )
        header = [name or f"column {place}" for place, name in enumerate(header)]
        if len(set(header)) < len(header):
            twice = next(name for name in header if header.count(name) > 1)
            raise DataError(f"{self.name}: two columns are called {twice!r}")
        return header, records


class _Records:
    """The records of an open file, each of which has one line or more."""

    def __init__(self, name: str, file: IO[str]) -> None:
        self._name = name
        self._file = file
        self._start = 1  # the first line of the current record
        self._number = 0  # the last line that was read, and its text
        self._line = ""
        self._ended = False

    def cells(self) -> Iterator[list[str]]:
        """Yield the cells of each record; a blank line has none. Raises DataError."""
        lines = self._lines()
        first = next(lines, "")
        delimiter = max(",;\t", key=first.count)
        # `strict` reports a quoted cell that does not end, or not at a separator. Without it, a
        # stray quote would turn the rows up to the next quote into one cell.
        reader = csv.reader(chain(filter(None, [first]), lines), delimiter=delimiter, strict=True)
        while True:
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                is_open = self._line.count('"') % 2 == 1
                if self._ended or self._number > self._start or is_open:
                    raise self._unterminated() from error
                cells = self._lenient(delimiter)  # other lines are not affected
            yield cells
            self._start = self._number + 1

    def _lines(self) -> Iterator[str]:
        for line in readable(self._name, self._file):
            self._number += 1
            self._line = line
            if "\0" in line:
                raise DataError(
                    f"{self._name}, line {self._number}: a NUL byte",
                    hint="the file is damaged, or not UTF-8 text: repair or convert it",
                )
            if self._number - self._start >= _MAX_LINES:
                raise self._unterminated()
            yield line
        self._ended = True

    def _lenient(self, delimiter: str) -> list[str]:
        try:
            return next(csv.reader([self._line], delimiter=delimiter))
        except csv.Error as error:
            raise DataError(
                f"{self._name}, line {self._number}: a cell has more than "
                f"{_MAX_CELL_CHARACTERS:,} characters",
                hint="shorten it: a record may have 1 MiB",
            ) from error

    def _unterminated(self) -> DataError:
        return DataError(
            f"{self._name}: unterminated quote from line {self._start}",
            hint='close or remove it; a quoted cell writes a quote as "", ends before a separator '
            f"or the end of its line, and has at most {_MAX_LINES} lines",
        )
