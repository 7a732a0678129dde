"""Reads a zip of a few plain files within bounds: a model package, or the arrays inside one.

In: bytes, whoever signed them. Out: the content of one file, or PackageCheckFailed: for a zip bomb,
too many files, names with a folder, links, encrypted or repeated files, damage of any kind. No file
is ever written, and no more is unpacked than `Limits` allow.
"""

import io
import stat
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import msgspec

from driftline.errors import PackageCheckFailed

# The end of a zip without a comment: signature, disks, entries here and in all, size and offset of
# the directory, length of the comment.
_END: Final = struct.Struct("<4s4H2LH")
_ZIP64_BYTES: Final = 20  # of the locator before it, which only larger zips have
_METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED: Final = 0x1


class Limits(msgspec.Struct, frozen=True):
    """What an archive may hold. `max_bytes`: of all files, unpacked."""

    max_files: int
    max_bytes: int
    names: frozenset[str] | None = None  # None: any, without a folder


class Archive:
    """An open archive whose directory is within the limits."""

    def __init__(self, package: zipfile.ZipFile, limits: Limits) -> None:
        self._package = package
        self._infos = {info.filename: info for info in package.infolist()}
        if len(self._infos) != len(package.infolist()):
            raise ValueError("a file is there twice")
        for info in self._infos.values():
            _check(info, limits)
        if (total := sum(info.file_size for info in self._infos.values())) > limits.max_bytes:
            raise ValueError(f"{total:,} bytes unpacked, {limits.max_bytes:,} are allowed")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the files."""
        return tuple(self._infos)

    def read(self, name: str) -> bytes:
        """Return the content of a file, not more than its stated size."""
        return self._package.read(self._infos[name])


@contextmanager
def archive(data: bytes, limits: Limits, failure: str) -> Iterator[Archive]:
    """Open an archive; whatever goes wrong within raises PackageCheckFailed, which begins with
    `failure`."""
    try:
        _check_end(data, limits)
        with zipfile.ZipFile(io.BytesIO(data)) as package:
            yield Archive(package, limits)
    except PackageCheckFailed:
        raise
    except Exception as error:  # zipfile, zlib and struct have exceptions of many kinds
        reason = str(error) or type(error).__name__
        raise PackageCheckFailed(f"{failure}: {reason}") from error


def _check_end(data: bytes, limits: Limits) -> None:
    """Bound the directory before it is read: its entries would fill the memory."""
    if len(data) < _END.size:
        raise ValueError("it is cut off")
    signature, *_, entries, size, _, comment = _END.unpack(data[-_END.size :])
    if signature != b"PK\x05\x06" or comment:
        raise ValueError("it is cut off, or no zip")
    if data[: -_END.size][-_ZIP64_BYTES:].startswith(b"PK\x06\x07"):
        raise ValueError("it is a zip of more than 4 GiB")
    # 46 bytes and the name for each; the rest for fields that other programs add.
    if entries > limits.max_files or size > limits.max_files * 512:
        raise ValueError(f"{entries:,} files, {limits.max_files:,} are allowed")


def _check(info: zipfile.ZipInfo, limits: Limits) -> None:
    name = info.filename
    if limits.names is not None and name not in limits.names:
        raise ValueError(f"unexpected file {name[:100]!r}")
    if "/" in name or "\\" in name or name in ("", ".", ".."):
        raise ValueError(f"file name with a folder: {name[:100]!r}")
    if stat.S_ISLNK(info.external_attr >> 16) or info.is_dir():
        raise ValueError(f"{name[:100]!r} is not a plain file")
    if info.flag_bits & _ENCRYPTED:
        raise ValueError(f"{name[:100]!r} is encrypted")
    if info.compress_type not in _METHODS:
        raise ValueError(f"{name[:100]!r} is compressed by method {info.compress_type}")
