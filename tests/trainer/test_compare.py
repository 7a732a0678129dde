"""A comparison uses exactly the outcomes of its look, all of them newer than the training."""

from collections.abc import Iterator, Mapping
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import numpy as np
import pytest

from driftline.broker.port import TopicPartition
from driftline.errors import BrokerUnavailable, PackageError, StoreUnavailable
from driftline.models.load import ModelLoader
from driftline.models.score import Scores
from driftline.wire.columns import Columns
from driftline.wire.events import Outcome
from tests.training import CLASSIFICATION, Outcomes, outcome
from tests.world import announced
from trainer.collect import collect_after
from trainer.compare import ComparisonJob, ComparisonResult, ModelPair, compare

PAIR = ModelPair(announced("sha256:new"), announced("sha256:old"), 299)


class Models:
    """A store of two models: the old one knows the first concept, the new one the turned one."""

    def __init__(self, error: Exception | None = None, *, broken: str = "") -> None:
        self.error = error
        self.broken = broken

    def load(self, model: Any) -> Any:
        if self.error is not None and model.digest == self.broken:
            raise self.error
        manifest = SimpleNamespace(classes=("no", "yes"))
        return SimpleNamespace(predict=partial(self.predict, model), manifest=manifest)

    def predict(self, model: Any, columns: Columns) -> Scores:
        red = np.array([colour == "red" for colour in columns.categories["colour"]])
        is_sold = columns.numbers["price"] + red > 10.3
        names = ["yes" if sold == (model.digest == "sha256:old") else "no" for sold in is_sold]
        finite = np.ones((len(names), 2))
        return Scores(names, finite * np.nan if model.digest == self.broken else finite)


def run(
    log: Outcomes, looked: int = 0, *, pair: ModelPair = PAIR, models: Models | None = None
) -> ComparisonResult:
    loader = cast("ModelLoader", models or Models())
    return compare(ComparisonJob(pair, looked), CLASSIFICATION, log, loader)


def concept(first: int, last: int, *, turned: bool = True) -> list[Outcome]:
    """Return outcomes of which a tenth follows the other concept."""
    other = np.random.default_rng(0).random(1_000) < 0.1
    return [outcome(CLASSIFICATION, i, turned=turned != other[i]) for i in range(first, last)]


def test_a_far_better_challenger_wins_at_the_first_look() -> None:
    result = run(Outcomes(concept(0, 400)))
    assert (result.state, result.rows, result.position) == ("won", 50, 349)
    assert result.challenger == 0.9
    assert result.champion == pytest.approx(0.1)
    assert result.reason == "accuracy 0.9 against 0.1 of the champion on 50 newer outcomes"


def test_later_or_unordered_outcomes_do_not_change_the_result() -> None:
    expected = run(Outcomes(concept(300, 350)))
    later = [*concept(300, 350), *concept(350, 700, turned=False)]
    assert run(Outcomes(later[::-1])) == expected


def test_older_and_repeated_outcomes_and_revisions_do_not_count() -> None:
    revised = [outcome(CLASSIFICATION, i, revision=1) for i in range(300, 360)]
    result = run(Outcomes([*concept(0, 340), *concept(300, 340), *revised]))
    assert (result.state, result.wait_for) == ("open", 10)
    assert result.reason == "40 newer outcomes; 50 are needed"


def test_a_worse_challenger_loses() -> None:
    result = run(Outcomes(concept(300, 900, turned=False)))
    assert (result.state, result.failed) == ("lost", False)
    assert result.reason.endswith("the champion stays, because the gain may be chance")


def test_an_open_comparison_continues_with_the_following_look() -> None:
    random = np.random.default_rng(1)
    turned = random.random(200) < 0.6
    log = Outcomes([outcome(CLASSIFICATION, 300 + i, turned=bool(turned[i])) for i in range(120)])
    first = run(log)
    assert (first.state, first.rows, first.wait_for) == ("open", 103, 21)
    again = run(log, looked=103)
    assert (again.state, again.rows, again.wait_for) == ("open", 103, 4)


def test_long_dependence_delays_the_decision() -> None:
    slow = msgspec.structs.replace(PAIR, dependence=20)
    log = Outcomes(concept(300, 700))
    assert run(log, pair=slow).rows == 257, "the first look at twelve blocks of 20 rows"


def test_a_champion_that_cannot_be_loaded_loses() -> None:
    lost = Models(PackageError("the store does not hold it"), broken="sha256:old")
    result = run(Outcomes(concept(300, 360)), models=lost)
    assert result.state == "won"
    assert result.reason == "there is no champion that can be loaded: the store does not hold it"


@pytest.mark.parametrize("error", [PackageError("damaged"), ZeroDivisionError("oh")])
def test_a_challenger_that_cannot_be_loaded_fails(error: Exception) -> None:
    result = run(Outcomes(concept(300, 360)), models=Models(error, broken="sha256:new"))
    assert (result.state, result.failed) == ("lost", True)
    assert str(error) in result.reason


def test_a_challenger_whose_probabilities_are_not_finite_loses() -> None:
    result = run(Outcomes(concept(300, 360)), models=Models(broken="sha256:new"))
    assert (result.state, result.failed) == ("lost", False)
    assert result.reason == "60 of 60 predictions of the challenger are not finite"


@pytest.mark.parametrize("digest", ["sha256:old", "sha256:new"])
def test_an_unreachable_store_asks_for_a_retry(digest: str) -> None:
    models = Models(StoreUnavailable("no route to the store"), broken=digest)
    result = run(Outcomes(concept(300, 360)), models=models)
    assert (result.state, result.passes) == ("open", True)


def test_unreadable_outcomes_ask_for_a_retry() -> None:
    class Broken(Outcomes):
        def read(self, start: Mapping[TopicPartition, int] | None = None) -> Iterator[Outcome]:
            raise BrokerUnavailable("gone")

    result = run(Broken())
    assert (result.state, result.reason, result.passes) == ("open", "gone", True)


def test_only_the_first_outcomes_after_a_position_are_kept() -> None:
    log = concept(0, 500)
    rows = collect_after([*log[::-1], *log], CLASSIFICATION, 99, 50)
    assert rows.positions.tolist() == list(range(100, 150))
