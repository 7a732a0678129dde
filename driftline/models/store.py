"""Store model packages and training records by digest, in a folder or any fsspec location.

Input: a package's bytes and signature. Output: the same bytes, unverified; `load` decides whether
to trust them. A stored package is never changed or overwritten.
"""

import hashlib
import os
import re
from typing import Final

import msgspec

from driftline.errors import DigestMismatch, PackageError, PackageNotFound, StoreUnavailable
from driftline.models.keys import Signature

# The limit is four times the size of the largest package measured, which contained a random forest.
# Package sizes are limited because readers load the whole package into memory.
MAX_PACKAGE_BYTES: Final = 256 << 20
_MAX_SIGNATURE_BYTES: Final = 4096
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


def digest_of(data: bytes) -> str:
    """Return the digest of a package's bytes.

    >>> digest_of(b"")[:20]
    'sha256:e3b0c44298fc1'
    """
    return "sha256:" + hashlib.sha256(data).hexdigest()


class ModelStore:
    """A store of model packages at one URL.

    Each package is stored as `<hex digest>.zip`, its signature as `<hex digest>.sig`, and training
    records as `<hex digest>.records`. Raises PackageError if fsspec cannot use the URL.
    """

    def __init__(self, url: str) -> None:
        import fsspec

        self.url = url
        try:
            self._files, self._root = fsspec.core.url_to_fs(url)
        except (ValueError, ImportError) as error:  # unknown protocol, or missing driver
            raise PackageError(
                f"model store {url!r} cannot be used: {error}",
                hint="check DRIFTLINE_MODEL_STORE, the folder or URL of the model store",
            ) from error

    def put(self, data: bytes, signature: Signature | None) -> str:
        """Store a package, then its signature, and return the package's location.

        Storing the same package twice is safe. Raises StoreUnavailable if writing to the store
        fails.
        """
        path = self._path(digest_of(data), "zip")
        try:
            self._write_new(path, data)
            if signature is not None:
                self._write(self._path(digest_of(data), "sig"), msgspec.json.encode(signature))
        except Exception as error:  # each fsspec driver has its own exceptions
            raise self._unavailable("cannot store the package", error) from error
        # Use the URL as configured. With an absolute path, the same run would announce a different
        # location on each machine.
        return f"{self.url.rstrip('/')}/{path.rpartition('/')[2]}"

    def get(self, digest: str) -> bytes:
        """Return a package's unverified bytes.

        Raises PackageNotFound, StoreUnavailable, or PackageError if the digest is malformed or the
        package is unreadable or larger than `MAX_PACKAGE_BYTES`.
        """
        path = self._path(digest, "zip")
        try:
            return self._read(path, MAX_PACKAGE_BYTES, digest)
        except PackageError:
            raise
        except FileNotFoundError as error:
            raise PackageNotFound(
                f"{self.url} does not hold {digest}",
                hint="DRIFTLINE_MODEL_STORE must be the store that the trainer writes to",
            ) from error
        except (PermissionError, IsADirectoryError) as error:  # other packages may be readable
            raise PackageError(
                f"{self.url}: cannot read {digest}: {error}",
                hint="give this user read access to the package, or restore the package",
            ) from error
        except Exception as error:  # each fsspec driver has its own exceptions
            raise self._unavailable(f"cannot read {digest}", error) from error

    def signature(self, digest: str) -> Signature | None:
        """Return the unverified signature that was stored with a package, or None.

        Raises StoreUnavailable, or PackageError if the stored file is not a signature.
        """
        path = self._path(digest, "sig")
        try:
            data = self._read(path, _MAX_SIGNATURE_BYTES, f"the signature of {digest}")
            return msgspec.json.decode(data, type=Signature)
        except PackageError:
            raise
        except FileNotFoundError:
            return None
        except msgspec.DecodeError as error:
            raise PackageError(
                f"{self.url}: cannot read the signature of {digest}: {error}"
            ) from error
        except Exception as error:  # each fsspec driver has its own exceptions
            raise self._unavailable(f"cannot read the signature of {digest}", error) from error

    def put_records(self, data: bytes) -> None:
        """Store training records (see `training_records`). Raises StoreUnavailable."""
        try:
            self._write_new(self._path(digest_of(data), "records"), data)
        except Exception as error:  # each fsspec driver has its own exceptions
            raise self._unavailable("cannot store the training records", error) from error

    def records(self, digest: str) -> bytes:
        """Return the training records with this digest, after checking it.

        Raises PackageNotFound, StoreUnavailable, DigestMismatch, or PackageError if the file is
        unreadable or larger than `MAX_PACKAGE_BYTES`.
        """
        path, what = self._path(digest, "records"), f"the training records {digest}"
        try:
            data = self._read(path, MAX_PACKAGE_BYTES, what)
        except PackageError:
            raise
        except FileNotFoundError as error:
            raise PackageNotFound(f"{self.url} does not contain {what}") from error
        except Exception as error:  # each fsspec driver has its own exceptions
            raise self._unavailable(f"cannot read {what}", error) from error
        if digest_of(data) != digest:
            raise DigestMismatch(f"{self.url}: {what} were changed or damaged")
        return data

    def _read(self, path: str, max_bytes: int, what: str) -> bytes:
        """Return a file's bytes.

        Raises PackageError if the file is too large, or if it is not a regular file: opening a pipe
        may block forever, and reading a device may never end. The driver's exceptions are not
        caught.
        """
        info = self._files.info(path)
        if info["type"] != "file":
            raise PackageError(
                f"{self.url}: cannot read {what}: it is not a regular file",
                hint="replace it with the file that the trainer wrote",
            )
        data = bytearray()
        too_large = (info.get("size") or 0) > max_bytes
        if not too_large:
            # Read in a loop, because the reported size may be missing or wrong, and because some
            # drivers return fewer bytes than requested.
            with self._files.open(path, "rb") as file:
                while chunk := file.read(max_bytes + 1 - len(data)):
                    data += chunk
            too_large = len(data) > max_bytes
        if too_large:
            raise PackageError(
                f"{self.url}: {what} is larger than {max_bytes:,} bytes",
                hint="train smaller models: fewer trees, or less depth",
            )
        return bytes(data)

    def _unavailable(self, what: str, error: Exception) -> StoreUnavailable:
        return StoreUnavailable(
            f"{self.url}: {what}: {str(error) or type(error).__name__}",
            hint="check DRIFTLINE_MODEL_STORE, the folder or URL of the model store",
        )

    def _write_new(self, path: str, data: bytes) -> None:
        self._files.makedirs(self._root, exist_ok=True)
        if not self._files.exists(path):
            self._write(path, data)

    def _write(self, path: str, data: bytes) -> None:
        # Write to a temporary file and rename it, so that readers never see a partial file.
        part = f"{path}.{os.getpid()}.part"
        try:
            self._files.pipe_file(part, data)
            self._files.mv(part, path)
        except OSError:
            if self._files.exists(part):  # free disk space, because the disk may be full
                self._files.rm_file(part)
            raise

    def _path(self, digest: str, suffix: str) -> str:
        if not (found := _DIGEST.fullmatch(digest)):
            raise PackageError(
                f"not a digest: {digest!r}", hint="expected sha256: and 64 hex digits"
            )
        return f"{self._root.rstrip('/')}/{found[1]}.{suffix}"
