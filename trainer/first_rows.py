"""Keep the rows of a first model in its package, and read them again for later trainings.

The first model of a stream is trained on rows that are not in the outcomes topic. Without them, its
first successors would be trained on fewer rows than it was, and could hardly be better (decision
31). Input: feature records with labels. Output: JSON lines for the package, and rows.
"""

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import msgspec
import numpy as np

from driftline.config.stream import Stream
from driftline.errors import PackageError, StoreUnavailable
from driftline.models.load import ModelLoader
from driftline.models.package import TRAINING
from driftline.wire.events import ModelAnnounced, Value
from trainer.clean import clean
from trainer.collect import MAX_OUTCOMES, from_records, in_range
from trainer.rows import TrainingRows
from trainer.split import Places

log = logging.getLogger(__name__)

# Size of all records and labels in a package, before compression: some 80,000 records of 200 bytes.
# Every worker that loads the model reads the package.
MAX_BYTES: Final = 16 << 20


class LabelledRecord(msgspec.Struct, frozen=True, array_like=True):
    """A feature record, as in the features topic, and its label."""

    record: msgspec.Raw
    label: Value


class NewestRecords:
    """The newest records that fit into `MAX_BYTES`, in the order in which they were added."""

    def __init__(self) -> None:
        self._lines: deque[bytes] = deque()
        self._bytes = 0

    def keep(
        self, records: Iterable[bytes], labels: Iterable[Value]
    ) -> Iterator[tuple[bytes, Value]]:
        """Yield all pairs unchanged, and keep the newest ones. Records that are not JSON are not
        kept; training rejects them."""
        for record, label in zip(records, labels, strict=True):
            if (compact := _compact(record)) is not None:
                line = msgspec.json.encode(LabelledRecord(msgspec.Raw(compact), label)) + b"\n"
                self._lines.append(line)
                self._bytes += len(line)
                while self._bytes > MAX_BYTES:
                    self._bytes -= len(self._lines.popleft())
            yield record, label

    def packed(self) -> bytes:
        """Return the kept records as JSON lines."""
        return b"".join(self._lines)


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
    """Add the first model's rows to n cleaned outcomes, and return each outcome's index (n,).

    The result is ordered by position. Rows that are too old for `retrain.train_on`, or that have an
    outcome, are not added; together, there are at most `MAX_OUTCOMES` rows. If the package cannot
    be read, only the outcomes are returned. Raises StoreUnavailable.
    """
    alone = rows, np.arange(len(rows))
    if first is None or not len(rows):
        return alone
    try:
        earlier = _rows_of(first, stream, models)
    except StoreUnavailable:
        raise
    except (PackageError, msgspec.MsgspecError, ValueError) as error:
        log.warning("training without the rows of the first model %s: %s", first.digest, error)
        return alone
    if earlier is None:
        return alone
    known = set(rows.ids.tolist())
    new = np.array([record_id not in known for record_id in earlier.ids], dtype=bool)
    both = TrainingRows.concat([earlier, rows])
    within = in_range(both, stream.retrain.train_on)[: len(earlier)]
    most = max(0, MAX_OUTCOMES - len(rows))
    added = np.flatnonzero(new & within)[-most:] if most else np.zeros(0, dtype=np.intp)
    chosen = np.concatenate([added, len(earlier) + np.arange(len(rows))])
    order = np.argsort(both.positions[chosen], kind="stable")
    places: Places = np.flatnonzero(order >= len(added))
    return both.take(chosen[order]), places


def _rows_of(first: ModelAnnounced, stream: Stream, models: ModelLoader) -> TrainingRows | None:
    """Return the usable rows in a package, in the order of their positions, or None."""
    package = models.fetch(first)
    if not package.has(TRAINING):
        return None
    pairs = msgspec.json.Decoder(LabelledRecord).decode_lines(package.file(TRAINING))
    collected = from_records(stream, ((bytes(pair.record), pair.label) for pair in pairs))
    rows, _ = clean(collected.rows, stream)  # the first model's manifest lists what was removed
    return rows


def _compact(record: bytes) -> bytes | None:
    """Return a record without line breaks and other white space, or None if it is not JSON."""
    try:
        return msgspec.json.format(record, indent=-1)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
