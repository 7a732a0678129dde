"""Wraps a service's handler so that people can see what it does: state file, counts, log lines.

In: any handler. Out: the same handler to the loop. It changes nothing that is handled or published.
"""

import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from driftline.broker.port import Committed, Message, Outgoing, OutgoingBatch, TopicPartition
from driftline.cli.lines import line
from driftline.clock import Clock
from driftline.handler import GroupView, Handler, Output
from driftline.processes import ServiceState, State, born, write_state
from driftline.topics import Role, Service, Topics

log = logging.getLogger(__name__)

# Often enough for a person who watches, rare enough to cost nothing.
_WRITE_EVERY_S = 1.0
# What is rare enough to be worth a line each; dead letters are counted.
_TOLD: tuple[Role, ...] = ("drift", "retrain", "models")


class Watched:
    """A handler that is watched. See `driftline.handler.Handler` for what each method owes."""

    def __init__(
        self,
        handler: Handler,
        service: Service,
        topics: Topics,
        *,
        clock: Clock,
        slot: int,
        folder: Path,
    ) -> None:
        self._handler = handler
        self._roles: dict[str, Role] = {topic.name: topic.role for topic in topics.plan()}
        self._clock = clock
        self._folder = folder
        self._published: Counter[str] = Counter()
        self._consumed = 0
        self._lag: dict[TopicPartition, int] = {}
        self._partitions: set[TopicPartition] = set()
        self._joined = False
        self._written_s = clock.monotonic()
        now = self._now()
        pid = os.getpid()
        self._state = ServiceState(
            service=service,
            slot=slot,
            pid=pid,
            born=born(pid) or "unknown",
            state="starting",
            started=now,
            updated=now,
        )
        write_state(folder, self._state)

    @property
    def inputs(self) -> tuple[str, ...]:
        return self._handler.inputs

    @property
    def follows(self) -> tuple[str, ...]:
        return self._handler.follows

    def held_back(self, assigned: frozenset[TopicPartition]) -> frozenset[TopicPartition]:
        return self._handler.held_back(assigned)

    def follow(self, messages: Sequence[Message]) -> Output:
        return self._note(self._handler.follow(messages))

    def assigned(
        self, resume: Mapping[TopicPartition, Committed]
    ) -> Mapping[TopicPartition, int] | None:
        self._partitions |= resume.keys()
        self._joined = True
        log.info("%d partitions assigned", len(self._partitions))
        return self._handler.assigned(resume)

    def revoked(self, partitions: Sequence[TopicPartition]) -> None:
        self._partitions.difference_update(partitions)
        self._lag = {}
        self._handler.revoked(partitions)

    def handle(self, messages: Sequence[Message]) -> Output:
        self._consumed += len(messages)
        return self._note(self._handler.handle(messages))

    def look(self, view: GroupView) -> None:
        self._lag = dict(view.lags)
        self._handler.look(view)

    def tick(self) -> Output:
        output = self._note(self._handler.tick())
        if (
            self._clock.monotonic() - self._written_s >= _WRITE_EVERY_S
            or self._current() != self._state.state
        ):
            self.write(self._current())
        return output

    def holds(self) -> Mapping[TopicPartition, Committed]:
        return self._handler.holds()

    def close(self) -> None:
        self._handler.close()

    def write(self, state: State, *, error: str | None = None) -> None:
        """Write the state file now."""
        if state != self._state.state:
            log.info("%s", state)
        self._written_s = self._clock.monotonic()
        self._state = msgspec.structs.replace(
            self._state,
            state=state,
            updated=self._now(),
            partitions=len(self._partitions),
            consumed=self._consumed,
            lag=sum(self._lag.values()),
            published={self._roles.get(topic, topic): n for topic, n in self._published.items()},
            # Only inference has these two.
            model=getattr(self._handler, "model", None),
            refused=dict(getattr(self._handler, "refused", {})),
            error=error,
        )
        write_state(self._folder, self._state)

    def _current(self) -> State:
        if not self._joined:
            return "starting"
        if self._state.service == "inference" and getattr(self._handler, "model", None) is None:
            return "waiting for a model"
        return "running"

    def _note(self, output: Output) -> Output:
        if output:
            counts: Counter[str] = Counter()
            for record in output:
                counts[record.topic] += (
                    len(record.values) if isinstance(record, OutgoingBatch) else 1
                )
            self._published += counts
            if any(self._roles.get(topic) in _TOLD for topic in counts):
                self._tell(output)
        return output

    def _tell(self, output: Output) -> None:
        for record in output:
            role = self._roles.get(record.topic)
            if role in _TOLD and isinstance(record, Outgoing):
                message = Message(record.topic, 0, 0, record.key, record.value, record.headers)
                log.info("%s: %s", role, line(role, message))

    def _now(self) -> str:
        moment = datetime.fromtimestamp(self._clock.time(), UTC)
        return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
