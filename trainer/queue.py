"""The retrain requests that the trainer has read and not decided.

Input: the events of the `retrain` topic, in order. Output: the request to process next. This module
performs no I/O.
"""

from collections.abc import Mapping, Sequence

from driftline.broker.port import Committed, Message, TopicPartition
from driftline.wire.commit_metadata import metadata_of
from driftline.wire.events import ComparisonStarted, RetrainDecision, RetrainEvent
from trainer.work import Asked, Held, Work, outdates


class RequestQueue:
    """Undecided requests, in the order in which they were read."""

    def __init__(self) -> None:
        self._waiting: list[Asked] = []  # `add` adds requests, `next` removes them
        self._decided: set[str] = set()  # ids of decided requests
        self._started: dict[str, ComparisonStarted] = {}  # by the request's id
        self._resumed: Mapping[TopicPartition, Committed] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    @property
    def first(self) -> Asked:
        """Return the oldest request. There must be one."""
        return self._waiting[0]

    def resume(self, committed: Mapping[TopicPartition, Committed]) -> None:
        """Use these checkpoints to count the attempts of requests."""
        self._resumed = dict(committed)

    def clear(self) -> None:
        """Forget all events."""
        self._waiting, self._decided, self._started = [], set(), {}

    def add(self, events: Sequence[tuple[Message, RetrainEvent]]) -> None:
        """Add a batch of the topic's events."""
        asked = []
        for message, event in events:
            if isinstance(event, RetrainDecision):
                self._decided.add(event.request)
            elif isinstance(event, ComparisonStarted):
                self._started[event.request] = event
            else:
                partition = TopicPartition(message.topic, message.partition)
                asked.append(Asked(event, partition, message.offset))
        self._waiting += [item for item in asked if item.request.id not in self._decided]

    def decided(self, request: str) -> None:
        """Remember that a request is decided."""
        self._decided.add(request)
        self._started.pop(request, None)

    def started(self, request: str) -> ComparisonStarted | None:
        """Return the start of a request's comparison, or None if it has not started."""
        return self._started.get(request)

    def may_begin(self, current: Work | None) -> bool:
        """Return whether the next request may begin, and replace the current one if there is one.

        A training is never interrupted. A comparison is interrupted only if it is outdated.
        """
        if not self._waiting or current is None:
            return bool(self._waiting)
        if current.comparison is None:
            return current.wait is not None
        return any(outdates(item.request, current.asked.request) for item in self._waiting)

    def next(self, current: Work | None) -> tuple[list[Asked], Asked]:
        """Remove and return the requests that are replaced, and the request to process.

        That is the newest request or, after a restart, one whose comparison an earlier process has
        started, unless a later request outdates it.
        """
        place = len(self._waiting) - 1
        if current is None:
            place = next(filter(self._continues, range(place)), place)
        replaced, newest = self._waiting[:place], self._waiting[place]
        self._waiting = self._waiting[place + 1 :]
        return ([] if current is None else [current.asked]) + replaced, newest

    def _continues(self, place: int) -> bool:
        """Return whether a request's comparison has started, and no later request outdates it."""
        request, later = self._waiting[place].request, self._waiting[place + 1 :]
        return request.id in self._started and not any(
            outdates(newer.request, request) for newer in later
        )

    def attempt(self, asked: Asked) -> int:
        """Return the number of the training attempt that begins."""
        committed = self._resumed.get(asked.partition, Committed(0))
        held = metadata_of(committed, Held) if committed.offset == asked.offset else None
        return 1 if held is None else held.attempt + 1
