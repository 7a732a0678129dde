"""Read the event and model topics, and link each event to its causes and effects.

Input: the topics `drift`, `retrain`, `models` and `windows`, each read once. Output: `Node` trees
with causes and effects. Records, predictions, labels and outcomes are not read. Causes lead to
effects in this order:

windows → drift event → retrain request → decision → model → pointer
"""

from collections import defaultdict
from collections.abc import Iterator
from typing import Literal

import msgspec

from driftline.broker.port import Broker, Message
from driftline.broker.scan import ranges, scan
from driftline.config.stream import Stream
from driftline.errors import DataError
from driftline.wire.envelope import (
    decode,
    decode_or_skip,
    drift_decoder,
    models_decoder,
    retrain_decoder,
)
from driftline.wire.events import (
    Count,
    DriftEvent,
    ModelAnnounced,
    Position,
    RetrainDecision,
    RetrainRequest,
    RolePointer,
)
from driftline.wire.topics import Topics
from driftline.wire.values import moment_of

Kind = Literal[
    "record", "prediction", "outcome", "label", "dead letter",
    "window", "drift", "request", "decision", "model", "pointer",
]  # fmt: skip


class Node(msgspec.Struct, frozen=True):
    """One event, record or model, with a description, its causes and its effects."""

    kind: Kind
    id: str
    text: str
    causes: tuple["Node", ...] = ()
    effects: tuple["Node", ...] = ()


class History:
    """A stream's windows, drift events, requests, decisions, models and pointers, by id."""

    def __init__(self, broker: Broker, stream: Stream, *, also_window: str = "") -> None:
        """Read the topics. Raises BrokerError.

        A stream can have many windows, so only the windows that caused drift events are stored,
        and the window with the id `also_window`.
        """
        topics = Topics(stream)
        self._by_row = stream.axis == "row"
        self._drift: dict[str, list[DriftEvent]] = defaultdict(list)
        self._requests: dict[str, RetrainRequest] = {}
        self._decisions: dict[str, RetrainDecision] = {}
        self._models: dict[str, ModelAnnounced] = {}
        self._pointers: dict[str, RolePointer] = {}
        names = [topics.drift, topics.retrain, topics.models]
        for messages in scan(broker, ranges(broker, names)):
            for message in messages:
                self._add(topics, message)
        wanted = {w for events in self._drift.values() for event in events for w in event.windows}
        self._windows = {
            window.id: window for window in _windows(broker, topics, {*wanted, also_window})
        }

    def _add(self, topics: Topics, message: Message) -> None:
        if message.value is None:
            return
        if message.topic == topics.drift:
            if (drift := decode_or_skip(drift_decoder, message)) is not None:
                self._drift[drift.id].append(drift)
            return
        if message.topic == topics.retrain:
            match decode_or_skip(retrain_decoder, message):
                case RetrainRequest() as request:
                    self._requests[request.id] = request
                case RetrainDecision() as decision:
                    self._decisions[decision.id] = decision
            return
        try:
            event = decode(models_decoder, message)
        except DataError:
            return  # an unreadable record; inference turns it into a dead letter
        match event:
            case ModelAnnounced() as model:
                self._models[model.digest] = model
            case RolePointer() as pointer:
                self._pointers[pointer.id] = pointer

    def nodes(self, id: str) -> Iterator[Node]:
        """Yield each event or model with this id, with its causes and effects."""
        if id in self._drift:
            yield self.drift(id, causes=True, effects=True)
        if id in self._requests:
            yield self.request(id, causes=True, effects=True)
        if id in self._decisions:
            yield self.decision(self._decisions[id], causes=True, effects=True)
        if id in self._pointers:
            yield self.pointer(self._pointers[id], causes=True)
        if id in self._windows:
            yield self.window(id, effects=True)
        digest = id if id.startswith("sha256:") else f"sha256:{id}"
        # Accept the beginning of a digest if it has at least 8 characters. A shorter id may be a
        # row number.
        if id.startswith("sha256:") or len(id) >= 8:
            for known in sorted(self._models):
                if known.startswith(digest):
                    yield self.model(known, causes=True, effects=True)

    def window(self, id: str, *, effects: bool = False) -> Node:
        """Return a window's node. With `effects`, add the drift events that the window caused."""
        known = self._windows.get(id)
        if known is None:
            return Node("window", id, "no longer in the topic")
        words = {
            "data_window": "data",
            "performance_window": "performance",
            "performance_pane": "performance pane",
        }
        start, end = self._position(known.start), self._position(known.end)
        description = f"{words.get(known.type, known.type)}, {start} to {end}"
        if known.records:
            description += f", {known.records} records"
        if known.value is not None:
            description += f", metric {known.value:.4g}"
        led = [e for e, events in self._drift.items() if any(id in x.windows for x in events)]
        return Node(
            "window",
            id,
            description,
            effects=tuple(self.drift(e, effects=True) for e in led) if effects else (),
        )

    def drift(self, id: str, *, causes: bool = False, effects: bool = False) -> Node:
        """Return a drift event's node, with its causes and effects if requested."""
        events = self._drift.get(id)
        if not events:
            return Node("drift", id, "not in the topic")
        first, last = events[0], events[-1]
        description = f"{first.kind}: {first.message} (opened at {self._position(first.position)}"
        description += (
            f", resolved at {self._position(last.position)})" if last.action == "resolved" else ")"
        )
        windows = dict.fromkeys(window for event in events for window in event.windows)
        led = [request for request in self._requests.values() if id in request.caused_by]
        return Node(
            "drift",
            id,
            description,
            causes=tuple(self.window(window) for window in windows) if causes else (),
            effects=tuple(self.request(r.id, effects=True) for r in led) if effects else (),
        )

    def request(self, id: str, *, causes: bool = False, effects: bool = False) -> Node:
        """Return a retrain request's node, with its causes and effects if requested."""
        known = self._requests.get(id)
        if known is None:
            return Node("request", id, "not in the topic")
        at = "" if known.position is None else f", at {self._position(known.position)}"
        led = [decision for decision in self._decisions.values() if decision.request == id]
        return Node(
            "request",
            id,
            f"{known.cause}: {known.reason}{at}",
            causes=tuple(self.drift(e, causes=True) for e in known.caused_by) if causes else (),
            effects=tuple(self.decision(d, effects=True) for d in led) if effects else (),
        )

    def decision(
        self, decision: RetrainDecision, *, causes: bool = False, effects: bool = False
    ) -> Node:
        """Return a decision's node, with its causes and effects if requested."""
        outcome = (
            "promoted" if decision.promoted else "published" if decision.published else "no model"
        )
        return Node(
            "decision",
            decision.id,
            f"{outcome}: {decision.reason}",
            causes=(self.request(decision.request, causes=True),) if causes else (),
            effects=(self.model(decision.model, effects=True),)
            if effects and decision.model and (decision.published or decision.promoted)
            else (),
        )

    def model(
        self,
        digest: str,
        *,
        request: str | None = None,
        causes: bool = False,
        effects: bool = False,
    ) -> Node:
        """Return a model's node, with its causes and effects if requested.

        The causes are the decisions that chose the model. A model can have several causes, because
        it can be promoted more than once. With `request`, only decisions on that request are
        included.
        """
        known = self._models.get(digest)
        if known is None:
            return Node("model", digest, "not announced in the topic")
        description = (
            f"{known.candidate}, {known.metric} {known.value:.4g}, trained {known.trained_at}"
        )
        why: tuple[Node, ...] = ()
        if causes:
            why = tuple(
                self.decision(decision, causes=True)
                for decision in self._decisions.values()
                if decision.model == digest and request in (None, decision.request)
            )
            if not why and known.cause is not None:
                why = (self.request(known.cause, causes=True),)
        led = [pointer for pointer in self._pointers.values() if pointer.digest == digest]
        return Node(
            "model",
            digest,
            description,
            causes=why,
            effects=tuple(self.pointer(pointer) for pointer in led) if effects else (),
        )

    def pointer(self, pointer: RolePointer, *, causes: bool = False) -> Node:
        """Return a pointer's node, with its causes if requested."""
        return Node(
            "pointer",
            pointer.id,
            f"{pointer.role} by {pointer.by} at {pointer.at}: {pointer.reason}",
            causes=(self.model(pointer.digest, request=pointer.cause, causes=True),)
            if causes
            else (),
        )

    def _position(self, position: int) -> str:
        if self._by_row:
            return f"row {position}"
        moment = moment_of(position)
        return f"{position} µs" if moment is None else moment.isoformat(timespec="seconds")


class _Window(msgspec.Struct, frozen=True):
    """The fields of a window or performance pane that appear in its `Node`."""

    type: str
    id: str
    start: Position
    end: Position
    records: Count = 0
    value: float | None = None


class _WindowId(msgspec.Struct, frozen=True):
    id: str


_window_id = msgspec.json.Decoder(_WindowId)
_window = msgspec.json.Decoder(_Window)


def _windows(broker: Broker, topics: Topics, wanted: set[str]) -> Iterator[_Window]:
    for messages in scan(broker, ranges(broker, [topics.windows])):
        for message in messages:
            found = decode_or_skip(_window_id, message)
            window = None
            if found is not None and found.id in wanted:
                window = decode_or_skip(_window, message)
            if window is not None:
                yield window
