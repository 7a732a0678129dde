"""Faulty archives, even from a trusted signer, are rejected in bounded memory."""

import contextlib
import io
import struct
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from driftline.errors import PackageCheckFailed
from driftline.models.archive import ArchiveLimits, archive
from driftline.models.package import JOBLIB, MANIFEST, read_manifest, read_member
from driftline.models.package_reference import load_reference

SMALL = ArchiveLimits(4, 1000, frozenset({"a", "b"}))


def zipped(
    *files: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_DEFLATED
) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as package:
        for name, data in files:
            package.writestr(name, data)
    return buffer.getvalue()


def info(name: str, *, mode: int = 0o600) -> zipfile.ZipInfo:
    made = zipfile.ZipInfo(name)
    made.external_attr = mode << 16
    return made


def changed(data: bytes, at_signature: bytes, offset: int, value: bytes) -> bytes:
    """Return the bytes, replaced at this offset of each header that begins with the signature."""
    found, start = bytearray(data), 0
    while (start := data.find(at_signature, start)) >= 0:
        found[start + offset : start + offset + len(value)] = value
        start += 4
    return bytes(found)


GOOD = zipped(("a", b"x" * 100), ("b", b"y"))
CENTRAL, LOCAL = b"PK\x01\x02", b"PK\x03\x04"
BAD: dict[str, bytes] = {
    "empty": b"",
    "no zip": b"no zip at all, but long enough to be one",
    "cut off": GOOD[:-1],
    "cut in the middle": GOOD[: len(GOOD) // 2],
    "something behind it": GOOD + b"x",
    "a zip bomb": zipped(("a", bytes(10_000))),
    "two that are one together": zipped(("a", bytes(600)), ("b", bytes(600))),
    "a bomb that states a small size": changed(
        changed(zipped(("a", bytes(10_000))), CENTRAL, 24, struct.pack("<L", 10)),
        LOCAL,
        22,
        struct.pack("<L", 10),
    ),
    "many files": zipped(*((f"a{number}", b"") for number in range(100))),
    "another file": zipped(("a", b""), ("c", b"")),
    "a path": zipped(("../a", b"")),
    "an absolute path": zipped(("/a", b"")),
    "a folder": zipped(("a/", b"")),
    "a link": zipped((info("a", mode=0o120777), b"/etc/passwd")),
    "bzip2": zipped(("a", b"x"), method=zipfile.ZIP_BZIP2),
    "lzma": zipped(("a", b"x"), method=zipfile.ZIP_LZMA),
    "an unknown method": changed(GOOD, CENTRAL, 10, b"\x63\x00"),
    "encrypted": changed(GOOD, CENTRAL, 8, b"\x01\x00"),
    "a wrong checksum": changed(GOOD, CENTRAL, 16, b"\x00\x00\x00\x00"),
    "a name that is not UTF-8": changed(
        changed(GOOD, CENTRAL, 8, b"\x00\x08"), CENTRAL, 46, b"\xff"
    ),
    "an offset behind the end": changed(GOOD, CENTRAL, 42, b"\xff\xff\xff\x7f"),
    "damaged data": GOOD[:31] + b"\xff" + GOOD[32:],
    "a directory that is elsewhere": GOOD[:-6] + b"\xff\xff\xff\x7f" + GOOD[-2:],
    "a zip64": GOOD[:-22] + b"PK\x06\x07" + bytes(16) + GOOD[-22:],
}


def twice() -> bytes:
    with pytest.warns(UserWarning, match="Duplicate name"):
        return zipped(("a", b"1"), ("a", b"2"))


def read_all(data: bytes) -> list[bytes]:
    with archive(data, SMALL, "no") as found:
        return [found.read(name) for name in found.names]


@pytest.mark.parametrize("kind", BAD)
def test_a_faulty_archive_is_rejected(kind: str) -> None:
    with pytest.raises(PackageCheckFailed):
        read_all(BAD[kind])


def test_an_archive_that_contains_a_file_twice_is_rejected() -> None:
    with pytest.raises(PackageCheckFailed, match="two files have the same name"):
        read_all(twice())


def test_a_valid_archive_is_read() -> None:
    assert read_all(GOOD) == [b"x" * 100, b"y"]


@pytest.mark.parametrize("at", range(0, len(GOOD), 3))
def test_an_archive_with_a_changed_byte_is_rejected_or_reads_the_same(at: int) -> None:
    damaged = bytearray(GOOD)
    damaged[at] ^= 0xFF
    with contextlib.suppress(PackageCheckFailed):
        assert read_all(bytes(damaged)) == [b"x" * 100, b"y"]


@pytest.mark.parametrize("value", [b"", b"[]", b"\xff", b"[" * 100_000, b'{"format": 2}', b"null"])
def test_an_invalid_manifest_is_rejected(value: bytes) -> None:
    with pytest.raises(PackageCheckFailed):
        read_manifest(zipped((MANIFEST, value)))


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def header(shape: str, dtype: str = "<f8") -> bytes:
    """Return the header of an array without its data."""
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


@pytest.mark.parametrize(
    "array",
    [
        header("(1 << 60,)"),
        header("(1152921504606846976,)"),
        header("(1152921504606846976,)", "|V0"),
        header("(-1,)"),
        header("()"),
        header("('x',)"),
        header("(3,)", "|O"),
        header("(0,)", "<M8[s]"),
        b"\x93NUMPY\x09\x00",
        b"\x93NUMPY\x02\x00\xff\xff\xff\xff",
        b"",
        npy(np.zeros(3))[:-1],
    ],
)
def test_an_array_whose_header_does_not_match_its_data_is_rejected(array: bytes) -> None:
    with pytest.raises(PackageCheckFailed, match="reference cannot be read"):
        load_reference(zipped(("names.npy", npy(np.zeros(1, np.uint8))), ("errors.npy", array)))


MIB = 1 << 20
BOMBS: dict[str, Callable[[], bytes]] = {
    "a file of 4 GiB": lambda: _large(MIB * 1024 * 4 - 1),
    "600 MiB": lambda: zipped((JOBLIB, bytes(600 * MIB))),
    "300 MiB twice": lambda: zipped((JOBLIB, bytes(300 * MIB)), (MANIFEST, bytes(300 * MIB))),
    "a million files": lambda: _directory(1_000_000),
}


def _large(size: int) -> bytes:
    data = zipped((JOBLIB, bytes(64 * MIB)))
    for signature, offset in ((CENTRAL, 24), (LOCAL, 22)):
        data = changed(data, signature, offset, struct.pack("<L", size))
    return data


def _directory(entries: int) -> bytes:
    one = GOOD[GOOD.index(CENTRAL) : GOOD.index(CENTRAL) + 47]
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 4, 4, len(one) * entries, 0, 0)
    return one * entries + end


@pytest.mark.parametrize("kind", BOMBS)
def test_an_archive_bomb_is_rejected_without_using_much_memory(kind: str, tmp_path: Path) -> None:
    """The archive is read in a process whose memory limit is 64 MiB above its current use."""
    (tmp_path / "bomb.zip").write_bytes(BOMBS[kind]())
    code = """
        import resource, sys
        from driftline.errors import PackageCheckFailed
        from driftline.models.package import MANIFEST, read_member
        data = open(sys.argv[1], "rb").read()
        pages = int(open("/proc/self/statm").read().split()[0])
        limit = pages * resource.getpagesize() + (64 << 20)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        try:
            read_member(data, MANIFEST)
        except PackageCheckFailed as error:
            print("refused", error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "bomb.zip")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.startswith("refused"), done.stderr
    assert "MemoryError" not in done.stdout


def test_a_missing_file_of_a_package_is_read_as_none() -> None:
    assert read_member(zipped((MANIFEST, b"{}")), JOBLIB) is None
