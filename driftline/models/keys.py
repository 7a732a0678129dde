"""Sign with Ed25519 keys, and verify that a trusted key has signed.

The signature of a package covers the text of its digest. `models.signed` describes the signature of
a record of the `models` topic.

A key folder contains `signing.pem` (private, readable by its owner only), `signing.pub` (to give to
others) and `trusted/<key id>.pem`, the public keys whose packages may be loaded.
"""

import hashlib
import os
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

_PRIVATE = "signing.pem"
_PUBLIC = "signing.pub"
_TRUSTED = "trusted"


class Signature(msgspec.Struct, frozen=True):
    """A detached signature. `value` is hex."""

    value: str
    key_id: str


def key_id(public: Ed25519PublicKey) -> str:
    """Return the id of a key: the first 16 hex digits of the SHA-256 of the raw public key."""
    raw = public.public_bytes(Encoding.Raw, PublicFormat.Raw)
    return hashlib.sha256(raw).hexdigest()[:16]


def new_key(folder: Path) -> str:
    """Create a signing key in `folder`, trust it there, and return its id.

    Raises SettingsError if the folder already has one. Packages that were signed with it still need
    its public key.
    """
    path = folder / _PRIVATE
    if path.exists():
        raise SettingsError(
            f"{path} exists", hint="move it away first; packages signed with it need its public key"
        )
    private = Ed25519PrivateKey.generate()
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    folder.mkdir(parents=True, exist_ok=True)
    # Set the mode at creation. If it were restricted later, others could read the file until then.
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(pem)
    public = private.public_key()
    (folder / _PUBLIC).write_bytes(_public_pem(public))
    return _trust(public, folder)


def trust(public_key: Path, folder: Path) -> str:
    """Trust packages signed by the owner of this public key (PEM), and return the key's id.

    Raises SettingsError if the file is not an Ed25519 public key.
    """
    return _trust(_read_public(public_key), folder)


def ensure_key(folder: Path) -> str:
    """Return the id of the folder's signing key; create the key if there is none.

    Raises SettingsError if the key cannot be read.
    """
    return signing_key(folder) or new_key(folder)


def signing_key(folder: Path) -> str | None:
    """Return the id of the folder's signing key, or None if there is none.

    Raises SettingsError if the key cannot be read.
    """
    return Signer(folder).key_id if (folder / _PRIVATE).exists() else None


def is_open(folder: Path) -> bool:
    """Return whether users other than its owner and group have access to the signing key."""
    return bool((folder / _PRIVATE).stat().st_mode & 0o007)


class Signer:
    """Sign with the private key of a folder. Raises SettingsError if it has no usable key."""

    def __init__(self, folder: Path) -> None:
        path = folder / _PRIVATE
        try:
            key = load_pem_private_key(path.read_bytes(), password=None)
        except OSError as error:
            raise SettingsError(
                f"no signing key: {path}: {error.strerror}", hint="`driftline keys new` makes one"
            ) from error
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise SettingsError(f"{path}: not a private key in PEM: {error}") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise SettingsError(f"{path}: expected an Ed25519 key, got {type(key).__name__}")
        self._key = key
        self.key_id = key_id(key.public_key())

    def sign(self, digest: str) -> Signature:
        """Sign the digest of a package (`sha256:…`)."""
        return self.sign_bytes(digest.encode())

    def sign_bytes(self, data: bytes) -> Signature:
        """Sign other bytes. They must not start like a digest."""
        return Signature(value=self._key.sign(data).hex(), key_id=self.key_id)


class Trusted:
    """The public keys that a folder trusts.

    The folder is read at each use, so a running service accepts a key as soon as it is added.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / _TRUSTED

    def ids(self) -> tuple[str, ...]:
        """Return the sorted ids of the trusted keys, none if the folder does not exist.

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

        The error message starts with `name`. It is also raised if the trusted key cannot be read.
        """
        if signature is None:
            raise UntrustedPackage(f"{name}: unsigned", hint="`driftline train` signs packages")
        try:
            # The id is untrusted input. It must equal one of the listed names before it becomes
            # part of a path.
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
                f"{name}: trusted key {signature.key_id!r} is stored under another's name",
                hint="`driftline keys trust FILE` stores it rightly",
            )
        try:
            public.verify(bytes.fromhex(signature.value), data)
        except (InvalidSignature, ValueError) as error:
            raise UntrustedPackage(
                f"{name}: its signature does not hold for key {signature.key_id}",
                hint="fetch it again, or publish it anew",
            ) from error


def _trust(public: Ed25519PublicKey, folder: Path) -> str:
    name = key_id(public)
    (folder / _TRUSTED).mkdir(parents=True, exist_ok=True)
    (folder / _TRUSTED / f"{name}.pem").write_bytes(_public_pem(public))
    return name


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
