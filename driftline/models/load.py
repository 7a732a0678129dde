"""Load models. A package is deserialized only after its digest and its signature are verified.

Input: bytes from any source. Output: a `VerifiedPackage`, the only source of a model.
"""

import logging

import msgspec

from driftline.config.settings import Settings
from driftline.config.stream import Stream
from driftline.errors import DigestMismatch, MissingExtra, PackageCheckFailed, PackageError
from driftline.models.keys import Signature, Trusted
from driftline.models.package import (
    JOBLIB,
    ONNX,
    REFERENCE,
    Manifest,
    read_file,
    read_manifest,
)
from driftline.models.reference import Reference, load_reference
from driftline.models.score import Model, OnnxScorer, Scorer, SklearnScorer
from driftline.models.store import ModelStore, digest_of
from driftline.wire.events import ModelAnnounced

log = logging.getLogger(__name__)


def verify(
    digest: str, data: bytes, signature: Signature | None, trusted: Trusted
) -> "VerifiedPackage":
    """Check the bytes against the digest, then the signature, before anything is deserialized.

    Raises DigestMismatch, UntrustedPackage.
    """
    if (found := digest_of(data)) != digest:
        raise DigestMismatch(
            f"{digest}: the package's bytes have digest {found}",
            hint="the store contains other bytes than were announced; fetch or train it again",
        )
    trusted.verify(digest, signature)
    return VerifiedPackage(digest, data)


class VerifiedPackage:
    """The bytes of a package that may be deserialized. Only `verify` creates it.

    All methods raise PackageCheckFailed if the content is not a valid package.
    """

    def __init__(self, digest: str, data: bytes) -> None:
        self.digest = digest
        self._data = data
        self._manifest: Manifest | None = None

    def manifest(self) -> Manifest:
        """Return the description of the package."""
        if self._manifest is None:
            self._manifest = read_manifest(self._data)
        return self._manifest

    def reference(self) -> Reference:
        """Return samples of the data that the model was trained on."""
        reference = load_reference(self.file(REFERENCE))
        return msgspec.structs.replace(reference, rows=self.manifest().rows)

    def scorer(self) -> Scorer:
        """Return the model for scoring with the library that the manifest names.

        If ONNX Runtime is not installed, scikit-learn scores.
        """
        manifest = self.manifest()
        if manifest.scoring == "onnx":
            try:
                return OnnxScorer(self.file(ONNX), manifest.task, manifest.classes)
            except MissingExtra as error:
                # scikit-learn gives the same predictions, but more slowly. That is better than a
                # service that stops when it swaps models.
                log.warning("%s is scored by scikit-learn: %s", self.digest, error)
        return SklearnScorer.load(self.file(JOBLIB), manifest.task, manifest.classes)

    def has(self, name: str) -> bool:
        """Return whether the package has this file."""
        return read_file(self._data, name) is not None

    def file(self, name: str) -> bytes:
        """Return the content of a file. Raises PackageCheckFailed if there is no such file."""
        data = read_file(self._data, name)
        if data is None:
            raise PackageCheckFailed(f"{self.digest}: it does not contain {name}")
        return data


class ModelLoader:
    """Load the models of one stream from a store. It trusts the keys of one folder."""

    def __init__(self, store: ModelStore, trusted: Trusted, stream: Stream) -> None:
        self.store = store
        self.trusted = trusted
        self._stream = stream

    @classmethod
    def of(cls, settings: Settings, stream: Stream) -> "ModelLoader":
        """Return a loader with the store and the keys of this installation."""
        return cls(ModelStore(settings.model_store), Trusted(settings.keys), stream)

    def fetch(self, announced: ModelAnnounced | str) -> VerifiedPackage:
        """Fetch and verify a package. Raises PackageError.

        An announcement contains the signature. For a digest it is read from the store.
        """
        digest = announced if isinstance(announced, str) else announced.digest
        data = self.store.get(digest)
        if isinstance(announced, ModelAnnounced):
            signature: Signature | None = Signature(announced.signature, announced.key_id)
        else:
            signature = self.store.signature(digest)
        return verify(digest, data, signature, self.trusted)

    def load(self, announced: ModelAnnounced | str) -> Model:
        """Load a model, which is not yet warmed up or checked. Raises PackageError.

        PackageCheckFailed is raised if it was made for another stream, task or target.
        """
        package = self.fetch(announced)
        try:
            return self._model(package)
        except PackageError:
            raise
        except Exception as error:  # an incompatible manifest or model may raise anything
            raise PackageCheckFailed(f"{package.digest}: it cannot be loaded: {error}") from error

    def _model(self, package: VerifiedPackage) -> Model:
        manifest = package.manifest()
        stream = self._stream
        for what, theirs, ours in (
            ("stream", manifest.stream, stream.name),
            ("task", manifest.task, stream.task),
            ("target", manifest.target, stream.target),
        ):
            if theirs != ours:
                raise PackageCheckFailed(
                    f"{package.digest}: made for {what} {theirs!r}, not {ours!r}"
                )
        return Model(package.digest, manifest, package.scorer(), stream)

    def reference(self, digest: str) -> Reference:
        """Return the reference of a model. Raises PackageError."""
        return self.fetch(digest).reference()
