"""Check model packages as a trusted but faulty writer may make them: damaged zips, odd manifests.

The pickle inside is never loaded: a trusted signer may run code with it anyway.
"""

import io
import tempfile
import zipfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from driftline.errors import DriftlineError
from driftline.models.package import JOBLIB, MANIFEST, ONNX, REFERENCE, read_manifest, read_member
from driftline.models.package_reference import load_reference, save_reference
from driftline.models.store import ModelStore
from tests.training import CLASSIFICATION, first_model, settings


@cache
def _package() -> bytes:
    """Return a small real package. The model does not matter, so it is one that trains quickly."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        trained = first_model(CLASSIFICATION, home)
        return ModelStore(settings(home).model_store).get(trained.digest)


@cache
def seeds() -> Sequence[bytes]:
    """Return the package, and an uncompressed copy, so that bytes of its files can be mutated."""
    stored = io.BytesIO()
    with zipfile.ZipFile(stored, "w") as package:
        for name in (MANIFEST, REFERENCE):
            package.writestr(name, read_member(_package(), name) or b"")
        package.writestr(JOBLIB, b"no pickle")
    return [_package(), stored.getvalue()]


def manifests() -> Sequence[bytes]:
    """Return the manifest of the package."""
    return [read_member(_package(), MANIFEST) or b""]


def references() -> Sequence[bytes]:
    """Return the reference of the package."""
    return [read_member(_package(), REFERENCE) or b""]


def check(value: bytes) -> None:
    """Read all parts of a package that are read before the model is loaded."""
    failed: DriftlineError | None = None
    for read in (read_manifest, _reference_of, lambda data: read_member(data, ONNX)):
        try:
            read(value)
        except DriftlineError as error:
            failed = error
    if failed is not None:
        raise failed


def _reference_of(data: bytes) -> None:
    if (found := read_member(data, REFERENCE)) is not None:
        load_reference(found)


def check_manifest(value: bytes) -> None:
    """Read a package that contains only this manifest."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as package:
        package.writestr(MANIFEST, value)
    read_manifest(buffer.getvalue())


def check_reference(value: bytes) -> None:
    """Check that a reference that can be read can also be written."""
    save_reference(load_reference(value))
