"""Sign a model package and write it to the model store (step 9 of docs/model-life.md).

Input: a package's bytes. Output: the package's announcement, for the `models` topic. The package is
stored before it is announced, so every reader of the announcement can fetch the package.
"""

from pathlib import Path

from driftline.models.keys import Signer
from driftline.models.package import Manifest
from driftline.models.store import ModelStore, digest_of
from driftline.wire.events import ModelAnnounced


class Publisher:
    """Signs packages with the key in `keys`, and writes them to `store`.

    Raises SettingsError if there is no key.
    """

    def __init__(self, store: ModelStore, keys: Path) -> None:
        self._store = store
        self._signer = Signer(keys)

    def publish(self, manifest: Manifest, data: bytes) -> ModelAnnounced:
        """Store the package and return its announcement. Raises PackageError.

        It is safe to publish the same package again.
        """
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
