"""Scorers: what a model returns for extreme values, and what it must not affect."""

import numpy as np
import pytest

from driftline.config.stream import Stream
from driftline.models.score import OnnxScorer, Scorer, Scores, SklearnScorer
from tests.training import CLASSIFICATION, REGRESSION, label, record, with_candidates
from trainer.candidates import candidate
from trainer.collect import from_records
from trainer.convert import to_onnx
from trainer.search import Fitted, fit

NAMES = ("decision_tree", "k_nearest_neighbours", "random_forest", "hist_gradient_boosting")
EXTREMES = [3.4e38, -3.4e38, 1e38, 1e30, 1e20, 1e-45]


def fitted(stream: Stream, name: str) -> Fitted:
    records = [record(i) for i in range(100)]
    rows = from_records(stream, [(value, label(stream, value)) for value in records]).rows
    kind = candidate(name, stream.task)
    return fit(with_candidates(stream, name), kind, kind.grid[0], rows)


def scorers(stream: Stream, model: Fitted, width: int) -> list[Scorer]:
    classes = model.schema.classes
    found: list[Scorer] = [SklearnScorer(model.estimator, stream.task, classes)]
    if isinstance(onnx := to_onnx(model, width), bytes):
        found.append(OnnxScorer(onnx, stream.task, classes))
    return found


@pytest.mark.parametrize(
    ("stream", "name"),
    [(CLASSIFICATION, name) for name in (*NAMES, "logistic_regression")]
    + [(REGRESSION, name) for name in (*NAMES, "linear_regression")],
)
def test_extreme_values_affect_only_the_scores_of_their_own_record(
    stream: Stream, name: str
) -> None:
    model = fitted(stream, name)
    ordinary = np.tile(np.array([[10, 3, 0, 1, 0, 3]], dtype=np.float32), (4, 1))
    ordinary[:, 0] += np.arange(4)
    extreme = np.tile(ordinary[:1], (len(EXTREMES), 1))
    extreme[:, 0] = extreme[:, 1] = EXTREMES
    for scorer in scorers(stream, model, ordinary.shape[1]):
        expected, scores = scorer.score(ordinary), scorer.score(np.vstack((ordinary, extreme)))
        assert not set(scores.not_finite()) & set(range(4))
        if isinstance(expected.predictions, list):
            assert scores.predictions[:4] == expected.predictions
        else:
            assert np.allclose(np.asarray(scores.predictions[:4]), expected.predictions)
        for place in range(len(extreme)):  # a batch may not decide what is finite
            alone = bool(scorer.score(extreme[place : place + 1]).not_finite())
            assert alone == (4 + place in scores.not_finite())


def test_an_error_that_extreme_values_do_not_explain_is_raised() -> None:
    scorer = SklearnScorer(fitted(REGRESSION, "linear_regression").estimator, "regression", ())
    with pytest.raises(ValueError, match="features"):
        scorer.score(np.zeros((2, 3), dtype=np.float32))


@pytest.mark.parametrize(
    ("scores", "places"),
    [
        (Scores(np.array([1.0, np.nan, -np.inf]), None), [1, 2]),
        (Scores(np.array([1e308, 1e308]), None), []),
        (Scores(["a", "b"], None), []),
        (Scores(["a", "b"], np.array([[0.5, 0.5], [np.nan, 1.0]])), [1]),
        (Scores([], np.zeros((0, 2))), []),
        (Scores(np.zeros(0), None), []),
    ],
)
def test_not_finite_finds_predictions_and_probabilities(scores: Scores, places: list[int]) -> None:
    assert scores.not_finite() == places
