"""Open data sources: files, tables, standard input, the Iris data and River's data sets.

Input: a path, a table or a name. Output: a `RowSource`, whose rows map column names to values, in
the data's order. Files are read in chunks. This module needs no stream file. It never drops a row:
a line that cannot be parsed as a row is yielded as bytes, and becomes a dead letter.
"""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from driftline.errors import DataError
from producers.csv_files import CsvSource
from producers.opening import opened, readable
from producers.rows import Row, RowSource

# Number of table rows to convert to Python values at a time.
CHUNK_ROWS: Final = 10_000


def open_source(data: object) -> RowSource:
    """Open `data` as a data source. Raises DataError.

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
        hint="pass a path, a pandas data frame or an Arrow table",
    )


def _by_name(name: str) -> RowSource:
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
    if path.exists() and not path.is_file():
        raise DataError(f"{name}: not a regular file", hint="write the data to a file first")
    if not path.exists():
        raise DataError(
            f"no such file: {name}",
            hint='other data: "-" (JSON lines on standard input), "iris", "iris-drift", "river:…"',
        )
    kind = path.name.lower().removesuffix(".gz").rpartition(".")[2]
    if kind == "parquet":
        return ParquetSource(path)
    if kind in ("jsonl", "ndjson", "json"):
        return JsonLinesSource(str(path), path)
    if kind in ("csv", "tsv", "txt", "data"):
        return CsvSource(path)
    raise DataError(f"{name}: unknown file type", hint="use CSV, CSV.gz, Parquet or JSON lines")


def _only_file(folder: Path) -> Path:
    """Return the folder's `data.…` file, or else its only data file. Raises DataError."""
    found = [
        path
        for path in sorted(folder.iterdir())
        if path.name.lower().removesuffix(".gz").endswith((".csv", ".tsv", ".parquet", ".jsonl"))
    ]
    named = [path for path in found if path.name.split(".")[0] == "data"]
    if len(named or found) != 1:
        raise DataError(
            f"{folder}: {len(found)} data files in this folder", hint="give the path of the file"
        )
    return (named or found)[0]


# ---- JSON lines ----------------------------------------------------------------------------------


class JsonLinesSource:
    """JSON Lines (one object per line) from a plain or gzipped file, or from an open stream.

    An open stream can be read only once. A line that is not a JSON object is yielded as bytes.
    """

    textual: Final = False

    def __init__(self, name: str, lines: Path | Iterable[bytes]) -> None:
        self.name = name
        self._lines = lines

    def count(self) -> int | None:
        if not isinstance(self._lines, Path):
            return None
        with opened(self._lines) as file:
            return sum(1 for line in readable(self.name, file) if line.strip())

    def rows(self) -> Iterator[Row]:
        if isinstance(self._lines, Path):
            with opened(self._lines) as file:
                yield from self._parse(file)
        else:
            yield from self._parse(self._lines)

    def _parse(self, lines: Iterable[bytes]) -> Iterator[Row]:
        decode = msgspec.json.Decoder(dict[str, Any]).decode
        for line in readable(self.name, lines):
            stripped = line.strip()
            if not stripped:
                continue
            try:
                yield decode(stripped)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                yield stripped


# ---- tables --------------------------------------------------------------------------------------


class ParquetSource:
    """A Parquet file, read in batches."""

    textual: Final = False

    def __init__(self, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet

        self.name = str(path)
        try:
            self._file = pa.parquet.ParquetFile(path)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path}: not a Parquet file: {error}") from error

    def count(self) -> int:
        return int(self._file.metadata.num_rows)

    def rows(self) -> Iterator[Row]:
        import pyarrow as pa

        done = 0
        try:
            for batch in self._file.iter_batches(batch_size=CHUNK_ROWS):
                yield from batch.to_pylist()
                done += len(batch)
        except (pa.ArrowException, OSError, UnicodeDecodeError, OverflowError) as error:
            raise DataError(f"{self.name}: cannot be read after row {done}: {error}") from error


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
