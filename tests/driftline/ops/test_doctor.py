"""The doctor's checks: correct things are ok, and others come with a remedy."""

from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from driftline.broker.memory import MemoryAdmin, MemoryBroker
from driftline.broker.memory_consumer import MemoryConsumer
from driftline.broker.partitioner import PARTITIONERS
from driftline.broker.port import Broker, Outgoing
from driftline.config.measure import Measure
from driftline.config.settings import Settings
from driftline.config.spans import Span
from driftline.config.stream import Stream
from driftline.errors import BrokerUnavailable, UnsupportedCodec
from driftline.models.keys import new_key, trust
from driftline.models.store import ModelStore, digest_of
from driftline.ops.doctor import Check, check_broker, check_installation, check_models
from driftline.wire.envelope import encode
from driftline.wire.events import RejectedRecord, Watermark
from driftline.wire.topics import Topics, apply
from driftline.wire.window_events import DataGroup, DataWindow, Limits
from tests.training import CLASSIFICATION, CLOCK, first_model, with_candidates
from tests.training import settings as training_settings
from tests.world import KEYS, MODEL, SIGNER, STREAM, World, announced, pointer


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        home=tmp_path,
        bootstrap_servers="here",
        client="memory",
        properties={},
        model_store=str(tmp_path / "models"),
    )


def on_broker(settings: Settings, broker: Broker, stream: Stream | None = STREAM) -> list[Check]:
    return list(check_broker(settings, broker, stream))


def result(checks: list[Check], name: str) -> Check:
    (found,) = [check for check in checks if check.name == name]
    return found


def test_the_checks_of_this_installation_do_not_fail() -> None:
    assert all(check.result != "fail" for check in check_installation())


def test_every_check_that_is_not_ok_has_a_remedy(settings: Settings) -> None:
    checks = [*check_installation(), *check_models(settings), *on_broker(settings, World().broker)]

    assert all(check.todo for check in checks if check.result != "ok")


def test_missing_keys_are_reported(settings: Settings) -> None:
    before = list(check_models(settings))
    new_key(settings.keys)
    after = list(check_models(settings))

    assert result(before, "signing key").result == "warn"
    assert result(before, "trusted keys").result == "fail"
    assert {check.result for check in after} == {"ok"}


def test_a_signing_key_that_is_not_trusted_fails(settings: Settings) -> None:
    key = new_key(settings.keys)
    (settings.keys / "trusted" / f"{key}.pem").unlink()

    assert result(list(check_models(settings)), "own key trusted").result == "fail"


def test_the_check_of_the_store_leaves_no_files(settings: Settings) -> None:
    assert result(list(check_models(settings)), "model store").result == "ok"
    assert list(Path(settings.model_store).iterdir()) == []


def test_a_store_that_cannot_be_written_fails(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    wrong = msgspec.structs.replace(settings, model_store=str(tmp_path / "file" / "models"))

    assert result(list(check_models(wrong)), "model store").result == "fail"


def test_a_broker_that_does_not_answer_fails(settings: Settings) -> None:
    class Silent(MemoryBroker):
        def admin(self) -> MemoryAdmin:
            raise BrokerUnavailable("nobody answers")

    (check,) = on_broker(settings, Silent())

    assert (check.result, check.found) == ("fail", "nobody answers")


def test_planned_topics_are_ok_and_missing_ones_are_listed(settings: Settings) -> None:
    world = World()
    assert result(on_broker(settings, world.broker), "topics").result == "ok"

    world.broker.admin().delete([world.topics.windows, world.topics.models])
    found = result(on_broker(settings, world.broker), "topics")

    assert found.result == "fail"
    assert found.found == "2 are missing: s.windows, s.models"


@pytest.mark.parametrize(
    ("retention", "expected"), [("-1", "warn"), ("2592000001", "warn"), ("1000", "fail")]
)
def test_a_longer_retention_than_planned_is_a_warning_and_a_shorter_one_fails(
    settings: Settings, retention: str, expected: str
) -> None:
    world = World()
    admin = world.broker.admin()
    planned = next(t for t in world.topics.creation() if t.name == world.topics.parts)
    admin.delete([planned.name])
    config = {**planned.config, "retention.ms": retention}
    admin.create([msgspec.structs.replace(planned, config=config)])
    found = result(on_broker(settings, world.broker), "topics")

    assert (found.result, found.found) == (expected, f"s.parts: retention.ms is {retention}")


@pytest.mark.parametrize("role", ["features", "windows", "deadletters"])
def test_a_topic_with_a_size_limit_is_a_warning(settings: Settings, role: str) -> None:
    world = World()
    admin = world.broker.admin()
    name = f"s.{role}"
    planned = next(t for t in world.topics.creation() if t.name == name)
    admin.delete([name])
    config = {**planned.config, "retention.bytes": "1048576"}
    admin.create([msgspec.structs.replace(planned, config=config)])
    ok, found = [c for c in on_broker(settings, world.broker) if c.name == "topics"]

    assert (ok.result, found.result) == ("ok", "warn")
    assert found.found.startswith(f"{name}: retention.bytes is 1048576")


def test_a_retention_shorter_than_the_join_window_fails(settings: Settings) -> None:
    labels = msgspec.structs.replace(STREAM.labels, horizon=Span.parse("60d"))
    checks = on_broker(settings, World().broker, msgspec.structs.replace(STREAM, labels=labels))

    found = result(checks, "retention for [labels] horizon")
    assert (found.result, found.found) == ("fail", "60d, but topics keep records for 30 days")


def test_a_missing_champion_is_a_warning(settings: Settings) -> None:
    assert result(on_broker(settings, World().broker), "champion").result == "warn"


def test_a_champion_without_an_announcement_fails(settings: Settings) -> None:
    """The models topic was recreated, and only the pointer was published since then."""
    world = World()
    trust(KEYS / "signing.pub", settings.keys)
    world.event(world.topics.models, pointer("role-1", sequence=1), "role-1")

    found = result(on_broker(settings, world.broker), "models topic")

    assert found.result == "fail"
    assert f"no announcement of the champion, {MODEL}" in found.found
    assert "driftline train --promote" in found.todo


def test_a_champion_that_cannot_be_verified_fails(settings: Settings) -> None:
    world = World()
    trust(KEYS / "signing.pub", settings.keys)
    store = ModelStore(settings.model_store)
    parent = digest_of(b"parent")
    store.put(b"parent", SIGNER.sign(parent))
    for model in (announced(parent), announced(parent=parent)):
        world.event(world.topics.models, model, model.digest)
    world.event(world.topics.models, pointer("role-1", sequence=1), "role-1")

    found = result(on_broker(settings, world.broker), "champion")

    assert found.result == "fail"
    assert f"does not hold {MODEL}" in found.found
    assert f"its ancestor {parent} is used after a restart" in found.found


def test_a_champion_whose_answers_lack_what_the_metric_needs_fails(tmp_path: Path) -> None:
    without = with_candidates(CLASSIFICATION, "sklearn.linear_model.RidgeClassifier")
    trained, own = first_model(without, tmp_path), training_settings(tmp_path)
    broker, topics = MemoryBroker(CLOCK), Topics(CLASSIFICATION)
    with closing(broker.admin()) as admin, closing(broker.producer()) as producer:
        apply(admin, topics)
        for record in trained.records:
            producer.send(record)
        producer.flush()
    assert result(on_broker(own, broker, CLASSIFICATION), "champion").result == "ok"

    stream = msgspec.structs.replace(CLASSIFICATION, metric=Measure("log_loss"))
    found = result(on_broker(own, broker, stream), "champion")

    assert found.result == "fail"
    assert "metric log_loss needs probabilities, but the model returns none" in found.found
    assert "change [metric]" in found.todo


def test_records_of_the_models_topic_without_a_trusted_signature_are_listed(
    settings: Settings,
) -> None:
    world = World()
    world.event(world.topics.models, announced(), MODEL)
    world.event(world.topics.models, pointer("role-1", sequence=1), "role-1")

    checks = on_broker(settings, world.broker)

    assert result(checks, "champion").result == "fail"
    assert "which is not trusted here" in result(checks, "champion").found
    ignored = [check.found for check in checks if check.name == "models topic"]
    assert [found.split("/")[0] for found in ignored] == ["model", "role"]


def test_a_producer_that_sends_labels_to_other_partitions_than_records_fails(
    settings: Settings,
) -> None:
    world = World()
    murmur2, crc32, *_ = PARTITIONERS.values()
    for number in range(40):
        key = str(number).encode()
        world.feature(str(number), partition=murmur2(key, 2))
        world.label(str(number), "a", partition=murmur2(key, 2))
    assert result(on_broker(settings, world.broker), "partitions of labels").result == "ok"

    for number in range(40, 200):
        world.label(str(number), "a", partition=crc32(str(number).encode(), 2))
    found = result(on_broker(settings, world.broker), "partitions of labels")

    assert found.result == "fail"
    assert "labels by CRC32 (librdkafka's default)" in found.found


def test_records_that_the_client_cannot_decompress_fail_with_a_remedy(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def poll(*_: object, **__: object) -> None:
        raise UnsupportedCodec("cannot read s.features[0]@0", hint="pip install zstandard")

    world = World()
    world.feature("1")
    monkeypatch.setattr(MemoryConsumer, "poll", poll)
    found = [check for check in on_broker(settings, world.broker) if check.name == "broker"][-1]

    expected = ("fail", "cannot read s.features[0]@0", "pip install zstandard")
    assert (found.result, found.found, found.todo) == expected


@pytest.mark.parametrize(("rejected", "verdict"), [(19, "ok"), (20, "fail")])
def test_partitions_whose_last_records_were_all_rejected_fail(
    settings: Settings, rejected: int, verdict: str
) -> None:
    world = World()
    for row in range(40):
        record = world.feature(str(row), partition=1, row=row)
        if row < 40 - rejected:
            world.prediction(record)
            continue
        world.letter(record, "missing time: column 't' is absent")
        mark = encode(Watermark(12, dead_letter=RejectedRecord(record.offset)))
        world.send(Outgoing(world.topics.predictions, mark, partition=1))
    check = result(on_broker(settings, world.broker), "rejected records")
    assert check.result == verdict
    if verdict == "fail":
        assert check.found == (
            "the last 20 records of partition 1 were all rejected: "
            "missing time: column 't' is absent"
        )


@pytest.mark.parametrize("limits", [Limits(1.0, 1.2), Limits(1.0, 1.2, ("load",), ("load", "x"))])
def test_columns_in_which_drift_is_hard_to_see_are_a_warning(
    settings: Settings, limits: Limits
) -> None:
    world = World()
    group = DataGroup("a", 100, 100, tested=True, limits=limits)
    window = DataWindow("w", 0, 0, 100, 100, 0, 99, None, (group,))
    world.send(Outgoing(world.topics.windows, encode(window), partition=0))
    found = [c for c in on_broker(settings, world.broker) if c.name == "drift tests"]
    if not limits.uncalibrated:
        assert found == []
        return
    assert [check.result for check in found] == ["warn"]
    assert found[0].found == (
        "uncalibrated, because the reference is too short: load; "
        "insensitive to shifts of 1 sd: load, x"
    )
