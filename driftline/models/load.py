"""Fetch packages from the model store, verify their digests and signatures, then load their models.

Input: a package's digest or announcement, or the package's bytes from any source. Output: a
`VerifiedPackage`. Models are loaded only from verified packages.
"""

import logging

import msgspec

from driftline.config.settings import Settings
from driftline.config.stream import Stream
from driftline.errors import DigestMismatch, MissingExtra, PackageCheckFailed, PackageError
from driftline.learning.metrics import unsuitable
from driftline.models.keys import Signature, Trusted
from driftline.models.package import (
    JOBLIB,
    ONNX,
    REFERENCE,
    Manifest,
    read_manifest,
    read_member,
)
from driftline.models.package_reference import Reference, load_reference
from driftline.models.score import Model, OnnxScorer, Scorer, SklearnScorer
from driftline.models.store import ModelStore, digest_of
from driftline.wire.events import ModelAnnounced

log = logging.getLogger(__name__)


def verify(
    digest: str, data: bytes, signature: Signature | None, trusted: Trusted
) -> "VerifiedPackage":
    """Verify a package's digest and then its signature, without deserializing the package.

    Raises DigestMismatch or UntrustedPackage.
    """
    if (found := digest_of(data)) != digest:
        raise DigestMismatch(
            f"{digest}: the package's bytes have digest {found}",
            hint="the stored package was changed or damaged; fetch it again, or train a new model",
        )
    trusted.verify(digest, signature)
    return VerifiedPackage(digest, data)


class VerifiedPackage:
    """A package whose bytes may be deserialized. Only `verify` creates instances.

    All methods raise PackageCheckFailed if the bytes are not a valid package.
    """

    def __init__(self, digest: str, data: bytes) -> None:
        self.digest = digest
        self._data = data
        self._manifest: Manifest | None = None

    def manifest(self) -> Manifest:
        """Return the package's manifest."""
        if self._manifest is None:
            self._manifest = read_manifest(self._data)
        return self._manifest

    def reference(self) -> Reference:
        """Return the reference: samples of the model's training data."""
        reference = load_reference(self.file(REFERENCE))
        return msgspec.structs.replace(reference, rows=self.manifest().rows)

    def scorer(self) -> Scorer:
        """Return a scorer for the model, which uses the library that the manifest specifies.

        If ONNX Runtime is specified but not installed, the scorer uses scikit-learn.
        """
        manifest = self.manifest()
        if manifest.scoring == "onnx":
            try:
                return OnnxScorer(self.file(ONNX), manifest.task, manifest.classes)
            except MissingExtra as error:
                # scikit-learn gives the same predictions, but more slowly. A slow service is better
                # than a service that stops when it swaps models.
                log.warning("scoring %s with scikit-learn, which is slower: %s", self.digest, error)
        return SklearnScorer.load(self.file(JOBLIB), manifest.task, manifest.classes)

    def has(self, name: str) -> bool:
        """Return whether the package has this file."""
        return read_member(self._data, name) is not None

    def file(self, name: str) -> bytes:
        """Return the content of a file. Raises PackageCheckFailed if there is no such file."""
        data = read_member(self._data, name)
        if data is None:
            raise PackageCheckFailed(f"{self.digest}: it does not contain {name}")
        return data


class ModelLoader:
    """Load one stream's models from a store, trusting the keys in one folder."""

    def __init__(self, store: ModelStore, trusted: Trusted, stream: Stream) -> None:
        self.store = store
        self.trusted = trusted
        self._stream = stream

    @classmethod
    def of(cls, settings: Settings, stream: Stream) -> "ModelLoader":
        """Return a loader that uses the store and the keys from the settings."""
        return cls(ModelStore(settings.model_store), Trusted(settings.keys), stream)

    def fetch(self, announced: ModelAnnounced | str) -> VerifiedPackage:
        """Fetch and verify a package. Raises PackageError.

        An announcement contains the package's signature. If only the digest is given, the signature
        is read from the store.
        """
        digest = announced if isinstance(announced, str) else announced.digest
        data = self.store.get(digest)
        if isinstance(announced, ModelAnnounced):
            signature: Signature | None = Signature(announced.signature, announced.key_id)
        else:
            signature = self.store.signature(digest)
        return verify(digest, data, signature, self.trusted)

    def load(self, announced: ModelAnnounced | str) -> Model:
        """Load a model without warming it up or checking it. Raises PackageError.

        Raises PackageCheckFailed if the model was made for another stream, task or target, or if
        the stream's metric cannot be computed from its answers.
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
        self.require_metric(package)
        return Model(package.digest, manifest, package.scorer(), stream)

    def require_metric(self, package: VerifiedPackage) -> None:
        """Raise PackageCheckFailed if the stream's metric cannot be computed from the model's
        answers. This is not known for packages without check records."""
        measure = self._stream.judged_by
        if not measure.needs_scores and measure.positive is None:
            return
        manifest = package.manifest()
        if not manifest.check:
            return
        has_scores = any(record.scores is not None for record in manifest.check)
        reason = unsuitable(measure, manifest.classes, has_scores=has_scores)
        if reason:
            raise PackageCheckFailed(
                f"{package.digest}: {reason}",
                hint="change [metric] or [models] candidates in the stream file, or train a new "
                "model",
            )

    def reference(self, digest: str) -> Reference:
        """Return a model's reference. Raises PackageError."""
        return self.fetch(digest).reference()
