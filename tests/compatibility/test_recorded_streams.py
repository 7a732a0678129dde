"""Streams that earlier commits recorded can be read and continued, and their models score the same.

`README.md` in this folder describes the content of a recording."""

import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from driftline.audit.reconcile import reconcile
from driftline.broker.memory import MemoryBroker
from driftline.broker.port import Message
from driftline.broker.scan import ranges, scan
from driftline.clock import ManualClock
from driftline.config.settings import Settings, load_settings
from driftline.config.stream import Stream, load
from driftline.models.catalog import Catalog, read_catalog
from driftline.models.keys import Trusted, new_key
from driftline.models.load import ModelLoader
from driftline.wire import envelope
from driftline.wire.columns import Batch
from driftline.wire.events import Outcome, Prediction
from driftline.wire.feature_records import RecordCodec
from driftline.wire.labels import LabelCodec
from driftline.wire.topics import Topics
from tests.compatibility import record

ARCHIVES = sorted(Path(__file__).parent.glob("*/*.tar.xz"))
UNREADABLE = b"not an event"  # the unreadable record of the `models` topic


class Recording:
    """An unpacked recording, and a broker that holds its topics."""

    def __init__(self, archive: Path, folder: Path) -> None:
        with tarfile.open(archive) as packed:
            packed.extractall(folder, filter="data")
        self.stream: Stream = load(folder / "stream.toml")
        self.topics = Topics(self.stream)
        self.expected = msgspec.json.decode(
            (folder / "expected.json").read_bytes(), type=record.Expected
        )
        self.clock = ManualClock(self.expected.clock_s)
        self.broker = MemoryBroker.load(folder / "topics", self.clock)
        self.settings: Settings = load_settings(
            {"DRIFTLINE_HOME": str(folder / "home"), "DRIFTLINE_CLIENT": "memory"}
        )

    def messages(self, topic: str) -> Iterator[Message]:
        for batch in scan(self.broker, ranges(self.broker, [topic])):
            yield from batch

    def catalog(self) -> Catalog:
        return read_catalog(self.broker, self.topics, Trusted(self.settings.keys))

    def predictions(self) -> list[Prediction]:
        decoder = envelope.predictions_decoder
        found = (decoder.decode(m.value or b"") for m in self.messages(self.topics.predictions))
        return [event for event in found if isinstance(event, Prediction)]

    def outcomes(self) -> list[Outcome]:
        decoder = envelope.outcomes_decoder
        found = (decoder.decode(m.value or b"") for m in self.messages(self.topics.outcomes))
        return [event for event in found if isinstance(event, Outcome)]

    def identities(self, topic: str) -> list[object]:
        """Return values that must not occur twice in a topic of decisions or dead letters."""
        found: list[object] = []
        for message in self.messages(topic):
            if topic == self.topics.deadletters:
                origin = envelope.dead_letter_origin(message)
                found.append((origin.service, origin.topic, origin.partition, origin.offset))
            else:
                found.append(message.value)
        return found

    def go_on(self) -> None:
        """Start all services on the recording, and let them process everything."""
        new_key(self.settings.keys)  # the private key is not part of the recording
        loops = record.start(self.stream, self.settings, self.broker, self.clock)
        record.settle(loops)
        self.clock.advance(15)
        record.settle(loops)
        for loop in loops.values():
            loop.close()


@pytest.fixture(params=ARCHIVES, ids=lambda path: f"{path.parent.name}-{path.name.split('.')[0]}")
def recording(request: pytest.FixtureRequest, tmp_path: Path) -> Recording:
    return Recording(request.param, tmp_path)


def test_every_record_is_decoded(recording: Recording) -> None:
    topics = recording.topics
    decoders = {
        topics.predictions: envelope.predictions_decoder,
        topics.outcomes: envelope.outcomes_decoder,
        topics.parts: envelope.parts_decoder,
        topics.windows: envelope.windows_decoder,
        topics.drift: envelope.drift_decoder,
        topics.retrain: envelope.retrain_decoder,
        topics.models: envelope.models_decoder,
    }
    for topic, decoder in decoders.items():
        values = [message.value or b"" for message in recording.messages(topic)]
        assert values
        for value in values:
            if value not in (UNREADABLE, b"{}"):
                decoder.decode(value)  # type: ignore[attr-defined]
    for message in recording.messages(topics.deadletters):
        envelope.dead_letter_origin(message)
    features = [message.value for message in recording.messages(topics.features)]
    rejected = RecordCodec(recording.stream).decode(features).rejected
    assert [features[item.index] for item in rejected] == [b'{"id": "?"'] * len(rejected)
    labels = [message.value for message in recording.messages(topics.labels)]
    refused = LabelCodec(recording.stream).decode_all(labels).rejected
    assert [labels[item.index] for item in refused] == [b"[]"] * len(refused)
    assert len(features) == recording.expected.played + recording.expected.unread


def test_every_package_is_verified_and_gives_the_recorded_predictions(recording: Recording) -> None:
    models = ModelLoader.of(recording.settings, recording.stream)
    catalog = recording.catalog()
    predictions = recording.predictions()
    by_model = Counter(prediction.model for prediction in predictions)
    assert set(by_model) <= set(catalog.announcements)
    for digest, announced in catalog.announcements.items():
        model = models.load(announced)
        model.warm_up()
        model.check()
        assert models.reference(digest).rows > 0  # type: ignore[operator]
        own = [prediction for prediction in predictions if prediction.model == digest]
        records = [bytes(prediction.record) for prediction in own]
        batch: Batch = RecordCodec(recording.stream).decode(records)
        scores = model.predict(batch.columns)
        for place, prediction in enumerate(own):
            assert scores.predictions[place] == pytest.approx(prediction.prediction)


def test_the_recorded_champion_and_freeze_are_in_effect(recording: Recording) -> None:
    catalog = recording.catalog()
    assert catalog.champion_digest == recording.expected.champion
    assert catalog.frozen == recording.expected.frozen


def test_services_continue_without_losing_or_repeating_results(recording: Recording) -> None:
    topics, expected = recording.topics, recording.expected
    decided = (topics.windows, topics.drift, topics.retrain)
    before = {topic: recording.identities(topic) for topic in (*decided, topics.deadletters)}
    predicted = len(recording.predictions())
    recording.go_on()
    predictions = recording.predictions()
    assert len(predictions) == predicted + expected.unread
    assert len({prediction.source for prediction in predictions}) == len(predictions)
    assert {p.model for p in predictions[-3:]} <= set(recording.catalog().announcements)
    outcomes = recording.outcomes()
    assert len({(outcome.source, outcome.revision) for outcome in outcomes}) == len(outcomes)
    for topic in decided:
        found = recording.identities(topic)
        assert found[: len(before[topic])] == before[topic]
        assert len(set(found)) == len(found)
    repeated = [
        letter
        for letter, count in Counter(recording.identities(topics.deadletters)).items()
        if count > Counter(before[topics.deadletters])[letter] > 0
    ]
    # At that commit, each start of inference reported the unreadable records of `models` again.
    assert all(topic == topics.models for _, topic, *_ in repeated)  # type: ignore[has-type, misc]
    found = reconcile(recording.broker, recording.stream)  # type: ignore[assignment]
    assert (found.missing, found.labels.missing) == (0, 0)  # type: ignore[attr-defined]


def test_new_records_are_scored_by_the_recorded_champion(recording: Recording) -> None:
    old = {prediction.source for prediction in recording.predictions()}
    recording.go_on()
    catalog = recording.catalog()
    assert (catalog.champion_digest, catalog.frozen) == (
        recording.expected.champion,
        recording.expected.frozen,
    )
    assert catalog.restatements() == (), "the trainer has signed what counts"
    fresh = [one for one in recording.predictions() if one.source not in old]
    assert {prediction.model for prediction in fresh} == {recording.expected.champion}


def test_a_recording_by_the_current_code_passes_these_tests(tmp_path: Path) -> None:
    record.main(tmp_path / "recorded")
    for archive in sorted((tmp_path / "recorded").iterdir()):
        fresh = Recording(archive, tmp_path / archive.stem)
        test_every_record_is_decoded(fresh)
        test_services_continue_without_losing_or_repeating_results(fresh)
