"""The rows of a first model remain available for later trainings."""

from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import msgspec
import pytest

from driftline.config.stream import Stream
from driftline.errors import StoreUnavailable
from driftline.models.load import ModelLoader
from driftline.models.store import ModelStore
from driftline.wire.events import ModelAnnounced
from tests.training import CLASSIFICATION, Outcomes, first_model, label, outcome, record, request
from tests.training import settings as settings_in
from tests.world import announced
from trainer import first_rows
from trainer.clean import clean
from trainer.collect import collect
from trainer.first_rows import with_first_rows
from trainer.publish import Publisher
from trainer.retrain import TrainingJob, TrainingResult, retrain
from trainer.rows import TrainingRows
from trainer.split import Places

UNLIMITED = msgspec.structs.replace(
    CLASSIFICATION, retrain=msgspec.structs.replace(CLASSIFICATION.retrain, train_on=None)
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def first(home: Path) -> ModelAnnounced:
    """Return a first model, trained on the records up to number 300."""
    return first_model(CLASSIFICATION, home).announcement


def outcomes(*numbers: int, stream: Stream = CLASSIFICATION) -> TrainingRows:
    log = Outcomes([outcome(stream, i) for i in numbers])
    return clean(collect(log.read(), stream).rows, stream)[0]


def added(
    home: Path, first: ModelAnnounced | None, rows: TrainingRows, stream: Stream = UNLIMITED
) -> tuple[TrainingRows, Places]:
    return with_first_rows(rows, first, stream, ModelLoader.of(settings_in(home), stream))


def test_rows_of_the_first_model_precede_the_outcomes(home: Path, first: ModelAnnounced) -> None:
    rows, places = added(home, first, outcomes(*range(300, 400)))
    assert rows.ids.tolist() == [f"r{i}" for i in range(400)]
    assert places.tolist() == list(range(300, 400))
    assert rows.labels[7] == label(CLASSIFICATION, record(7))


def test_rows_that_are_not_older_than_the_outcomes_are_left_out(
    home: Path, first: ModelAnnounced
) -> None:
    rows, places = added(home, first, outcomes(250, 300))
    assert rows.ids.tolist() == [f"r{i}" for i in range(251)] + ["r300"]
    assert places.tolist() == [250, 251]


def test_a_stated_train_on_also_limits_the_rows_of_the_first_model(
    home: Path, first: ModelAnnounced
) -> None:
    rows, _ = added(home, first, outcomes(*range(1_100, 1_200)), CLASSIFICATION)
    assert rows.rows.min() == 200, "the last 1,000 records"


def test_the_number_of_rows_is_bounded(
    home: Path, first: ModelAnnounced, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(first_rows, "MAX_OUTCOMES", 150)
    rows, places = added(home, first, outcomes(*range(300, 400)))
    assert (len(rows), rows.rows.min(), len(places)) == (150, 250, 100)


def records_file(home: Path) -> Path:
    (found,) = home.rglob("*.records")
    return found


def test_without_readable_records_the_outcomes_are_used_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = first_model(CLASSIFICATION, tmp_path).announcement
    records_file(tmp_path).write_bytes(b"damaged")
    assert len(added(tmp_path, first, outcomes(*range(300, 320)))[0]) == 20
    assert "changed or damaged" in caplog.text
    records_file(tmp_path).unlink()
    assert len(added(tmp_path, first, outcomes(*range(300, 320)))[0]) == 20
    assert "does not contain the training records" in caplog.text


def test_rows_of_another_target_are_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = msgspec.structs.replace(CLASSIFICATION, target="bought")
    first = first_model(other, tmp_path).announcement
    assert len(added(tmp_path, first, outcomes(*range(300, 320)))[0]) == 20
    assert "its records are for paint classification bought" in caplog.text


def test_a_stream_file_can_exclude_the_records_from_the_store(tmp_path: Path) -> None:
    models = msgspec.structs.replace(CLASSIFICATION.models, keep_training_records=False)
    first = first_model(msgspec.structs.replace(CLASSIFICATION, models=models), tmp_path)
    assert first.manifest.training_records is None
    assert not list(tmp_path.rglob("*.records"))
    assert len(added(tmp_path, first.announcement, outcomes(*range(300, 320)))[0]) == 20


def test_an_unavailable_store_is_not_taken_for_missing_records(
    home: Path, first: ModelAnnounced, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ModelStore, "records", Mock(side_effect=StoreUnavailable("away")))
    with pytest.raises(StoreUnavailable):
        added(home, first, outcomes(300))
    assert trained(home, first, range(300, 500)).passes


def test_no_records_are_stored_for_a_model_trained_for_a_request(
    home: Path, first: ModelAnnounced
) -> None:
    result = trained(home, first, range(300, 500))
    assert result.announcement is not None
    loader = ModelLoader.of(settings_in(home), UNLIMITED)
    assert loader.fetch(first).manifest().training_records is not None
    assert loader.fetch(result.announcement).manifest().training_records is None


def test_a_challenger_is_trained_on_more_rows_than_the_first_model(
    home: Path, first: ModelAnnounced
) -> None:
    result = trained(home, first, range(300, 500))
    assert max(trial.rows for trial in result.trials) == 300 + 160
    assert result.outcomes == 200, "only outcomes are counted, and held out"


def trained(home: Path, first: ModelAnnounced, numbers: range) -> TrainingResult:
    settings = settings_in(home)
    # The labels have turned, so the challenger is better than the champion.
    log = Outcomes([outcome(UNLIMITED, i, turned=True) for i in numbers])
    job = TrainingJob(request(), first, "2024-01-01T00:00:00Z", first=first)
    publisher = Publisher(ModelStore(settings.model_store), settings.keys)
    return retrain(job, UNLIMITED, log, ModelLoader.of(settings, UNLIMITED), publisher)


def ancestry() -> Iterator[ModelAnnounced]:
    yield announced("sha256:" + "a" * 64)
    yield announced("sha256:" + "b" * 64, parent="sha256:" + "a" * 64, cause="r1")
    yield announced("sha256:" + "c" * 64, parent="sha256:" + "b" * 64, cause="r2")


def test_the_first_model_is_the_newest_ancestor_that_was_not_trained_for_a_request() -> None:
    a, b, c = ancestry()
    known = {model.digest: model for model in (a, b, c)}
    assert first_rows.first_model(known, c) == a
    assert first_rows.first_model(known, a) == a
    assert first_rows.first_model({c.digest: c}, c) is None, "its announcement is gone"
    assert first_rows.first_model({}, None) is None
