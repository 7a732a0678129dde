"""Store the records of a first model, and add them to the outcomes of a later training.

A first model is trained on rows from a data set, which are not in the outcomes topic. Without them,
the next models would have to win with fewer rows than the champion was trained on.
"""

import logging
from collections.abc import Sequence

import msgspec
import numpy as np

from driftline.config.stream import Stream
from driftline.config.stream_sections import MAX_OUTCOMES
from driftline.errors import PackageCheckFailed, PackageError, StoreUnavailable
from driftline.models.catalog import Catalog
from driftline.models.load import ModelLoader
from driftline.models.store import digest_of
from driftline.models.training_records import decode_records, encode_records
from driftline.wire.events import ModelAnnounced, Value
from driftline.wire.feature_records import RecordCodec
from trainer.collect import Collected, from_records, in_range
from trainer.rows import NONE, WARM_UP, TrainingRows

log = logging.getLogger(__name__)

_CHUNK = 5000  # number of records to decode at once


def records_to_keep(
    stream: Stream, records: Sequence[bytes], labels: Sequence[Value]
) -> bytes | None:
    """Return the newest usable records as a file for the model store, or None.

    None is returned if the stream file excludes them, or if no record is usable.
    """
    if not stream.models.keep_training_records:
        return None
    codec, found = RecordCodec(stream), []
    for start in range(0, len(records), _CHUNK):
        batch = codec.decode(records[start : start + _CHUNK])
        positions = batch.rows if stream.axis == "row" else batch.times_us
        for place, position in zip(batch.kept, positions, strict=True):
            found.append((NONE if position is None else position, start + place))
    found.sort(reverse=True)
    return encode_records((records[place], labels[place]) for _, place in found)


def trained_on_data(catalog: Catalog) -> ModelAnnounced | None:
    """Return the newest of the champion and its ancestors that was trained on a data set.

    Such a model has no cause, because no request led to it.
    """
    digest, seen = catalog.champion_digest, set[str]()
    while digest is not None and digest not in seen:
        seen.add(digest)
        announced = catalog.announcements.get(digest)
        if announced is None or announced.cause is None:
            return announced
        digest = announced.parent
    return None


def with_warm_up(
    collected: Collected, stream: Stream, first: ModelAnnounced | None, models: ModelLoader
) -> Collected:
    """Add the records that `first` was trained on, if the training reaches back to them.

    Records at or after the first outcome are left out, and so are those outside `train_on`. If the
    records cannot be read, the outcomes are returned alone, and the reason is logged. Raises
    StoreUnavailable, because the training must not depend on an outage.
    """
    rows = collected.rows
    if first is None or not len(rows):
        return collected
    try:
        manifest = models.fetch(first).manifest()
        if manifest.training_records is None:
            return collected
        found = (manifest.stream, manifest.task, manifest.target)
        if found != (stream.name, stream.task, stream.target):
            raise PackageCheckFailed(f"they are records of {' '.join(found)}")
        data = models.store.records(manifest.training_records)
        if digest_of(data) != manifest.training_records:
            raise PackageCheckFailed("the file was changed or damaged")
        records = decode_records(data)
    except StoreUnavailable:
        raise
    except PackageError as error:
        log.warning(
            "training on outcomes alone, without the records of the first model %s: %s",
            first.digest,
            error.message,
        )
        return collected
    warm = from_records(
        stream, (bytes(item.record) for item in records), (item.label for item in records)
    )
    older = warm.rows.take(np.flatnonzero(warm.rows.positions < rows.positions.min()))
    older = msgspec.structs.replace(older, revisions=np.full(len(older), WARM_UP))
    everything = TrainingRows.concat([older, rows])
    kept = np.flatnonzero(in_range(everything, stream.retrain.train_on))
    order = np.argsort(everything.positions[kept], kind="stable")
    everything = everything.take(kept[order[-MAX_OUTCOMES:]])
    if not len(warm.rows):
        reason = "; ".join(item.reason for item in warm.removed)
        log.warning("no record of the first model %s is usable: %s", first.digest, reason)
    return Collected(everything, collected.removed)
