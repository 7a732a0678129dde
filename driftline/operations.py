"""How a stream on a broker is doing: lag of each service, champion, last drift, last decision.

In: broker, stream, its workers on this machine. Out: a `Status`. It changes nothing.
"""

from collections import deque
from collections.abc import Iterator, Mapping

import msgspec

from driftline.broker.port import Broker, Message, OffsetRange, TopicPartition
from driftline.codec.envelope import decode_or_skip, drift_decoder, retrain_decoder
from driftline.events import DriftEvent, RetrainDecision
from driftline.models.catalog import read_catalog
from driftline.models.keys import Trusted
from driftline.scan import handled, ranges, scan
from driftline.stream import Stream
from driftline.topics import SERVICES, Role, Service, Topics
from driftline.workers import Worker, Workers

# A transaction's marker takes an offset and holds nothing: look further back than asked for.
_LOOK_BACK = 100


class ServiceStatus(msgspec.Struct, frozen=True):
    """A service: its workers on this machine and, per input, how many offsets are before it.

    An offset is a record or a transaction's marker, so a lag of 1 per partition may be none. The
    monitor holds back the offsets of windows that are open: its lag counts their records too.
    """

    service: Service
    workers: tuple[Worker, ...]
    lag: dict[str, int]  # role of the topic → offsets


class Status(msgspec.Struct, frozen=True):
    """A stream at one moment."""

    stream: str
    services: tuple[ServiceStatus, ...]
    problems: tuple[str, ...]  # of the services on this machine
    answering: tuple[str, ...]  # digests of the models by which workers here answer
    champion: str | None
    frozen: bool
    drift: DriftEvent | None
    decision: RetrainDecision | None
    refused: dict[str, str] = {}  # key of a record of `models` that does not count → why


# Inputs that a service consumes as a group; `models` is followed without one.
INPUTS: Mapping[Service, tuple[Role, ...]] = {
    "inference": ("features",),
    "outcomes": ("predictions", "labels"),
    "monitor": ("predictions", "outcomes", "parts", "windows"),
    "trainer": ("retrain",),
}


def status(broker: Broker, stream: Stream, here: Workers, trusted: Trusted) -> Status:
    """Look once. Raises BrokerError."""
    topics = Topics(stream)
    workers = here.workers
    answering = {w.said.model for w in workers if w.alive and w.said.model is not None}
    catalog = read_catalog(broker, topics, trusted)
    return Status(
        stream=stream.name,
        services=tuple(
            ServiceStatus(
                service=service,
                workers=tuple(w for w in workers if w.said.service == service),
                lag=_lag(broker, topics, service),
            )
            for service in SERVICES
        ),
        problems=tuple(here.problems()),
        answering=tuple(sorted(answering)),
        champion=catalog.champion_digest,
        frozen=catalog.frozen,
        drift=_last_drift(broker, topics),
        decision=_last_decision(broker, topics),
        refused=catalog.refused,
    )


def newest(
    broker: Broker, span: Mapping[TopicPartition, OffsetRange], count: int
) -> Iterator[Message]:
    """The newest `count` messages in these ranges by publish time, oldest first."""
    back = count + _LOOK_BACK
    while count:
        begun = {p: OffsetRange(max(r.start, r.end - back), r.end) for p, r in span.items()}
        kept: dict[TopicPartition, deque[Message]] = {p: deque(maxlen=count) for p in span}
        for batch in scan(broker, begun):
            for message in batch:
                kept[TopicPartition(message.topic, message.partition)].append(message)
        if all(len(kept[p]) == count or begun[p].start == r.start for p, r in span.items()):
            found = [message for messages in kept.values() for message in messages]
            found.sort(key=lambda m: (m.timestamp_ms, m.partition, m.offset))
            yield from found[-count:]
            return
        back *= 4


def _lag(broker: Broker, topics: Topics, service: Service) -> dict[str, int]:
    admin = broker.admin()
    try:
        committed = admin.group_offsets(topics.group(service))
    finally:
        admin.close()
    names = {topic.role: topic.name for topic in topics.plan()}
    return {
        role: sum(
            offsets.end - min(max(handled(committed.get(partition)), offsets.start), offsets.end)
            for partition, offsets in ranges(broker, [names[role]]).items()
        )
        for role in INPUTS[service]
    }


def _last_drift(broker: Broker, topics: Topics) -> DriftEvent | None:
    for message in newest(broker, ranges(broker, [topics.drift]), 1):
        return decode_or_skip(drift_decoder, message)
    return None


def _last_decision(broker: Broker, topics: Topics) -> RetrainDecision | None:
    last = None
    for messages in scan(broker, ranges(broker, [topics.retrain])):
        for message in messages:
            event = decode_or_skip(retrain_decoder, message)
            if isinstance(event, RetrainDecision):
                last = event
    return last
