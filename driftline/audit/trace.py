"""Search the topics for an event, model or record by id, and follow its causes and effects.

Input: the id of a window, drift event, retrain request, decision or record, or the beginning of a
model's digest. Output: a `Node` for each match, with its causes and effects. Only the small
`History` of events and models is kept in memory. Other topics are read in batches.
"""

from collections import defaultdict
from collections.abc import Iterator

import msgspec

from driftline.audit.lineage import History, Node
from driftline.broker.port import Broker, Message
from driftline.broker.scan import Progress, ranges, scan
from driftline.config.stream import Stream
from driftline.errors import DataError
from driftline.wire.column_decoders import id_reader
from driftline.wire.envelope import dead_letter_origin, decode_or_skip
from driftline.wire.events import Count, Source, Value
from driftline.wire.labels import LabelCodec
from driftline.wire.topics import Topics
from driftline.wire.values import publish_time


def trace(
    broker: Broker, stream: Stream, id: str, *, progress: Progress | None = None
) -> tuple[Node, ...]:
    """Return each event, model or record with this id, with its causes and effects.

    The topics with records are searched only if no event or model has this id. If nothing matches,
    the result is empty. Raises BrokerError.
    """
    history = History(broker, stream, also_window=id)
    found = tuple(history.nodes(id))
    return found or tuple(_Records(broker, stream, history, id).nodes(progress))


class _Scored(msgspec.Struct, frozen=True):
    """The fields of a prediction or outcome that `trace` uses.

    A watermark has an empty `record_id`.
    """

    type: str
    record_id: str = ""
    prediction: Value = ""
    model: str = ""
    source: Source | None = None
    label: Value | None = None
    revision: Count = 0


_scored = msgspec.json.Decoder(_Scored)


class _Records:
    """A search for one record id in features, predictions, outcomes, labels and dead letters."""

    def __init__(self, broker: Broker, stream: Stream, history: History, id: str) -> None:
        self._broker = broker
        self._stream = stream
        self._topics = Topics(stream)
        self._history = history
        self._id = id
        self._needle = id.encode()
        self._read_id = id_reader(stream.record.id)
        self._labels = LabelCodec(stream)

    def nodes(self, progress: Progress | None) -> Iterator[Node]:
        """Yield a node for each feature record, label and deleted record with this id.

        A record's effects are its predictions, outcomes and dead letters. If the record itself has
        been deleted, its node is inferred from them.
        """
        topics = self._topics
        sources: dict[str, Message] = {}
        by_source: dict[str, list[Node]] = defaultdict(list)
        rest: list[Node] = []
        order = [topics.features, topics.predictions, topics.outcomes, topics.labels]
        for topic in [*order, topics.deadletters]:
            for message in self._scan_for_mentions(topic, progress):
                if topic == topics.features:
                    if self._is_about(message):
                        sources[message.place] = message
                elif topic == topics.labels:
                    if self._is_about(message):
                        rest.append(self._label(message))
                elif topic == topics.deadletters:
                    if self._is_about(message):
                        origin = dead_letter_origin(message)
                        place = f"{origin.topic}[{origin.partition}]@{origin.offset}"
                        description = f"{origin.service}: {origin.reason}"
                        by_source[place].append(Node("dead letter", message.place, description))
                else:
                    event = decode_or_skip(_scored, message)
                    if (
                        event is not None
                        and event.record_id == self._id
                        and event.source is not None
                    ):
                        source = event.source
                        place = f"{source.topic}[{source.partition}]@{source.offset}"
                        by_source[place].append(self._scored(message, event))
        for place, message in sources.items():
            effects = tuple(by_source.pop(place, ()))
            yield Node("record", place, f"published {_published(message)}", effects=effects)
        for node in rest:
            yield msgspec.structs.replace(node, effects=tuple(by_source.pop(node.id, ())))
        for place, nodes in by_source.items():
            yield Node("record", place, "no longer in the topic", effects=tuple(nodes))

    def _scan_for_mentions(self, topic: str, progress: Progress | None) -> Iterator[Message]:
        """Yield the messages whose bytes contain the id, so that no other message is decoded."""
        needle = self._needle
        # If JSON may escape a character in the id, the bytes to search for are unknown, so yield
        # all messages.
        plain = self._id.isascii() and not set(self._id) & set('"\\/') and self._id.isprintable()
        for messages in scan(self._broker, ranges(self._broker, [topic]), progress=progress):
            for message in messages:
                if message.value is not None and (not plain or needle in message.value):
                    yield message

    def _is_about(self, message: Message) -> bool:
        return self._read_id(message.value) == self._id

    def _label(self, message: Message) -> Node:
        try:
            description = f"label {self._labels.decode(message.value).label}"
        except DataError as error:
            description = f"unreadable: {error.message}"
        return Node("label", message.place, f"{description}, published {_published(message)}")

    def _scored(self, message: Message, event: _Scored) -> Node:
        description = f"predicted {event.prediction}"
        if event.type != "outcome":
            model = self._history.model(event.model, causes=True)
            return Node("prediction", message.place, description, causes=(model,))
        description += f", label {event.label}"
        description += f", revision {event.revision}" if event.revision else ""
        return Node("outcome", message.place, description)


def _published(message: Message) -> str:
    return publish_time(message.timestamp_ms, timespec="milliseconds")
