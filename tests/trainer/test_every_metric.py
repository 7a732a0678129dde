"""Models are trained, packaged and loaded by every metric, if their answers allow it."""

from pathlib import Path

import msgspec
import pytest

from driftline.config.measure import Measure, Metric
from driftline.config.stream import Stream
from driftline.errors import PackageCheckFailed, TrainingError
from driftline.models.load import ModelLoader
from tests.measures import MEASURES
from tests.training import CLASSIFICATION, REGRESSION, first_model, settings, with_candidates

# Its estimators return no probabilities.
RIDGE = "sklearn.linear_model.RidgeClassifier"


def judged_by(measure: Measure) -> Stream:
    """Return a stream with this metric; its classes are yes and no, not a and b."""
    base = CLASSIFICATION if measure.kind.task == "classification" else REGRESSION
    if measure.positive is not None:
        measure = msgspec.structs.replace(measure, positive="yes")
    return msgspec.structs.replace(base, metric=measure)


@pytest.mark.parametrize("name", MEASURES)
def test_a_model_is_chosen_and_announced_by_its_metric(name: Metric, tmp_path: Path) -> None:
    stream = judged_by(MEASURES[name])
    trained = first_model(stream, tmp_path)
    assert trained.announcement.metric == trained.manifest.metric == name
    best = max if stream.judged_by.higher_is_better else min
    assert trained.value == best(trial.metric for trial in trained.manifest.trials)
    ModelLoader.of(settings(tmp_path), stream).load(trained.announcement)


@pytest.mark.parametrize("name", ["roc_auc", "log_loss"])
def test_a_candidate_without_probabilities_is_left_out_with_a_reason(
    name: Metric, tmp_path: Path
) -> None:
    stream = judged_by(MEASURES[name])
    trained = first_model(with_candidates(stream, RIDGE, "decision_tree"), tmp_path)
    assert trained.candidate == "decision_tree"
    with pytest.raises(TrainingError, match=f"metric {name} needs probabilities"):
        first_model(with_candidates(stream, RIDGE), tmp_path)


def test_a_positive_class_that_does_not_occur_is_named(tmp_path: Path) -> None:
    stream = msgspec.structs.replace(CLASSIFICATION, metric=Measure("f1", positive="Yes"))
    with pytest.raises(TrainingError, match=r"needs the class 'Yes', but .* the classes no, yes"):
        first_model(stream, tmp_path)


def test_a_model_that_lacks_what_the_metric_needs_is_not_loaded(tmp_path: Path) -> None:
    trained = first_model(with_candidates(CLASSIFICATION, RIDGE), tmp_path)
    for measure, reason in (
        (Measure("log_loss"), "metric log_loss needs probabilities"),
        (Measure("f1", positive="Yes"), "metric f1 needs the class 'Yes'"),
    ):
        stream = msgspec.structs.replace(CLASSIFICATION, metric=measure)
        with pytest.raises(PackageCheckFailed, match=reason):
            ModelLoader.of(settings(tmp_path), stream).load(trained.announcement)
    ModelLoader.of(settings(tmp_path), CLASSIFICATION).load(trained.announcement)
