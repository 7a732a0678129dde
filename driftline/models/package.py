"""A model's package: one zip with everything that scoring, watching and judging the model needs.

`manifest.json` says what it is, `model.joblib` and (where it converts) `model.onnx` are the model,
`reference.npz` is the data that it was trained on. The same content gives the same bytes, and so
the same digest: no clock time, no file time, no random name is inside.
"""

import io
import zipfile
from typing import Final, Literal

import msgspec

from driftline.errors import PackageCheckFailed
from driftline.events import Removed, Trial, Value
from driftline.features import FeatureSchema
from driftline.models.archive import Limits, archive
from driftline.models.reference import Reference, save_reference
from driftline.stream import Metric, Task

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
JOBLIB: Final = "model.joblib"
ONNX: Final = "model.onnx"
REFERENCE: Final = "reference.npz"
# The earliest time that a zip can say; any fixed one would do.
_ZIP_TIME: Final = (1980, 1, 1, 0, 0, 0)

# A forest of 100 trees on 100,000 records has some 200 MB, unpacked.
MAX_UNPACKED_BYTES: Final = 512 << 20
MAX_MANIFEST_BYTES: Final = 16 << 20
LIMITS: Final = Limits(4, MAX_UNPACKED_BYTES, frozenset({MANIFEST, JOBLIB, ONNX, REFERENCE}))

Scoring = Literal["onnx", "sklearn"]


class CheckRecord(msgspec.Struct, frozen=True):
    """A record and what the model must say about it; checked before the model answers.

    `record` is the feature record's JSON text, `scores` the probabilities in the classes' order.
    """

    record: str
    prediction: Value
    scores: tuple[float, ...] | None


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What the package is, how it was made and how it is to be used."""

    format: Literal[1] = FORMAT
    stream: str
    task: Task
    target: str
    schema: FeatureSchema
    derived: dict[str, str]  # name → expression, as in training
    candidate: str
    parameters: dict[str, str | int | float | bool | None]
    scoring: Scoring
    scoring_reason: str
    libraries: dict[str, str]  # name → version, of those that trained it
    metric: Metric
    value: float  # on the held-out outcomes
    rows: int  # that it was fitted on in the end
    held_out: int
    first_position: int
    last_position: int
    range: str
    parent: str | None  # digest of the champion that it was compared with
    cause: str | None  # id of the retrain request
    trained_at: str
    removed: tuple[Removed, ...] = ()
    trials: tuple[Trial, ...] = ()
    check: tuple[CheckRecord, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes in the order of the probabilities; empty for regression."""
        return self.schema.classes


def write_package(
    manifest: Manifest, *, joblib: bytes, onnx: bytes | None, reference: Reference
) -> bytes:
    """The package's bytes: the same content always gives the same.

    Raises PackageCheckFailed if no reader would take it: it is too large.
    """
    files = {MANIFEST: msgspec.json.format(msgspec.json.encode(manifest), indent=1), JOBLIB: joblib}
    if onnx is not None:
        files[ONNX] = onnx
    files[REFERENCE] = save_reference(reference)
    if (total := sum(map(len, files.values()))) > MAX_UNPACKED_BYTES:
        raise PackageCheckFailed(
            f"the model has {total:,} bytes, {MAX_UNPACKED_BYTES:,} are allowed",
            hint="leave out the largest candidate, or bound its depth with a class path",
        )
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as package:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name, _ZIP_TIME)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = 3  # else the operating system's name is in the bytes
            package.writestr(entry, data)
    return buffer.getvalue()


def read_file(data: bytes, name: str) -> bytes | None:
    """One file of a package, None if it has no such file. Call it on verified bytes only.

    Raises PackageCheckFailed if the bytes are no package, or hold more than `LIMITS` allow.
    """
    with archive(data, LIMITS, "not a model package") as package:
        return package.read(name) if name in package.names else None


def read_manifest(data: bytes) -> Manifest:
    """The manifest of verified bytes. Raises PackageCheckFailed."""
    raw = read_file(data, MANIFEST)
    if raw is None:
        raise PackageCheckFailed(f"not a model package: no {MANIFEST} inside")
    if len(raw) > MAX_MANIFEST_BYTES:
        raise PackageCheckFailed(f"the package's {MANIFEST} has {len(raw):,} bytes")
    try:
        return msgspec.json.decode(raw, type=Manifest)
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, or no manifest
        raise PackageCheckFailed(
            f"the package's {MANIFEST} is not of format {FORMAT}: {error}",
            hint="the package was made by another version of Driftline; train a new one",
        ) from error
