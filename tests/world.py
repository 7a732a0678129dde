"""Topics that tests fill record by record, with what services would write or would never write."""

import tempfile
from collections import Counter
from pathlib import Path

import msgspec

from driftline.broker.memory import MemoryBroker
from driftline.broker.port import Committed, Headers, Message, Outgoing, TopicPartition
from driftline.clock import ManualClock
from driftline.config.stream import Stream, loads
from driftline.models.catalog import record_of
from driftline.models.keys import Signer, Trusted, new_key
from driftline.models.signed import sign
from driftline.wire.envelope import dead_letter, encode, rare
from driftline.wire.events import (
    Event,
    ModelAnnounced,
    ModelsEvent,
    Outcome,
    Prediction,
    RolePointer,
    Source,
)
from driftline.wire.labels import LabelCodec
from driftline.wire.topics import Service, Topics, apply

STREAM_FILE = """
version = 1
name = "s"
task = "classification"
target = "y"
features = { x = "number" }
record = { id = "id" }
labels = { horizon = 10 }
kafka = { partitions = 2 }
"""
STREAM = loads(STREAM_FILE)
MODEL = "sha256:" + "ab" * 32
_home = tempfile.TemporaryDirectory()  # kept until the tests end
KEYS = Path(_home.name)
new_key(KEYS)
SIGNER, TRUSTED = Signer(KEYS), Trusted(KEYS)


def said(record: Outgoing, offset: int = 0) -> Message:
    """Return the message that was sent, as a consumer gets it."""
    return Message(
        record.topic, record.partition or 0, offset, record.key, record.value, record.headers
    )


def signed(topics: Topics, event: ModelsEvent, offset: int = 0) -> Message:
    """Return a record of the `models` topic, signed with the tests' key."""
    return said(sign(record_of(topics, event), SIGNER), offset)


def announced(
    digest: str = MODEL, *, parent: str | None = None, cause: str | None = None
) -> ModelAnnounced:
    """Return a model's announcement; its digest is signed with the tests' key."""
    return ModelAnnounced(
        digest=digest,
        signature=SIGNER.sign(digest).value,
        key_id=SIGNER.key_id,
        location="somewhere",
        stream="s",
        task="classification",
        candidate="decision_tree",
        metric="accuracy",
        value=0.9,
        parent=parent,
        cause=cause,
        trained_at="2026-01-01T00:00:00Z",
    )


def pointer(
    name: str, replaces: str | None = None, digest: str = MODEL, *, sequence: int = 0
) -> RolePointer:
    """Return a manual choice of a champion; sequence 0 gives the format before signing."""
    return RolePointer(
        id=name,
        role="champion",
        digest=digest,
        replaces=replaces,
        cause=None,
        by="person",
        reason="",
        at="2026-01-01T00:00:00Z",
        sequence=sequence,
    )


class World:
    """A broker with the topics of one stream. Each method writes a message and returns it."""

    def __init__(self, stream: Stream = STREAM) -> None:
        self.stream = stream
        self.topics = Topics(stream)
        self.clock = ManualClock(1_000.0)
        self.broker = MemoryBroker(self.clock)
        apply(self.broker.admin(), self.topics)
        self._producer = self.broker.producer()
        self._next: Counter[tuple[str, int]] = Counter()

    def send(self, record: Outgoing) -> Message:
        partition = record.partition or 0
        offset = self._next[record.topic, partition]
        self._next[record.topic, partition] += 1
        self._producer.send(msgspec.structs.replace(record, partition=partition))
        return Message(
            record.topic, partition, offset, record.key, record.value, record.headers, 1_000_000
        )

    def feature(
        self, id: str | bytes, *, partition: int = 0, headers: Headers = (), row: int = 0
    ) -> Message:
        """Write a feature record; bytes are written unchanged."""
        value = id if isinstance(id, bytes) else encode({"id": id, "@row": row, "x": 1})
        key = b"?" if isinstance(id, bytes) else id.encode()
        return self.send(Outgoing(self.topics.features, value, key, partition, headers))

    def prediction(self, record: Message, *, id: str | None = None) -> Message:
        body = msgspec.json.decode(record.value or b"{}")
        event = Prediction(
            record_id=id or body["id"],
            time=None,
            row=body["@row"],
            prediction="a",
            scores=None,
            model=MODEL,
            source=Source(record.topic, record.partition, record.offset),
            record=msgspec.Raw(record.value or b""),
        )
        return self.send(
            Outgoing(self.topics.predictions, encode(event), record.key, record.partition)
        )

    def label(self, id: str, value: str, *, partition: int = 0) -> Message:
        encoded = LabelCodec(self.stream).encode(id, value)
        return self.send(Outgoing(self.topics.labels, encoded, id.encode(), partition))

    def outcome(self, prediction: Message, value: str, *, revision: int = 0) -> Message:
        event = msgspec.json.decode(prediction.value or b"", type=Prediction)
        fields = msgspec.structs.asdict(event)
        outcome = Outcome(**fields, label=value, label_time=None, label_row=None, revision=revision)
        return self.send(
            Outgoing(self.topics.outcomes, encode(outcome), prediction.key, prediction.partition)
        )

    def letter(self, message: Message, reason: str, *, service: Service = "inference") -> Message:
        return self.send(
            dead_letter(self.topics.deadletters, message, reason=reason, service=service)
        )

    def event(self, topic: str, event: Event, id: str) -> Message:
        """Write an event of windows, drift, retrain or models. Events of `models` are signed."""
        if isinstance(event, ModelsEvent):
            return self.send(sign(record_of(self.topics, event), SIGNER))
        return self.send(rare(topic, event, id=id))

    def commit(
        self, service: Service, topic: str, offset: int, *, partition: int = 0, published: int = 0
    ) -> None:
        consumer = self.broker.consumer(self.topics.group(service))
        metadata = encode({"published": published}).decode() if published else ""
        consumer.commit({TopicPartition(topic, partition): Committed(offset, metadata)})

    def everything_handled(self) -> None:
        """Commit the end offsets of all inputs of inference and outcomes."""
        admin = self.broker.admin()
        readers: tuple[tuple[Service, str], ...] = (
            ("inference", self.topics.features),
            ("outcomes", self.topics.predictions),
            ("outcomes", self.topics.labels),
        )
        for service, topic in readers:
            for partition, offsets in admin.offsets(topic).items():
                self.commit(service, topic, offsets.end, partition=partition.partition)
