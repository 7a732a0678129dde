"""Read rows from files, tables, standard input, the Iris data and River's data sets.

In: a path, a table or a name. Out: a `Source`, whose rows are mappings of column to value, in the
order of the data. A file is read in chunks. This module does not depend on a stream file. It never
drops a row: a line that cannot be read as a row is passed on as bytes and becomes a dead letter.
"""

import csv
import gzip
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, Final

import msgspec

from driftline.errors import DataError
from producers.rows import Row, Source

# Rows of a table that are converted to Python values at a time.
CHUNK_ROWS: Final = 10_000
# A record may have 1 MiB, so a cell may be longer than the csv module's default limit of 128 KiB.
_MAX_CELL_CHARACTERS: Final = 1_048_576


def open_source(data: object) -> Source:
    """Open `data` as a source. Raises DataError.

    data: a path (`.csv`, `.csv.gz`, `.tsv`, `.parquet`, `.jsonl`, `.jsonl.gz`), `"-"` for JSON
    lines on standard input, `"iris"`, `"iris-drift"`, `"river:…"` (see `producers.river_sets`), a
    pandas data frame or an Arrow table.
    """
    if isinstance(data, str | Path):
        return _by_name(str(data))
    if hasattr(data, "to_batches") or hasattr(data, "itertuples"):
        return TableSource(data)
    raise DataError(
        f"cannot read rows from {type(data).__name__}",
        hint="give a path, a pandas data frame or an Arrow table",
    )


def _by_name(name: str) -> Source:
    if name == "-":
        return JsonLinesSource("standard input", sys.stdin.buffer)
    if name in ("iris", "iris-drift"):
        from producers.iris import Iris, IrisDrift

        return Iris() if name == "iris" else IrisDrift()
    if name.startswith("river:"):
        from producers.river_sets import open_river

        return open_river(name)
    path = Path(name)
    if path.is_dir():
        path = _only_file(path)
    if not path.is_file():
        raise DataError(
            f"no such file: {name}",
            hint='or "-" (JSON lines on standard input), "iris", "iris-drift", "river:Phishing"',
        )
    kind = path.name.lower().removesuffix(".gz").rpartition(".")[2]
    if kind == "parquet":
        return ParquetSource(path)
    if kind in ("jsonl", "ndjson", "json"):
        return JsonLinesSource(str(path), path)
    if kind in ("csv", "tsv", "txt", "data"):
        return CsvSource(path)
    raise DataError(f"{name}: unknown kind of file", hint="CSV, CSV.gz, Parquet or JSON lines")


def _only_file(folder: Path) -> Path:
    """Return the data file of a folder: `data.…`, or the only data file in it."""
    found = [
        path
        for path in sorted(folder.iterdir())
        if path.name.lower().removesuffix(".gz").endswith((".csv", ".tsv", ".parquet", ".jsonl"))
    ]
    named = [path for path in found if path.name.split(".")[0] == "data"]
    if len(named or found) != 1:
        raise DataError(
            f"{folder}: {len(found)} data files in this folder", hint="name the file itself"
        )
    return (named or found)[0]


# ---- CSV -----------------------------------------------------------------------------------------


class CsvSource:
    """A UTF-8 CSV file with a header line, gzipped or not.

    The separator is a comma, semicolon or tab. Values stay text, because the first lines of a file
    may not show what later ones contain. An empty cell becomes None. A line with too many cells is
    passed on as bytes.
    """

    textual: Final = True

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path

    def count(self) -> int:
        with self._open() as file:
            return sum(1 for line in self._reader(file)[1] if line)

    def rows(self) -> Iterator[Row]:
        with self._open() as file:
            header, reader = self._reader(file)
            width = len(header)
            for cells in reader:
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
        if self._path.suffix == ".gz":
            return gzip.open(self._path, "rt", encoding="utf-8-sig", newline="")
        return self._path.open(encoding="utf-8-sig", newline="")

    def _reader(self, file: IO[str]) -> tuple[list[str], Iterator[list[str]]]:
        csv.field_size_limit(_MAX_CELL_CHARACTERS)
        lines = self._lines(file)
        first = next(lines, "")
        delimiter = max(",;\t", key=first.count)
        header = next(csv.reader([first], delimiter=delimiter), [])
        if not header:
            raise DataError(f"{self.name}: the file is empty", hint="the first line names columns")
        header = [name or f"column {place}" for place, name in enumerate(header)]
        if len(set(header)) < len(header):
            twice = next(name for name in header if header.count(name) > 1)
            raise DataError(f"{self.name}: two columns are called {twice!r}")
        return header, self._checked(csv.reader(lines, delimiter=delimiter))

    def _lines(self, file: IO[str]) -> Iterator[str]:
        number = 0
        try:
            for line in file:
                number += 1
                yield line
        except UnicodeDecodeError as error:
            raise DataError(
                f"{self.name}: not UTF-8 after line {number}", hint="convert the file to UTF-8"
            ) from error
        except (OSError, EOFError) as error:  # a damaged gzip file
            raise DataError(f"{self.name}: cannot be read after line {number}: {error}") from error

    def _checked(self, reader: Iterator[list[str]]) -> Iterator[list[str]]:
        try:
            yield from reader
        except csv.Error as error:
            raise DataError(f"{self.name}: not CSV: {error}") from error


# ---- JSON lines ----------------------------------------------------------------------------------


class JsonLinesSource:
    """One JSON object per line, from a file (gzipped or not) or an open stream.

    A stream can be read only once. A line that is not a JSON object is passed on as bytes.
    """

    textual: Final = False

    def __init__(self, name: str, lines: Path | Iterable[bytes]) -> None:
        self.name = name
        self._lines = lines

    def count(self) -> int | None:
        if not isinstance(self._lines, Path):
            return None
        with self._open(self._lines) as file:
            return sum(1 for line in file if line.strip())

    def rows(self) -> Iterator[Row]:
        if isinstance(self._lines, Path):
            with self._open(self._lines) as file:
                yield from self._parse(file)
        else:
            yield from self._parse(self._lines)

    def _open(self, path: Path) -> IO[bytes]:
        return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]

    def _parse(self, lines: Iterable[bytes]) -> Iterator[Row]:
        decode = msgspec.json.Decoder(dict[str, Any]).decode
        for line in lines:
            stripped = line.strip()
            if not stripped:
                continue
            try:
                yield decode(stripped)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                yield stripped


# ---- tables --------------------------------------------------------------------------------------


class ParquetSource:
    """A Parquet file, which is read in batches."""

    textual: Final = False

    def __init__(self, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet

        self.name = str(path)
        try:
            self._file = pa.parquet.ParquetFile(path)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path}: not Parquet: {error}") from error

    def count(self) -> int:
        return int(self._file.metadata.num_rows)

    def rows(self) -> Iterator[Row]:
        for batch in self._file.iter_batches(batch_size=CHUNK_ROWS):
            yield from batch.to_pylist()


class TableSource:
    """A pandas data frame, without its index, or an Arrow table."""

    textual: Final = False

    def __init__(self, table: Any) -> None:
        import pyarrow as pa

        self.name = type(table).__name__
        try:
            self._table = (
                table
                if isinstance(table, pa.Table)
                else pa.Table.from_pandas(table, preserve_index=False)
            )
        except (pa.ArrowException, TypeError, ValueError) as error:
            raise DataError(f"this data frame cannot be read: {error}") from error

    def count(self) -> int:
        return int(self._table.num_rows)

    def rows(self) -> Iterator[Row]:
        for batch in self._table.to_batches(max_chunksize=CHUNK_ROWS):
            yield from batch.to_pylist()
