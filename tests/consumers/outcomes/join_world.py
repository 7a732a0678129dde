"""Predictions and labels of one partition, a join that reads them, and the expected results."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
from hypothesis import strategies as st

from consumers.outcomes.handler import OutcomesHandler
from driftline.broker.port import Committed, Message, Outgoing, OutgoingBatch, TopicPartition
from driftline.clock import ManualClock
from driftline.config.stream import loads
from driftline.errors import StateLost
from driftline.runtime.handler import GroupProgress, Output
from driftline.wire.envelope import dead_letter_origin, encode, outcomes_decoder
from driftline.wire.events import Outcome, Prediction, Source

HORIZON = 10
STREAM = loads(
    f"""
    version = 1
    name = "s"
    task = "classification"
    target = "y"
    features = {{ x = "number" }}
    labels = {{ horizon = {HORIZON} }}
    """
)
PREDICTIONS = TopicPartition("s.predictions", 0)
LABELS = TopicPartition("s.labels", 0)
END = 1_000  # a position so large that everything before it leaves the join window

Found = tuple[int, str, int]  # source offset of the prediction, label, revision


class Label(msgspec.Struct, frozen=True):
    """A published label: its row, its value, and its `@at`."""

    row: int
    value: str
    at: int | None
    place: int  # labels are published in this order


class Log(msgspec.Struct, frozen=True):
    """The content of the two partitions: rows in order, some delivered twice, and labels."""

    rows: tuple[int, ...]
    labels: tuple[Label, ...]

    def messages(self) -> dict[TopicPartition, list[Message]]:
        return {
            PREDICTIONS: [
                Message(*PREDICTIONS, offset, None, prediction(row))
                for offset, row in enumerate(self.rows)
            ],
            LABELS: [
                Message(*LABELS, offset, None, _label(label))
                for offset, label in enumerate(self.labels)
            ],
        }

    def outcomes(self) -> list[Found]:
        """Return the expected outcomes: records with the labels in their join window."""
        found: list[Found] = []
        for row in sorted(set(self.rows)):
            values: list[str] = []
            for label in self.labels:
                near = label.at is None or abs(label.at - row) <= HORIZON
                if label.row == row and near and values[-1:] != [label.value]:
                    found.append((row, label.value, len(values)))
                    values.append(label.value)
        return sorted(found)

    def rejected(self) -> list[int]:
        """Return the offsets of labels that do not belong to any record."""
        return [
            offset
            for offset, label in enumerate(self.labels)
            if label.row not in self.rows
            or (label.at is not None and abs(label.at - label.row) > HORIZON)
        ]


@st.composite
def logs(draw: st.DrawFn, *, most: int = 25) -> Log:
    """Draw rows with gaps, redeliveries as after a kill of inference, and labels.

    Labels may be early, late, of unknown records, repeated or changed, with or without `@at`. They
    are in the order in which they were published.
    """
    gaps = draw(st.lists(st.sampled_from([1, 1, 1, 2, 7, 15]), min_size=1, max_size=most))
    rows = [sum(gaps[: place + 1]) for place in range(len(gaps))]
    delivered = list(rows)
    if draw(st.booleans()):
        cut = draw(st.integers(1, len(rows)))
        back = draw(st.integers(0, cut))
        delivered = rows[:cut] + rows[back:]
    labels = []
    for row, delay, value, kind in draw(
        st.lists(
            st.tuples(
                st.sampled_from([*rows, *rows, 3, rows[-1] + 1]),
                st.integers(-HORIZON - 2, HORIZON + 4),
                st.sampled_from("ab"),
                st.booleans(),
            ),
            max_size=most,
        )
    ):
        # A label without `@at` counts as known at its record, so it cannot be published earlier.
        says = kind or not 0 <= delay <= HORIZON
        labels.append(Label(row, value, row + delay if says else None, row + delay))
    labels.sort(key=lambda label: label.place)
    labels = [label for label in labels if label.at is None or label.at >= 0]
    return Log(tuple(delivered), tuple(labels))


class Join:
    """Reads a log as the loop would, with transactions, aborts and kills. The cache may be damaged.

    At the end, both topics get records far ahead, so that all earlier ones leave the join window.
    """

    def __init__(self, log: Log, state: Path | None = None, memory_records: int = 3) -> None:
        self.log = log.messages()
        self.clock = ManualClock()
        self.published: list[Outgoing | OutgoingBatch] = []
        self.reread = 0
        self.losses = 0
        self._state = state
        self._memory_records = memory_records
        self._committed: Mapping[TopicPartition, Committed] = {
            PREDICTIONS: Committed(0),
            LABELS: Committed(0),
        }
        self._positions: dict[TopicPartition, int] = {}
        self._pending: list[Outgoing | OutgoingBatch] = []
        self._furthest = dict.fromkeys(self.log, 0)
        self._begin()

    def _begin(self) -> None:
        self.handler = OutcomesHandler(
            STREAM, self.clock, state=self._state, memory_records=self._memory_records
        )
        self._assign()

    def _assign(self) -> None:
        starts = self.handler.on_assigned(self._committed)
        self._positions = {p: at.offset for p, at in self._committed.items()} | dict(starts or {})
        self._pending = []

    def left(self) -> list[TopicPartition]:
        """Return the partitions with unread records."""
        return [p for p, log in self.log.items() if self._positions[p] < len(log)]

    def read(self, partition: TopicPartition, count: int) -> None:
        """Do a step of the loop; after a loss of state, abort, to repeat uncommitted work."""
        position = self._positions[partition]
        messages = self.log[partition][position : position + count]
        try:
            if messages:
                self.reread += max(0, min(self._furthest[partition] - position, len(messages)))
                self._pending.extend(self.handler.handle(messages))
            self._positions[partition] = position + len(messages)
            self._furthest[partition] = max(self._furthest[partition], position + len(messages))
            self._pending.extend(self.handler.on_tick())
        except StateLost:
            self.losses += 1
            self.abort()

    def tick(self) -> None:
        """Do a step of the loop without records."""
        try:
            self._pending.extend(self.handler.on_tick())
        except StateLost:
            self.losses += 1
            self.abort()

    def report_progress(self) -> None:
        ends = {p: len(log) for p, log in self.log.items()}
        self.handler.on_group_progress(GroupProgress(dict(self._positions), ends, dict))

    def commit(self) -> None:
        self._committed = dict(self.handler.offsets_to_commit())
        self.published.extend(self._pending)
        self._pending = []
        try:
            self.handler.on_committed()
        except StateLost:
            self.losses += 1
            self.abort()

    def abort(self) -> None:
        """Abort the transaction after the handler has returned its offsets to commit."""
        self.handler.offsets_to_commit()
        self.handler.on_revoked(list(self.log))
        self._assign()

    def stop(self) -> None:
        """Stop the worker cleanly and start it again."""
        self.commit()
        self.handler.close()
        self._begin()

    def kill(self) -> None:
        """Kill the process, so that it writes nothing more, and start it again."""
        for join in self.handler._joins.values():
            if join._spill._cache is not None:
                join._spill._cache.close()
        self._begin()

    @property
    def folder(self) -> Path:
        assert self._state is not None
        return self._state / "0"

    def kill_and_lose(self, how: str) -> None:
        """Kill the process, delete or damage its cache, and start it again."""
        for join in self.handler._joins.values():
            if join._spill._cache is not None:
                join._spill._cache.close()
        if how == "gone":
            shutil.rmtree(self.folder)
        else:
            (self.folder / "CURRENT").write_text("junk")
        self._begin()

    def kill_and_restore(self, copy: Path) -> None:
        """Kill the process and restore an older copy of its cache; if there is none, make one."""
        for join in self.handler._joins.values():
            if join._spill._cache is not None:
                join._spill._cache.close()
        if copy.exists():
            shutil.rmtree(self.folder)
            shutil.copytree(copy, self.folder)
        else:
            shutil.copytree(self.folder, copy)
        self._begin()

    def finish(self) -> None:
        """Read to the end and let time pass twice, without a loss of state in between.

        After a loss of state, a label without a position starts to wait again.
        """
        place, passed = 0, 0
        while passed < 2:
            place, losses = place + END, self.losses
            self.log[PREDICTIONS].append(
                Message(*PREDICTIONS, len(self.log[PREDICTIONS]), None, prediction(place))
            )
            label = _label(Label(place, "a", place, place))
            self.log[LABELS].append(Message(*LABELS, len(self.log[LABELS]), None, label))
            while left := self.left():
                self.read(left[0], 100)
            for _ in range(3):
                self.report_progress()
                self.tick()
                while left := self.left():
                    self.read(left[0], 100)
            passed = passed + 1 if losses == self.losses else 0
        self.commit()
        self.handler.close()

    def outcomes(self) -> list[Found]:
        """Return the published outcomes as source offset, label and revision."""
        events = [
            outcomes_decoder.decode(value)
            for item in self.published
            if isinstance(item, OutgoingBatch)
            for value in item.values
        ]
        return sorted(
            (event.source.offset, str(event.label), event.revision)
            for event in events
            if isinstance(event, Outcome) and event.source.offset < END
        )

    def rejected(self) -> list[int]:
        """Return the offsets of the labels that became dead letters."""
        letters = [item for item in self.published if isinstance(item, Outgoing)]
        return sorted(
            dead_letter_origin(Message(o.topic, 0, 0, o.key, o.value, o.headers)).offset
            for o in letters
        )


def drive(
    join: Join,
    data: st.DataObject,
    actions: list[str],
    *,
    copy: Path | None = None,
    readable: Callable[[Join], list[TopicPartition]] = Join.left,
) -> None:
    """Do some of these actions in any order while there is something `readable`, then finish.

    copy: the folder for an older copy of the cache.
    """
    for _ in range(60):
        if not (partitions := readable(join)):
            break
        match data.draw(st.sampled_from(actions)):
            case "read":
                join.read(data.draw(st.sampled_from(partitions)), data.draw(st.integers(1, 6)))
            case "look":
                join.report_progress()
            case "commit":
                join.commit()
            case "abort":
                join.abort()
            case "kill":
                join.kill()
            case "stop":
                join.stop()
            case "lose":
                join.kill_and_lose(data.draw(st.sampled_from(["gone", "junk"])))
            case _:
                assert copy is not None
                join.kill_and_restore(copy)
    join.finish()


def single(output: Output) -> list[Outgoing]:
    """Return the output with batches split into records."""
    return [
        record
        for item in output
        for record in (
            [item]
            if isinstance(item, Outgoing)
            else [
                Outgoing(item.topic, value, key, item.partition)
                for key, value in zip(item.keys, item.values, strict=True)
            ]
        )
    ]


def prediction(row: int, partition: int = 0) -> bytes:
    return encode(
        Prediction(
            record_id=str(row),
            time=None,
            row=row,
            prediction="a",
            scores=None,
            model="sha256:1",
            source=Source("s.features", partition, row),
            record=msgspec.Raw(b'{"x":1}'),
        )
    )


def _label(label: Label) -> bytes:
    at = {} if label.at is None else {"@at": label.at}
    return msgspec.json.encode({"@row": label.row, "y": label.value} | at)
