"""Export a verified package's model to joblib, ONNX and pickle files for other programs."""

import io
import pickle
from pathlib import Path
from typing import Literal

from driftline.errors import MissingExtra, PackageCheckFailed
from driftline.models.load import VerifiedPackage
from driftline.models.package import JOBLIB, MANIFEST, ONNX

Format = Literal["joblib", "onnx", "pickle"]


def export_model(
    package: VerifiedPackage, folder: Path, formats: tuple[Format, ...] | None = None
) -> list[Path]:
    """Write the manifest and the model to files in `folder`, and return the files' paths.

    The model is written in each of `formats`. If `formats` is None, it is written in every
    available format. Raises PackageCheckFailed if `formats` contains `onnx` and the model has no
    ONNX form. Raises MissingExtra if `joblib`, which the pickle format needs, is not installed.
    """
    manifest = package.manifest()
    stem = f"{manifest.stream}-{package.digest.removeprefix('sha256:')[:12]}"
    files = {f"{stem}.json": package.file(MANIFEST)}
    for kind in formats or ("joblib", "onnx", "pickle"):
        if kind == "joblib":
            files[f"{stem}.joblib"] = package.file(JOBLIB)
        elif kind == "pickle":
            files[f"{stem}.pickle"] = _pickled(package.file(JOBLIB))
        elif package.has(ONNX):
            files[f"{stem}.onnx"] = package.file(ONNX)
        elif formats:
            raise PackageCheckFailed(
                f"{package.digest} has no ONNX form: {manifest.scoring_reason}",
                hint="export it as joblib or pickle",
            )
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return [folder / name for name in files]


def _pickled(joblib_bytes: bytes) -> bytes:
    try:
        import joblib
    except ImportError as error:
        raise MissingExtra("joblib", "all") from error
    return pickle.dumps(joblib.load(io.BytesIO(joblib_bytes)))
