"""Read rows from files, tables, standard input, the Iris data and River's data sets.

In: a path, a table or a name. Out: a `RowSource`, whose rows are mappings of column to value, in
the order of the data. A file is read in chunks. This module does not depend on a stream file. It
never drops a row: a line that cannot be read as a row is passed on as bytes and becomes a dead
letter.
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

# Rows of a table that are converted to Python values at a time.
CHUNK_ROWS: Final = 10_000


def open_source(data: object) -> RowSource:
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
