"""What the join publishes of one partition: outcomes in their order, and dead letters.

An outcome is the prediction's own bytes with the label at their end: nothing of it is decoded and
encoded again. One that would be over the topic's limit is a dead letter of the label.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Final

from consumers.join import KeptLabel, KeptPrediction, Reason
from driftline.broker.port import Message, Outgoing, OutgoingBatch
from driftline.codec.envelope import dead_letter, encode
from driftline.codec.values import format_time
from driftline.events import Prediction, Watermark
from driftline.stream import Stream
from driftline.topics import MAX_RECORD_BYTES, Topics

_PREDICTION: Final = b'{"type":"prediction",'
_OUTCOME: Final = b'{"type":"outcome",'
# What Kafka adds around one record in a batch of its own, generously.
_MAX_OUTCOME_BYTES: Final = MAX_RECORD_BYTES - 1024

_REASONS: Final[dict[Reason, str]] = {
    "late": "known later than the horizon after its record",
    "orphan": "no prediction with this id within the horizon",
}


def opening(value: bytes, event: Prediction) -> bytes:
    """What the outcomes of a prediction begin with. `event` is what `value` says.

    >>> from driftline.codec.envelope import predictions_decoder
    >>> value = (
    ...     b'{"type":"prediction","record_id":"7","time":null,"row":1,"prediction":2.5,'
    ...     b'"scores":null,"model":"sha256:1","source":{"topic":"f","partition":0,"offset":3},'
    ...     b'"record":{"x": 1.50}}'
    ... )
    >>> opening(value, predictions_decoder.decode(value))[-21:]
    b'},"record":{"x": 1.50}'
    """
    if not (value.startswith(_PREDICTION) and value.endswith(b"}")):
        value = encode(event)  # not written by Driftline, but it says all that is needed
    return _OUTCOME + value[len(_PREDICTION) : -1]


class Publication:
    """Gathers the results of a join for one partition; `counts` says what became of them."""

    def __init__(
        self, stream: Stream, topics: Topics, partition: int, counts: Counter[str]
    ) -> None:
        self._topics = topics
        self._partition = partition
        self._counts = counts
        self._by_row = stream.axis == "row"
        self._keys: list[bytes | None] = []
        self._values: list[bytes] = []
        self._letters: list[Outgoing] = []

    def outcome(self, prediction: KeptPrediction, label: KeptLabel, revision: int) -> None:
        """See `consumers.join.Results`, also for the methods below."""
        value = prediction.value + b',"label":%b,%b,"revision":%d}' % (
            encode(label.label),
            self._known(label.at),
            revision,
        )
        if len(value) + len(prediction.key or b"") > _MAX_OUTCOME_BYTES:
            self._counts["oversized"] += 1
            reason = f"outcome too large: {len(value)} bytes with the prediction inside"
            self._refuse(label, reason)
            return
        self._counts["revised" if revision else "outcomes"] += 1
        self._keys.append(prediction.key)
        self._values.append(value)

    def _known(self, at: int | None) -> bytes:
        if at is None:
            return b'"label_time":null,"label_row":null'
        if self._by_row:
            return b'"label_time":null,"label_row":%d' % at
        return b'"label_time":"%b","label_row":null' % format_time(at).encode()

    def refused(self, label: KeptLabel, reason: Reason) -> None:
        self._counts["late" if reason == "late" else "orphans"] += 1
        self._refuse(label, _REASONS[reason])

    def repeated(self, label: KeptLabel) -> None:
        self._counts["repeated"] += 1

    def unlabelled(self, predictions: int) -> None:
        self._counts["unlabelled"] += predictions

    def watermark(self, position: int) -> None:
        self._keys.append(None)
        self._values.append(encode(Watermark(position=position)))

    def dead_letter(self, message: Message, reason: str) -> None:
        """A record that could not be read."""
        self._letters.append(
            dead_letter(self._topics.deadletters, message, reason=reason, service="outcomes")
        )

    def records(self) -> Iterator[Outgoing | OutgoingBatch]:
        """All of it, to be sent."""
        if self._values:
            yield OutgoingBatch(self._topics.outcomes, self._partition, self._keys, self._values)
        yield from self._letters

    def _refuse(self, label: KeptLabel, reason: str) -> None:
        self.dead_letter(
            Message(
                self._topics.labels,
                self._partition,
                label.offset,
                label.key,
                label.value,
                label.headers,
            ),
            reason,
        )
