"""Inference: which records are scored, which are rejected, and which model serves."""

from pathlib import Path

import msgspec
import pytest

from consumers.inference.handler import InferenceHandler
from driftline.broker.limits import unpacked
from driftline.broker.port import (
    Committed,
    Message,
    Outgoing,
    OutgoingBatch,
    TopicPartition,
)
from driftline.clock import ManualClock
from driftline.config.settings import load_settings
from driftline.config.stream import Stream, loads
from driftline.config.stream_sections import Record, Task
from driftline.models.catalog import Catalog
from driftline.models.keys import Signer, Trusted, new_key
from driftline.models.load import ModelLoader
from driftline.models.signed import sign
from driftline.models.store import ModelStore
from driftline.wire.envelope import encode, predictions_decoder
from driftline.wire.events import ModelAnnounced, Prediction, RejectedRecord, Watermark
from driftline.wire.topics import MAX_RECORD_BYTES, Topics
from tests.world import said
from trainer.first import TrainedModel, train_first

STREAM = loads(
    """
    version = 1
    name = "s"
    task = "classification"
    target = "y"
    features = { x = "number", colour = "category" }
    derived = { double = "2 * x" }
    kafka = { partitions = 2 }
    models = { candidates = ["logistic_regression"], tune = false }
    """
)
TOPICS = Topics(STREAM)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installation")
    new_key(folder / "keys")
    return folder


@pytest.fixture(scope="module")
def first(home: Path) -> TrainedModel:
    return trained(home)


def trained(home: Path, *, flip: bool = False, catalog: Catalog | None = None) -> TrainedModel:
    values = [(i % 100) / 100 for i in range(200)]
    records = [
        msgspec.json.encode({"@row": i, "x": x, "colour": "red" if i % 3 else "blue"})
        for i, x in enumerate(values)
    ]
    labels = ["high" if (x > 0.5) != flip else "low" for x in values]
    settings = load_settings({"DRIFTLINE_HOME": str(home)})
    return train_first(
        STREAM, records, labels, settings=settings, clock=ManualClock(), catalog=catalog
    )


class Service:
    """An inference handler, with methods that send messages of its `models` and features topics."""

    def __init__(self, home: Path, stream: Stream = STREAM) -> None:
        self.clock = ManualClock()
        models = ModelLoader(ModelStore(str(home / "models")), Trusted(home / "keys"), stream)
        self.handler = InferenceHandler(stream, models, self.clock)
        self.handler.on_assigned({TopicPartition("s.features", p): Committed(0) for p in range(2)})
        self.catalog = Catalog(Trusted(home / "keys"))
        self.offset = 0

    def publish(self, model: TrainedModel) -> None:
        for sent in model.records:
            self.offset += 1
            message = said(sent, self.offset)
            self.catalog.apply(message)
            self.handler.on_broadcast([message])

    def send(self, *values: bytes, partition: int = 0) -> list[Outgoing]:
        messages = [self._message("s.features", value, partition) for value in values]
        output: list[Outgoing] = []
        for sent in self.handler.handle(messages):
            output.extend(unpacked(sent) if isinstance(sent, OutgoingBatch) else [sent])
        return output

    def _message(self, topic: str, value: bytes | None, partition: int = 0) -> Message:
        self.offset += 1
        return Message(topic, partition, self.offset, b"key", value)


def successor(home: Path, first: TrainedModel) -> TrainedModel:
    """Return another model, which replaces the first one as champion."""
    catalog = Catalog(Trusted(home / "keys"))
    for sent in first.records:
        catalog.apply(said(sent))
    return trained(home, flip=True, catalog=catalog)


def changed(record: Outgoing, announcement: ModelAnnounced, home: Path, **changes: str) -> Outgoing:
    """Return a signed announcement with other fields."""
    value = encode(msgspec.structs.replace(announcement, **changes))
    return sign(msgspec.structs.replace(record, value=value), Signer(home / "keys"))


def record(row: int, **fields: object) -> bytes:
    return msgspec.json.encode({"@row": row, "x": 0.9, "colour": "red"} | fields)


def predicted(output: list[Outgoing]) -> list[Prediction]:
    events = [
        predictions_decoder.decode(o.value or b"") for o in output if o.topic.endswith("ions")
    ]
    return [event for event in events if isinstance(event, Prediction)]


def rejected(output: list[Outgoing]) -> list[str]:
    return [
        dict(o.headers)["driftline_reason"].decode() for o in output if o.topic == "s.deadletters"
    ]


def test_a_prediction_contains_its_model_its_source_and_the_record(
    home: Path, first: TrainedModel
) -> None:
    service = Service(home)
    service.publish(first)
    raw = b' {"@row": 3, "x": 0.9,  "colour": "red", "unknown": [1]}'
    (output,) = service.send(raw, partition=1)
    (event,) = predicted([output])
    assert (event.record_id, event.row, event.prediction) == ("3", 3, "high")
    assert event.model == first.announcement.digest
    assert (event.source.topic, event.source.partition) == ("s.features", 1)
    assert event.source.offset == service.offset
    assert output.partition == 1
    assert bytes(event.record) == raw.strip()
    assert event.scores is not None
    assert sum(event.scores.values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"not JSON", "not JSON"),
        (b'{"@row": 1, "x": 0.5}', "column 'colour' is null or absent"),
        (b'{"@row": 1, "x": "0.5", "colour": "red"}', "column 'x': expected a number"),
        (b'{"x": 0.5, "colour": "red"}', "'@row'"),
        (b"\xff", "UTF-8"),
        (b"[]", "not a JSON object"),
    ],
)
def test_a_record_that_cannot_be_scored_becomes_a_dead_letter_with_the_reason(
    home: Path, first: TrainedModel, value: bytes, reason: str
) -> None:
    service = Service(home)
    service.publish(first)
    output = service.send(value, record(7))
    assert [event.record_id for event in predicted(output)] == ["7"]
    (said,) = rejected(output)
    assert reason in said
    letter = next(o for o in output if o.topic == "s.deadletters")
    assert letter.value == value


@pytest.mark.parametrize(
    ("task", "candidate", "scoring"),
    [
        ("regression", "linear_regression", "onnx"),
        ("regression", "k_nearest_neighbours", "sklearn"),
        ("classification", "k_nearest_neighbours", "sklearn"),
    ],
)
def test_a_prediction_that_is_not_finite_makes_only_its_record_a_dead_letter(
    home: Path, task: Task, candidate: str, scoring: str
) -> None:
    models = msgspec.structs.replace(STREAM.models, candidates=(candidate,))
    stream = msgspec.structs.replace(STREAM, task=task, derived={}, models=models)
    records = [record(i, x=i % 100 / 100) for i in range(200)]
    labels = [(i % 100) * 2.0 if task == "regression" else "ab"[i % 2] for i in range(200)]
    settings = load_settings({"DRIFTLINE_HOME": str(home)})
    model = train_first(stream, records, labels, settings=settings, clock=ManualClock())
    assert model.manifest.scoring == scoring
    service = Service(home, stream)
    service.publish(model)
    output = service.send(record(1), record(2, x=3.4e38), b"{", record(3), record(4, x=-3.4e38))
    scored = predicted(output)
    assert [event.row for event in scored] == [1, 3]
    assert [event.prediction for event in scored] == [
        event.prediction for row in (1, 3) for event in predicted(service.send(record(row)))
    ]
    unreadable, *reasons = sorted(rejected(output), key=lambda reason: "finite" in reason)
    assert "finite" not in unreadable
    assert reasons == 2 * ["the model's prediction is not finite"]
    marks = [found for _, found in accounted(output) if isinstance(found, RejectedRecord)]
    assert [mark.position for mark in marks] == [2, None, 4]
    (alone,) = rejected(service.send(record(5, x=3.4e38)))
    assert alone == reasons[0]


def accounted(output: list[Outgoing]) -> list[tuple[int, str | RejectedRecord | None]]:
    """Return (source offset, id or dead letter) of all records in the predictions topic."""
    found: list[tuple[int, str | RejectedRecord | None]] = []
    for sent in output:
        if sent.topic == TOPICS.predictions:
            event = predictions_decoder.decode(sent.value or b"")
            if isinstance(event, Prediction):
                found.append((event.source.offset, event.record_id))
            elif event.dead_letter is not None:
                found.append((event.dead_letter.offset, event.dead_letter))
    return found


MIXED = [
    record(10),
    record(11, x="much"),  # its row is readable
    b"{",
    record(12, colour="green"),
    record(13, alpha=1),
    record(9, x=[]),
    record(14),
]


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_predictions_account_for_dead_letters_in_the_order_of_the_records(
    home: Path, first: TrainedModel, size: int
) -> None:
    rules = msgspec.convert({"unseen": "dead_letter"}, Record)
    service = Service(home, msgspec.structs.replace(STREAM, record=rules))
    service.publish(first)
    before = service.offset + 1
    output: list[Outgoing] = []
    for start in range(0, len(MIXED), size):
        output.extend(service.send(*MIXED[start : start + size]))
    places = [(offset - before, what) for offset, what in accounted(output)]
    assert places == [
        (0, "10"),
        (1, RejectedRecord(before + 1, 11)),
        (2, RejectedRecord(before + 2, None)),
        (3, RejectedRecord(before + 3, 12)),
        (4, "13"),
        (5, RejectedRecord(before + 5, 9)),
        (6, "14"),
    ]
    # Each dead letter comes with the watermark of its partition at that point.
    marks = [
        predictions_decoder.decode(sent.value or b"")
        for sent in output
        if sent.topic == TOPICS.predictions and sent.key is None
    ]
    assert [mark.position for mark in marks if isinstance(mark, Watermark)] == [12, 12, 13, 14]
    assert len(rejected(output)) == 4


@pytest.mark.parametrize("is_rejected", [False, True])
def test_the_first_record_of_a_partition_is_compared_with_the_training_rows(
    home: Path, first: TrainedModel, is_rejected: bool
) -> None:
    service = Service(home)
    service.publish(first)
    x = {"x": "text"} if is_rejected else {}
    output = service.send(record(2**53 - 1, **x), record(300), record(301))
    assert [event.row for event in predicted(output) if not event.ahead] == [300, 301]
    assert service.handler.offsets_to_commit()[TopicPartition("s.features", 0)].metadata.startswith(
        '{"watermark":302'
    )


def test_a_partition_without_readable_records_has_no_watermark(
    home: Path, first: TrainedModel
) -> None:
    service = Service(home)
    service.publish(first)
    output = service.send(b"{", b"{")
    marks = [o.value for o in output if o.topic == TOPICS.predictions]
    assert marks == [
        b'{"type":"watermark","position":null,"dead_letter":{"offset":%d}}' % offset
        for offset in (service.offset - 1, service.offset)
    ]


def test_a_record_whose_prediction_is_too_large_becomes_a_dead_letter(
    home: Path, first: TrainedModel
) -> None:
    service = Service(home)
    service.publish(first)
    output = service.send(record(1, note="x" * (MAX_RECORD_BYTES - 100)))
    assert "too large" in rejected(output)[0]


@pytest.mark.parametrize("policy", ["score", "dead_letter"])
def test_unseen_categories_are_handled_by_the_policy(
    home: Path, first: TrainedModel, policy: str
) -> None:
    rules = msgspec.convert({"unseen": policy}, Record)
    service = Service(home, msgspec.structs.replace(STREAM, record=rules))
    service.publish(first)
    output = service.send(record(1, colour="green"))
    assert len(predicted(output)) == (policy == "score")
    expected = [] if policy == "score" else ["unseen category: column 'colour' is 'green'"]
    assert rejected(output) == expected


def test_without_a_model_all_partitions_are_paused(home: Path, first: TrainedModel) -> None:
    service = Service(home)
    assigned = frozenset({TopicPartition("s.features", 0)})
    assert service.handler.paused_partitions(assigned) == assigned
    service.publish(first)
    assert not service.handler.paused_partitions(assigned)


def test_a_new_champion_serves_from_the_next_batch(home: Path, first: TrainedModel) -> None:
    service = Service(home)
    service.publish(first)
    before = predicted(service.send(record(1)))
    second = trained(home, flip=True, catalog=service.catalog)
    service.publish(second)
    after = predicted(service.send(record(2)))
    assert [before[0].prediction, after[0].prediction] == ["high", "low"]
    assert after[0].model == second.announcement.digest


@pytest.mark.parametrize("fault", ["tampered", "unsigned", "gone", "wrong key"])
def test_an_invalid_champion_is_rejected_and_the_old_one_continues_to_serve(
    home: Path, first: TrainedModel, fault: str, tmp_path: Path
) -> None:
    service = Service(home)
    service.publish(first)
    bad = trained(home, flip=True, catalog=service.catalog)
    digest = bad.announcement.digest
    path = Path(bad.announcement.location.removeprefix("file://"))
    kept = path.read_bytes()
    signature = path.with_suffix(".sig")
    announced, pointer = bad.records
    try:
        match fault:
            case "tampered":
                path.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
            case "gone":
                path.unlink()
            case "unsigned":
                announced = changed(announced, bad.announcement, home, signature="")
                signature.unlink()
            case "wrong key":
                other = new_key(tmp_path / "other")
                announced = changed(announced, bad.announcement, home, key_id=other)
                signature.write_bytes(b'{"value":"00","key_id":"%s"}' % other.encode())
        service.publish(msgspec.structs.replace(bad, records=(announced, pointer)))
        assert predicted(service.send(record(1)))[0].model == first.announcement.digest
        assert digest in service.handler.rejected
    finally:
        path.write_bytes(kept)


def test_after_a_restart_the_parent_of_an_invalid_champion_serves(
    home: Path, first: TrainedModel
) -> None:
    bad = successor(home, first)
    service = Service(home)
    path = Path(bad.announcement.location.removeprefix("file://"))
    kept = path.read_bytes()
    try:
        path.write_bytes(kept[:-1])
        service.publish(msgspec.structs.replace(bad, records=(first.records[0], *bad.records)))
        assert service.handler.model == first.announcement.digest
        assert bad.digest in service.handler.rejected
        assert service.handler.champion == bad.digest
    finally:
        path.write_bytes(kept)


def test_a_forged_announcement_does_not_prevent_its_model_from_serving(
    home: Path, first: TrainedModel
) -> None:
    """The signed pointer has the digest, and the store has the package with its signature."""
    good = successor(home, first)
    forged = changed(good.records[0], good.announcement, home, signature="00")
    for records in ((forged, good.records[1]), (good.records[1], forged), (good.records[1],)):
        service = Service(home)
        service.publish(msgspec.structs.replace(good, records=(first.records[0], *records)))
        assert service.handler.model == good.digest
