"""A stream after a change upstream, on the in-memory broker: everything becomes a dead letter."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from driftline.broker.memory import MemoryBroker
from driftline.broker.port import Outgoing
from driftline.broker.scan import ranges, scan
from driftline.clock import ManualClock
from driftline.config.settings import load_settings
from driftline.config.stream import loads
from driftline.ops.doctor import Check, check_broker
from driftline.wire.envelope import drift_decoder
from driftline.wire.events import DriftEvent
from driftline.wire.topics import Topics, apply
from driftline_app.assembly import build_handler, build_loop
from trainer.first import train_first

STREAM = loads(
    """
    version = 1
    name = "odd"
    task = "classification"
    target = "y"
    record = { id = "id" }
    time = { column = "t" }
    features = { a = "number" }
    windows = { span = "1h", min_records = 20 }
    labels = { horizon = "2h" }
    retrain = { policy = "never" }
    models = { candidates = ["decision_tree"], tune = false }
    kafka = { partitions = 2 }
    """
)
START = datetime(2025, 3, 1, tzinfo=UTC)
DELAY = 5  # a label is known after this many records
Values = dict[str, Any]


def record(row: int) -> Values:
    return {"id": f"r{row}", "a": row % 10, "t": (START + timedelta(minutes=row)).isoformat()}


def label(row: int) -> Values:
    value = "no" if row % 10 < 5 else "yes"
    return {"id": f"r{row}", "y": value, "@at": record(row + DELAY)["t"]}


def renamed(column: str) -> Callable[[Values], Values]:
    """Return a function that renames a column."""
    return lambda values: {f"{k}_new" if k == column else k: v for k, v in values.items()}


class Site:
    """All services of one stream, stepped in a fixed order. It is no live stream."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, home: str) -> None:
        monkeypatch.setenv("DRIFTLINE_HOME", home)
        self._settings = settings = load_settings()
        self._clock = ManualClock(946_684_800.0)
        self._broker = MemoryBroker(self._clock)
        self._topics = Topics(STREAM)
        apply(self._broker.admin(), self._topics)
        self._producer = self._broker.producer(client_id="test")
        rows = range(-500, -100)
        first = train_first(
            STREAM,
            [json.dumps(record(row)).encode() for row in rows],
            [label(row)["y"] for row in rows],
            settings=settings,
            clock=self._clock,
            progress=lambda *_: None,
        )
        for sent in first.records:
            self._producer.send(sent)
        self._loops = [
            build_loop(
                service,
                STREAM,
                self._broker,
                build_handler(
                    service, STREAM, settings, self._broker, self._clock, synchronous=True
                ),
                clock=self._clock,
                commit_interval_s=0.0,
            )
            for service in ("inference", "outcomes", "monitor")
        ]

    def feed(
        self,
        rows: range,
        change_record: Callable[[Values], Values] = dict,
        change_label: Callable[[Values], Values] = dict,
    ) -> None:
        """Send records and labels, 30 records a second."""
        for row in rows:
            self._send(self._topics.features, change_record(record(row)))
            if row - DELAY >= rows.start:
                self._send(self._topics.labels, change_label(label(row - DELAY)))
            if row % 30 == 29:
                self.settle()

    def settle(self, seconds: float = 1.0) -> None:
        """Let all services read everything."""
        self._producer.flush()
        self._clock.advance(seconds)
        while sum(loop.step(0) for loop in self._loops):
            pass

    def drift(self) -> Iterator[DriftEvent]:
        for batch in scan(self._broker, ranges(self._broker, [self._topics.drift])):
            for message in batch:
                yield drift_decoder.decode(message.value or b"")

    def rejected(self) -> list[Check]:
        """Return what the doctor finds about rejected records."""
        settings = msgspec.structs.replace(self._settings, client="memory")
        checks = check_broker(settings, self._broker, STREAM)
        return [check for check in checks if check.name == "rejected records"]

    def _send(self, topic: str, values: Values) -> None:
        key = str(values.get("id")).encode()
        self._producer.send(Outgoing(topic, json.dumps(values).encode(), key))


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(monkeypatch, str(tmp_path_factory.mktemp("home")))


@pytest.mark.parametrize("column", ["y", "id"])
def test_renamed_columns_of_labels_open_a_quality_event(site: Site, column: str) -> None:
    site.feed(range(180))
    site.feed(range(180, 540), change_label=renamed(column))
    (event,) = site.drift()
    assert (event.kind, event.action) == ("quality", "opened")
    assert "of the labels became dead letters" in event.message


def test_the_doctor_reports_records_without_readable_times(site: Site) -> None:
    site.feed(range(180))
    assert [check.result for check in site.rejected()] == ["ok"]
    site.feed(range(180, 360), change_record=renamed("t"))
    assert not list(site.drift())  # no window closes, because no time is known
    assert [check.found for check in site.rejected()] == [
        f"the last 50 records of partition {partition} were all rejected: "
        "missing time: column 't' is null or absent"
        for partition in range(2)
    ]
