"""Signing keys and trusted keys, and the signatures that are rejected."""

import errno
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from driftline.errors import SettingsError, UntrustedPackage
from driftline.models.keys import (
    Signature,
    Signer,
    Trusted,
    ensure_key,
    is_open,
    new_key,
    signing_key,
    trust,
)

DIGEST = "sha256:" + "ab" * 32


def test_a_new_key_signs_and_is_trusted(tmp_path: Path) -> None:
    name = new_key(tmp_path)
    Trusted(tmp_path).verify(DIGEST, Signer(tmp_path).sign(DIGEST))
    assert Trusted(tmp_path).ids() == (name,)
    assert signing_key(tmp_path) == name == ensure_key(tmp_path)


def test_only_its_owner_can_read_the_private_key(tmp_path: Path) -> None:
    new_key(tmp_path)
    assert stat.S_IMODE((tmp_path / "signing.pem").stat().st_mode) == 0o600


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    new_key(tmp_path)
    with pytest.raises(SettingsError, match="exists"):
        new_key(tmp_path)


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_a_key_can_be_created_once_the_disk_is_no_longer_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    """Whichever of the three files does not fit, nothing of the first attempt remains in use."""
    opened = os.open
    count = 0

    def full(path: str | Path, flags: int, *rest: int, **named: int) -> int:
        nonlocal count
        count += bool(flags & os.O_CREAT)
        if flags & os.O_CREAT and count == failing:
            os.close(opened(path, flags, *rest, **named))  # the file is created, but not filled
            raise OSError(errno.ENOSPC, "No space left on device")
        return opened(path, flags, *rest, **named)

    with monkeypatch.context() as patched:
        patched.setattr("os.open", full)
        patched.setattr("pathlib.Path.write_bytes", lambda path, _: full(path, os.O_CREAT))
        with pytest.raises((SettingsError, OSError), match="No space left on device"):
            new_key(tmp_path)
    assert signing_key(tmp_path) is None
    assert Trusted(tmp_path).ids() == ()
    assert not [*tmp_path.rglob("*.part")]

    name = ensure_key(tmp_path)
    Trusted(tmp_path).verify(DIGEST, Signer(tmp_path).sign(DIGEST))
    assert trust(tmp_path / "signing.pub", tmp_path / "other") == name


def test_processes_that_create_a_key_at_the_same_time_get_one(tmp_path: Path) -> None:
    def create(_: int) -> str | None:
        try:
            return new_key(tmp_path)
        except SettingsError:
            return None

    with ThreadPoolExecutor(8) as pool:
        made = [name for name in pool.map(create, range(8)) if name]
    assert made == [signing_key(tmp_path)]
    assert Trusted(tmp_path).ids() == tuple(made)


def test_an_error_names_a_key_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "keys").write_bytes(b"a file where the folder should be")
    with pytest.raises(SettingsError, match="cannot write"):
        new_key(tmp_path / "keys")


def test_a_signature_by_another_key_is_accepted_only_once_that_key_is_trusted(
    tmp_path: Path,
) -> None:
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    new_key(theirs)
    new_key(ours)
    signature = Signer(theirs).sign(DIGEST)
    with pytest.raises(UntrustedPackage, match="not trusted here"):
        Trusted(ours).verify(DIGEST, signature)
    trust(theirs / "signing.pub", ours)
    Trusted(ours).verify(DIGEST, signature)


def test_an_unsigned_package_is_rejected(tmp_path: Path) -> None:
    new_key(tmp_path)
    with pytest.raises(UntrustedPackage, match="unsigned"):
        Trusted(tmp_path).verify(DIGEST, None)


def test_a_signature_of_another_digest_is_rejected(tmp_path: Path) -> None:
    new_key(tmp_path)
    signature = Signer(tmp_path).sign("sha256:" + "cd" * 32)
    with pytest.raises(UntrustedPackage, match="is invalid"):
        Trusted(tmp_path).verify(DIGEST, signature)


def test_a_key_stored_under_the_name_of_a_trusted_key_is_rejected(tmp_path: Path) -> None:
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    new_key(theirs)
    name = new_key(ours)
    (ours / "trusted" / f"{name}.pem").write_bytes((theirs / "signing.pub").read_bytes())
    with pytest.raises(UntrustedPackage, match="name of another key"):
        Trusted(ours).verify(DIGEST, Signer(ours).sign(DIGEST))


@pytest.mark.parametrize("content", [b"", b"no key at all"])
def test_an_error_reports_a_file_that_is_not_a_key(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "key.pub").write_bytes(content)
    with pytest.raises(SettingsError, match="not a public key"):
        trust(tmp_path / "key.pub", tmp_path)
    (tmp_path / "signing.pem").write_bytes(content)
    with pytest.raises(SettingsError, match="not a private key"):
        Signer(tmp_path)


def test_signing_without_a_key_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no signing key"):
        Signer(tmp_path)


@pytest.mark.parametrize("content", [b"", b"no key at all", b"\xff" * 50])
def test_an_error_names_a_damaged_trusted_key_and_no_signature_is_accepted(
    tmp_path: Path, content: bytes
) -> None:
    name = new_key(tmp_path)
    signature = Signer(tmp_path).sign(DIGEST)
    (tmp_path / "trusted" / f"{name}.pem").write_bytes(content)
    with pytest.raises(UntrustedPackage, match=f"{name}.pem: not a public key"):
        Trusted(tmp_path).verify(DIGEST, signature)


def test_a_key_of_another_kind_is_rejected(tmp_path: Path) -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "signing.pem").write_bytes(
        private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    (tmp_path / "other.pub").write_bytes(
        private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    with pytest.raises(SettingsError, match="expected an Ed25519 key"):
        Signer(tmp_path)
    with pytest.raises(SettingsError, match="expected an Ed25519 key"):
        trust(tmp_path / "other.pub", tmp_path)


def test_a_private_key_with_a_password_is_rejected(tmp_path: Path) -> None:
    private = Ed25519PrivateKey.generate()
    (tmp_path / "signing.pem").write_bytes(
        private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    )
    with pytest.raises(SettingsError, match="not a private key in PEM"):
        Signer(tmp_path)


def test_an_error_names_key_folders_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "trusted").write_bytes(b"a file where the folder should be")
    (tmp_path / "signing.pem").mkdir()
    with pytest.raises(SettingsError, match="cannot list the trusted keys"):
        Trusted(tmp_path).ids()
    with pytest.raises(UntrustedPackage, match="cannot list the trusted keys"):
        Trusted(tmp_path).verify(DIGEST, Signature("00", "k"))
    with pytest.raises(SettingsError, match="no signing key"):
        Signer(tmp_path)


@pytest.mark.parametrize("mode", [0o604, 0o602])
def test_a_signing_key_that_others_can_read_is_detected(tmp_path: Path, mode: int) -> None:
    new_key(tmp_path)
    assert not is_open(tmp_path)
    (tmp_path / "signing.pem").chmod(mode)
    assert is_open(tmp_path)
