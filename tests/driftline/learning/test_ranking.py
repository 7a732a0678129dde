"""Ranking metrics from counts equal scikit-learn's, and their gradients are correct."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from driftline.learning.ranking import (
    Ranking,
    placements,
    ranking_metric,
    ranking_slopes,
    score_codes,
)

SCORES = {"roc_auc": roc_auc_score, "average_precision": average_precision_score}
by_name = pytest.mark.parametrize("name", SCORES)
# Few distinct scores, so that there are many ties.
ranked = st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=40).filter(
    lambda rows: len({positive for _, positive in rows}) == 2
)


@by_name
@given(rows=ranked)
def test_ranking_metrics_equal_those_of_scikit_learn(
    name: str, rows: list[tuple[int, bool]]
) -> None:
    scores, positive = (np.array(column) for column in zip(*rows, strict=True))
    found = ranking_metric(name, Ranking.of(scores / 6.0, positive))
    assert found == pytest.approx(SCORES[name](positive, scores))


@given(rows=ranked)
def test_the_mean_placement_is_1_minus_roc_auc(rows: list[tuple[int, bool]]) -> None:
    scores, positive = (np.array(column) for column in zip(*rows, strict=True))
    found = placements(scores / 6.0, positive)
    assert len(found) == positive.sum()
    assert ((found >= 0) & (found <= 1)).all()
    assert found.mean() == pytest.approx(1.0 - roc_auc_score(positive, scores))


@by_name
@given(rows=ranked)
def test_the_gradient_is_the_slope_of_the_metric(name: str, rows: list[tuple[int, bool]]) -> None:
    scores, positive = (np.array(column) for column in zip(*rows, strict=True))
    ranking = Ranking.of(scores / 6.0, positive)
    value, step = ranking_metric(name, ranking), 1e-6
    for side, slopes in enumerate(ranking_slopes(name, ranking)):
        for place, slope in enumerate(slopes):
            weights = [ranking.positives.copy(), ranking.negatives.copy()]
            weights[side][place] += step
            rise = (ranking_metric(name, Ranking(*weights)) - value) / step
            assert rise == pytest.approx(slope, abs=1e-4)


def test_codes_keep_the_order_and_are_exact_where_rare_classes_have_their_scores() -> None:
    millionths = np.arange(0, 1_000_001)
    codes = score_codes(millionths / 1e6).astype(int)
    assert (np.diff(codes) >= 0).all()
    assert codes.max() < 2**16
    rare = millionths < 4096
    assert (codes[rare] == millionths[rare]).all()
    tied = np.flatnonzero(np.diff(codes) == 0)
    assert np.minimum(millionths[tied], 1_000_000 - millionths[tied]).min() >= 4096


@by_name
def test_rounding_the_scores_hardly_changes_the_metric(name: str) -> None:
    rng = np.random.default_rng(0)
    positive = rng.random(20_000) < 0.01
    scores = np.where(positive, rng.beta(2, 20, 20_000), rng.beta(1, 40, 20_000)).round(6)
    exact = SCORES[name](positive, scores)
    found = ranking_metric(name, Ranking.of(score_codes(scores), positive))
    assert found == pytest.approx(exact, abs=2e-4)


@by_name
def test_a_ranking_of_one_class_is_undefined(name: str) -> None:
    ranking = Ranking.of(np.array([0.1, 0.2]), np.array([False, False]))
    assert np.isnan(ranking_metric(name, ranking))
    assert not np.concatenate(ranking_slopes(name, ranking)).any()
    assert not len(placements(np.array([0.1, 0.2]), np.array([True, True])))
