"""Open plain or gzipped data files, and report the line after which a file is unreadable."""

import gzip
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, TypeVar

from driftline.errors import DataError

T = TypeVar("T", str, bytes)


def opened(path: Path) -> IO[bytes]:
    """Open a file for reading bytes. A file whose name ends in `.gz` is decompressed."""
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def readable(name: str, lines: Iterable[T]) -> Iterator[T]:
    """Yield an open file's lines. Raises DataError with the number of the last readable line."""
    number = 0
    try:
        for line in lines:
            yield line
            number += 1
    except UnicodeDecodeError as error:
        # A file is decoded block by block, so the byte may be some lines further on.
        raise DataError(
            f"{name}: not UTF-8 somewhere after line {number}", hint="convert the file to UTF-8"
        ) from error
    except gzip.BadGzipFile as error:
        raise DataError(
            f"{name}: not a gzip file, although its name ends in .gz", hint="rename the file"
        ) from error
    except (OSError, EOFError, zlib.error) as error:  # raised for a damaged gzip file
        raise DataError(f"{name}: cannot be read after line {number}: {error}") from error
