"""Manage the Ed25519 keys in a key folder, sign with them, and verify signatures.

A package's signature covers the text of the package's digest. `models.signed` describes how records
of the `models` topic are signed.

A key folder contains `signing.pem` (the private key, readable only by its owner), `signing.pub`
(the public key to share) and `trusted/<key id>.pem` (public keys of signers whose packages may be
loaded).
"""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from driftline.errors import SettingsError, UntrustedPackage
from driftline.files import replace_file

_PRIVATE = "signing.pem"
_PUBLIC = "signing.pub"
_TRUSTED = "trusted"


class Signature(msgspec.Struct, frozen=True):
    """A detached signature. `value` is in hex."""

    value: str
    key_id: str


def key_id(public: Ed25519PublicKey) -> str:
    """Return a key's id: the first 16 hex digits of the raw public key's SHA-256 hash."""
    raw = public.public_bytes(Encoding.Raw, PublicFormat.Raw)
    return hashlib.sha256(raw).hexdigest()[:16]


def new_key(folder: Path) -> str:
    """Create a signing key in `folder`, trust it there, and return its id.

    Raises SettingsError, and creates no key, if the folder already has a signing key or if a file
    cannot be written. Verifying packages signed with an old key still requires the old
    public key.
    """
    private = Ed25519PrivateKey.generate()
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = private.public_key()
    with _locked(folder):
        path = folder / _PRIVATE
        if path.exists():
            raise SettingsError(
                f"{path} exists",
                hint="move it elsewhere first; packages signed with it need its public key",
            )
        # Write the private key last, so that a folder that contains it also has all other files.
        name = _trust(public, folder)
        try:
            _write(folder / _PUBLIC, _public_pem(public))
            _write(path, pem, mode=0o600)
        except SettingsError:
            (folder / _TRUSTED / f"{name}.pem").unlink(missing_ok=True)
            raise
    return name


def trust(public_key: Path, folder: Path) -> str:
    """Trust packages signed by the owner of this public key (PEM), and return the key's id.

    Raises SettingsError if the file is not an Ed25519 public key, or if the key cannot be stored.
    """
    return _trust(_read_public(public_key), folder)


def ensure_key(folder: Path) -> str:
    """Return the id of the folder's signing key. Create a key if there is none.

    Raises SettingsError if the key cannot be read or created.
    """
    return signing_key(folder) or new_key(folder)


def signing_key(folder: Path) -> str | None:
    """Return the id of the folder's signing key, or None if there is none.

    Raises SettingsError if the key cannot be read.
    """
    return Signer(folder).key_id if (folder / _PRIVATE).exists() else None


def is_open(folder: Path) -> bool:
    """Return whether users other than the signing key's owner and group can access the key."""
    return bool((folder / _PRIVATE).stat().st_mode & 0o007)


class Signer:
    """Sign with a folder's private key. Raises SettingsError if the folder has no usable key."""

    def __init__(self, folder: Path) -> None:
        path = folder / _PRIVATE
        try:
            key = load_pem_private_key(path.read_bytes(), password=None)
        except OSError as error:
            raise SettingsError(
                f"no signing key: {path}: {error.strerror}", hint="`driftline keys new` creates one"
            ) from error
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise SettingsError(f"{path}: not a private key in PEM: {error}") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise SettingsError(f"{path}: expected an Ed25519 key, got {type(key).__name__}")
        self._key = key
        self.key_id = key_id(key.public_key())

    def sign(self, digest: str) -> Signature:
        """Sign a package's digest (`sha256:…`)."""
        return self.sign_bytes(digest.encode())

    def sign_bytes(self, data: bytes) -> Signature:
        """Sign bytes that are not a digest. The bytes must not start with `sha256:`."""
        return Signature(value=self._key.sign(data).hex(), key_id=self.key_id)


class Trusted:
    """The trusted public keys in a key folder.

    The folder is read on each use, so a running service accepts a key as soon as the key is added.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / _TRUSTED

    def ids(self) -> tuple[str, ...]:
        """Return the trusted keys' ids, sorted, or an empty tuple if the folder does not exist.

        Raises SettingsError if the folder cannot be read.
        """
        try:
            names = [path.name for path in self._folder.iterdir()]
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise SettingsError(
                f"cannot list the trusted keys in {self._folder}: {error.strerror}",
                hint="the service's user must be able to read this folder",
            ) from error
        return tuple(sorted(name.removesuffix(".pem") for name in names if name.endswith(".pem")))

    def verify(self, digest: str, signature: Signature | None) -> None:
        """Raise UntrustedPackage unless a trusted key signed this digest."""
        self.verify_bytes(digest, digest.encode(), signature)

    def verify_bytes(self, name: str, data: bytes, signature: Signature | None) -> None:
        """Raise UntrustedPackage unless a trusted key signed these bytes.

        Also raise UntrustedPackage if the trusted key cannot be read. The error message starts with
        `name`.
        """
        if signature is None:
            raise UntrustedPackage(f"{name}: unsigned", hint="`driftline train` signs packages")
        try:
            # The key id is untrusted input, so it must match the id of a trusted key before it
            # becomes part of a path.
            if signature.key_id not in self.ids():
                raise UntrustedPackage(
                    f"{name}: signed by key {signature.key_id[:64]!r}, which is not trusted here",
                    hint="`driftline keys trust FILE` trusts a public key",
                )
            public = _read_public(self._folder / f"{signature.key_id}.pem")
        except SettingsError as error:
            raise UntrustedPackage(f"{name}: {error.message}", hint=error.hint) from error
        if key_id(public) != signature.key_id:
            raise UntrustedPackage(
                f"{name}: trusted key {signature.key_id!r} is stored under the name of another key",
                hint="`driftline keys trust FILE` stores it correctly",
            )
        try:
            public.verify(bytes.fromhex(signature.value), data)
        except (InvalidSignature, ValueError) as error:
            raise UntrustedPackage(
                f"{name}: its signature by key {signature.key_id} is invalid",
                hint="fetch or publish the package or record again",
            ) from error


def _trust(public: Ed25519PublicKey, folder: Path) -> str:
    name = key_id(public)
    _write(folder / _TRUSTED / f"{name}.pem", _public_pem(public))
    return name


def _write(path: Path, content: bytes, *, mode: int = 0o666) -> None:
    """Write a file in the key folder. Raises SettingsError."""
    try:
        replace_file(path, content, mode=mode)
    except OSError as error:
        raise _not_written(path, error) from error


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock the folder so that no other process can create a key in it. Raises SettingsError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise _not_written(folder, error) from error
    try:
        with suppress(OSError):  # some network file systems do not support locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _not_written(path: Path, error: OSError) -> SettingsError:
    return SettingsError(
        f"cannot write {path}: {error.strerror}",
        hint="make it writable, or free space on its disk, and try again",
    )


def _public_pem(public: Ed25519PublicKey) -> bytes:
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _read_public(path: Path) -> Ed25519PublicKey:
    try:
        key = load_pem_public_key(path.read_bytes())
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SettingsError(f"{path}: not a public key in PEM: {error}") from error
    if not isinstance(key, Ed25519PublicKey):
        raise SettingsError(f"{path}: expected an Ed25519 key, got {type(key).__name__}")
    return key
