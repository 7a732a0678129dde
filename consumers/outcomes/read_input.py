"""Decode prediction and label messages from Kafka for the join, and reject unusable messages.

Input: messages of one topic and partition. Output: buffered records, passed to the partition's
`PartitionJoin`, and dead letters, passed to its `Publication`.
"""

from collections.abc import Sequence
from operator import attrgetter, lt

import msgspec

from consumers.outcomes.join_records import BufferedLabel, BufferedPrediction
from consumers.outcomes.output_records import Publication, are_plain, plain
from consumers.outcomes.window_join import PartitionJoin
from driftline.broker.port import Message, Messages
from driftline.config.stream import Stream
from driftline.wire.batch_decoding import Decoded, decode_each
from driftline.wire.events import Prediction, Source, Watermark
from driftline.wire.labels import Label, LabelCodec
from driftline.wire.values import parse_time


class _Source(Source, frozen=True, gc=False):
    """A `Source` that the garbage collector does not track: a batch contains thousands."""


class _Prediction(Prediction, frozen=True, tag="prediction", gc=False):
    source: _Source

    def __post_init__(self) -> None:
        """Do not validate `time`: validation would take three times as long as decoding.

        If `time` is the position, `_read_one_by_one` parses it.
        """


_id_of, _label_of, _at_of = map(attrgetter, ("record_id", "label", "at"))
_source_of, _row_of, _ahead_of = map(attrgetter, ("source.offset", "row", "ahead"))
_decode = msgspec.json.Decoder(_Prediction | Watermark).decode


class InputReader:
    """Decodes messages and passes them to the joins of all partitions.

    Messages handled before a restart only rebuild the state of their partition's join. They are
    neither counted nor rejected again.
    """

    def __init__(self, stream: Stream) -> None:
        self._axis = stream.axis
        self._labels = LabelCodec(stream)

    def read_predictions(
        self, join: PartitionJoin, messages: Messages, publication: Publication
    ) -> None:
        values = messages.values
        found = decode_each(_decode, values)
        for item in found.rejected:
            published = join.progress.predictions.published
            _reject(published, messages[item.index], item.reason, publication)
        read = None
        if self._axis == "row" and not found.rejected:
            read = _plain_ones(messages, values, found.items, join.progress.source)
        if read is None:
            self._read_one_by_one(join, messages, found, publication)
        else:
            join.take_predictions(list(map(_id_of, found.items)), read, publication)

    def _read_one_by_one(
        self,
        join: PartitionJoin,
        messages: Messages,
        found: Decoded[_Prediction | Watermark],
        publication: Publication,
    ) -> None:
        """Read events from the predictions topic, including watermarks and unusable predictions."""
        values, offsets, keys = messages.values, messages.offsets, messages.keys
        published = join.progress.predictions.published
        by_row = self._axis == "row"
        ids: list[str] = []
        read: list[BufferedPrediction] = []
        newest = join.progress.source
        for index, event in zip(found.kept, found.items, strict=True):
            offset = offsets[index]
            if type(event) is Watermark:
                if event.log is not None:
                    join.take_predictions(ids, read, publication)
                    ids, read = [], []
                    join.progress.source = newest
                    join.progress.take_log(offset, event.log)
                    newest = join.progress.source
                    continue
                # Use only watermarks of idle partitions. After a watermark that belongs to a dead
                # letter or a gap, labels for earlier records may still arrive.
                is_silence = event.dead_letter is None and not event.gaps
                if offset >= published and is_silence and event.position is not None:
                    # First join the predictions before the watermark. Otherwise, a batch that spans
                    # more than the join window would make its own labels late.
                    join.take_predictions(ids, read, publication)
                    ids, read = [], []
                    join.progress.take_watermark(event.position)
                continue
            assert type(event) is _Prediction
            source = event.source.offset
            if source <= newest:
                if offset >= published:
                    publication.duplicate()
                continue
            newest = source
            try:
                position = event.row if by_row else event.time and parse_time(event.time)
                value = plain(values[index] or b"", event)
            except ValueError as error:
                _reject(published, messages[index], str(error), publication)
                continue
            if not isinstance(position, int):
                reason = f"no position: the prediction's {self._axis} is missing"
                _reject(published, messages[index], reason, publication)
                continue
            ids.append(event.record_id)
            read.append(
                BufferedPrediction(offset, source, position, keys[index], value, event.ahead)
            )
        join.take_predictions(ids, read, publication)
        join.progress.source = newest

    def read_labels(
        self, join: PartitionJoin, messages: Messages, publication: Publication
    ) -> None:
        found = self._labels.decode_all(messages.values)
        start = 0
        # Preserve log order, so that the results do not depend on where batches begin and end.
        for place, item in enumerate(found.rejected):
            usable = found.items[start - place : item.index - place]
            self._take_labels(join, messages[start : item.index], usable, publication)
            message, start = messages[item.index], item.index + 1
            if message.offset >= join.progress.labels.published:
                self.reject_label(join, message, item.reason, publication)
        usable = found.items[start - len(found.rejected) :]
        self._take_labels(join, messages[start:], usable, publication)

    def _take_labels(
        self,
        join: PartitionJoin,
        messages: Messages,
        found: Sequence[Label],
        publication: Publication,
    ) -> None:
        ids, labels, at = (list(map(of, found)) for of in (_id_of, _label_of, _at_of))
        offsets, keys, headers = messages.offsets, messages.keys, messages.headers
        read = list(map(BufferedLabel, offsets, at, labels, keys, messages.values, headers))
        join.take_labels(ids, read, publication)

    def reject_label(
        self, join: PartitionJoin, message: Message, reason: str, publication: Publication
    ) -> None:
        """Reject a label that was not already rejected before a restart."""
        position = join.reject_label(self._labels.position(message.value))
        publication.invalid_label(message, reason, position)


def _reject(published: int, message: Message, reason: str, publication: Publication) -> None:
    if message.offset >= published:  # earlier messages were rejected before the restart
        publication.invalid_prediction(message, reason)


def _plain_ones(
    messages: Messages,
    values: Sequence[bytes | None],
    events: Sequence[_Prediction | Watermark],
    source: int,
) -> list[BufferedPrediction] | None:
    """Return the predictions, or None if `_read_one_by_one` must read them.

    `_read_one_by_one` is needed if the batch contains a watermark, a duplicate, a prediction that
    is ahead or has no row, or bytes that Driftline did not write.
    """
    plains = [value for value in values if value is not None]
    if not events or set(map(type, events)) != {_Prediction} or not are_plain(plains):
        return None
    sources, rows = list(map(_source_of, events)), list(map(_row_of, events))
    if any(map(_ahead_of, events)):
        return None
    if None in rows or sources[0] <= source or not all(map(lt, sources, sources[1:])):
        return None
    return list(map(BufferedPrediction, messages.offsets, sources, rows, messages.keys, plains))
