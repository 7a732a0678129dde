"""ONNX is used only if it gives the same predictions as scikit-learn."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from driftline.config.stream import Stream
from driftline.learning.encoding import encode_matrix
from driftline.models.score import OnnxScorer, Scores, SklearnScorer
from tests.training import CLASSIFICATION, REGRESSION, label, record
from trainer import convert as convert_module
from trainer.candidates import candidate
from trainer.collect import from_records
from trainer.convert import convert, equal
from trainer.rows import TrainingRows
from trainer.search import Fitted, fit


def rows(stream: Stream, first: int, count: int) -> TrainingRows:
    records = [record(i) for i in range(first, first + count)]
    return from_records(stream, records, [label(stream, r) for r in records]).rows


def fitted(stream: Stream, name: str) -> Fitted:
    kind = candidate(name, stream.task)
    return fit(stream, kind, kind.grid[0], rows(stream, 0, 400))


def ticking(*durations_s: float) -> Callable[[], float]:
    """Return a timer by which the measured calls take these durations, repeated in turn."""

    def ticks() -> Iterator[float]:
        now_s = 0.0
        while True:
            for duration_s in durations_s:
                yield now_s
                now_s += duration_s
                yield now_s

    return ticks().__next__


@pytest.mark.parametrize(
    ("stream", "name"),
    [
        (CLASSIFICATION, "logistic_regression"),
        (CLASSIFICATION, "decision_tree"),
        (CLASSIFICATION, "k_nearest_neighbours"),
        (CLASSIFICATION, "random_forest"),
        (CLASSIFICATION, "neural_network"),
        (CLASSIFICATION, "sklearn.naive_bayes.GaussianNB"),
        (REGRESSION, "linear_regression"),
        (REGRESSION, "decision_tree"),
        (REGRESSION, "k_nearest_neighbours"),
        (REGRESSION, "random_forest"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.task,
)
def test_onnx_gives_the_same_predictions_for_unseen_records(stream: Stream, name: str) -> None:
    model = fitted(stream, name)
    matrix = encode_matrix(model.schema, rows(stream, 5000, 300).columns)
    conversion = convert(model, stream, matrix[:50])
    assert conversion.onnx is not None, conversion.reason
    onnx = OnnxScorer(conversion.onnx, stream.task, model.schema.classes).score(matrix)
    sklearn = SklearnScorer(model.estimator, stream.task, model.schema.classes).score(matrix)
    assert equal(onnx, sklearn)


def test_nearest_neighbours_are_scored_by_scikit_learn_without_measuring() -> None:
    model = fitted(CLASSIFICATION, "k_nearest_neighbours")
    matrix = encode_matrix(model.schema, rows(CLASSIFICATION, 500, 50).columns)

    def never() -> float:
        pytest.fail("measured")

    assert convert(model, CLASSIFICATION, matrix, never).scoring == "sklearn"


@pytest.mark.parametrize(
    ("onnx_s", "sklearn_s", "chosen"),
    [(1.0, 1.0, "onnx"), (1.9, 1.0, "onnx"), (2.1, 1.0, "sklearn"), (0.1, 1.0, "onnx")],
)
def test_onnx_is_used_unless_it_is_clearly_slower(
    onnx_s: float, sklearn_s: float, chosen: str
) -> None:
    model = fitted(CLASSIFICATION, "decision_tree")
    matrix = encode_matrix(model.schema, rows(CLASSIFICATION, 500, 50).columns)
    repeats = convert_module._REPEATS
    timer = ticking(*[onnx_s] * repeats, *[sklearn_s] * repeats)
    conversion = convert(model, CLASSIFICATION, matrix, timer)
    assert conversion.scoring == chosen
    assert conversion.onnx is not None


def test_a_model_that_cannot_be_converted_is_scored_by_scikit_learn() -> None:
    model = fitted(CLASSIFICATION, "sklearn.ensemble.HistGradientBoostingClassifier")
    matrix = encode_matrix(model.schema, rows(CLASSIFICATION, 500, 50).columns)
    conversion = convert(model, CLASSIFICATION, matrix)
    assert (conversion.scoring, conversion.onnx) == ("sklearn", None)
    assert "cannot be converted" in conversion.reason


def test_an_onnx_form_with_other_predictions_is_not_in_the_package(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, other = (fitted(CLASSIFICATION, n) for n in ("decision_tree", "logistic_regression"))
    matrix = encode_matrix(model.schema, rows(CLASSIFICATION, 500, 50).columns)
    foreign = convert(other, CLASSIFICATION, matrix).onnx
    monkeypatch.setattr(convert_module, "to_onnx", lambda *_: foreign)
    conversion = convert(model, CLASSIFICATION, matrix)
    assert (conversion.scoring, conversion.onnx) == ("sklearn", None)
    assert "gives different results" in conversion.reason


def test_scikit_learn_scores_if_the_onnx_extra_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "skl2onnx", None)
    model = fitted(CLASSIFICATION, "decision_tree")
    matrix = encode_matrix(model.schema, rows(CLASSIFICATION, 500, 50).columns)
    conversion = convert(model, CLASSIFICATION, matrix)
    assert (conversion.scoring, conversion.reason) == ("sklearn", "skl2onnx is not installed")


def test_predictions_may_differ_only_where_scores_are_tied() -> None:
    tie = np.array([[0.50001, 0.49999], [0.9, 0.1]])
    one = Scores(["a", "a"], tie)
    assert equal(one, Scores(["b", "a"], tie - 1e-5))
    assert not equal(one, Scores(["a", "b"], tie))
    assert not equal(one, Scores(["a", "a"], tie + 0.01))
