"""Metrics estimated without labels are correct if labels are drawn from the scores.

There is no estimate if the necessary data are missing."""

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from driftline.config.measure import METRIC_KINDS, Metric, default_measure
from driftline.config.stream import Stream, loads
from driftline.learning.metrics import Answers, answers_of, evaluate, losses
from driftline.models.package_reference import Reference
from driftline.wire.columns import Columns
from monitor.bottom_k_sample import Sample
from monitor.class_scores import ClassScores, packed
from monitor.estimates.calibration import calibrated, isotonic
from monitor.estimates.estimator import Estimator
from monitor.reference.references import Profiles, References, estimator_for
from tests.measures import MEASURES, TOML
from tests.monitor.streams import Packages

CLASSES = ("a", "b", "c")


def stream(metric: Metric) -> Stream:
    task = METRIC_KINDS[metric].task
    return loads(
        f'version = 1\nname = "s"\ntask = "{task}"\ntarget = "y"\nmetric = {TOML[metric]}\n'
        '[features]\nx = "number"\ncolour = "category"\n'
    )


class World:
    """Records with random labels; `shift` moves the inputs to where the model is less certain."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def classified(
        self, count: int, shift: float = 0.0
    ) -> tuple[Columns, NDArray[np.float64], NDArray[np.object_], NDArray[np.object_]]:
        """Return columns, scores, predictions and labels. The scores are overconfident."""
        x = self.rng.normal(size=count) * (1.0 - shift)
        odds = np.exp(np.column_stack([2.0 * x, -2.0 * x, np.full(count, -0.5)]))
        true = odds / odds.sum(axis=1, keepdims=True)
        given = true**2 / (true**2).sum(axis=1, keepdims=True)
        draw = self.rng.random(count)[:, None] > true.cumsum(axis=1)
        names: NDArray[np.object_] = np.array(CLASSES, dtype=object)
        return self.columns(x), given, names[given.argmax(axis=1)], names[draw.sum(axis=1)]

    def measured(
        self, count: int, shift: float = 0.0
    ) -> tuple[Columns, NDArray[np.float64], NDArray[np.float64]]:
        """Return columns, predictions and labels; errors are larger where x is larger."""
        x = self.rng.uniform(shift, 1.0, size=count)
        said = 10.0 * x
        return self.columns(x), said, said + (0.5 + x) * self.rng.normal(size=count)

    def columns(self, x: NDArray[np.float64]) -> Columns:
        colours = np.array(["red", None], dtype=object)[self.rng.integers(0, 2, len(x))]
        return Columns({"x": x}, {"colour": colours})

    def reference(self, metric: Metric, count: int = 1000) -> Reference:
        scores: NDArray[np.float64] | None = None
        said: NDArray[Any]
        labels: NDArray[Any]
        task = METRIC_KINDS[metric].task
        if task == "regression":
            columns, said, labels = self.measured(count)
        else:
            columns, scores, said, labels = self.classified(count)
        wrong = losses(default_measure(task), labels, Answers(said))
        return Reference(
            columns=columns,
            positions=np.arange(count),
            predictions=said,
            held_labels=labels,
            held_predictions=said,
            held_scores=scores,
            errors=wrong,
            levels={},
            ranges={},
            classes=() if scores is None else CLASSES,
            held_columns=columns,
        )

    def window(self, metric: Metric, count: int, shift: float = 0.0) -> tuple[Sample, float]:
        """Return a window and its realised metric."""
        measure = MEASURES[metric]
        if measure.kind.task == "regression":
            columns, said, truth = self.measured(count, shift)
            return Sample(columns, said), evaluate(measure, truth, Answers(said))
        columns, scores, names, labels = self.classified(count, shift)
        own = {name: packed(scores[:, place]) for place, name in enumerate(CLASSES)}
        realised = evaluate(measure, labels, answers_of(measure, labels, names, scores, CLASSES))
        return Sample(columns, names, ClassScores(own, count)), realised


def made(metric: Metric, reference: Reference) -> Estimator:
    found = estimator_for(stream(metric), reference)
    assert found is not None
    return found


by_metric = pytest.mark.parametrize("metric", MEASURES)


@by_metric
def test_the_estimate_equals_the_realised_metric_on_average(metric: Metric) -> None:
    world = World(1)
    estimator = made(metric, world.reference(metric, 4000))
    differences = []
    for _ in range(20):
        sample, realised = world.window(metric, 500)
        estimate = estimator.estimate(sample, 500)
        assert estimate is not None
        assert estimate.low <= estimate.value <= estimate.high
        differences.append((estimate.value - realised) / estimate.reference)
    # With 10,000 and 4,000 records, the standard error is at most 0.02 of the metric.
    assert abs(float(np.mean(differences))) < 0.06


@by_metric
def test_less_certain_inputs_change_the_estimate_like_the_realised_metric(
    metric: Metric,
) -> None:
    world = World(2)
    estimator = made(metric, world.reference(metric, 4000))
    sample, realised = world.window(metric, 5000, 0.5)
    estimate = estimator.estimate(sample, 5000)
    assert estimate is not None
    moved, truly = estimate.value - estimate.reference, realised - estimate.reference
    assert abs(truly) > 0.1 * estimate.reference
    assert 0.6 < moved / truly < 1.3


@pytest.mark.parametrize(
    ("metric", "shift"), [("accuracy", 0.0), ("accuracy", 0.5), ("f1_macro", 0.0), ("mae", 0.0)]
)
def test_the_interval_contains_the_realised_metric_in_about_95_of_100_windows(
    metric: Metric, shift: float
) -> None:
    inside = []
    for seed in range(5 if metric == "mae" else 12):
        world = World(seed)
        estimator = made(metric, world.reference(metric))
        for records in (200, 500, 2000) * 2:
            sample, realised = world.window(metric, records, shift)
            estimate = estimator.estimate(sample, records)
            assert estimate is not None
            inside.append(estimate.low <= realised <= estimate.high)
    # With at least 30 windows, six for each reference, the standard error is 4%.
    assert float(np.mean(inside)) >= 0.85


def test_the_interval_from_a_sample_is_wider_than_from_the_whole_window() -> None:
    world = World(3)
    estimator = made("accuracy", world.reference("accuracy"))
    sample, _ = world.window("accuracy", 200)
    part, whole = estimator.estimate(sample, 100_000), estimator.estimate(sample, 200)
    assert part is not None
    assert whole is not None
    assert part.value == whole.value
    # The average of many labels is almost certain, but the sampled records vary.
    assert part.high - part.low > 0


def test_a_stream_with_autocorrelated_errors_has_wide_intervals() -> None:
    world = World(4)
    calm = world.reference("accuracy")
    labels = calm.held_labels.copy()
    labels[300:500] = "c"  # a period in which the model is mostly wrong
    rough = msgspec.structs.replace(calm, held_labels=labels)
    sample, _ = world.window("accuracy", 500)
    widths = []
    for reference in (calm, rough):
        estimate = made("accuracy", reference).estimate(sample, 500)
        assert estimate is not None
        widths.append(estimate.high - estimate.low)
    assert widths[1] > 3 * widths[0]


# ---- missing data --------------------------------------------------------------------------------


def test_there_is_no_estimate_for_a_window_without_scores() -> None:
    world = World(5)
    estimator = made("accuracy", world.reference("accuracy"))
    sample, _ = world.window("accuracy", 100)
    assert sample.scores is not None
    assert estimator.estimate(msgspec.structs.replace(sample, scores=None), 100) is None
    one = np.full(100, 65_535, dtype=np.uint16)
    one[1:] = sample.scores.own("a")[1:]
    broken = ClassScores(sample.scores.by_class | {"a": one}, 100)
    assert estimator.estimate(msgspec.structs.replace(sample, scores=broken), 100) is None
    new = sample.predictions.copy()
    new[7] = "a class that came later"
    assert estimator.estimate(msgspec.structs.replace(sample, predictions=new), 100) is None


def test_there_is_no_estimate_for_a_window_that_lacks_a_column_of_the_reference() -> None:
    world = World(6)
    estimator = made("mae", world.reference("mae"))
    sample, _ = world.window("mae", 100)
    columns = Columns(sample.columns.numbers, {}, 100)
    assert estimator.estimate(msgspec.structs.replace(sample, columns=columns), 100) is None


@pytest.mark.parametrize(
    ("metric", "changes"),
    [
        ("accuracy", {"classes": ()}),
        ("accuracy", {"held_scores": None}),
        ("mae", {"held_columns": None}),
    ],
)
def test_there_is_no_estimate_for_a_package_of_an_old_version(
    metric: Metric, changes: dict[str, None]
) -> None:
    reference = msgspec.structs.replace(World(7).reference(metric), **changes)
    assert estimator_for(stream(metric), reference) is None


@by_metric
def test_there_is_no_estimate_with_few_held_out_records(metric: Metric) -> None:
    assert estimator_for(stream(metric), World(8).reference(metric, 49)) is None
    assert estimator_for(stream(metric), World(8).reference(metric, 50)) is not None


def test_a_model_without_a_package_has_no_estimator() -> None:
    of = stream("accuracy")
    profiles = Profiles(
        of, References(Packages({"m": World(9).reference("accuracy")}), of.judged_by)
    )
    assert profiles.estimator("m") is profiles.estimator("m")
    assert profiles.estimator("m") is not None
    assert profiles.estimator("unknown") is None


@by_metric
def test_the_same_reference_gives_the_same_estimate(metric: Metric) -> None:
    reference = World(10).reference(metric)
    sample, _ = World(11).window(metric, 300)
    first = made(metric, reference).estimate(sample, 300)
    assert first == made(metric, reference).estimate(sample, 300)


# ---- calibration ---------------------------------------------------------------------------------


@given(
    pairs=st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1),
    asked=st.lists(st.floats(0, 1), min_size=1),
)
def test_a_calibration_map_never_decreases_and_stays_between_0_and_1(
    pairs: list[tuple[float, bool]], asked: list[float]
) -> None:
    scores, hits = zip(*pairs, strict=True)
    found = isotonic(np.array(scores), np.array(hits))(np.array(sorted(asked)))
    assert (np.diff(found) >= -1e-12).all()
    assert found.min() >= 0.0
    assert found.max() <= 1.0
    assert np.mean(isotonic(np.array(scores), np.array(hits))(np.array(scores))) == pytest.approx(
        np.mean(hits)
    )


def test_the_calibrated_scores_of_a_record_sum_to_one() -> None:
    never = isotonic(np.array([0.0, 1.0]), np.array([False, False]))
    rising = isotonic(np.array([0.0, 1.0]), np.array([False, True]))
    scores = np.array([[0.25, 0.75], [0.0, 0.0]])
    assert calibrated([rising, never], scores).tolist() == [[1.0, 0.0], [0.5, 0.5]]


# ---- scores of a sample --------------------------------------------------------------------------


def test_scores_are_merged_by_class_for_any_classes_of_the_records() -> None:
    parts = [ClassScores.of([{"a": 0.25, "b": 0.75}, None]), ClassScores.of([{"b": 2.0}]),
             ClassScores.none(1)]  # fmt: skip
    for order in ([0, 1, 2], [2, 1, 0]):
        whole = ClassScores.concat([parts[place] for place in order])
        rows = whole.matrix(["a", "b"]).round(3).tolist()
        key = [tuple(-1.0 if v != v else v for v in row) for row in rows]
        assert sorted(key) == [(-1.0, -1.0), (-1.0, -1.0), (-1.0, 1.0), (0.25, 0.75)]
        assert len(whole.take(np.array([0, 2]))) == 2
