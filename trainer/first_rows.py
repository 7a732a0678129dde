"""Add the rows that the first model was trained on to the outcomes of a later training.

The first model of a stream is trained on a data set, whose rows are not in the outcomes topic.
Without them, its first successors would be trained on fewer rows than it was, and could hardly be
better (decision 31).
"""

import logging
from collections.abc import Mapping

import numpy as np

from driftline.config.stream import Stream
from driftline.errors import PackageCheckFailed, PackageError, StoreUnavailable
from driftline.models.load import ModelLoader
from driftline.models.training_records import decode_records
from driftline.wire.events import ModelAnnounced
from trainer.clean import clean
from trainer.collect import MAX_OUTCOMES, from_records, in_range
from trainer.rows import TrainingRows
from trainer.split import Places

log = logging.getLogger(__name__)


def first_model(
    announcements: Mapping[str, ModelAnnounced], champion: ModelAnnounced | None
) -> ModelAnnounced | None:
    """Return the newest ancestor of the champion, or the champion itself, that was trained on a
    data set and not for a request."""
    model, seen = champion, set[str]()
    while model is not None and model.cause is not None and model.digest not in seen:
        seen.add(model.digest)
        model = announcements.get(model.parent or "")
    return None if model is None or model.cause is not None else model


def with_first_rows(
    rows: TrainingRows, first: ModelAnnounced | None, stream: Stream, models: ModelLoader
) -> tuple[TrainingRows, Places]:
    """Put the first model's rows before n cleaned outcomes, and return the outcomes' indices (n,).

    Only rows older than all outcomes are added, so no row is used twice, even if the data set was
    also sent through the stream. Rows that are too old for `retrain.train_on` are left out;
    together, there are at most `MAX_OUTCOMES` rows. If the records cannot be read, only the
    outcomes are returned. Raises StoreUnavailable.
    """
    alone = rows, np.arange(len(rows))
    if first is None or not len(rows):
        return alone
    try:
        earlier = _rows_of(first, stream, models)
    except StoreUnavailable:
        raise
    except PackageError as error:
        log.warning("training without the rows of the first model %s: %s", first.digest, error)
        return alone
    if earlier is None:
        return alone
    # The outcomes are within `train_on` already. Of the first rows, keep those that are not too far
    # from the newest outcome.
    older = np.flatnonzero(earlier.positions < rows.positions[0])
    newest = rows.take(np.array([len(rows) - 1]))
    both = TrainingRows.concat([earlier.take(older), newest])
    within = older[in_range(both, stream.retrain.train_on)[:-1]]
    room = MAX_OUTCOMES - len(rows)
    added = within[-room:] if room > 0 else within[:0]
    both = TrainingRows.concat([earlier.take(added), rows])
    return both, np.arange(len(added), len(both))


def _rows_of(first: ModelAnnounced, stream: Stream, models: ModelLoader) -> TrainingRows | None:
    """Return a model's usable training rows in the order of their positions, or None."""
    manifest = models.fetch(first).manifest()
    if manifest.training_records is None:
        return None
    made_for = (manifest.stream, manifest.task, manifest.target)
    if made_for != (stream.name, stream.task, stream.target):
        raise PackageCheckFailed(f"its records are for {' '.join(made_for)}")
    found = decode_records(models.store.records(manifest.training_records))
    collected = from_records(stream, ((bytes(item.record), item.label) for item in found))
    rows, _ = clean(collected.rows, stream)  # the first model's manifest lists what was removed
    return rows
