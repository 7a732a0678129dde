"""The gate selects a challenger on outcomes that the champion was not trained on."""

import numpy as np
import pytest

from tests.training import CLASSIFICATION, REGRESSION
from trainer.gate import judge, judged_places

LABELS = ["a", "b"] * 50


def with_errors(count: int) -> list[str]:
    """Return predictions with this many errors, spread evenly."""
    wrong = set(np.linspace(0, 99, count).astype(int)) if count else set()
    return [("a" if y == "b" else "b") if i in wrong else y for i, y in enumerate(LABELS)]


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
    close, far = [y + 0.1 for y in labels], [y + 0.5 for y in labels]
    assert judge(REGRESSION, labels, close, far).won
    assert not judge(REGRESSION, labels, far, close).won


def test_the_champion_is_not_judged_on_its_training_rows() -> None:
    positions = np.arange(100)
    assert list(judged_places(positions, 29)) == list(range(30, 100))


@pytest.mark.parametrize("last", [None, 70, 1000])
def test_all_rows_count_if_too_few_are_new(last: int | None) -> None:
    assert len(judged_places(np.arange(100), last)) == 100
