"""Plays a written log to monitors as the loop would: batches, commits, kills."""

from collections.abc import Iterable, Mapping

from driftline.broker.port import Committed, Message, Outgoing, TopicPartition
from driftline.codec.envelope import drift_decoder, retrain_decoder, windows_decoder
from driftline.events import DriftEvent, RetrainRequest, WindowsEvent
from driftline.stream import Stream
from driftline.topics import Topics
from monitor.references import Packages
from monitor.service import MonitorHandler


class Driver:
    """One monitor after another on the same log; only what was committed is seen by anybody."""

    def __init__(
        self, stream: Stream, packages: Packages, log: Mapping[tuple[str, int], list[Message]]
    ) -> None:
        self._stream = stream
        self._packages = packages
        self.topics = Topics(stream)
        self._log: dict[TopicPartition, list[Message]] = {
            TopicPartition(topic, partition): []
            for topic in (self.topics.predictions, self.topics.outcomes)
            for partition in range(stream.kafka.partitions)
        }
        self._log |= {TopicPartition(*key): list(messages) for key, messages in log.items()}
        self._windows = TopicPartition(self.topics.windows, 0)
        self._log[self._windows] = []
        self.published: dict[str, list[Outgoing]] = {
            self.topics.windows: [],
            self.topics.drift: [],
            self.topics.retrain: [],
        }
        self._committed: dict[TopicPartition, Committed] = {}
        self._pending: list[Outgoing] = []
        self._start()

    @property
    def partitions(self) -> list[TopicPartition]:
        """All that is read, in a fixed order."""
        return sorted(self._log)

    def deliver(self, partition: TopicPartition, count: int) -> bool:
        """Hand over the next records of a partition; whether there were any."""
        begin = self._position[partition]
        batch = self._log[partition][begin : begin + count]
        if not batch:
            return False
        self._position[partition] = batch[-1].offset + 1
        self._pending.extend(self.monitor.handle(batch))
        return True

    def deliver_together(self, counts: Iterable[tuple[TopicPartition, int]]) -> bool:
        """One batch of several partitions."""
        batch: list[Message] = []
        for partition, count in counts:
            begin = self._position[partition]
            own = self._log[partition][begin : begin + count]
            if own:
                self._position[partition] = own[-1].offset + 1
                batch.extend(own)
        if batch:
            self._pending.extend(self.monitor.handle(batch))
        return bool(batch)

    def commit(self) -> None:
        """Make visible what was handed back, with the offsets to hold."""
        holds = self.monitor.holds()
        for partition, position in self._position.items():
            self._committed[partition] = holds.get(partition, Committed(position))
        for record in self._pending:
            self.published[record.topic].append(record)
            if record.topic == self.topics.windows:
                own = self._log[self._windows]
                own.append(
                    Message(record.topic, 0, len(own), record.key, record.value, record.headers)
                )
        self._pending.clear()

    def kill(self) -> None:
        """Lose everything since the last commit; the next monitor resumes from there."""
        self._start()

    def abort(self) -> None:
        """Lose everything since the last commit; the same monitor resumes from there."""
        self.rebalance(self.partitions)

    def rebalance(self, partitions: list[TopicPartition]) -> None:
        """Take partitions away from the monitor and give them back."""
        self.monitor.revoked(partitions)
        resume = {p: self._committed.get(p, Committed(0)) for p in partitions}
        self.monitor.assigned(resume)
        self._position |= {p: committed.offset for p, committed in resume.items()}
        self._pending = []

    def drain(self) -> None:
        """Everything that is left, with commits between."""
        busy = True
        while busy:
            busy = False
            for partition in self.partitions:
                busy = self.deliver(partition, 1000) or busy
            self.commit()

    def windows(self) -> list[WindowsEvent]:
        """What was published to `windows`."""
        own = self.published[self.topics.windows]
        return [windows_decoder.decode(record.value or b"") for record in own]

    def drift(self) -> list[DriftEvent]:
        """What was published to `drift`."""
        return [drift_decoder.decode(r.value or b"") for r in self.published[self.topics.drift]]

    def requests(self) -> list[RetrainRequest]:
        """What was published to `retrain`."""
        found = [
            retrain_decoder.decode(r.value or b"") for r in self.published[self.topics.retrain]
        ]
        return [event for event in found if isinstance(event, RetrainRequest)]

    def _start(self) -> None:
        self.monitor = MonitorHandler(self._stream, self._packages)
        resume = {p: self._committed.get(p, Committed(0)) for p in self._log}
        self.monitor.assigned(resume)
        self._position = {p: committed.offset for p, committed in resume.items()}
        self._pending.clear()


def play(
    stream: Stream, packages: Packages, log: Mapping[tuple[str, int], list[Message]]
) -> Driver:
    """A monitor that reads everything in one go."""
    driver = Driver(stream, packages, log)
    driver.drain()
    return driver
