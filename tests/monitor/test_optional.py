"""A part of a window that fails does not cost the window, for any data and any cause."""

import logging
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from driftline.config.measure import Measure, default_measure
from driftline.config.stream import Stream, loads
from driftline.config.stream_sections import Task
from driftline.errors import StoreUnavailable
from driftline.learning.metrics import Answers, losses
from driftline.models.package_reference import Reference
from driftline.wire.columns import Columns
from driftline.wire.window_events import DataGroup, DataWindow, PerformancePane, PerformanceWindow
from monitor.bottom_k_sample import Sample
from monitor.class_scores import ClassScores, packed
from monitor.estimates.estimator import Guess, MetricEstimator
from monitor.estimates.support import Support
from monitor.merged_windows import performance_windows
from monitor.optional import optional
from monitor.reference import column_tests, domain_classifier, judge, references
from monitor.reference.domain_classifier import DomainClassifier
from monitor.reference.judge import Judge
from monitor.reference.profile import ReferenceProfile
from monitor.reference.references import Profiles, References, estimator_for
from tests.monitor.driver import play
from tests.monitor.streams import Log, Packages, small_stream

# Thresholds and the classifier's limits need not be exact here.
pytestmark = pytest.mark.usefixtures("few_resamples", "few_nulls")


@pytest.fixture
def few_nulls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(domain_classifier, "NULLS", 3)


LARGEST = 3.4028234663852886e38
COLUMNS: dict[str, Callable[[int], NDArray[Any]]] = {
    "empty": lambda n: np.full(n, np.nan),
    "only the first": lambda n: np.where(np.arange(n) == 0, 1.0, np.nan),
    "only the last": lambda n: np.where(np.arange(n) == n - 1, 1.0, np.nan),
    "a tenth": lambda n: np.where(np.arange(n) < n / 10, np.arange(n) * 1.0, np.nan),
    "constant": lambda n: np.full(n, 7.0),
    "largest": lambda n: np.where(np.arange(n) % 3, LARGEST, -LARGEST),
    "infinite": lambda n: np.where(np.arange(n) % 3, np.inf, -np.inf),
    "tiny": lambda n: np.where(np.arange(n) % 3, 5e-324, -5e-324),
    "one spike": lambda n: np.where(np.arange(n) == n // 2, LARGEST, np.arange(n) % 10.0),
    "ordinary": lambda n: np.arange(n) % 10.0,
}
CATEGORIES: dict[str, Callable[[int], list[str | None]]] = {
    "empty": lambda n: [None] * n,
    "constant": lambda n: ["red"] * n,
    "only the last": lambda n: [None] * (n - 1) + ["red"],
    "all different": lambda n: [str(i) for i in range(n)],
}


def odd_stream(task: Task, metric: str) -> Stream:
    numbers = "".join(f'"{name}" = "number"\n' for name in COLUMNS)
    categories = "".join(f'"c {name}" = "category"\n' for name in CATEGORIES)
    return loads(
        f'version = 1\nname = "s"\ntask = "{task}"\ntarget = "y"\nmetric = "{metric}"\n'
        f"drift = {{ classifier = true }}\n[features]\n{numbers}{categories}"
    )


def odd_columns(count: int, *, emptied: bool) -> Columns:
    categories: dict[str, NDArray[np.object_]] = {}
    for name, made in CATEGORIES.items():
        values = categories[f"c {name}"] = np.empty(count, dtype=object)
        values[:] = [None] * count if emptied else made(count)
    return Columns(
        {name: COLUMNS["empty"](count) if emptied else f(count) for name, f in COLUMNS.items()},
        categories,
    )


def objects(values: list[str]) -> NDArray[np.object_]:
    found = np.empty(len(values), dtype=object)
    found[:] = values
    return found


def predictions(task: Task, count: int, factor: float) -> tuple[NDArray[Any], Any, NDArray[Any]]:
    """Return predictions, scores and labels: up to `factor`, or of one class if that is large."""
    if task == "regression":
        said = (np.arange(count) % 10) / 10 * factor
        return said, None, np.roll(said, 3)
    scores = np.tile([[0.25, 0.75], [0.75, 0.25], [1.0, 0.0]], (count, 1))[:count]  # of b and a
    names = objects(["ba"[place] for place in scores.argmax(axis=1)])
    return names, scores, objects(["a" if factor > 1.0 else "ab"[i % 2] for i in range(count)])


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("emptied", [(False, False), (False, True), (True, False), (True, True)])
@pytest.mark.parametrize("factor", [0.0, LARGEST])
@pytest.mark.parametrize(
    ("task", "metric"),
    [("regression", "mae"), ("regression", "rmse"), ("classification", "f1_macro")],
)
def test_odd_columns_are_tested_and_give_an_estimate(
    task: Task,
    metric: str,
    factor: float,
    emptied: tuple[bool, bool],
    caplog: pytest.LogCaptureFixture,
) -> None:
    stream = odd_stream(task, metric)
    old, new = (odd_columns(n, emptied=e) for n, e in zip((400, 150), emptied, strict=True))
    said, scores, labels = predictions(task, 400, factor)
    reference = Reference(
        columns=old,
        positions=np.arange(400),
        predictions=said,
        held_labels=labels,
        held_predictions=said,
        held_scores=scores,
        errors=losses(default_measure(task), labels, Answers(said)),
        levels={},
        ranges={},
        classes=("b", "a") if task == "classification" else (),
        held_columns=old,
    )
    now, now_scores, _ = predictions(task, 150, factor)
    own = None
    if now_scores is not None:
        own = ClassScores({name: packed(now_scores[:, n]) for n, name in enumerate("ba")}, 150)
    sample = Sample(new, now, own, positions=np.arange(400, 550))
    group = Judge(stream).test("m", 150, sample, ReferenceProfile(stream, reference))
    estimator = estimator_for(stream, reference)
    assert estimator is not None
    group = msgspec.structs.replace(group, estimate=estimator.estimate(sample, 150))
    assert group.estimate is not None
    assert msgspec.json.decode(msgspec.json.encode(group), type=DataGroup) == group
    assert np.isfinite(
        References(Packages({"m": reference}), default_measure(task)).error_inflation("m")
    )
    assert not caplog.records


# ---- parts that fail -----------------------------------------------------------------------------


def history() -> tuple[Stream, Packages, Log]:
    stream = small_stream(drift="classifier = true", windows="records = 100\nmin_records = 10")
    x = np.random.default_rng(0).normal(size=300)
    scores = np.tile([[0.25, 0.75], [0.75, 0.25]], (150, 1))
    said = objects(["yes", "no"] * 150)
    colours = objects(["red", "blue"] * 150)
    columns = Columns({"x": x}, {"colour": colours})
    reference = Reference(
        columns=columns,
        positions=np.arange(300),
        predictions=said,
        held_labels=said,
        held_predictions=said,
        held_scores=scores,
        errors=np.array([0.0, 0.0, 1.0] * 100),
        levels={},
        ranges={},
        classes=("no", "yes"),
        held_columns=columns,
    )
    log = Log(stream)
    for row in range(320):
        log.prediction(
            row,
            partition=row % 2,
            said=("yes", "no")[row // 2 % 2],
            scores={"no": 0.25, "yes": 0.75},
            x=float(x[row % 300]),
            colour=("red", "blue")[row // 2 % 2],
        )
        log.outcome(row, partition=row % 2, said="yes", label="no")
    return stream, Packages({"a": reference}), log


def fail(*_: object, **__: object) -> None:
    raise ZeroDivisionError("odd data")


@pytest.mark.parametrize(
    ("owner", "name", "logged", "tested", "estimated"),
    [
        (Packages, "reference", "records of model a are not tested", False, False),
        (references, "ReferenceProfile", "records of model a are not tested", False, False),
        (references, "variance_inflation", "of model a are treated as independent", True, True),
        (references, "estimator_for", "without an estimate for model a", True, False),
        (MetricEstimator, "estimate", "without an estimate for model a", True, False),
        (Judge, "test", "without tests for model a", False, True),
        (DomainClassifier, "test", "without the domain classifier's result", True, True),
        (performance_windows, "compare_error", "without a test of model a", True, True),
    ],
)
def test_a_window_is_published_without_the_part_that_fails(
    owner: Any,
    name: str,
    logged: str,
    tested: bool,
    estimated: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    stream, packages, log = history()
    whole = play(stream, packages, log.messages).windows()
    assert not caplog.records
    monkeypatch.setattr(owner, name, fail)
    driver = play(stream, packages, log.messages)
    windows = driver.windows()
    assert [type(event) for event in windows] == [type(event) for event in whole]
    assert [event.id for event in windows] == [event.id for event in whole]
    data = [event for event in windows if isinstance(event, DataWindow)]
    assert len(data) == 3
    for (group,) in (event.groups for event in data):
        assert (group.tested, group.estimate is not None) == (tested, estimated)
    own = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert own
    assert all(f"{logged}: ZeroDivisionError: odd data" in r.getMessage() for r in own)
    for event in windows:
        if isinstance(event, PerformancePane):
            assert event.error_inflation >= 1.0
        if isinstance(event, PerformanceWindow):
            assert event.value is not None


def test_a_column_whose_test_fails_does_not_affect_the_others(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stream, packages, log = history()
    real = column_tests.compare

    def compare(kind: str, *args: Any) -> Any:
        return fail() if kind == "number" else real(kind, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(judge, "compare", compare)
    windows = play(stream, packages, log.messages).windows()
    event = next(event for event in windows if isinstance(event, DataWindow))
    tests = {column.column: column.p_value for column in event.groups[0].columns}
    assert tests["x"] is None
    assert tests["colour"] is not None
    assert "column 'x' of a window is not tested: ZeroDivisionError" in caplog.text


@pytest.mark.parametrize(
    "error", [OSError("disk full"), MemoryError(), StoreUnavailable("away"), ImportError("scipy")]
)
def test_an_error_that_the_data_did_not_cause_is_raised(error: Exception) -> None:
    def compute() -> None:
        raise error

    with pytest.raises(type(error)):
        optional(compute, None, "nothing is tested")


def test_an_estimate_that_is_not_finite_is_an_error() -> None:
    class Odd:
        def __len__(self) -> int:
            return 100

        def __getattr__(self, name: str) -> Any:
            found = np.full(10, np.nan)
            results = {"guess": Guess(np.nan, found, found), "residuals": (found, found)}
            return lambda *_: results.get(name)

        def inputs(self, _: object) -> str:
            return "inputs"

    sample = Sample(Columns({}, {}, 10), np.zeros(10))
    with pytest.raises(ValueError, match="the estimate is not finite"):
        MetricEstimator(
            Measure("mae"), Odd(), 1.0, support=Support(sample.columns), floor=0.0
        ).estimate(sample, 10)


def test_profiles_are_prepared_once_even_if_they_fail(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stream, packages, _ = history()
    monkeypatch.setattr(references, "estimator_for", fail)
    profiles = Profiles(stream, References(packages, stream.judged_by))
    assert profiles.estimator("a") is profiles.estimator("a") is None
    assert len(caplog.records) == 1
