"""Encode model packages, which are zip files, as bytes, and decode them.

`manifest.json` describes the package. `model.joblib` contains the model, and so does `model.onnx`
if the model can be converted. `reference.npz` contains samples of the training data. The same
content always gives the same bytes, and therefore the same digest: all file times are fixed, and no
name is random.
"""

from typing import Final, Literal

import msgspec

from driftline.config.measure import Metric
from driftline.config.stream import StreamName
from driftline.config.stream_sections import Task
from driftline.errors import PackageCheckFailed
from driftline.learning.encoding import FeatureSchema
from driftline.models.archive import ArchiveLimits, archive, write_archive
from driftline.models.package_reference import Reference, save_reference
from driftline.wire.events import Removed, Trial, Value

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
JOBLIB: Final = "model.joblib"
ONNX: Final = "model.onnx"
REFERENCE: Final = "reference.npz"

# A random forest of 100 trees, trained on 100,000 records, takes about 200 MB unpacked.
MAX_UNPACKED_BYTES: Final = 512 << 20
MAX_MANIFEST_BYTES: Final = 16 << 20
LIMITS: Final = ArchiveLimits(4, MAX_UNPACKED_BYTES, frozenset({MANIFEST, JOBLIB, ONNX, REFERENCE}))

Scoring = Literal["onnx", "sklearn"]


class CheckRecord(msgspec.Struct, frozen=True):
    """A record, and the result that the model must reproduce before it may serve.

    `record` is the JSON text of the feature record. `scores` are the probabilities, in the order of
    the classes.
    """

    record: str
    prediction: Value
    scores: tuple[float, ...] | None


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """A package's description: its model, how the model was trained and how to score with it."""

    format: Literal[1] = FORMAT
    stream: StreamName
    task: Task
    target: str
    schema: FeatureSchema
    derived: dict[str, str]  # feature name → expression at training time
    candidate: str
    parameters: dict[str, str | int | float | bool | None]
    scoring: Scoring
    scoring_reason: str
    libraries: dict[str, str]  # library name → version at training time
    metric: Metric
    value: float  # value of the metric on the held-out outcomes
    rows: int  # number of rows that the model was trained on
    held_out: int  # number of held-out rows
    first_position: int
    last_position: int
    range: str
    parent: str | None  # digest of the champion that the model was compared with
    cause: str | None  # id of the retrain request
    trained_at: str
    training_records: str | None = None  # digest of the file, see `training_records`
    removed: tuple[Removed, ...] = ()
    trials: tuple[Trial, ...] = ()
    check: tuple[CheckRecord, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the classes in the order of the probabilities. Regression has no classes."""
        return self.schema.classes


def write_package(
    manifest: Manifest, *, joblib: bytes, onnx: bytes | None, reference: Reference
) -> bytes:
    """Return a package's bytes. The same content always gives the same bytes.

    Raises PackageCheckFailed if the package is larger than readers accept.
    """
    files = {MANIFEST: msgspec.json.format(msgspec.json.encode(manifest), indent=1), JOBLIB: joblib}
    if onnx is not None:
        files[ONNX] = onnx
    files[REFERENCE] = save_reference(reference)
    if (total := sum(map(len, files.values()))) > MAX_UNPACKED_BYTES:
        raise PackageCheckFailed(
            f"the package has {total:,} bytes; the limit is {MAX_UNPACKED_BYTES:,}",
            hint="remove the largest candidate, or replace it with a class that limits its depth",
        )
    return write_archive(files)


def read_member(data: bytes, name: str) -> bytes | None:
    """Return one file of a verified package, or None if the package does not contain the file.

    Raises PackageCheckFailed if the bytes are not a package or exceed `LIMITS`.
    """
    with archive(data, LIMITS, "not a model package") as package:
        return package.read(name) if name in package.names else None


def read_manifest(data: bytes) -> Manifest:
    """Return the manifest of a verified package. Raises PackageCheckFailed."""
    raw = read_member(data, MANIFEST)
    if raw is None:
        raise PackageCheckFailed(f"not a model package: it does not contain {MANIFEST}")
    if len(raw) > MAX_MANIFEST_BYTES:
        raise PackageCheckFailed(f"the package's {MANIFEST} is too large: {len(raw):,} bytes")
    try:
        return msgspec.json.decode(raw, type=Manifest)
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, or not a manifest
        raise PackageCheckFailed(
            f"the package's {MANIFEST} does not have format {FORMAT}: {error}",
            hint="the package was made by another version of Driftline; train a new one",
        ) from error
