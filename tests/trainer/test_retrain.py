"""One retraining: its cause decides the ranges, and errors are returned as reasons."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from driftline.broker.port import TopicPartition
from driftline.config.stream import Stream
from driftline.errors import BrokerUnavailable, PackageError, StoreUnavailable, TrainingError
from driftline.models.keys import new_key
from driftline.models.load import ModelLoader
from driftline.models.score import Model, Scores
from driftline.models.store import ModelStore
from driftline.wire.columns import Columns
from driftline.wire.events import ModelAnnounced, Outcome, RetrainRequest
from tests.training import (
    CLASSIFICATION,
    REGRESSION,
    Outcomes,
    first_model,
    outcome,
    request,
    settings,
    with_candidates,
)
from trainer.candidates import Candidate
from trainer.first import TrainedModel
from trainer.publish import Publisher
from trainer.retrain import TrainingJob, TrainingResult, retrain
from trainer.search import Fitted, fit

TRAINED_AT = "2024-01-01T00:00:00Z"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def champion(home: Path) -> TrainedModel:
    return first_model(CLASSIFICATION, home)


def run(
    home: Path,
    champion: ModelAnnounced | None,
    log: Outcomes,
    asked: RetrainRequest | None = None,
    stream: Stream = CLASSIFICATION,
    earlier: tuple[ModelAnnounced, ...] = (),
) -> TrainingResult:
    here = settings(home)
    return retrain(
        TrainingJob(asked or request(), champion, TRAINED_AT, earlier),
        stream,
        log,
        ModelLoader.of(here, stream),
        Publisher(ModelStore(here.model_store), here.keys),
    )


def concept(first: int, last: int, *, turned: bool = False) -> list[Outcome]:
    return [outcome(CLASSIFICATION, i, turned=turned) for i in range(first, last)]


def test_an_unchanged_concept_keeps_the_champion(home: Path, champion: TrainedModel) -> None:
    result = run(home, champion.announcement, Outcomes(concept(300, 700)))
    assert (result.announcement is None) == ("the champion stays" in result.reason)
    assert (result.announcement is None) == (result.pair is None)
    assert result.outcomes == 400
    assert {trial.candidate for trial in result.trials} == {"logistic_regression", "decision_tree"}


def test_a_new_concept_gives_a_new_model_with_its_origin(
    home: Path, champion: TrainedModel
) -> None:
    log = Outcomes(concept(300, 900, turned=True))
    result = run(home, champion.announcement, log)
    announced = result.announcement
    assert announced is not None
    assert result.champion is not None
    assert result.challenger is not None
    assert result.challenger > 0.85 > 0.3 > result.champion
    assert result.pair is not None
    assert (result.pair.challenger, result.pair.champion) == (announced, champion.announcement)
    assert (result.pair.after, result.pair.classes) == (899, ("no", "yes"))
    assert result.read_to == log.ends()
    assert result.reason.endswith("of the champion on the newest 120 held-out outcomes")
    assert (announced.parent, announced.cause) == (champion.digest, "retrain-1")
    assert announced.trained_at == TRAINED_AT
    model = ModelLoader.of(settings(home), CLASSIFICATION).load(announced)
    model.check()
    assert (model.manifest.first_position, model.manifest.last_position) == (300, 899)
    assert run(home, champion.announcement, log).announcement == announced


def test_an_earlier_model_is_chosen_again_when_its_concept_returns(
    home: Path, champion: TrainedModel
) -> None:
    turned = run(home, champion.announcement, Outcomes(concept(300, 900, turned=True)))
    assert turned.announcement is not None
    lost = msgspec.structs.replace(champion.announcement, digest="sha256:" + "0" * 64)
    log = Outcomes([*concept(300, 900, turned=True), *concept(900, 1100)])
    asked = request(cause="drift", since=900)
    result = run(home, turned.announcement, log, asked, earlier=(lost, champion.announcement))
    assert result.announcement == champion.announcement
    assert result.challenger is not None
    assert result.challenger > 0.9
    assert result.reason.endswith(f", by the earlier model {champion.digest[:19]}")
    alone = run(home, turned.announcement, log, asked, earlier=(lost,))
    assert alone.announcement is not None
    assert alone.announcement.parent == turned.announcement.digest


def test_an_earlier_model_is_not_tried_if_it_knows_the_rows_or_does_not_fit(
    home: Path, champion: TrainedModel
) -> None:
    log = Outcomes(concept(300, 900, turned=True))
    knows = run(home, champion.announcement, log).announcement
    assert knows is not None
    derived = msgspec.structs.replace(CLASSIFICATION, derived={"per_size": "size / price"})
    differs = first_model(derived, home).announcement
    asked = request(id="retrain-2")
    result = run(home, champion.announcement, log, asked, earlier=(knows, differs))
    assert result.announcement is not None
    assert result.announcement.cause == "retrain-2"


def test_after_a_change_all_ranges_are_tried_and_judged_on_rows_after_it(
    home: Path, champion: TrainedModel
) -> None:
    log = Outcomes([*concept(300, 1000), *concept(1000, 1200, turned=True)])
    asked = request(cause="drift", since=1000)
    result = run(home, champion.announcement, log, asked)
    assert {(trial.range, trial.rows) for trial in result.trials} == {
        ("since 1000", 160),
        ("last 1000 records", 860),
        ("newest 430 of last 1000 records", 430),
        ("newest 215 of last 1000 records", 215),
        ("newest 107 of last 1000 records", 107),
    }
    assert result.announcement is not None
    manifest = ModelLoader.of(settings(home), CLASSIFICATION).fetch(result.announcement).manifest()
    assert (manifest.range, manifest.rows, manifest.held_out) == ("since 1000", 200, 40)


def test_without_a_known_change_the_newest_rows_decide_the_range(
    home: Path, champion: TrainedModel
) -> None:
    log = Outcomes([*concept(300, 900), *concept(900, 1300, turned=True)])
    result = run(home, champion.announcement, log, request(cause="schedule"))
    assert result.announcement is not None
    manifest = ModelLoader.of(settings(home), CLASSIFICATION).fetch(result.announcement).manifest()
    assert manifest.range == "newest 200 of last 1000 records"
    assert (manifest.first_position, manifest.last_position) == (900, 1299)


def test_too_few_outcomes_since_a_change_delay_the_training(
    home: Path, champion: TrainedModel
) -> None:
    log = Outcomes([*concept(300, 1000), *concept(1000, 1030, turned=True)])
    result = run(home, champion.announcement, log, request(cause="drift", since=1000))
    assert result.wait_for == 70
    assert result.reason == "30 outcomes since the change; 100 are needed"


@pytest.mark.parametrize("count", [0, 99])
def test_too_few_outcomes_give_no_training(home: Path, champion: TrainedModel, count: int) -> None:
    result = run(home, champion.announcement, Outcomes(concept(0, count)))
    assert result.reason == f"{count} outcomes in the last 1000 records; 100 are needed"
    assert (result.announcement, result.wait_for, result.trials) == (None, 0, ())


def test_without_a_champion_the_best_candidate_is_published(
    home: Path, champion: TrainedModel
) -> None:
    result = run(home, None, Outcomes(concept(0, 300)))
    assert result.announcement is not None
    assert result.pair is None
    assert result.announcement.parent is None
    assert result.champion is None


def test_a_champion_that_cannot_be_loaded_is_replaced_with_a_reason(
    home: Path, champion: TrainedModel
) -> None:
    lost = msgspec.structs.replace(champion.announcement, digest="sha256:" + "0" * 64)
    result = run(home, lost, Outcomes(concept(0, 300)))
    assert result.announcement is not None
    assert result.pair is None
    assert "no champion that can be loaded" in result.reason
    assert "does not hold sha256:000" in result.reason


def test_the_result_lists_removed_rows(home: Path, champion: TrainedModel) -> None:
    log = Outcomes([*concept(300, 700), *concept(300, 305)])
    result = run(home, champion.announcement, log)
    assert [(item.count, item.reason[:9]) for item in result.removed] == [(5, "duplicate")]


def test_labels_of_a_single_class_fail_with_a_reason(home: Path, champion: TrainedModel) -> None:
    log = Outcomes([outcome(CLASSIFICATION, i, truth="yes") for i in range(200)])
    result = run(home, champion.announcement, log)
    assert result.announcement is None
    assert result.reason.startswith("training failed: stream 'paint': no candidate")


def poisoned(first: int, last: int, value: float) -> list[Outcome]:
    """Return outcomes of a regression whose prices are ± `value`."""
    found = []
    for i in range(first, last):
        fields = msgspec.json.decode(outcome(REGRESSION, i).record)
        fields["price"] = -value if i % 3 else value
        raw = msgspec.Raw(msgspec.json.encode(fields))
        found.append(msgspec.structs.replace(outcome(REGRESSION, i), record=raw))
    return found


@pytest.mark.parametrize("value", [3.4028234663852886e38, 1e38, 1e20])
def test_a_column_with_extreme_values_does_not_end_a_training(tmp_path: Path, value: float) -> None:
    new_key(settings(tmp_path).keys)
    linear = with_candidates(REGRESSION, "linear_regression")
    ordinary = [outcome(REGRESSION, i) for i in range(300)]
    for stream, log in (
        (REGRESSION, [*ordinary, *poisoned(300, 360, value)]),  # among the held-out rows
        (linear, [*poisoned(0, 300, value), *poisoned(300, 400, 1.0)]),
        (linear, poisoned(0, 300, value)),
    ):
        result = run(tmp_path, None, Outcomes(log), stream=stream)
        assert result.announcement is not None, result.reason
        ModelLoader.of(settings(tmp_path), stream).load(result.announcement).check()


def test_a_winner_that_cannot_be_fitted_with_the_held_out_rows_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(stream: Stream, kind: Candidate, *args: Any) -> Fitted:
        if kind.name in failing:
            raise ValueError("Input X contains infinity")
        return fit(stream, kind, *args)

    monkeypatch.setattr("trainer.assemble.fit", fail)
    new_key(settings(tmp_path).keys)
    log = Outcomes([outcome(REGRESSION, i) for i in range(300)])
    failing = {"linear_regression"}  # the best one
    result = run(tmp_path, None, log, stream=REGRESSION)
    assert result.announcement is not None
    assert result.announcement.candidate == "decision_tree"
    assert "trying the next one: linear_regression: Input X contains infinity" in caplog.text
    assert first_model(REGRESSION, tmp_path).candidate == "decision_tree"
    failing = {"linear_regression", "decision_tree"}
    result = run(tmp_path, None, log, stream=REGRESSION)
    assert result.announcement is None
    assert result.reason == (
        "training failed: stream 'paint': no candidate could be trained: linear_regression: "
        "Input X contains infinity; decision_tree: Input X contains infinity"
    )
    with pytest.raises(TrainingError, match="decision_tree: Input X contains infinity"):
        first_model(REGRESSION, tmp_path)


def test_a_champion_whose_predictions_are_not_finite_loses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def predict(_: Model, columns: Columns) -> Scores:
        return Scores(np.append(np.ones(len(columns) - 1), np.nan), None)

    champion = first_model(REGRESSION, tmp_path).announcement
    monkeypatch.setattr(Model, "predict", predict)
    log = Outcomes([outcome(REGRESSION, i) for i in range(300, 600)])
    result = run(tmp_path, champion, log, stream=REGRESSION)
    assert result.announcement is not None
    assert "against nan of the champion" in result.reason


def test_an_earlier_model_that_raises_is_left_out(
    home: Path, champion: TrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise ValueError("no")

    monkeypatch.setattr(Model, "check", fail)
    log = Outcomes(concept(300, 900, turned=True))
    result = run(home, champion.announcement, log, earlier=(champion.announcement,))
    assert result.announcement is not None
    assert "earlier model" not in result.reason


@pytest.mark.parametrize("error", [PackageError("the disk is full"), ZeroDivisionError("oh")])
def test_an_unexpected_error_is_returned_as_a_reason(
    home: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("trainer.retrain.search", fail)
    result = run(home, None, Outcomes(concept(0, 300)))
    assert result.reason.startswith("training failed: ")
    assert str(error) in result.reason


def test_a_result_for_unreadable_outcomes_asks_for_a_retry(home: Path) -> None:
    class Broken(Outcomes):
        def ends(self) -> Mapping[TopicPartition, int]:
            raise BrokerUnavailable("gone")

    assert run(home, None, Broken()) == TrainingResult(reason="gone", passes=True)


def test_the_champion_is_judged_on_rows_that_it_was_not_trained_on(
    home: Path, champion: TrainedModel
) -> None:
    log = Outcomes(concept(100, 700))
    result = run(home, champion.announcement, log)
    assert "newest 120 held-out" in result.reason
    log = Outcomes(
        concept(0, 400)
    )  # held out: rows 320 to 399; the champion was trained on rows below 300
    assert "newest 80 held-out" in run(home, champion.announcement, log).reason
    stratified = msgspec.structs.replace(
        CLASSIFICATION, models=msgspec.structs.replace(CLASSIFICATION.models, split="stratified")
    )
    result = run(home, champion.announcement, Outcomes(concept(0, 600)), stream=stratified)
    unseen = int(result.reason.split("newest ")[1].split()[0])
    assert 50 <= unseen < 100, "of 120 drawn from 600, those from 300 on"
    assert np.isfinite(result.champion or np.nan)


@pytest.mark.parametrize("method", ["get", "put"])
def test_a_result_for_an_unreachable_store_asks_for_a_retry(
    home: Path, champion: TrainedModel, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object) -> None:
        raise StoreUnavailable("no route to the store")

    monkeypatch.setattr(ModelStore, method, unreachable)
    result = run(home, champion.announcement, Outcomes(concept(300, 900, turned=True)))
    assert result == TrainingResult(reason="no route to the store", passes=True)
