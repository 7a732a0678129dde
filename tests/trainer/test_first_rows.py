"""The rows of a first model remain available for later trainings."""

from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import msgspec
import pytest

from driftline.config.stream import Stream
from driftline.errors import PackageError, StoreUnavailable
from driftline.models.load import ModelLoader
from driftline.models.package import TRAINING
from driftline.models.store import ModelStore
from driftline.wire.events import ModelAnnounced
from tests.training import CLASSIFICATION, Outcomes, first_model, label, outcome, record, request
from tests.training import settings as settings_in
from tests.world import announced
from trainer import first_rows
from trainer.clean import clean
from trainer.collect import collect
from trainer.first_rows import NewestRecords, with_first_rows
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


def test_a_record_with_an_outcome_is_not_repeated(home: Path, first: ModelAnnounced) -> None:
    rows, places = added(home, first, outcomes(5, 300))
    assert rows.ids.tolist() == [f"r{i}" for i in range(301)]
    assert places.tolist() == [5, 300]


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


@pytest.mark.parametrize("error", [PackageError("it is damaged"), ValueError("no JSON")])
def test_without_a_readable_package_the_outcomes_are_used_alone(
    first: ModelAnnounced, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    models = Mock(fetch=Mock(side_effect=error))
    given = outcomes(*range(300, 320))
    rows, places = with_first_rows(given, first, UNLIMITED, models)
    assert (rows.ids.tolist(), len(places)) == (given.ids.tolist(), 20)
    assert "without the rows of the first model" in caplog.text


def test_an_unavailable_store_is_not_taken_for_a_missing_package(first: ModelAnnounced) -> None:
    models = Mock(fetch=Mock(side_effect=StoreUnavailable("away")))
    with pytest.raises(StoreUnavailable):
        with_first_rows(outcomes(300), first, UNLIMITED, models)


def test_a_model_trained_for_a_request_has_no_training_data_in_its_package(
    home: Path, first: ModelAnnounced
) -> None:
    result = trained(home, first, range(300, 500))
    assert result.announcement is not None
    loader = ModelLoader.of(settings_in(home), UNLIMITED)
    assert loader.fetch(first).has(TRAINING)
    assert not loader.fetch(result.announcement).has(TRAINING)


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


def test_the_newest_records_are_kept_if_not_all_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_rows, "MAX_BYTES", 1_000)
    newest = NewestRecords()
    records = [record(i) for i in range(50)]
    assert [pair[0] for pair in newest.keep(records, iter(["yes"] * 50))] == records
    packed = newest.packed()
    assert len(packed) <= 1_000
    assert packed.splitlines()[-1] == b"[" + records[-1] + b',"yes"]'


def test_records_with_line_breaks_are_kept_in_one_line_and_others_than_json_are_left_out() -> None:
    newest, broken = NewestRecords(), b"{"
    pretty = msgspec.json.format(record(1), indent=2)
    assert len(list(newest.keep([pretty, broken], ["yes", "no"]))) == 2
    assert newest.packed() == b"[" + record(1) + b',"yes"]\n'


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
