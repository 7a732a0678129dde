"""The model store: packages by digest, in a folder or wherever fsspec reaches (s3://, gs://, …).

In: a package's bytes and its signature. Out: the same bytes, unread: whether they may be trusted is
decided in `load`. A package is never changed or overwritten with other bytes.
"""

import hashlib
import os
import re

import msgspec

from driftline.errors import PackageError, PackageNotFound
from driftline.models.keys import Signature

_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


def digest_of(data: bytes) -> str:
    """The digest of a package's bytes.

    >>> digest_of(b"")[:20]
    'sha256:e3b0c44298fc1'
    """
    return "sha256:" + hashlib.sha256(data).hexdigest()


class ModelStore:
    """Packages under one URL: `<hex digest>.zip` and, beside it, `<hex digest>.sig`."""

    def __init__(self, url: str) -> None:
        import fsspec

        self.url = url
        self._files, self._root = fsspec.core.url_to_fs(url)

    def put(self, data: bytes, signature: Signature | None) -> str:
        """Store a package, then its signature; returns its location. Doing it twice is harmless.

        Raises PackageError if the store cannot be written.
        """
        path = self._path(digest_of(data), "zip")
        try:
            self._files.makedirs(self._root, exist_ok=True)
            if not self._files.exists(path):
                self._write(path, data)
            if signature is not None:
                self._write(self._path(digest_of(data), "sig"), msgspec.json.encode(signature))
        except OSError as error:
            raise PackageError(
                f"{self.url}: cannot store the package: {error}",
                hint="DRIFTLINE_MODEL_STORE says where packages are kept",
            ) from error
        # As configured, not made absolute: the same run elsewhere then announces the same.
        return f"{self.url.rstrip('/')}/{path.rpartition('/')[2]}"

    def get(self, digest: str) -> tuple[bytes, Signature | None]:
        """A package's bytes and signature, neither of them checked.

        Raises PackageNotFound; PackageError if the store cannot be read or the digest is none.
        """
        path = self._path(digest, "zip")
        try:
            data: bytes = self._files.cat_file(path)
        except FileNotFoundError as error:
            raise PackageNotFound(
                f"{self.url} does not hold {digest}",
                hint="DRIFTLINE_MODEL_STORE must be the store that the trainer writes to",
            ) from error
        except OSError as error:
            raise PackageError(f"{self.url}: cannot read {digest}: {error}") from error
        return data, self._signature(digest)

    def _signature(self, digest: str) -> Signature | None:
        try:
            raw: bytes = self._files.cat_file(self._path(digest, "sig"))
            return msgspec.json.decode(raw, type=Signature)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as error:
            raise PackageError(
                f"{self.url}: cannot read the signature of {digest}: {error}"
            ) from error

    def _write(self, path: str, data: bytes) -> None:
        # A reader must never meet half a file: write beside it, then rename.
        part = f"{path}.{os.getpid()}.part"
        self._files.pipe_file(part, data)
        self._files.mv(part, path)

    def _path(self, digest: str, suffix: str) -> str:
        if not (found := _DIGEST.fullmatch(digest)):
            raise PackageError(
                f"not a digest: {digest!r}", hint="expected sha256: and 64 hex digits"
            )
        return f"{self._root.rstrip('/')}/{found[1]}.{suffix}"
