"""Records that the first model was trained on remain available for training."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from driftline.config.spans import Span
from driftline.config.stream import Stream
from driftline.errors import StoreUnavailable
from driftline.models.load import ModelLoader
from driftline.models.store import ModelStore
from driftline.models.training_records import decode_records, encode_records
from tests.training import (
    CLASSIFICATION,
    Outcomes,
    first_model,
    outcome,
    record,
    request,
    settings,
)
from trainer.first import TrainedModel
from trainer.publish import Publisher
from trainer.retrain import TrainingJob, TrainingResult, retrain

FAR = msgspec.structs.replace(
    CLASSIFICATION, retrain=msgspec.structs.replace(CLASSIFICATION.retrain, train_on=None)
)


def trained(home: Path, first: TrainedModel, log: Outcomes, stream: Stream = FAR) -> TrainingResult:
    here = settings(home)
    job = TrainingJob(
        request(), first.announcement, "2024-01-01T00:00:00Z", first=first.announcement
    )
    publisher = Publisher(ModelStore(here.model_store), here.keys)
    return retrain(job, stream, log, ModelLoader.of(here, stream), publisher)


def outcomes(first: int, last: int) -> Outcomes:
    return Outcomes([outcome(CLASSIFICATION, i) for i in range(first, last)])


def longest(result: TrainingResult) -> int:
    return max(trial.rows for trial in result.trials)


def records_file(home: Path) -> Path:
    (found,) = home.rglob("*.records")
    return found


def test_a_challenger_is_trained_on_the_first_models_records_too(tmp_path: Path) -> None:
    result = trained(tmp_path, first_model(FAR, tmp_path), outcomes(300, 400))
    assert longest(result) == 300 + 80
    assert result.outcomes == 100


def test_an_outcome_replaces_the_record_with_its_id_and_later_records(tmp_path: Path) -> None:
    result = trained(tmp_path, first_model(FAR, tmp_path), outcomes(200, 400))
    assert longest(result) == 200 + 160
    assert result.removed == ()


def test_train_on_also_limits_the_first_models_records(tmp_path: Path) -> None:
    first = first_model(FAR, tmp_path)
    retraining = msgspec.structs.replace(FAR.retrain, train_on=Span(records=150))
    limited = msgspec.structs.replace(FAR, retrain=retraining)
    assert longest(trained(tmp_path, first, outcomes(300, 400), limited)) == 150 - 20


def test_without_readable_records_the_outcomes_are_enough(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = first_model(FAR, tmp_path)
    records_file(tmp_path).write_bytes(b"damaged")
    assert longest(trained(tmp_path, first, outcomes(300, 400))) == 80
    assert "training on outcomes alone" in caplog.text
    records_file(tmp_path).unlink()
    assert longest(trained(tmp_path, first, outcomes(300, 400))) == 80
    assert "does not hold the training records" in caplog.text


def test_records_of_another_target_are_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = first_model(msgspec.structs.replace(FAR, target="bought"), tmp_path)
    assert longest(trained(tmp_path, first, outcomes(300, 400))) == 80
    assert "they are records of paint classification bought" in caplog.text


def test_an_unreachable_store_delays_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> bytes:
        raise StoreUnavailable("gone")

    first = first_model(FAR, tmp_path)
    monkeypatch.setattr(ModelStore, "records", fail)
    assert trained(tmp_path, first, outcomes(300, 400)).passes


def test_a_stream_file_can_exclude_the_records(tmp_path: Path) -> None:
    models = msgspec.structs.replace(FAR.models, keep_training_records=False)
    first = first_model(msgspec.structs.replace(FAR, models=models), tmp_path)
    assert first.manifest.training_records is None
    assert not list(tmp_path.rglob("*.records"))
    assert longest(trained(tmp_path, first, outcomes(300, 400))) == 80


def test_the_newest_records_are_kept_up_to_a_fixed_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("driftline.models.training_records.MAX_RECORDS_BYTES", 1_000)

    def newest_first() -> Iterator[tuple[bytes, str]]:
        for i in reversed(range(100)):
            yield record(i), "yes"

    data = encode_records(newest_first())
    assert data is not None
    assert data == encode_records(newest_first())
    kept = [bytes(item.record) for item in decode_records(data)]
    assert 5 < len(kept) < 15
    assert kept == [record(i) for i in range(100 - len(kept), 100)]
