"""Sign and store a package and describe it (step 9 of docs/model-life.md).

In: a package's bytes. Out: its announcement, for the `models` topic. The store is written before
anything is announced, so that whoever hears of a model can fetch it.
"""

from pathlib import Path

from driftline.events import ModelAnnounced
from driftline.models.keys import Signer
from driftline.models.package import Manifest
from driftline.models.store import ModelStore, digest_of


class Publisher:
    """Signs with the folder's key and writes to one store. Raises SettingsError without a key."""

    def __init__(self, store: ModelStore, keys: Path) -> None:
        self._store = store
        self._signer = Signer(keys)

    def publish(self, manifest: Manifest, data: bytes) -> ModelAnnounced:
        """Store the package; the same one twice is harmless. Raises PackageError."""
        digest = digest_of(data)
        signature = self._signer.sign(digest)
        location = self._store.put(data, signature)
        return ModelAnnounced(
            digest=digest,
            signature=signature.value,
            key_id=signature.key_id,
            location=location,
            stream=manifest.stream,
            task=manifest.task,
            candidate=manifest.candidate,
            metric=manifest.metric,
            value=manifest.value,
            parent=manifest.parent,
            cause=manifest.cause,
            trained_at=manifest.trained_at,
        )
