"""Join one partition's predictions and labels, and evict records that can no longer match.

Input: decoded predictions and decoded labels, each in log order. Output: outcomes and rejected
labels, passed to `Results`. The order in which the two topics are read affects only the results
listed in decision 14. `columnar_join` or `record_join` matches each batch. This module neither
decodes nor publishes records.
"""

from collections.abc import Sequence

import msgspec

from consumers.outcomes.backpressure import Backpressure
from consumers.outcomes.buffer import BEFORE_ALL, NEVER, Block, Buffer
from consumers.outcomes.columnar_join import take_ordinary_labels, take_ordinary_predictions
from consumers.outcomes.join_records import BufferedLabel, BufferedPrediction, Results
from consumers.outcomes.low_watermark import JoinProgress, ReaderPosition
from consumers.outcomes.record_join import RecordJoin
from consumers.outcomes.spill import Spill
from consumers.outcomes.state_store import Cache
from driftline.broker.port import Committed
from driftline.config.stream import Stream

# Records are evicted in blocks. A block spans at most 1/8 of the join window.
_BLOCKS_OF_JOIN_WINDOW = 8
# One topic may be read ahead of the other by at most 1/6 of the records in memory. A smaller limit
# would cause more pauses, each of which discards fetched records. A larger limit would leave less
# memory for matching.
_SLACK_OF_MEMORY = 6


class PartitionJoin:
    """Buffers one partition's predictions and labels while they may still match.

    A prediction and a label with the same id match if the label's `@at` is at most one join window
    (`join_window`) away from the prediction's position. If several predictions match, the label
    belongs to the first of them. A record is evicted once the low watermark
    (`progress.low_watermark`) is more than one join window past the record's position.
    """

    def __init__(
        self,
        stream: Stream,
        predictions: Committed,
        labels: Committed,
        *,
        cache: Cache | None = None,
        topics: tuple[str, str] = ("", ""),
    ) -> None:
        self.join_window = stream.horizon
        span = max(1, self.join_window // _BLOCKS_OF_JOIN_WINDOW)
        self.progress = JoinProgress(predictions, labels, stream)
        self._max_ahead = stream.max_ahead
        self._watermark_offset = stream.watermark_offset
        self._lowest = 0 if stream.axis == "row" else BEFORE_ALL
        self._pane = stream.pane_size
        self._unlabelled_watermark = BEFORE_ALL  # set by `_advance_without_labels`
        self.buffered_predictions = Buffer(b"p", BufferedPrediction, span=span)
        self.buffered_labels = Buffer(b"l", BufferedLabel, span=span)
        self._record_join = RecordJoin(
            stream, self.progress, self.buffered_predictions, self.buffered_labels
        )
        self.backpressure = Backpressure(self.progress.predictions, self.progress.labels)
        self._spill = Spill(
            self.progress, self.buffered_predictions, self.buffered_labels, cache, topics
        )

    @property
    def to_reread(self) -> int:
        """Return how many offsets must be reread to rebuild the join's state."""
        sides = (self.progress.predictions, self.progress.labels)
        return sum(max(0, side.published - side.next_offset) for side in sides)

    @property
    def in_memory(self) -> int:
        """Return the number of records in memory, from both topics."""
        return self.buffered_predictions.in_memory + self.buffered_labels.in_memory

    @property
    def watermark(self) -> int | None:
        """Return the position before which no more outcomes are expected, or None if unknown.

        Either both topics were read past this position and the outcomes of earlier labels were
        published, or earlier labels are too late. No single label can advance the watermark far;
        see `runtime.partition_clock`.
        """
        progress = self.progress
        if progress.low_watermark == BEFORE_ALL:
            return None
        both = min(progress.predictions.max_position, progress.labels.max_position)
        return max(
            both + self._watermark_offset, progress.low_watermark - self.join_window, self._lowest
        )

    def limit_memory(self, records: int) -> None:
        """Set how many of each topic's records stay in memory if a cache can hold older records."""
        self.buffered_predictions.limit = self.buffered_labels.limit = records
        self.backpressure.slack = records // _SLACK_OF_MEMORY

    # ---- records --------------------------------------------------------------------------------

    def take_predictions(
        self, ids: Sequence[str], found: Sequence[BufferedPrediction], results: Results
    ) -> None:
        """Buffer predictions, and match them with labels read earlier.

        `ids` are the predictions' record ids. The predictions' `source` offsets must increase,
        and all must exceed `progress.source`.
        """
        if not found:
            return
        self._load(ids)
        side = self.progress.predictions
        if self._record_join.ahead or not take_ordinary_predictions(self, ids, found, results):
            self._record_join.take_predictions(ids, found, results)
        self.backpressure.read(side, found[0].offset, found[-1].offset, found[-1].position)

    def take_labels(
        self, ids: Sequence[str], found: Sequence[BufferedLabel], results: Results
    ) -> None:
        """Buffer labels, and match them with predictions read earlier.

        `ids` are the labels' record ids.
        """
        if not found:
            return
        self._load(ids)
        side = self.progress.labels
        found = self._mark_ahead(found)
        if not take_ordinary_labels(self, ids, found, results):
            self._record_join.take_labels(ids, found, results)
        at = found[-1].at
        position = side.max_position if at is None or found[-1].ahead else at
        self.backpressure.read(side, found[0].offset, found[-1].offset, position)

    def reject_label(self, at: int | None) -> int | None:
        """Note and return a rejected label's position, or return None if the position is missing or
        implausibly far ahead."""
        if at is None or self.progress.label_clock.take([at]):
            return None
        self.progress.labels.raise_max_position(at)
        self.progress.raise_low_watermark()
        return at

    def _mark_ahead(self, found: Sequence[BufferedLabel]) -> Sequence[BufferedLabel]:
        """Mark labels whose `@at` is implausibly far ahead of the preceding labels."""
        published, clock = self.progress.labels.published, self.progress.label_clock
        if found[0].offset < published:  # the clock processed this label before the restart
            return [
                msgspec.structs.replace(label, ahead=self._is_ahead(label))
                if label.offset < published
                else self._mark_ahead((label,))[0]
                for label in found
            ]
        max_position = self.progress.predictions.max_position
        if clock.max_position is None and max_position > BEFORE_ALL:
            # There is no earlier label to compare with, so assume that the first label became known
            # within one join window of its record.
            clock.latest_start = max_position + self.join_window + self._max_ahead
        known = [(place, label.at) for place, label in enumerate(found) if label.at is not None]
        ahead = clock.take([at for _, at in known])
        if not ahead:
            return found
        marked = list(found)
        for place, _ in map(known.__getitem__, ahead):
            marked[place] = msgspec.structs.replace(marked[place], ahead=True)
        return marked

    def _is_ahead(self, label: BufferedLabel) -> bool:
        max_position = self.progress.label_clock.max_position
        return (
            label.at is not None
            and max_position is not None
            and label.at > max_position + self._max_ahead
        )

    def _load(self, ids: Sequence[str]) -> None:
        if self.buffered_predictions.is_cached or self.buffered_labels.is_cached:
            self.buffered_predictions.load(ids)
            self.buffered_labels.load(ids)

    # ---- time -----------------------------------------------------------------------------------

    def on_group_progress(self, predictions: ReaderPosition, labels: ReaderPosition) -> None:
        """Note both topics' reader positions, and set a barrier if there is none."""
        if self.progress.on_group_progress(predictions, labels):
            blocks = self.buffered_labels.blocks
            if blocks and self._is_unpositioned(blocks[-1]):
                # `_position_labels` needs blocks that end at the barrier.
                self.buffered_labels.seal()

    def pass_time(self, results: Results) -> None:
        """Apply the result of a passed barrier, and evict records that can no longer match."""
        if self.progress.is_rebuilding:
            self._spill.write_reread()
            return
        result = self.progress.pass_barrier()
        if result.labels_before is not None:
            self._position_labels(result.labels_before)
        if result.watermark is not None:
            results.watermark(result.watermark)
        self._advance_without_labels(results)
        self._evict_labels(results)
        self._evict_predictions(results)

    def _advance_without_labels(self, results: Results) -> None:
        """Advance the outcomes' watermark if predictions are one join window past all labels.

        The watermark advances in steps of at least one pane. Without this watermark,
        other partitions' windows would wait for labels that may all be rejected.
        """
        position = self.progress.low_watermark - self.join_window
        published = max(
            self.progress.labels.max_position, self._lowest, self._unlabelled_watermark + self._pane
        )
        if position > published:
            self._unlabelled_watermark = position
            results.watermark(position)

    def _position_labels(self, end: int) -> None:
        """Assign the predictions' max position to unpositioned labels before offset `end`.

        These labels were matched against all predictions published before the barrier, so their
        join window starts at this max position. Labels ahead of all predictions are treated in
        the same way.
        """
        max_position = self.progress.predictions.max_position
        if max_position == BEFORE_ALL:
            return
        for block in self.buffered_labels.select(end, self._is_unpositioned):
            block.newest = max_position
            block.unpositioned = False

    def _is_unpositioned(self, block: Block) -> bool:
        return block.unpositioned or block.newest > self.progress.predictions.max_position

    def _evict_labels(self, results: Results) -> None:
        labels = self.buffered_labels
        while labels.blocks:
            block = labels.blocks[0]
            if block.unpositioned or block.newest + self.join_window >= self.progress.low_watermark:
                return
            if block.waiting:  # labels that matched no prediction are orphans
                waiting = labels.oldest()
                self.buffered_predictions.load([record_id for record_id, _ in waiting])
                for record_id, label in waiting:
                    if not self._record_join.was_met(record_id, label):
                        results.rejected(label, "orphan")
            labels.evict()

    def _evict_predictions(self, results: Results) -> None:
        predictions = self.buffered_predictions
        needed: int | None = None
        while predictions.blocks:
            block = predictions.blocks[0]
            if block.newest + self.join_window >= self.progress.low_watermark:
                return
            if needed is None:
                # If buffered labels are reread after a restart, their predictions must also be
                # reread.
                needed = min(
                    (labels.dependency_offset for labels in self.buffered_labels.blocks),
                    default=NEVER,
                )
            if block.end > needed:
                return
            results.unlabelled(block.count - block.joined)
            predictions.evict()

    # ---- commits --------------------------------------------------------------------------------

    def offsets_to_commit(self) -> tuple[Committed, Committed]:
        """Return the offsets to commit for predictions and for labels."""
        self._spill.begin_commit()
        blocks = self.buffered_predictions.blocks
        return self.progress.offsets_to_commit(
            self.buffered_predictions.oldest_needed,
            blocks[0].source if blocks else None,
            self.buffered_labels.oldest_needed,
            self._spill.token,
        )

    def on_committed(self) -> None:
        """Write the committed state to the cache. Raises CacheFailed."""
        self._spill.on_committed()

    def close(self) -> None:
        """Write all committed records to the cache, and close the cache."""
        self._spill.close()
