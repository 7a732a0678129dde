"""The domain classifier distinguishes windows from the reference and lists the changed columns.

How a `Judge` uses it is tested in `test_judge.py`.
"""

import numpy as np
import pytest
from numpy.typing import NDArray

from monitor.reference import domain_classifier
from monitor.reference.domain_classifier import DomainClassifier
from monitor.reference.histograms import Histograms

RATE = 0.01


@pytest.fixture(autouse=True)
def few_nulls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reduce the null samples; fewer than 60 are enough to find a large change."""
    monkeypatch.setattr(domain_classifier, "NULLS", 12)


def drawn(rows: int, seed: int, shift: float = 0.0) -> list[NDArray[np.float64]]:
    values = np.random.default_rng(seed).normal(size=(3, rows))
    values[1] += shift
    return list(values)


def made(columns: list[NDArray[np.float64]], block: int = 1) -> DomainClassifier:
    return DomainClassifier(Histograms(columns), columns=3, rate=RATE, block=block)


def test_it_lists_the_most_important_column_first() -> None:
    result = made(drawn(2_000, 0)).test(drawn(400, 1, shift=1.0))
    assert result is not None
    assert result.excess > 1.0
    assert result.places[0] == 1


def test_it_lists_a_column_but_raises_no_alarm_without_a_change() -> None:
    classifier = made(drawn(2_000, 0))
    for seed in range(1, 6):
        result = classifier.test(drawn(400, seed))
        assert result is not None
        assert result.excess < 1.0
        assert len(result.places) >= 1


def test_it_uses_a_limited_number_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(domain_classifier, "MAX_ROWS", 300)
    sizes = set()
    separability = domain_classifier._separability

    def watched(reference, window, **named):  # type: ignore[no-untyped-def]
        sizes.add((len(reference), len(window)))
        return separability(reference, window, **named)

    monkeypatch.setattr(domain_classifier, "_separability", watched)
    result = made(drawn(4_000, 0)).test(drawn(900, 1, shift=1.0))
    assert result is not None
    assert result.excess > 1.0
    assert sizes == {(1200, 300)}


def test_windows_of_nearly_the_same_size_share_a_limit() -> None:
    classifier = made(drawn(2_000, 0))
    one, other = classifier.test(drawn(400, 1, 1.0)), classifier.test(drawn(390, 1, 1.0))
    assert one is not None
    assert other is not None
    assert one.excess / one.effect == pytest.approx(other.excess / other.effect)


def test_the_limit_is_above_0_for_constant_columns() -> None:
    constant = [np.zeros(2_000)] * 3
    result = made(constant).test([np.zeros(400)] * 3)
    assert result is not None
    assert result.excess < 1.0
    other = made(constant).test([np.ones(400)] * 3)
    assert other is not None
    assert other.excess > 1.0


def test_it_gives_no_result_for_few_records_or_a_too_short_reference() -> None:
    assert made(drawn(2_000, 0)).test(drawn(99, 1)) is None
    assert made(drawn(2_000, 0), block=200).test(drawn(500, 1)) is None
