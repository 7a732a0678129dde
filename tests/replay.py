"""Replay recorded predictions and outcomes with a new monitor, in memory."""

from collections.abc import Iterator
from typing import NamedTuple

from driftline.broker.memory import MemoryBroker
from driftline.broker.port import Broker, Message, Outgoing
from driftline.broker.scan import ranges, scan
from driftline.clock import ManualClock
from driftline.config.stream import Stream
from driftline.runtime.loop import Loop
from driftline.wire.topics import Topics, apply
from monitor.reference.references import Packages
from monitor.service import MonitorHandler


class Written(NamedTuple):
    """The output of a monitor: the windows and drift events of its topics, sorted."""

    windows: list[bytes]
    drift: list[bytes]


def written(broker: Broker, stream: Stream) -> Written:
    """Return the output of the live monitor."""
    topics = Topics(stream)
    return Written(_values(broker, topics.windows), _values(broker, topics.drift))


def replayed(broker: Broker, stream: Stream, packages: Packages) -> Written:
    """Return the output of a new monitor for the same predictions and outcomes."""
    topics, clock = Topics(stream), ManualClock()
    fresh = MemoryBroker(clock)
    apply(fresh.admin(), topics)
    producer = fresh.producer()
    for topic in (topics.predictions, topics.outcomes):
        for message in _messages(broker, topic):
            producer.send(Outgoing(topic, message.value, message.key, partition=message.partition))
    loop = Loop(
        MonitorHandler(stream, packages),
        fresh,
        group="replay",
        delivery="exactly_once",
        clock=clock,
        commit_interval_s=0,
        max_records=777,  # other batch boundaries than those of the live monitor
    )
    while loop.step(0):
        pass
    loop.close()
    return written(fresh, stream)


def _values(broker: Broker, topic: str) -> list[bytes]:
    return sorted(message.value or b"" for message in _messages(broker, topic))


def _messages(broker: Broker, topic: str) -> Iterator[Message]:
    for batch in scan(broker, ranges(broker, [topic])):
        yield from batch
