"""The first model, from a file's records and labels: the same steps, with no champion to beat."""

from collections.abc import Iterable
from pathlib import Path

import msgspec

from driftline.broker.port import Outgoing
from driftline.codec.envelope import rare
from driftline.errors import TrainingError
from driftline.events import ModelAnnounced, Removed, RolePointer, Trial, Value
from driftline.models.catalog import CHAMPION_KEY, Catalog, announcement_key
from driftline.models.keys import ensure_key
from driftline.models.package import Manifest
from driftline.models.store import ModelStore
from driftline.settings import Settings
from driftline.stream import Stream
from driftline.topics import Topics
from trainer.assemble import Origin, assemble
from trainer.clean import clean
from trainer.collect import from_records
from trainer.publish import Publisher
from trainer.search import Progress, Range, no_progress, search
from trainer.split import split

# Below this, a held-out fifth is three records: whatever it says is chance.
MIN_ROWS = 15


class TrainedModel(msgspec.Struct, frozen=True):
    """A model that is stored and signed, and not yet announced."""

    announcement: ModelAnnounced
    manifest: Manifest
    removed: tuple[Removed, ...]
    trials: tuple[Trial, ...]

    def pointer(self, catalog: Catalog, *, at: str) -> RolePointer:
        """Makes it the champion, unless another becomes so first."""
        return catalog.pointer(
            self.announcement.digest, by="person", reason="the first model", at=at
        )


def train_first(
    stream: Stream,
    records: Iterable[bytes],
    labels: Iterable[Value],
    *,
    store: str,
    keys: Path,
    trained_at: str,
    parent: str | None = None,
    progress: Progress = no_progress,
) -> TrainedModel:
    """Train on feature records (JSON, as in the topic) and their labels, one for each.

    `store` is the model store's URL, `keys` the key folder, in which a signing key is made if there
    is none; `trained_at` is RFC 3339. Raises TrainingError, PackageError.
    """
    progress("reading", 0, 1)
    collected = from_records(stream, records, labels)
    rows, cleaned = clean(collected.rows, stream)
    removed = collected.removed + cleaned
    if len(rows) < MIN_ROWS:
        why = "; ".join(f"{item.count} × {item.reason}" for item in removed[:5])
        raise TrainingError(
            f"stream {stream.name!r}: {len(rows)} usable labelled records, {MIN_ROWS} are needed"
            + (f" (taken out: {why})" if why else ""),
            hint="give more data, or check the stream file against it",
        )
    train, held = split(
        rows.labels,
        share=stream.models.holdout,
        how=stream.models.split,
        task=stream.task,
        seed=stream.models.seed,
    )
    found, trials = search(stream, rows, [Range("all", train)], held, progress)
    progress("packaging", 0, 1)
    manifest, data = assemble(
        stream,
        rows,
        found,
        held,
        value=found.metric,
        origin=Origin(parent, None, trained_at),
        removed=removed,
        trials=trials,
    )
    ensure_key(keys)
    announcement = Publisher(ModelStore(store), keys).publish(manifest, data)
    progress("packaging", 1, 1)
    return TrainedModel(announcement, manifest, removed, trials)


def train_first_with(
    settings: Settings,
    stream: Stream,
    records: Iterable[bytes],
    labels: Iterable[Value],
    *,
    trained_at: str,
    progress: Progress = no_progress,
) -> TrainedModel:
    """As `train_first`, with the store and the keys of this installation."""
    return train_first(
        stream,
        records,
        labels,
        store=settings.model_store,
        keys=settings.keys,
        trained_at=trained_at,
        progress=progress,
    )


def announcement_record(topics: Topics, announced: ModelAnnounced) -> Outgoing:
    """The announcement as a record of the `models` topic."""
    return rare(
        topics.models, announced, id=announced.digest, key=announcement_key(announced.digest)
    )


def pointer_record(topics: Topics, pointer: RolePointer) -> Outgoing:
    """The pointer as a record of the `models` topic."""
    return rare(topics.models, pointer, id=pointer.id, key=CHAMPION_KEY)
