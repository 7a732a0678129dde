"""The gate selects a challenger on outcomes that the champion was not trained on."""

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from driftline.config.measure import Metric
from driftline.learning.metrics import Answers, answers_of
from tests.measures import MEASURES
from tests.training import CLASSIFICATION, REGRESSION
from trainer.gate import judge, judged_places

LABELS = ["a", "b"] * 50


def with_errors(count: int) -> Answers:
    """Return answers with this many errors, spread evenly."""
    wrong = set(np.linspace(0, 99, count).astype(int)) if count else set()
    return Answers([("a" if y == "b" else "b") if i in wrong else y for i, y in enumerate(LABELS)])


def test_a_better_model_may_be_compared_with_the_champion() -> None:
    verdict = judge(CLASSIFICATION, LABELS, with_errors(5), with_errors(30))
    assert verdict.won
    assert (verdict.challenger, verdict.champion) == (0.95, 0.7)
    assert verdict.reason == (
        "accuracy 0.95 against 0.7 of the champion on the newest 100 held-out outcomes"
    )


def test_a_tie_keeps_the_champion() -> None:
    verdict = judge(CLASSIFICATION, LABELS, with_errors(5), with_errors(5))
    assert not verdict.won
    assert verdict.reason.endswith("the champion stays")


def test_a_loss_keeps_the_champion() -> None:
    assert not judge(CLASSIFICATION, LABELS, with_errors(30), with_errors(5)).won


def test_without_a_champion_the_challenger_wins() -> None:
    verdict = judge(CLASSIFICATION, LABELS, with_errors(60), None)
    assert verdict.won
    assert verdict.champion is None
    assert "there is no champion" in verdict.reason


def test_a_smaller_error_is_better() -> None:
    labels = list(np.linspace(0, 1, 100))
    close, far = Answers([y + 0.1 for y in labels]), Answers([y + 0.5 for y in labels])
    assert judge(REGRESSION, labels, close, far).won
    assert not judge(REGRESSION, labels, far, close).won


def test_the_champion_is_not_judged_on_its_training_rows() -> None:
    positions = np.arange(100)
    assert list(judged_places(positions, 29)) == list(range(30, 100))


@pytest.mark.parametrize("last", [None, 70, 1000])
def test_all_rows_count_if_too_few_are_new(last: int | None) -> None:
    assert len(judged_places(np.arange(100), last)) == 100


@pytest.mark.parametrize("name", MEASURES)
def test_the_gate_promotes_a_much_better_model_by_any_metric(name: Metric) -> None:
    measure, rng = MEASURES[name], np.random.default_rng(0)
    stream = msgspec.structs.replace(CLASSIFICATION, metric=measure)
    labels: list[str] | list[float]
    good: list[str] | list[float]
    bad: list[str] | list[float]
    scores: list[NDArray[np.float64] | None] = [None, None]
    if measure.kind.task == "classification":
        labels = rng.choice(["a", "b"], size=400).tolist()
        good, bad = ([str(y) if rng.random() < p else "b" for y in labels] for p in (0.95, 0.5))
        rows = np.array([[float(y == "a"), float(y == "b")] for y in labels])
        scores = [0.5 + share * (rows - 0.5) + 0.2 * rng.random((400, 2)) for share in (0.6, 0.1)]
    else:
        stream = msgspec.structs.replace(REGRESSION, metric=measure)
        labels = rng.uniform(1.0, 9.0, size=400).tolist()
        good, bad = ((np.array(labels) + rng.normal(0, s, 400)).tolist() for s in (0.2, 2.0))
    ours, theirs = (
        answers_of(measure, labels, predictions, own, ("a", "b"))
        for predictions, own in zip((good, bad), scores, strict=True)
    )
    assert judge(stream, labels, ours, theirs).won
    assert not judge(stream, labels, theirs, ours).won
    assert not judge(stream, labels, ours, ours).won
