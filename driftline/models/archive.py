"""Write a zip in memory, or unpack an untrusted one within limits.

The zips are model packages, their `reference.npz`, and training records. Bytes to unpack are not
trusted, even if they are signed. Raises PackageCheckFailed if a zip is damaged, is a zip bomb, or
contains links, encrypted files, duplicate names, names that include a folder, or too many files.
Nothing is written to disk, and no more bytes are unpacked than `ArchiveLimits` allows.
"""

import io
import stat
import struct
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import msgspec

from driftline.errors import PackageCheckFailed

# A zip's end record: signature, two disk numbers, number of entries on this disk and in total, size
# and offset of the directory, length of the comment.
_END: Final = struct.Struct("<4s4H2LH")
_ZIP64_BYTES: Final = 20  # size of the ZIP64 locator, which precedes the end record of large zips
_METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED: Final = 0x1
# The earliest time that a zip can store. Any fixed time would do.
_TIME: Final = (1980, 1, 1, 0, 0, 0)


class ArchiveLimits(msgspec.Struct, frozen=True):
    """Limits for an archive. `max_bytes` is the maximum total size of the unpacked files."""

    max_files: int
    max_bytes: int
    names: frozenset[str] | None = None  # allowed file names; None allows any name without a folder


class Archive:
    """An open archive whose directory is within the limits."""

    def __init__(self, package: zipfile.ZipFile, limits: ArchiveLimits) -> None:
        self._package = package
        self._infos = {info.filename: info for info in package.infolist()}
        if len(self._infos) != len(package.infolist()):
            raise ValueError("two files have the same name")
        for info in self._infos.values():
            _check(info, limits)
        if (total := sum(info.file_size for info in self._infos.values())) > limits.max_bytes:
            raise ValueError(f"unpacked size is {total:,} bytes; the limit is {limits.max_bytes:,}")

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the files."""
        return tuple(self._infos)

    def read(self, name: str) -> bytes:
        """Return a file's content, but no more bytes than the archive's directory states."""
        return self._package.read(self._infos[name])


def write_archive(files: Mapping[str, bytes]) -> bytes:
    """Return a zip with these files. The same files always give the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as package:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name, _TIME)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = 3  # so that the bytes do not depend on the operating system
            package.writestr(entry, data)
    return buffer.getvalue()


@contextmanager
def archive(data: bytes, limits: ArchiveLimits, failure: str) -> Iterator[Archive]:
    """Open an archive. Any error in the `with` block is raised as PackageCheckFailed.

    The error message starts with `failure`.
    """
    try:
        _check_end(data, limits)
        with zipfile.ZipFile(io.BytesIO(data)) as package:
            yield Archive(package, limits)
    except PackageCheckFailed:
        raise
    except Exception as error:  # zipfile, zlib and struct raise many kinds of exceptions
        reason = str(error) or type(error).__name__
        raise PackageCheckFailed(f"{failure}: {reason}") from error


def _check_end(data: bytes, limits: ArchiveLimits) -> None:
    """Check the size of the zip's directory, because parsing a huge directory could fill memory."""
    if len(data) < _END.size:
        raise ValueError("it is truncated")
    signature, *_, entries, size, _, comment = _END.unpack(data[-_END.size :])
    if signature != b"PK\x05\x06" or comment:
        raise ValueError("it is truncated, or not a zip file")
    if data[: -_END.size][-_ZIP64_BYTES:].startswith(b"PK\x06\x07"):
        raise ValueError("it is larger than 4 GiB")
    # An entry has 46 bytes plus its name. 512 bytes leave room for fields that other programs add.
    if entries > limits.max_files or size > limits.max_files * 512:
        raise ValueError(f"it contains {entries:,} files; the limit is {limits.max_files:,}")


def _check(info: zipfile.ZipInfo, limits: ArchiveLimits) -> None:
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
