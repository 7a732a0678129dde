"""Play a log to monitors as the loop would, with batches, commits, kills and rebalances."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from driftline.broker.port import Committed, Message, Outgoing, TopicPartition
from driftline.config.stream import Stream
from driftline.wire.envelope import drift_decoder, retrain_decoder, windows_decoder
from driftline.wire.events import DriftEvent, RetrainRequest
from driftline.wire.topics import Topics
from driftline.wire.window_events import WindowsEvent
from monitor.reference.references import Packages
from monitor.service import MonitorHandler


class Worker:
    """One monitor, its partitions, and its uncommitted output."""

    def __init__(
        self, stream: Stream, packages: Packages, reports: Path | None, state: Path | None
    ) -> None:
        self.monitor = MonitorHandler(
            stream, packages, reports=reports, state=state, synchronous=True
        )
        self.position: dict[TopicPartition, int] = {}
        self.pending: list[Outgoing] = []


class Driver:
    """One or more workers on a log. Only committed output is visible."""

    def __init__(
        self,
        stream: Stream,
        packages: Packages,
        log: Mapping[tuple[str, int], list[Message]],
        *,
        workers: int = 1,
        reports: Path | None = None,
        state: Path | None = None,
    ) -> None:
        self._stream = stream
        self._packages = packages
        self._reports = reports
        self._state = state
        self.topics = Topics(stream)
        self._log: dict[TopicPartition, list[Message]] = {
            TopicPartition(topic, partition): []
            for topic in (self.topics.predictions, self.topics.outcomes)
            for partition in range(stream.kafka.partitions)
        }
        self._log |= {TopicPartition(*key): list(messages) for key, messages in log.items()}
        for topic in (self.topics.parts, self.topics.windows):
            self._log[TopicPartition(topic, 0)] = []
        self.published: dict[str, list[Outgoing]] = {
            topic: []
            for topic in (
                self.topics.parts,
                self.topics.windows,
                self.topics.drift,
                self.topics.retrain,
            )
        }
        self._committed: dict[TopicPartition, Committed] = {}
        self.workers = [Worker(stream, packages, reports, state) for _ in range(workers)]
        self.assign({partition: n % workers for n, partition in enumerate(self.partitions)})

    @property
    def partitions(self) -> list[TopicPartition]:
        """All partitions that are read, in a fixed order."""
        return sorted(self._log)

    @property
    def monitor(self) -> MonitorHandler:
        """The monitor, if there is only one worker."""
        (worker,) = self.workers
        return worker.monitor

    # ---- actions of the loop --------------------------------------------------------------------

    def deliver(self, partition: TopicPartition, count: int) -> bool:
        """Deliver the next records of a partition; return whether there were any."""
        return self.deliver_together([(partition, count)])

    def deliver_together(self, counts: Iterable[tuple[TopicPartition, int]]) -> bool:
        """Deliver one batch of several partitions to each owner; return whether there was any."""
        batches: dict[int, list[Message]] = {}
        for partition, count in counts:
            owner = self._owner[partition]
            begin = self.workers[owner].position[partition]
            own = self._log[partition][begin : begin + count]
            if own:
                self.workers[owner].position[partition] = own[-1].offset + 1
                batches.setdefault(owner, []).extend(own)
        for owner, batch in batches.items():
            worker = self.workers[owner]
            worker.pending.extend(worker.monitor.handle(batch))
            self.turn(owner)
        return bool(batches)

    def turn(self, number: int = 0) -> bool:
        """Call a worker's periodic callback; return whether it had any output."""
        output = self.workers[number].monitor.on_tick()
        self.workers[number].pending.extend(output)
        return bool(output)

    def commit(self, number: int = 0) -> bool:
        """Commit the output and offsets of a worker; return whether there was any output."""
        worker = self.workers[number]
        offsets = worker.monitor.offsets_to_commit()
        assert offsets.keys() <= worker.position.keys()
        for partition, position in worker.position.items():
            self._committed[partition] = offsets.get(partition, Committed(position))
        for record in worker.pending:
            self.published[record.topic].append(record)
            own = self._log.get(TopicPartition(record.topic, 0))
            if own is not None:
                own.append(
                    Message(record.topic, 0, len(own), record.key, record.value, record.headers)
                )
        published, worker.pending = bool(worker.pending), []
        worker.monitor.on_committed()
        return published

    def kill(self, number: int = 0) -> None:
        """Lose everything since the last commit; the next monitor resumes from there."""
        self.workers[number] = Worker(self._stream, self._packages, self._reports, self._state)
        self._resume(number, [p for p, owner in self._owner.items() if owner == number])

    def restart(self, stream: Stream) -> None:
        """Restart all workers with another stream file."""
        self._stream = stream
        for number in range(len(self.workers)):
            self.kill(number)

    def abort(self, number: int = 0) -> None:
        """Lose everything since the last commit; the same monitor resumes from there."""
        self.rebalance([p for p, owner in self._owner.items() if owner == number])

    def rebalance(self, partitions: list[TopicPartition]) -> None:
        """Revoke partitions, which loses their uncommitted output, and assign them again."""
        for number in {self._owner[partition] for partition in partitions}:
            own = [partition for partition in partitions if self._owner[partition] == number]
            self.workers[number].monitor.on_revoked(own)
            self._resume(number, own)

    def assign(self, owners: Mapping[TopicPartition, int]) -> None:
        """Assign all partitions anew; uncommitted output is lost."""
        for worker in self.workers:
            worker.monitor.on_revoked(sorted(worker.position))
            worker.position.clear()
        self._owner = dict(owners)
        for number in range(len(self.workers)):
            self._resume(number, [p for p in self.partitions if owners[p] == number])

    def drain(self) -> None:
        """Deliver all remaining records, with commits in between."""
        busy = True
        while busy:
            busy = False
            for partition in self.partitions:
                busy = self.deliver(partition, 1000) or busy
            for number in range(len(self.workers)):
                busy = self.turn(number) or busy
                busy = self.commit(number) or busy

    def _resume(self, number: int, partitions: list[TopicPartition]) -> None:
        worker = self.workers[number]
        resume = {p: self._committed.get(p, Committed(0)) for p in partitions}
        starts = worker.monitor.on_assigned(resume) or {}
        worker.position |= {p: starts.get(p, at.offset) for p, at in resume.items()}
        worker.pending = []

    # ---- published events -----------------------------------------------------------------------

    def windows(self) -> list[WindowsEvent]:
        """Return the events in `windows`."""
        own = self.published[self.topics.windows]
        return [windows_decoder.decode(record.value or b"") for record in own]

    def drift(self) -> list[DriftEvent]:
        """Return the events in `drift`."""
        return [drift_decoder.decode(r.value or b"") for r in self.published[self.topics.drift]]

    def requests(self) -> list[RetrainRequest]:
        """Return the requests in `retrain`."""
        found = [
            retrain_decoder.decode(r.value or b"") for r in self.published[self.topics.retrain]
        ]
        return [event for event in found if isinstance(event, RetrainRequest)]


def play(
    stream: Stream, packages: Packages, log: Mapping[tuple[str, int], list[Message]]
) -> Driver:
    """Let one monitor read everything without interruption."""
    driver = Driver(stream, packages, log)
    driver.drain()
    return driver
