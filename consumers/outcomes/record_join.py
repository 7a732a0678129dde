"""Join predictions and labels record by record, for batches that `columnar_join` cannot handle.

Input: decoded predictions or labels, in log order. Output: outcomes and rejected labels, passed to
`Results`. This module also adds the records to the buffers and raises the max positions.
"""

from collections import deque
from collections.abc import Sequence

import msgspec

from consumers.outcomes.buffer import BEFORE_ALL, Buffer
from consumers.outcomes.join_records import BufferedLabel, BufferedPrediction, Results
from consumers.outcomes.low_watermark import JoinProgress
from driftline.config.stream import Stream
from driftline.runtime.partition_clock import AGREEING


class RecordJoin:
    """Matches each label with the prediction that it belongs to, once both have been read.

    See `window_join.PartitionJoin` for the matching rule. A repeated label produces no outcome.
    """

    def __init__(
        self,
        stream: Stream,
        progress: JoinProgress,
        predictions: Buffer[BufferedPrediction],
        labels: Buffer[BufferedLabel],
    ) -> None:
        self._join_window = stream.horizon
        self._max_ahead = stream.max_ahead
        self._progress = progress
        self._predictions = predictions
        self._labels = labels
        # The (offset, position) pairs of the latest consecutive predictions marked `ahead`.
        # `_confirm` clears this deque when a prediction is not marked `ahead`.
        self.ahead: deque[tuple[int, int]] = deque(maxlen=AGREEING)

    def take_predictions(
        self, ids: Sequence[str], found: Sequence[BufferedPrediction], results: Results
    ) -> None:
        """Join predictions, whose record ids are `ids`. Any cached records with these ids must have
        been loaded."""
        progress, side = self._progress, self._progress.predictions
        buffer, labels_of = self._predictions, self._labels.get
        for record_id, prediction in zip(ids, found, strict=True):
            position, source = self._buffer_position(prediction), prediction.source
            block = buffer.add(record_id, prediction, position, source=source)
            block.last_source = progress.source = source
            if labels := labels_of(record_id):
                self._meet_labels(record_id, prediction, labels, results)
            if prediction.ahead:
                self.ahead.append((prediction.offset, prediction.position))
                continue
            if self.ahead:
                self._confirm(position)
            if position > side.max_position:
                side.max_position = position
                progress.raise_low_watermark()

    def _buffer_position(self, prediction: BufferedPrediction) -> int:
        """Return the position from which a prediction stays buffered for one join window."""
        if not prediction.ahead:
            return prediction.position
        max_position = self._progress.predictions.max_position
        return (
            prediction.position
            if max_position == BEFORE_ALL
            else min(prediction.position, max_position)
        )

    def _confirm(self, position: int) -> None:
        """Use the accepted `position` to recheck the preceding predictions, marked `ahead`.

        Predictions that are not far ahead of `position` stay buffered for one join window from
        their own positions.
        """
        for offset, ahead in self.ahead:
            if self._progress.predictions.max_position < ahead <= position + self._max_ahead:
                block = self._predictions.block_of(offset)
                block.newest = max(block.newest, ahead)
        self.ahead.clear()

    def take_labels(
        self, ids: Sequence[str], found: Sequence[BufferedLabel], results: Results
    ) -> None:
        """Join labels, whose record ids are `ids`. Any cached records with these ids must have been
        loaded."""
        side, predictions_of = self._progress.labels, self._predictions.get
        for record_id, label in zip(ids, found, strict=True):
            at = label.at
            predictions = predictions_of(record_id)
            if predictions and at is not None:
                last = at + self._join_window  # predictions after `last` belong to a later record
                if len(predictions) > 1 or predictions[0].position > last:
                    predictions = [p for p in predictions if p.ahead or p.position <= last]
            if predictions:
                self._meet_predictions(record_id, label, predictions, results)
            else:
                block = self._labels.add(record_id, label, BEFORE_ALL if at is None else at)
                block.waiting = True
                block.unpositioned = block.unpositioned or at is None
            if at is not None and not label.ahead and at > side.max_position:
                side.max_position = at
                self._progress.raise_low_watermark()

    def _meet_predictions(
        self,
        record_id: str,
        label: BufferedLabel,
        predictions: Sequence[BufferedPrediction],
        results: Results,
    ) -> None:
        """Match a label with predictions that have the same id and were read earlier."""
        # A label handled before a restart only rebuilds the state; nothing is published for it.
        is_new = label.offset >= self._progress.labels.published
        # The label is late for records before `oldest`. A label handled before a restart is not
        # compared with the low watermark again, because it was in time when it was handled.
        oldest = BEFORE_ALL if label.at is None else label.at - self._join_window
        if is_new and self._progress.low_watermark - self._join_window > oldest:
            oldest = self._progress.low_watermark - self._join_window
        newest = self._buffer_position(predictions[-1])
        if len(predictions) > 1:
            newest = max(map(self._buffer_position, predictions))
        if newest < oldest and not any(prediction.ahead for prediction in predictions):
            # The label is late for all predictions, so it is not buffered. A block must still cover
            # its offset.
            block = self._labels.cover(label.offset, newest)
            if is_new:
                results.rejected(label, "late")
        else:
            # A label belongs to the first prediction for which it is in time. However, a label
            # without `@at` revises the last label with its id, so it belongs to that label's
            # prediction.
            earlier = self._labels.get(record_id)
            owner = None
            if label.at is None and earlier:
                owner = self._owner(record_id, earlier[-1])
            if owner is None:
                owner = next(p for p in predictions if p.position >= oldest or p.ahead)
            known, revision = self._newest(record_id, owner, earlier)
            if len(predictions) > 1:  # store the choice, which a higher low watermark could change
                label = msgspec.structs.replace(label, owner=owner.offset)
            block = self._labels.add(record_id, label, newest)
            is_repeated = known is not None and known.label == label.label
            if is_new and is_repeated:
                results.repeated(label)
            elif is_new:
                results.outcome(owner, label, revision + 1)
                if revision < 0:
                    self._predictions.block_of(owner.offset).joined += 1
            # A label without `@at` takes its newest prediction's position.
            if label.at is None and newest > self._progress.labels.max_position:
                self._progress.labels.max_position = newest
                self._progress.raise_low_watermark()
        # If the label is reread after a restart, these predictions must also be reread.
        if predictions[0].offset < block.dependency_offset:
            block.dependency_offset = predictions[0].offset

    def _meet_labels(
        self,
        record_id: str,
        prediction: BufferedPrediction,
        labels: Sequence[BufferedLabel],
        results: Results,
    ) -> None:
        """Match a prediction with labels that have the same id and were read earlier."""
        position, join_window = self._buffer_position(prediction), self._join_window
        is_new = prediction.offset >= self._progress.predictions.published
        known, revision = None, -1
        for label in labels:
            at = label.at
            if not self._may_be_of(prediction, label):
                continue  # the label belongs to an earlier record with this id
            is_first = not self.was_met(record_id, label, prediction)
            # Buffer the label for as long as the prediction, and evict the label first.
            block = self._labels.block_of(label.offset)
            block.dependency_offset = min(block.dependency_offset, prediction.offset)
            block.newest = max(block.newest, position)
            if not is_first and self._owner(record_id, label) is not prediction:
                continue  # the label belongs to an earlier prediction with this id
            if not self._is_in_time(prediction, label):
                if is_new and is_first:
                    results.rejected(label, "late")
            elif is_new and at is not None and at + join_window < self._progress.low_watermark:
                if is_first:
                    results.rejected(label, "orphan")
            elif known is not None and known.label == label.label:
                if is_new and is_first:
                    results.repeated(label)
            else:
                known, revision = label, revision + 1
                if is_new:
                    results.outcome(prediction, label, revision)
                    if revision == 0:
                        self._predictions.block_of(prediction.offset).joined += 1
            if at is None:
                self._progress.labels.raise_max_position(position)
                self._progress.raise_low_watermark()

    def _newest(
        self, record_id: str, prediction: BufferedPrediction, labels: Sequence[BufferedLabel]
    ) -> tuple[BufferedLabel | None, int]:
        """Return a prediction's newest label and revision, or (None, -1) if it has no label."""
        known, revision = None, -1
        for label in labels:
            if (known is None or known.label != label.label) and (
                self._owner(record_id, label) is prediction
            ):
                known, revision = label, revision + 1
        return known, revision

    def _owner(self, record_id: str, label: BufferedLabel) -> BufferedPrediction | None:
        """Return the prediction that a label belongs to.

        If the label stores no `owner`, this is the first prediction with the label's id for which
        the label is in time.
        """
        predictions = self._predictions.get(record_id)
        if label.owner is not None:
            return next((p for p in predictions if p.offset == label.owner), None)
        return next(
            (p for p in predictions if self._may_be_of(p, label) and self._is_in_time(p, label)),
            None,
        )

    def _is_in_time(self, prediction: BufferedPrediction, label: BufferedLabel) -> bool:
        return (
            label.at is None
            or prediction.ahead
            or label.at - prediction.position <= self._join_window
        )

    def _may_be_of(self, prediction: BufferedPrediction, label: BufferedLabel) -> bool:
        return (
            label.at is None
            or prediction.ahead
            or label.at >= prediction.position - self._join_window
        )

    def was_met(
        self, record_id: str, label: BufferedLabel, by: BufferedPrediction | None = None
    ) -> bool:
        """Return whether a prediction other than `by` has already decided this label's result."""
        return any(
            prediction is not by and self._may_be_of(prediction, label)
            for prediction in self._predictions.get(record_id)
        )
