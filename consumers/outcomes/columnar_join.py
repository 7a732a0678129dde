"""Fast path of the join: join a batch of predictions or labels column by column, in memory.

Input: decoded records of one topic. Output: outcomes, passed to `Results`. The fast path is three
times as fast as `record_join`. It applies to an ordinary batch: no record is reread, each id is
unique and new to its topic, each record has at most one match, and no match is near a time limit.
The result therefore does not depend on the order of records within the batch. For any other batch,
the functions change nothing and return False.
"""

from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import Protocol, TypeVar

from consumers.outcomes.buffer import Block, Buffer, Positioned
from consumers.outcomes.join_records import BufferedLabel, BufferedPrediction, Results
from consumers.outcomes.low_watermark import JoinProgress

_position_of = attrgetter("position")
_source_of = attrgetter("source")
_at_of = attrgetter("at")
_ahead_of = attrgetter("ahead")
T = TypeVar("T", bound=Positioned)
P = TypeVar("P")


class Join(Protocol):
    """The part of `window_join.PartitionJoin` that this module uses."""

    join_window: int
    progress: JoinProgress
    buffered_predictions: Buffer[BufferedPrediction]
    buffered_labels: Buffer[BufferedLabel]


def take_ordinary_predictions(
    join: Join, ids: Sequence[str], found: Sequence[BufferedPrediction], results: Results
) -> bool:
    """Join a batch of predictions on the fast path. Return False if it needs `record_join`."""
    progress, side = join.progress, join.progress.predictions
    if found[0].offset < side.published or not join.buffered_predictions.knows_none(ids):
        return False
    partners = join.buffered_labels.newest(ids)
    if partners is None:
        return False
    labels = [label for label in partners if label is not None]
    predictions = [p for p, label in zip(found, partners, strict=True) if label is not None]
    if any(map(_ahead_of, found)):
        return False
    positions = list(map(_position_of, found))
    max_position = max(side.max_position, max(positions))
    low_watermark = max(progress.low_watermark, min(max_position, progress.labels.max_position))
    if not _all_in_time(predictions, labels, join.join_window, low_watermark):
        return False
    sources = list(map(_source_of, found))
    for block, start, end in join.buffered_predictions.add_all(ids, found, positions, sources):
        block.last_source = sources[end - 1]
        block.joined += end - start - partners[start:end].count(None)
    for block, prediction in _with_blocks(join.buffered_labels, labels, predictions):
        if prediction.offset < block.dependency_offset:
            block.dependency_offset = prediction.offset
        if prediction.position > block.newest:
            block.newest = prediction.position
    if labels:
        results.first_outcomes(predictions, labels)
    progress.source = sources[-1]
    side.max_position = max_position
    progress.raise_low_watermark()
    return True


def take_ordinary_labels(
    join: Join, ids: Sequence[str], found: Sequence[BufferedLabel], results: Results
) -> bool:
    """Join a batch of labels on the fast path. Return False if it needs `record_join`."""
    progress, side = join.progress, join.progress.labels
    if found[0].offset < side.published or not join.buffered_labels.knows_none(ids):
        return False
    partners = join.buffered_predictions.newest(ids)
    at = list(map(_at_of, found))
    if partners is None or None in at:
        return False
    predictions = [prediction for prediction in partners if prediction is not None]
    if any(map(_ahead_of, found)) or any(map(_ahead_of, predictions)):
        return False
    labels = [label for label, p in zip(found, partners, strict=True) if p is not None]
    max_position = max(side.max_position, max(at))
    low_watermark = max(
        progress.low_watermark, min(max_position, progress.predictions.max_position)
    )
    if not _all_in_time(predictions, labels, join.join_window, low_watermark):
        return False
    positions = [
        place if partner is None else partner.position
        for place, partner in zip(at, partners, strict=True)
    ]
    for block, start, end in join.buffered_labels.add_all(ids, found, positions):
        here = partners[start:end]
        block.waiting = block.waiting or None in here
        for partner in here:
            if partner is not None and partner.offset < block.dependency_offset:
                block.dependency_offset = partner.offset
    for block, _ in _with_blocks(join.buffered_predictions, predictions, labels):
        block.joined += 1
    if labels:
        results.first_outcomes(predictions, labels)
    side.max_position = max_position
    progress.raise_low_watermark()
    return True


def _all_in_time(
    predictions: Sequence[BufferedPrediction],
    labels: Sequence[BufferedLabel],
    join_window: int,
    low_watermark: int,
) -> bool:
    """Return whether all pairs are certainly within the join window and not due for eviction."""
    if not labels:
        return True
    positions, at = list(map(_position_of, predictions)), list(map(_at_of, labels))
    if None in at:
        return False
    first: int = min(min(positions), min(at))
    last: int = max(max(positions), max(at))
    return last - first <= join_window and first + join_window >= low_watermark


def _with_blocks(
    buffer: Buffer[T], records: Sequence[T], partners: Sequence[P]
) -> Iterator[tuple[Block, P]]:
    """Yield each record's (block, partner) pair. Consecutive records usually share a block."""
    block: Block | None = None
    for record, partner in zip(records, partners, strict=True):
        if block is None or not block.first <= record.offset < block.end:
            block = buffer.block_of(record.offset)
        yield block, partner
