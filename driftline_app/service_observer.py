"""Wrap the handlers of `driftline` service commands to count messages and write state files.

Input: any `Handler`. Output: a `Handler` for the loop. The wrapper also logs published events. It
changes neither the messages that the handler receives nor the messages that it publishes.
"""

import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from driftline.broker.port import Committed, Message, Outgoing, OutgoingBatch, TopicPartition
from driftline.clock import Clock, rfc3339
from driftline.ops.processes import ServiceState, State, born, write_state
from driftline.runtime.handler import GroupProgress, Handler, LogChange, Output
from driftline.wire.topics import Role, Service, Topics
from driftline_app.message_lines import line
from driftline_app.service_troubles import Troubles

log = logging.getLogger(__name__)

# Interval between writes of the state file: short enough for operators, long enough to be cheap.
_WRITE_EVERY_S = 1.0
# Log every message in these topics, because such messages are rare. Dead letters are only counted.
_LOGGED: tuple[Role, ...] = ("drift", "retrain", "models")


class ObservedHandler(Handler):
    """A handler that passes each call to another handler and observes the results.

    `count_members` returns how many workers the service has, and may raise BrokerError. It is
    called only while some partitions are not assigned to this worker.
    """

    def __init__(
        self,
        handler: Handler,
        service: Service,
        topics: Topics,
        *,
        clock: Clock,
        slot: int,
        folder: Path,
        stream_digest: str | None = None,
        count_members: Callable[[], int] | None = None,
    ) -> None:
        plan = topics.plan()
        self._handler = handler
        self._roles: dict[str, Role] = {topic.name: topic.role for topic in plan}
        self._clock = clock
        self._folder = folder
        self._published: Counter[str] = Counter()
        self._consumed = 0
        self._gaps = self._lost = 0
        self._lag: dict[TopicPartition, int] = {}
        self._partitions: set[TopicPartition] = set()
        self._paused: frozenset[TopicPartition] = frozenset()
        self._joined = False
        self._cannot_write = False  # whether the last attempt to write the state file failed
        self._written_s = clock.monotonic()
        now = self._now()
        self._troubles = Troubles(
            [topic.partitions for topic in plan if topic.name in handler.inputs],
            count_members,
            clock.monotonic,
        )
        pid = os.getpid()
        self._state = ServiceState(
            service=service,
            slot=slot,
            pid=pid,
            born=born(pid) or "unknown",
            state="starting",
            started=now,
            updated=now,
            stream_digest=stream_digest,
        )
        self._write()

    def on_connection(self, problem: str | None) -> None:
        """Record why Kafka is unavailable. If it is available, `problem` is None.

        Call this method after each attempt to connect.
        """
        self._troubles.note_connection(problem, self._now())
        self.write(self._current())

    @property
    def inputs(self) -> tuple[str, ...]:
        return self._handler.inputs

    @property
    def broadcast_topics(self) -> tuple[str, ...]:
        return self._handler.broadcast_topics

    def paused_partitions(self, assigned: frozenset[TopicPartition]) -> frozenset[TopicPartition]:
        self._paused = self._handler.paused_partitions(assigned)
        return self._paused

    def on_broadcast(self, messages: Sequence[Message]) -> Output:
        return self._count(self._handler.on_broadcast(messages))

    def on_assigned(
        self, resume: Mapping[TopicPartition, Committed]
    ) -> Mapping[TopicPartition, int] | None:
        self._partitions |= resume.keys()
        self._joined = True
        log.info("%d partitions assigned", len(self._partitions))
        return self._handler.on_assigned(resume)

    def on_revoked(self, partitions: Sequence[TopicPartition]) -> None:
        self._partitions.difference_update(partitions)
        self._lag = {}
        self._handler.on_revoked(partitions)

    def handle(self, messages: Sequence[Message]) -> Output:
        self._consumed += len(messages)
        return self._count(self._handler.handle(messages))

    def reject(self, message: Message, reason: str) -> Output:
        self._consumed += 1
        return self._count(self._handler.reject(message, reason))

    def on_group_progress(self, progress: GroupProgress) -> None:
        self._lag = dict(progress.lags)
        now = self._now()
        self._troubles.note_progress(progress.positions, self._lag, self._paused, now)
        self._troubles.note_partitions(len(self._partitions), now)
        self._handler.on_group_progress(progress)

    def on_log_change(self, change: LogChange) -> Output:
        if change.unread is not None:
            self._gaps += 1
            self._lost += 0 if change.is_new_topic else change.start - change.unread
        return self._count(self._handler.on_log_change(change))

    def on_tick(self) -> Output:
        output = self._count(self._handler.on_tick())
        if (
            self._clock.monotonic() - self._written_s >= _WRITE_EVERY_S
            or self._current() != self._state.state
        ):
            self.write(self._current())
        return output

    def offsets_to_commit(self) -> Mapping[TopicPartition, Committed]:
        return self._handler.offsets_to_commit()

    def on_committed(self) -> None:
        self._handler.on_committed()

    def close(self) -> None:
        self._handler.close()

    def write(self, state: State, *, error: str | None = None) -> None:
        """Write the state file now."""
        if state != self._state.state:
            log.info("%s", state)
        self._written_s = self._clock.monotonic()
        # Only the inference handler has the attributes `model`, `champion` and `rejected`.
        model: str | None = getattr(self._handler, "model", None)
        champion: str | None = getattr(self._handler, "champion", None)
        rejected: Mapping[str, str] = getattr(self._handler, "rejected", {})
        self._troubles.note_model(champion if model is None else None, self._now())
        self._state = msgspec.structs.replace(
            self._state,
            state=state,
            updated=self._now(),
            partitions=len(self._partitions),
            consumed=self._consumed,
            lag=sum(self._lag.values()),
            gaps=self._gaps,
            lost=self._lost,
            published={self._roles.get(topic, topic): n for topic, n in self._published.items()},
            problem=getattr(self._handler, "problem", None),  # set only by the outcomes handler
            model=model,
            rejected=dict(rejected),
            error=error,
            troubles=self._troubles.now(),
        )
        self._write()

    def _write(self) -> None:
        try:
            write_state(self._folder, self._state)
        except OSError as error:
            # Keep the service running: `driftline health` reports that the state file is outdated.
            if not self._cannot_write:
                log.warning(
                    "cannot write the state file, so `driftline health` will report this service "
                    "as unhealthy: %s",
                    error,
                )
            self._cannot_write = True
        else:
            self._cannot_write = False

    def _current(self) -> State:
        if self._troubles.waits_for_kafka:
            return "waiting for Kafka"
        if not self._joined:
            return "starting"
        if self._state.service == "inference" and getattr(self._handler, "model", None) is None:
            return "waiting for a model"
        return "running"

    def _count(self, output: Output) -> Output:
        if output:
            counts: Counter[str] = Counter()
            for record in output:
                counts[record.topic] += (
                    len(record.values) if isinstance(record, OutgoingBatch) else 1
                )
            self._published += counts
            if any(self._roles.get(topic) in _LOGGED for topic in counts):
                self._log_events(output)
        return output

    def _log_events(self, output: Output) -> None:
        for record in output:
            role = self._roles.get(record.topic)
            if role in _LOGGED and isinstance(record, Outgoing):
                message = Message(record.topic, 0, 0, record.key, record.value, record.headers)
                log.info("%s: %s", role, line(role, message))

    def _now(self) -> str:
        return rfc3339(self._clock.time())
