"""Model packages as a trusted but faulty writer might leave them: damaged zips, odd manifests.

The pickle inside is never loaded: whoever may sign packages may run code by it.
"""

import io
import tempfile
import zipfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from driftline.errors import DriftlineError
from driftline.models.package import JOBLIB, MANIFEST, ONNX, REFERENCE, read_file, read_manifest
from driftline.models.reference import load_reference, save_reference
from driftline.models.store import ModelStore
from tests.training import CLASSIFICATION, first_model, settings


@cache
def _package() -> bytes:
    """A small real package. Its model has no weight here, so one that trains quickly is taken."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        trained = first_model(CLASSIFICATION, home)
        return ModelStore(settings(home).model_store).get(trained.digest)


@cache
def seeds() -> Sequence[bytes]:
    """The package, and a copy whose files are not compressed, so that bytes of them can change."""
    stored = io.BytesIO()
    with zipfile.ZipFile(stored, "w") as package:
        for name in (MANIFEST, REFERENCE):
            package.writestr(name, read_file(_package(), name) or b"")
        package.writestr(JOBLIB, b"no pickle")
    return [_package(), stored.getvalue()]


def manifests() -> Sequence[bytes]:
    """The manifest."""
    return [read_file(_package(), MANIFEST) or b""]


def references() -> Sequence[bytes]:
    """The reference."""
    return [read_file(_package(), REFERENCE) or b""]


def check(value: bytes) -> None:
    """Read all that is read before a model is made."""
    failed: DriftlineError | None = None
    for read in (read_manifest, _reference_of, lambda data: read_file(data, ONNX)):
        try:
            read(value)
        except DriftlineError as error:
            failed = error
    if failed is not None:
        raise failed


def _reference_of(data: bytes) -> None:
    if (found := read_file(data, REFERENCE)) is not None:
        load_reference(found)


def check_manifest(value: bytes) -> None:
    """A package of this manifest alone."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as package:
        package.writestr(MANIFEST, value)
    read_manifest(buffer.getvalue())


def check_reference(value: bytes) -> None:
    """What can be read as a reference can be written and read again."""
    save_reference(load_reference(value))
