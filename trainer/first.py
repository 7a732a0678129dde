"""Train a stream's first model on records and labels from a file, then sign and store it.

Input: feature records with one label each. Output: a `TrainedModel`, with records to publish to the
`models` topic. The new model is not compared with the current champion.
"""

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from driftline.broker.port import Outgoing
from driftline.clock import Clock
from driftline.config.settings import Settings
from driftline.config.stream import Stream
from driftline.errors import TrainingError
from driftline.models.catalog import Catalog, announcement_record, pointer_record
from driftline.models.keys import Signer, Trusted, ensure_key
from driftline.models.package import Manifest
from driftline.models.signed import sign
from driftline.models.store import ModelStore, digest_of
from driftline.models.training_records import NewestRecords
from driftline.wire.events import ModelAnnounced, Removed, RolePointer, Value
from driftline.wire.topics import Topics
from driftline.wire.values import format_time
from trainer.assemble import Origin, assemble, without_failing
from trainer.clean import clean
from trainer.collect import from_records
from trainer.publish import Publisher
from trainer.rows import TrainingRows
from trainer.search import Progress, Range, no_progress, search
from trainer.split import split

# With the default settings, fewer rows would leave fewer than three held-out rows, too few for a
# useful metric.
MIN_ROWS = 15


class TrainedModel(msgspec.Struct, frozen=True):
    """A signed and stored model. `records` announce the model and, if requested, promote it."""

    announcement: ModelAnnounced
    manifest: Manifest
    records: tuple[Outgoing, ...]

    @property
    def digest(self) -> str:
        """Return the package's digest."""
        return self.announcement.digest

    @property
    def candidate(self) -> str:
        """Return the winning candidate's name."""
        return self.manifest.candidate

    @property
    def value(self) -> float:
        """Return the model's metric on the held-out records."""
        return self.manifest.value


def train_first(
    stream: Stream,
    records: Iterable[bytes],
    labels: Iterable[Value],
    *,
    settings: Settings,
    clock: Clock,
    catalog: Catalog | None = None,
    promote: bool = True,
    progress: Progress = no_progress,
) -> TrainedModel:
    """Train a model on feature records (JSON, as in the features topic) with one label each.

    `catalog` contains the current champion, if there is one. If `promote` is True, the result's
    records make the new model the champion. A signing key is created if none exists. Raises
    TrainingError or PackageError.
    """
    catalog = catalog or Catalog(Trusted(settings.keys))
    now = format_time(round(clock.time() * 1e6))
    progress("reading", 0, 1)
    newest = NewestRecords()
    rows, removed = _usable_rows(stream, _kept(newest, records, labels))
    train, held = split(
        rows.labels,
        share=stream.models.holdout,
        how=stream.models.split,
        task=stream.task,
        seed=stream.models.seed,
    )
    store = ModelStore(settings.model_store)
    kept = newest.encode() if stream.models.keep_training_records else None
    digest = None if kept is None else digest_of(kept)
    origin = Origin(catalog.champion_digest, None, now, digest)

    def packaged(failed: Mapping[str, str]) -> tuple[Manifest, bytes]:
        found, trials = search(stream, rows, [Range("all", train)], held, progress, failed=failed)
        progress("packaging", 0, 1)
        return assemble(
            stream,
            rows,
            found,
            held,
            value=found.metric,
            origin=origin,
            removed=removed,
            trials=trials,
        )

    manifest, data = without_failing(packaged)
    if kept is not None:
        store.put_records(kept)
    ensure_key(settings.keys)
    announced = Publisher(store, settings.keys).publish(manifest, data)
    progress("packaging", 1, 1)
    reason = f"trained on {manifest.rows} records"
    pointer = catalog.pointer(announced.digest, by="person", reason=reason, at=now)
    sent = _signed(stream, settings, announced, pointer if promote else None)
    return TrainedModel(announced, manifest, sent)


def _signed(
    stream: Stream, settings: Settings, announced: ModelAnnounced, pointer: RolePointer | None
) -> tuple[Outgoing, ...]:
    """Return the records that announce a model and, if there is a pointer, promote it."""
    topics, signer = Topics(stream), Signer(settings.keys)
    sent = [sign(announcement_record(topics, announced), signer)]
    if pointer is not None:
        sent.append(sign(pointer_record(topics, pointer), signer))
    return tuple(sent)


def _kept(
    newest: NewestRecords, records: Iterable[bytes], labels: Iterable[Value]
) -> Iterator[tuple[bytes, Value]]:
    """Yield all pairs of a record and its label, and add them to `newest`."""
    for record, label in zip(records, labels, strict=True):
        newest.add(record, label)
        yield record, label


def _usable_rows(
    stream: Stream, labelled: Iterable[tuple[bytes, Value]]
) -> tuple[TrainingRows, tuple[Removed, ...]]:
    """Return the rows to train on, and the number of removed records by reason.

    Raises TrainingError if too few rows remain.
    """
    collected = from_records(stream, labelled)
    rows, cleaned = clean(collected.rows, stream)
    removed = collected.removed + cleaned
    if len(rows) < MIN_ROWS:
        why = "; ".join(f"{item.count} × {item.reason}" for item in removed[:5])
        raise TrainingError(
            f"stream {stream.name!r}: {len(rows)} usable labelled records; {MIN_ROWS} are needed"
            + (f" (removed: {why})" if why else ""),
            hint="provide more data, or check that the stream file fits the data",
        )
    return rows, removed
