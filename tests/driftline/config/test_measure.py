"""The metric of a stream file: its names, its parameters and its errors."""

import pytest

from driftline.config.measure import METRIC_KINDS, Measure, Metric, metrics_for
from driftline.config.stream import loads
from driftline.config.stream_keys import describe
from driftline.errors import StreamFileError
from tests.measures import MEASURES, TOML

HEAD = 'version = 1\nname = "a"\ntarget = "y"\nfeatures = { x = "number" }\n'


def with_metric(text: str, task: str = "classification") -> Measure:
    return loads(f'{HEAD}task = "{task}"\nmetric = {text}\n').judged_by


@pytest.mark.parametrize("name", MEASURES)
def test_every_metric_is_loaded_with_its_parameters(name: Metric) -> None:
    assert with_metric(TOML[name], METRIC_KINDS[name].task) == MEASURES[name]


def test_the_default_metrics_are_accuracy_and_mae() -> None:
    for task, name in (("classification", "accuracy"), ("regression", "mae")):
        assert loads(f'{HEAD}task = "{task}"\n').judged_by == Measure(name)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('"rmse"', "[metric] Expected one of accuracy, balanced_accuracy"),
        ('"auc"', '[metric] Expected "accuracy", "balanced_accuracy"'),
        ('"f1"', "[metric.positive] Missing, but f1 requires it"),
        ('{ name = "roc_auc" }', "[metric.positive] Missing, but roc_auc requires it"),
        ('{ name = "roc_auc", positive = 1 }', "[metric.positive] Expected text, got 1"),
        ('{ name = "cost" }', "[metric.costs] Missing, but cost requires it"),
        (
            '{ name = "cost", costs = { a = { b = -1.0 } } }',
            "[metric.costs.a.b] Expected a number from 0, got -1.0",
        ),
        (
            '{ name = "accuracy", positive = "a" }',
            "[metric.positive] Expected only with f1 or roc_auc or average_precision, got accuracy",
        ),
        ('{ nam = "f1" }', "[metric.nam] Unknown key. Did you mean 'name'?"),
    ],
)
def test_errors_name_the_key_and_the_expected_value(text: str, message: str) -> None:
    with pytest.raises(StreamFileError) as caught:
        with_metric(text)
    assert message in caught.value.message


@pytest.mark.parametrize("quantile", ["0", "1", "1.5"])
def test_a_quantile_lies_between_0_and_1(quantile: str) -> None:
    with pytest.raises(StreamFileError, match=r"\[metric\.quantile\] Expected a number above 0"):
        with_metric(f'{{ name = "pinball_loss", quantile = {quantile} }}', "regression")


def test_config_describes_every_metric() -> None:
    stream = loads(f'{HEAD}task = "classification"\nmetric = {TOML["f1"]}\n')
    rows = {row.key: row for row in describe(stream)}
    assert (rows["metric.name"].value, rows["metric.positive"].value) == ('"f1"', '"a"')
    assert all(f"{name}: " in rows["metric.name"].meaning for name in METRIC_KINDS)


def test_unlisted_costs_are_1_for_a_wrong_prediction_and_otherwise_0() -> None:
    measure = MEASURES["cost"]
    assert [measure.cost(*pair) for pair in ("ab", "aa", "bb", "bc")] == [5.0, 0.0, 0.5, 1.0]


def test_losses_have_the_same_name_only_if_they_are_equal() -> None:
    names = {name: measure.loss for name, measure in MEASURES.items()}
    for name in (*metrics_for("classification")[:3], "mae", "rmse"):
        assert names[name] == ""
    assert names["roc_auc"] == names["average_precision"]
    assert len(set(names.values())) == 7
    costs = {"b": {"b": 0.5, "a": 2.0}, "a": {"b": 5.0}}  # in another order
    assert Measure("cost", costs=costs).loss == names["cost"]
    assert Measure("f1", positive="b").loss != names["f1"]
