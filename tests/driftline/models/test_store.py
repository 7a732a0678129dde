"""The model store returns the bytes of a digest and never other bytes, on any fsspec storage."""

import errno
import os
from pathlib import Path

import pytest

from driftline.errors import PackageError, PackageNotFound, StoreUnavailable
from driftline.models.keys import Signature
from driftline.models.store import ModelStore, digest_of

SIGNATURE = Signature("ab", "key")


@pytest.mark.parametrize("place", ["folder", "file://{}/folder", "memory://models-{}"])
def test_a_stored_package_can_be_read(tmp_path: Path, place: str) -> None:
    url = place.format(tmp_path) if "{}" in place else str(tmp_path / place)
    store = ModelStore(url)
    location = store.put(b"package", SIGNATURE)
    assert location.endswith(".zip")
    assert store.get(digest_of(b"package")) == b"package"
    assert store.signature(digest_of(b"package")) == SIGNATURE
    assert store.put(b"package", SIGNATURE) == location


def test_a_package_may_be_stored_without_a_signature(tmp_path: Path) -> None:
    store = ModelStore(str(tmp_path))
    store.put(b"package", None)
    assert store.get(digest_of(b"package")) == b"package"
    assert store.signature(digest_of(b"package")) is None


def test_an_error_names_a_package_that_is_not_in_the_store(tmp_path: Path) -> None:
    with pytest.raises(PackageNotFound, match=digest_of(b"other")):
        ModelStore(str(tmp_path)).get(digest_of(b"other"))


@pytest.mark.parametrize("digest", ["sha256:../../etc/passwd", "", "sha256:" + "A" * 64])
def test_a_text_that_is_not_a_digest_is_never_used_as_a_path(tmp_path: Path, digest: str) -> None:
    with pytest.raises(PackageError, match="not a digest"):
        ModelStore(str(tmp_path)).get(digest)


def test_an_error_reports_an_invalid_signature_file(tmp_path: Path) -> None:
    store = ModelStore(str(tmp_path))
    store.put(b"package", SIGNATURE)
    next(tmp_path.glob("*.sig")).write_bytes(b"{")
    with pytest.raises(PackageError, match="signature"):
        store.signature(digest_of(b"package"))


def test_an_error_reports_a_store_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file where the folder should be")
    with pytest.raises(PackageError, match="cannot store"):
        ModelStore(str(tmp_path / "models")).put(b"package", None)


def test_a_package_that_is_too_large_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("driftline.models.store.MAX_PACKAGE_BYTES", 3)
    store = ModelStore(str(tmp_path))
    store.put(b"package", None)
    with pytest.raises(PackageError, match="larger than"):
        store.get(digest_of(b"package"))


def test_a_package_that_is_larger_than_its_reported_size_is_read_only_up_to_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ModelStore(str(tmp_path))
    store.put(b"package", SIGNATURE)
    info = type(store._files).info
    monkeypatch.setattr(
        type(store._files), "info", lambda self, path: info(self, path) | {"size": 0}
    )
    monkeypatch.setattr("driftline.models.store.MAX_PACKAGE_BYTES", 3)
    monkeypatch.setattr("driftline.models.store._MAX_SIGNATURE_BYTES", 3)
    for call in (store.get, store.signature):
        with pytest.raises(PackageError, match="larger than 3 bytes"):
            call(digest_of(b"package"))


@pytest.mark.parametrize("suffix", ["zip", "sig"])
@pytest.mark.parametrize("kind", ["pipe", "link to a pipe", "device"])
@pytest.mark.parametrize("url", ["{}", "simplecache::{}"])
def test_only_regular_files_are_read(tmp_path: Path, url: str, kind: str, suffix: str) -> None:
    """Reading a pipe blocks, and a device such as /dev/zero has no end."""
    store = ModelStore(url.format(tmp_path / "models"))
    store.put(b"package", SIGNATURE)
    path = next((tmp_path / "models").glob(f"*.{suffix}"))
    path.unlink()
    if kind == "device":
        path.symlink_to("/dev/zero")
    else:
        pipe = path if kind == "pipe" else tmp_path / "pipe"
        os.mkfifo(pipe)
        if pipe != path:
            path.symlink_to(pipe)
    with pytest.raises(PackageError, match="not a regular file"):
        (store.get if suffix == "zip" else store.signature)(digest_of(b"package"))


@pytest.mark.parametrize(
    "error", [OSError(5, "Input/output error"), RuntimeError("403"), EOFError()]
)
def test_an_unreachable_store_is_distinguished_from_a_missing_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    store = ModelStore(str(tmp_path))
    store.put(b"package", SIGNATURE)

    def fail(*_: object) -> bytes:
        raise error

    monkeypatch.setattr(type(store._files), "open", fail)
    for call in (store.get, store.signature):
        with pytest.raises(StoreUnavailable, match="cannot read"):
            call(digest_of(b"package"))


def test_an_unreadable_package_is_distinguished_from_an_unreachable_store(
    tmp_path: Path,
) -> None:
    """Only then may an older model serve instead."""
    store = ModelStore(str(tmp_path))
    (tmp_path / f"{digest_of(b'package').removeprefix('sha256:')}.zip").mkdir()
    with pytest.raises(PackageError, match="cannot read") as caught:
        store.get(digest_of(b"package"))
    assert not isinstance(caught.value, StoreUnavailable)


@pytest.mark.parametrize("url", ["nothing://models", "no-such-protocol+x://a"])
def test_an_error_names_the_variable_with_an_unknown_kind_of_store(url: str) -> None:
    with pytest.raises(PackageError, match="Protocol not known") as caught:
        ModelStore(url)
    assert "DRIFTLINE_MODEL_STORE" in caught.value.hint


def test_no_part_of_a_package_remains_if_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(self: object, path: str, value: bytes, **_: object) -> None:
        Path(path).write_bytes(value[: len(value) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("fsspec.implementations.local.LocalFileSystem.pipe_file", half)
    with pytest.raises(PackageError, match="No space left on device"):
        ModelStore(str(tmp_path / "models")).put(b"package", None)
    assert list((tmp_path / "models").iterdir()) == []
