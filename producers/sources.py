"""Where rows come from: files, tables, standard input, and by name Iris and River's sets.

In: a path, a table or a name. Out: a `Source`, whose rows are mappings of column to value, in
order, one chunk of the file in memory at a time. It knows nothing of streams and never drops a row:
a line that is no row is handed on as its bytes, so that it ends as a dead letter.
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

# Rows of a table that are turned into Python values at once.
CHUNK_ROWS: Final = 10_000
# A cell may be a long text; the csv module's own limit of 128 KiB is below a record's 1 MiB.
_MAX_CELL_CHARACTERS: Final = 1_048_576


def open_source(data: object) -> Source:
    """The source for `data`.

    A path (`.csv`, `.csv.gz`, `.tsv`, `.parquet`, `.jsonl`, `.jsonl.gz`), `"-"` for JSON lines on
    standard input, `"iris"`, `"iris-drift"`, `"river:…"` (see `producers.river_sets`), a pandas
    data frame or an Arrow table. Raises DataError.
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
    """The data file of a folder: `data.…`, or the only one there is."""
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
    """A CSV file with a header line, also gzipped; UTF-8; comma, semicolon or tab.

    Values stay text, so that nothing is guessed from the first lines of a file; an empty cell is
    None. A line with too many cells is handed on as its bytes.
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
        # newline="": the csv module reads line ends itself, also those inside of quotes
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
    """One JSON object a line, from a file (also gzipped) or an open stream, which is read once.

    A line that is no JSON object is handed on as its bytes.
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
    """A Parquet file, read a batch at a time."""

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
    """A pandas data frame (its index is left out) or an Arrow table."""

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
