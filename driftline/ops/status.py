"""Report a stream's status from its topics and local workers: lag, champion, drift, decision.

Input: a broker, a stream, and the stream's workers on this machine. Output: a `Status`, with each
service's lag, the last drift event and the last retrain decision. This module changes nothing.
"""

from collections import deque
from collections.abc import Iterator, Mapping

import msgspec

from driftline.broker.port import Broker, Message, OffsetRange, TopicPartition
from driftline.broker.scan import ranges, scan
from driftline.config.stream import Stream
from driftline.models.catalog import read_catalog
from driftline.models.keys import Trusted
from driftline.ops.workers import Worker, Workers
from driftline.wire.commit_metadata import handled
from driftline.wire.envelope import decode_or_skip, drift_decoder, retrain_decoder
from driftline.wire.events import DriftEvent, RetrainDecision
from driftline.wire.topics import SERVICES, Role, Service, Topics

# Number of extra offsets to read, because transaction markers have offsets but are not messages.
_LOOK_BACK = 100


class ServiceStatus(msgspec.Struct, frozen=True):
    """A service's workers on this machine, and its lag: the number of unhandled offsets per input.

    Transaction markers also have offsets, so a lag of 1 per partition may mean that no record is
    left. Handled records are not part of the lag, even if their offsets are not committed yet
    because a window is open.
    """

    service: Service
    workers: tuple[Worker, ...]
    lag: dict[str, int]  # topic role → number of unhandled offsets in all partitions


class Status(msgspec.Struct, frozen=True):
    """A stream's status at one moment."""

    stream: str
    services: tuple[ServiceStatus, ...]
    problems: tuple[str, ...]  # problems with local services and with the `models` topic
    serving: tuple[str, ...]  # digests of the models in use on this machine
    champion: str | None
    frozen: bool
    drift: DriftEvent | None
    decision: RetrainDecision | None
    rejected: dict[str, str] = {}  # key of a rejected `models` record → reason


# Service → roles of the topics that it reads in a consumer group. `models` is absent, because
# broadcast topics are read without a group.
INPUTS: Mapping[Service, tuple[Role, ...]] = {
    "inference": ("features",),
    "outcomes": ("predictions", "labels"),
    "monitor": ("predictions", "outcomes", "parts", "windows"),
    "trainer": ("retrain",),
}


def status(broker: Broker, stream: Stream, here: Workers, trusted: Trusted) -> Status:
    """Return the current status of a stream. Raises BrokerError."""
    topics = Topics(stream)
    workers = here.workers
    serving = {w.state.model for w in workers if w.alive and w.state.model is not None}
    catalog = read_catalog(broker, topics, trusted)
    return Status(
        stream=stream.name,
        services=tuple(
            ServiceStatus(
                service=service,
                workers=tuple(w for w in workers if w.state.service == service),
                lag=_lag(broker, topics, service),
            )
            for service in SERVICES
        ),
        problems=(*here.problems(), *filter(None, [catalog.lost])),
        serving=tuple(sorted(serving)),
        champion=catalog.champion_digest,
        frozen=catalog.frozen,
        drift=_last_drift(broker, topics),
        decision=_last_decision(broker, topics),
        rejected=catalog.rejected,
    )


def newest(
    broker: Broker, span: Mapping[TopicPartition, OffsetRange], count: int
) -> Iterator[Message]:
    """Yield the `count` most recently published messages in these ranges, oldest first."""
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
