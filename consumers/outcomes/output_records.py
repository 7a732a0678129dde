"""Build the Kafka records that the join publishes for a partition: outcomes and dead letters.

Input: the join's results. Output: records to send. An outcome consists of the prediction's bytes
with the label appended, so the prediction is not encoded again. If an outcome would exceed the
topic's size limit, its label becomes a dead letter.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from operator import methodcaller
from typing import Final

from consumers.outcomes.join_records import BufferedLabel, BufferedPrediction, Reason
from driftline.broker.port import Message, Outgoing, OutgoingBatch
from driftline.config.stream import Stream
from driftline.wire.envelope import dead_letter, encode
from driftline.wire.events import Prediction, RejectedRecord, Value, Watermark
from driftline.wire.predictions import marked_ahead
from driftline.wire.topics import MAX_KEY_AND_VALUE_BYTES, Topics
from driftline.wire.values import format_time

_PREDICTION: Final = b'{"type":"prediction",'
_FIRST: Final = b'{"type":"outcome",%b,%b,"revision":0}'
_begins: Final = methodcaller("startswith", _PREDICTION)
_ends: Final = methodcaller("endswith", b"}")
_SHARED: Final = slice(len(_PREDICTION), -1)  # the part of a prediction that its outcome repeats

_REASONS: Final[dict[Reason, str]] = {
    "late": "became known more than the join window ([labels] horizon) after its record",
    "orphan": "no prediction with this id within the join window ([labels] horizon)",
}


def plain(value: bytes, event: Prediction) -> bytes:
    """Return a prediction's bytes exactly as Driftline writes them.

    Outcomes are built from these bytes. `event` is the decoded `value`.

    >>> from driftline.wire.envelope import predictions_decoder
    >>> value = (
    ...     b'{ "type": "prediction", "record_id": "7", "time": null, "row": 1,'
    ...     b' "prediction": 2.5, "scores": null, "model": "sha256:1",'
    ...     b' "source": {"topic": "f", "partition": 0, "offset": 3}, "record": {"x": 1.50}}'
    ... )
    >>> plain(value, predictions_decoder.decode(value))[:38]
    b'{"type":"prediction","record_id":"7","'
    """
    if value.startswith(_PREDICTION) and value.endswith(b"}"):
        return value
    return encode(event)


def _with_label_ahead(value: bytes, prediction: BufferedPrediction) -> bytes:
    """Set `ahead` in an outcome whose label is ahead, unless the prediction already sets it."""
    return value if prediction.ahead else marked_ahead(value)


def are_plain(values: Sequence[bytes]) -> bool:
    """Return whether `plain` would return all these values unchanged."""
    return all(map(_begins, values)) and all(map(_ends, values))


class Publication:
    """Collects a join's results for one partition, and counts them in `counts`.

    `current_watermark` returns the outcomes' watermark. It is called when a label is rejected.
    """

    def __init__(
        self,
        stream: Stream,
        topics: Topics,
        partition: int,
        counts: Counter[str],
        current_watermark: Callable[[], int | None],
    ) -> None:
        self._topics = topics
        self._partition = partition
        self._counts = counts
        self._current_watermark = current_watermark
        self._by_row = stream.axis == "row"
        self._keys: list[bytes | None] = []
        self._values: list[bytes] = []
        self._letters: list[Outgoing] = []
        self._first = self._revised = 0
        self._texts: dict[Value, bytes] = {}  # JSON of each string label, by label

    def first_outcomes(
        self, predictions: Sequence[BufferedPrediction], labels: Sequence[BufferedLabel]
    ) -> None:
        """See `join_records.Results`, which also documents the methods without a docstring."""
        known = [self._known(label) for label in labels]
        shared = [prediction.value[_SHARED] for prediction in predictions]
        values = list(map(_FIRST.__mod__, zip(shared, known, strict=True)))
        for place, label in enumerate(labels):
            if label.ahead:
                values[place] = _with_label_ahead(values[place], predictions[place])
        keys = [prediction.key for prediction in predictions]
        limit = MAX_KEY_AND_VALUE_BYTES - max(len(key or b"") for key in keys)
        if max(map(len, values)) > limit:
            for prediction, label in zip(predictions, labels, strict=True):
                self.outcome(prediction, label, 0)
            return
        self._first += len(values)
        self._keys += keys
        self._values += values

    def outcome(self, prediction: BufferedPrediction, label: BufferedLabel, revision: int) -> None:
        value = b'{"type":"outcome",%b,%b,"revision":%d}' % (
            prediction.value[_SHARED],
            self._known(label),
            revision,
        )
        if label.ahead:
            value = _with_label_ahead(value, prediction)
        key = prediction.key
        if len(value) > MAX_KEY_AND_VALUE_BYTES - (len(key) if key else 0):
            self._counts["oversized"] += 1
            reason = f"outcome too large: {len(value)} bytes including the prediction"
            self._reject(label, reason)
            return
        if revision:
            self._revised += 1
        else:
            self._first += 1
        self._keys.append(key)
        self._values.append(value)

    def rejected(self, label: BufferedLabel, reason: Reason) -> None:
        self._counts["late" if reason == "late" else "orphans"] += 1
        self._reject(label, _REASONS[reason])

    def repeated(self, label: BufferedLabel) -> None:
        self._counts["repeated"] += 1

    def unlabelled(self, predictions: int) -> None:
        self._counts["unlabelled"] += predictions

    def duplicate(self) -> None:
        """Count a prediction that has already been read."""
        self._counts["duplicates"] += 1

    def invalid_prediction(self, message: Message, reason: str) -> None:
        """Count an unusable prediction, and add its dead letter."""
        self._counts["invalid"] += 1
        self._add_dead_letter(message, reason)

    def invalid_label(self, message: Message, reason: str, position: int | None) -> None:
        """Count an unusable label, and add its dead letter and watermark."""
        self._counts["invalid"] += 1
        self._reject_label(message, reason, position)

    def watermark(self, position: int) -> None:
        self._keys.append(None)
        self._values.append(encode(Watermark(position=position)))

    def records(self) -> Iterator[Outgoing | OutgoingBatch]:
        """Count the outcomes, and yield all records to send."""
        self._counts.update(outcomes=self._first, revised=self._revised)
        if self._values:
            yield OutgoingBatch(self._topics.outcomes, self._partition, self._keys, self._values)
        yield from self._letters

    def _known(self, label: BufferedLabel) -> bytes:
        """Return the part of an outcome's bytes that describes its label."""
        value = label.label
        text = self._texts.get(value) if type(value) is str else encode(value)
        if text is None:
            text = self._texts[value] = encode(value)
        at = label.at
        if at is None:
            return b'"label":%b,"label_time":null,"label_row":null' % text
        if self._by_row:
            return b'"label":%b,"label_time":null,"label_row":%d' % (text, at)
        return b'"label":%b,"label_time":"%b","label_row":null' % (text, format_time(at).encode())

    def _reject(self, label: BufferedLabel, reason: str) -> None:
        message = Message(
            self._topics.labels,
            self._partition,
            label.offset,
            label.key,
            label.value,
            label.headers,
        )
        self._reject_label(message, reason, None if label.ahead else label.at)

    def _reject_label(self, message: Message, reason: str, position: int | None) -> None:
        """Add a label's dead letter and, in place of an outcome, the outcomes' current watermark.

        Without the watermark, windows could not close if every label were rejected.
        """
        self._add_dead_letter(message, reason)
        letter = RejectedRecord(message.offset, position)
        self._keys.append(None)
        self._values.append(encode(Watermark(self._current_watermark(), dead_letter=letter)))

    def _add_dead_letter(self, message: Message, reason: str) -> None:
        self._letters.append(
            dead_letter(self._topics.deadletters, message, reason=reason, service="outcomes")
        )
