"""Record two small streams with the code of a commit, as a fixture for later versions.

In: an empty folder. Out: `<stream>.tar.xz` for each stream. `README.md` beside this file lists its
content. The private key is left out.

Run it from a checkout of the commit to record:

    PYTHONPATH=. python tests/compatibility/record.py FOLDER
"""

import contextlib
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np

from consumers.outcomes.handler import OutcomesHandler
from driftline.broker.memory import MemoryBroker
from driftline.broker.port import Outgoing
from driftline.clock import ManualClock
from driftline.config.settings import Settings, load_settings
from driftline.config.stream import Stream, loads
from driftline.models import catalog
from driftline.models.keys import Signer, Trusted
from driftline.models.load import ModelLoader
from driftline.models.signed import sign
from driftline.runtime.handler import Handler
from driftline.runtime.loop import Loop
from driftline.wire.envelope import rare
from driftline.wire.events import RetrainRequest, event_id
from driftline.wire.labels import LabelCodec
from driftline.wire.topics import SERVICES, Service, Topics, apply
from driftline.wire.values import format_time
from driftline_app.assembly import build_handler, build_loop
from monitor.decisions import snapshot
from monitor.service import MonitorHandler
from trainer.first import train_first

START_S = 1_767_225_600.0  # 2026-01-01T00:00:00Z
WARM_UP = 300
PLAYED = 800
UNREAD = 40  # sent after the services have stopped
TURN = 100
LABEL_DELAY = 60  # records
DRIFT_AT = 500
# Fewer than the records of a join window, so that the join writes to its cache.
MEMORY_RECORDS = 200

STREAM_FILES = {
    "rows": """version = 1
name = "rows"
task = "classification"
target = "sold"

[record]
id = "id"

[features]
price = { kind = "number", min = 0 }
size = "number"
colour = "category"

[derived]
per_size = "price / size"

[labels]
horizon = 500

[windows]
records = 200
min_records = 50

[retrain]
policy = "drift"
on = ["data", "performance"]
min_outcomes = 100
train_on = 400

[models]
candidates = ["logistic_regression", "decision_tree"]
tune = false

[kafka]
partitions = 2
""",
    "times": """version = 1
name = "times"
task = "regression"
target = "load"

[record]
id = "id"
key = "site"

[time]
column = "at"
format = "rfc3339"

[features]
heat = "number"
site = "category"

[labels]
horizon = "10m"

[windows]
span = "4m"
lateness = "5s"
min_records = 50

[retrain]
policy = "drift"
on = ["data", "performance"]
min_outcomes = 100
train_on = "10m"

[models]
candidates = ["linear_regression", "decision_tree"]
tune = false

[kafka]
partitions = 3
inference_delivery = "exactly_once"
""",
}


class Expected(msgspec.Struct, frozen=True):
    """Facts about the recording that tests compare with what later code finds."""

    champion: str  # digest
    frozen: bool
    clock_s: float  # the time of the services' clock at the end
    played: int  # feature records that the services have read, including unreadable ones
    unread: int  # feature records that were sent after the services had stopped


class Row(msgspec.Struct, frozen=True):
    """A record with its label."""

    id: str
    key: bytes
    key_value: str | None
    value: bytes
    label: str | float
    position: int


def rows(stream: Stream, first: int, count: int) -> Iterator[Row]:
    """Return rows `first` to `first + count`; they drift from DRIFT_AT on, after the warm-up."""
    for number in range(first, first + count):
        random = np.random.default_rng(number)
        drifted = number >= WARM_UP + DRIFT_AT
        if stream.name == "rows":
            price = round(float(random.normal(16 if drifted else 10, 2)), 2)
            size = round(float(random.uniform(1, 5)), 2)
            colour = ("red", "green", "blue")[int(random.integers(3))]
            sold = (price > (14 if drifted else 10)) != (colour == "red" and drifted)
            fields = {"id": f"r{number}", "@row": number, "price": price, "size": size}
            value = msgspec.json.encode(fields | {"colour": colour})
            yield Row(f"r{number}", f"r{number}".encode(), None, value, "yn"[not sold], number)
        else:
            at = round(START_S * 1e6) + number * 1_000_000
            heat = round(float(random.normal(30 if drifted else 20, 3)), 2)
            site = ("north", "south", "east", "west")[int(random.integers(4))]
            load = round((-heat if drifted else heat) + float(random.normal()), 2)
            value = msgspec.json.encode(
                {"id": f"t{number}", "at": format_time(at), "heat": heat, "site": site}
            )
            yield Row(f"t{number}", site.encode(), site, value, load, at)


def main(folder: Path) -> None:
    """Record every stream into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    folder = folder.resolve()
    snapshot.EVERY = 10  # so that even a short stream gets a snapshot
    for name, text in STREAM_FILES.items():
        with tempfile.TemporaryDirectory() as temporary:
            work = Path(temporary, name)
            work.mkdir()
            with contextlib.chdir(work):  # so that announcements contain a relative location
                record(Path(), text)
            shutil.rmtree(work / "private")
            _pack(work, folder / f"{name}.tar.xz")


def record(work: Path, text: str) -> None:
    """Play one stream, and write all its files to `work`."""
    stream = loads(text)
    topics = Topics(stream)
    (work / "stream.toml").write_text(text, encoding="utf-8")
    settings = load_settings({"DRIFTLINE_HOME": str(work / "home"), "DRIFTLINE_CLIENT": "memory"})
    clock = ManualClock(START_S + WARM_UP)
    broker = MemoryBroker(clock)
    apply(broker.admin(), topics)
    producer = broker.producer()
    warm = list(rows(stream, 0, WARM_UP))
    first = train_first(
        stream,
        [row.value for row in warm],
        [row.label for row in warm],
        settings=settings,
        clock=clock,
    )
    for sent in first.records:
        producer.send(sent)
    producer.send(Outgoing(topics.models, b"not an event", b"model/unreadable", 0))
    loops = start(stream, settings, broker, clock)
    settle(loops)
    labels = LabelCodec(stream)
    played = list(rows(stream, WARM_UP, PLAYED))

    def send_label(row: Row) -> None:
        value = labels.encode(row.id, row.label, at=row.position, key=row.key_value)
        producer.send(Outgoing(topics.labels, value, row.key))

    unreadable = 0
    for begin in range(0, PLAYED, TURN):
        for place in range(begin, begin + TURN):
            row = played[place]
            producer.send(Outgoing(topics.features, row.value, row.key, headers=(("h", b"1"),)))
            if place >= LABEL_DELAY and place % 10:
                send_label(played[place - LABEL_DELAY])
        producer.send(Outgoing(topics.features, b'{"id": "?"', b"?"))
        producer.send(Outgoing(topics.labels, b"[]", b"?"))
        unreadable += 1
        clock.advance(TURN)
        settle(loops)
        if begin + TURN == DRIFT_AT:
            asked = RetrainRequest(
                id=event_id("retrain", "recorded"),
                cause="manual",
                caused_by=(),
                reason="recorded",
                position=None,
                since=None,
            )
            producer.send(rare(topics.retrain, asked, id=asked.id))
            producer.send(Outgoing(topics.retrain, b"{}", b"?", 0))
    clock.advance(15)  # long enough for watermarks on idle partitions
    settle(loops)
    signer = Signer(settings.keys)
    now = format_time(round(clock.time() * 1e6))
    known = catalog.read_catalog(broker, topics, Trusted(settings.keys))
    back = known.pointer(first.digest, by="person", reason="complaints", at=now)
    producer.send(sign(catalog.pointer_record(topics, back), signer))
    freeze = known.freezing(frozen=True, reason="audit", at=now)
    producer.send(sign(catalog.freeze_record(topics, freeze), signer))
    settle(loops)
    for loop in loops.values():
        loop.close()
    for row in rows(stream, WARM_UP + PLAYED, UNREAD):
        producer.send(Outgoing(topics.features, row.value, row.key))
    broker.save(work / "topics")
    expected = Expected(first.digest, True, clock.time(), PLAYED + unreadable, UNREAD)
    (work / "expected.json").write_bytes(msgspec.json.encode(expected))
    keys = settings.keys
    (work / "private").mkdir()
    (keys / "signing.pem").rename(work / "private" / "signing.pem")


def _handler(
    service: Service, stream: Stream, settings: Settings, broker: MemoryBroker, clock: ManualClock
) -> Handler:
    """Return the handler of a service. The join and the monitor keep their state on disk."""
    state = settings.home / "state" / stream.name / service
    if service == "outcomes":
        return OutcomesHandler(stream, clock, state=state, memory_records=MEMORY_RECORDS)
    if service == "monitor":
        return MonitorHandler(
            stream, ModelLoader.of(settings, stream), state=state, synchronous=True
        )
    return build_handler(service, stream, settings, broker, clock, synchronous=True)


def start(
    stream: Stream, settings: Settings, broker: MemoryBroker, clock: ManualClock
) -> dict[Service, Loop]:
    """Start all services in this thread, with their state inside the home folder."""
    return {
        service: build_loop(
            service,
            stream,
            broker,
            _handler(service, stream, settings, broker, clock),
            clock=clock,
            commit_interval_s=0.0,
        )
        for service in SERVICES
    }


def settle(loops: dict[Service, Loop]) -> None:
    """Step all services until none of them has work left."""
    busy = True
    while busy:
        busy = False
        for loop in loops.values():
            while loop.step(0):
                busy = True


def _pack(work: Path, file: Path) -> None:
    with tarfile.open(file, "w:xz", preset=9) as archive:
        for path in sorted(work.rglob("*")):
            if (
                path.is_file() and path.name != "LOG"
            ):  # RocksDB's log contains the name of this machine
                info = archive.gettarinfo(path, str(path.relative_to(work)))
                info.mtime, info.mode, info.uid, info.gid = 0, 0o644, 0, 0
                info.uname = info.gname = ""
                with path.open("rb") as content:
                    archive.addfile(info, content)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
