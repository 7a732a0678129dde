"""Read a CSV file, plain or gzipped, row by row.

Input: a path. Output: rows that map column names to text. A fault that could hide other rows, such
as an unterminated quote, raises DataError with the line number. A line with too many cells is
yielded as bytes, and becomes a dead letter.
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

# A record may be as large as 1 MiB, so a cell may exceed the csv module's default limit of 128 KiB.
_MAX_CELL_CHARACTERS: Final = 1_048_576
# Maximum number of lines in a quoted cell. A longer cell most likely consists of rows that follow
# an unterminated quote.
_MAX_LINES: Final = 100


class CsvSource:
    """A UTF-8 CSV file with a header line, plain or gzipped.

    The separator is a comma, semicolon or tab. Values stay text, because the first lines may not
    show what kinds of values follow. An empty cell becomes None.
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
        # With newline="", the csv module handles line breaks itself, including breaks in quotes.
        return io.TextIOWrapper(opened(self._path), encoding="utf-8-sig", newline="")

    def _read(self, file: IO[str]) -> tuple[list[str], Iterator[list[str]]]:
        """Return the header, and an iterator over the cells of each record."""
        csv.field_size_limit(_MAX_CELL_CHARACTERS)
        records = _Records(self.name, file).cells()
        header = next(records, [])
        if not header:
            raise DataError(
                f"{self.name}: the file is empty",
                hint="the first line must contain the column names",
            )
        header = [name or f"column {place}" for place, name in enumerate(header)]
        if len(set(header)) < len(header):
            twice = next(name for name in header if header.count(name) > 1)
            raise DataError(f"{self.name}: two columns are called {twice!r}")
        return header, records


class _Records:
    """Split the lines of an open CSV file into records. A record may span several lines."""

    def __init__(self, name: str, file: IO[str]) -> None:
        self._name = name
        self._file = file
        self._start = 1  # number of the current record's first line
        self._number = 0  # number of the last line read; `_line` is its text
        self._line = ""
        self._ended = False

    def cells(self) -> Iterator[list[str]]:
        """Yield each record's cells, or an empty list for a blank line. Raises DataError."""
        lines = self._lines()
        first = next(lines, "")
        delimiter = max(",;\t", key=first.count)
        # `strict` makes the reader reject a quoted cell that is unterminated or not followed by a
        # separator. Otherwise, a stray quote would merge all rows up to the next quote.
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
                cells = self._lenient(delimiter)  # the fault affects only this line
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
                hint="shorten the cell: a record may be at most 1 MiB long",
            ) from error

    def _unterminated(self) -> DataError:
        return DataError(
            f"{self._name}: unterminated quote from line {self._start}",
            hint='close or remove it; in a quoted cell, write a quote as "", put a separator or '
            f"line end after the closing quote, and use at most {_MAX_LINES} lines",
        )
