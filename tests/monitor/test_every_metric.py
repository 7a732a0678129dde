"""Every metric works in windows, in the panes that detectors read, and in drift events."""

import random
from typing import Any

import numpy as np
import pytest

from driftline.config.measure import METRIC_KINDS, Measure, Metric
from driftline.config.stream import Stream, loads
from driftline.learning.metrics import Answers, answers_of, evaluate, losses
from driftline.models.package_reference import Reference
from driftline.wire.columns import Columns
from driftline.wire.window_events import PerformancePane, PerformanceWindow
from tests.measures import MEASURES, TOML
from tests.monitor.driver import Driver, play
from tests.monitor.streams import Log, Packages

CLASSES = ("a", "b")
WINDOW, ROWS, CHANGE = 200, 3000, 1600
by_metric = pytest.mark.parametrize("name", MEASURES)


def stream(name: Metric) -> Stream:
    return loads(
        f'version = 1\nname = "small"\ntask = "{METRIC_KINDS[name].task}"\ntarget = "y"\n'
        f'metric = {TOML[name]}\n[features]\nx = "number"\n'
        f"[windows]\nrecords = {WINDOW}\n[kafka]\npartitions = 2\n"
    )


class Outcomes:
    """A model's outcomes. From row `CHANGE` on, the model is much worse."""

    def __init__(self, name: Metric, rows: int = ROWS, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.measure, self.rows = MEASURES[name], rows
        late = np.arange(rows) >= CHANGE
        self.probabilities: Any = None
        self.labels: Any
        self.predictions: Any
        if self.measure.kind.task == "regression":
            self.labels = rng.uniform(2.0, 9.0, size=rows)
            self.predictions = self.labels + rng.normal(size=rows) * np.where(late, 1.2, 0.3)
        else:
            positive = rng.random(rows) < 0.3
            odds = rng.normal(size=rows) + np.where(late, 0.3, 2.0) * (2 * positive - 1)
            score = (1.0 / (1.0 + np.exp(-2.0 * odds))).round(3)
            self.labels = np.where(positive, "a", "b").astype(object)
            self.predictions = np.where(score > 0.5, "a", "b").astype(object)
            self.probabilities = np.column_stack([score, (1.0 - score).round(3)])

    def answers(self, at: slice = slice(None)) -> Answers:
        labels, own = self.labels[at], self.predictions[at]
        rows = None if self.probabilities is None else self.probabilities[at]
        return answers_of(self.measure, labels, own, rows, CLASSES)

    def log(self, of: Stream) -> Log:
        log = Log(of)
        for row in range(self.rows):
            scores = None
            if self.probabilities is not None:
                scores = dict(zip(CLASSES, self.probabilities[row].tolist(), strict=True))
            said, label = self.predictions[row], self.labels[row]
            if self.probabilities is None:
                said, label = float(said), float(label)
            log.outcome(row, partition=row % 2, said=said, label=label, scores=scores)
        return log


def held_out(name: Metric) -> Reference:
    """Return the reference of a model that was trained before the change."""
    data = Outcomes(name, 1000, seed=1)
    default = Measure("mae" if data.measure.kind.task == "regression" else "accuracy")
    return Reference(
        columns=Columns({"x": np.zeros(1000)}, {}),
        positions=np.arange(1000),
        predictions=data.predictions,
        held_labels=data.labels,
        held_predictions=data.predictions,
        held_scores=data.probabilities,
        errors=losses(default, data.labels, Answers(data.predictions)),
        levels={},
        ranges={},
        classes=CLASSES if data.probabilities is not None else (),
    )


@by_metric
def test_windows_and_panes_have_the_metric_and_its_losses(name: Metric) -> None:
    data, of = Outcomes(name, 2 * WINDOW), stream(name)
    events = play(of, Packages({"a": held_out(name)}), data.log(of).messages).windows()
    windows = [event for event in events if isinstance(event, PerformanceWindow)]
    assert windows
    near = 2e-3 if data.measure.is_ranking else 1e-9
    for window in windows:
        at = slice(window.start, window.end)
        expected = evaluate(data.measure, data.labels[at], data.answers(at))
        loss = float(losses(data.measure, data.labels[at], data.answers(at)).mean())
        (group,) = window.groups
        assert window.metric == name
        assert window.value == group.metric == pytest.approx(expected, abs=near)
        assert group.error == pytest.approx(loss, abs=near)
        assert group.standard_error is not None
        assert group.standard_error > 0
        assert group.p_value is not None
    panes = [event for event in events if isinstance(event, PerformancePane)]
    assert len(panes) >= 20
    for pane in panes:
        at = slice(pane.start, pane.end)
        expected_errors = losses(data.measure, data.labels[at], data.answers(at))
        assert pane.errors == pytest.approx(expected_errors.tolist(), abs=near)
        assert pane.loss == data.measure.loss
        assert pane.reference_error is not None


@by_metric
def test_batches_workers_and_kills_do_not_change_a_window(name: Metric) -> None:
    data, of = Outcomes(name, 2 * WINDOW), stream(name)
    packages, log = Packages({"a": held_out(name)}), data.log(of).messages
    whole = play(of, packages, log).windows()
    rng = random.Random(3)
    driver = Driver(of, packages, log, workers=2)
    for _ in range(60):
        driver.deliver(rng.choice(driver.partitions), rng.randint(1, 40))
        if rng.random() < 0.3:
            driver.commit(rng.randrange(2))
        if rng.random() < 0.1:
            driver.kill(rng.randrange(2))
    driver.drain()
    assert driver.windows() == whole


@by_metric
def test_a_model_that_becomes_worse_opens_a_performance_event(name: Metric) -> None:
    data, of = Outcomes(name), stream(name)
    drift = play(of, Packages({"a": held_out(name)}), data.log(of).messages).drift()
    opened = [event for event in drift if event.action == "opened"]
    assert [event.kind for event in opened] == ["performance"]
    (event,) = opened
    assert CHANGE <= event.position <= CHANGE + 3 * WINDOW
    assert event.onset is not None
    assert abs(event.onset - CHANGE) <= WINDOW


def test_outcomes_without_the_probabilities_that_the_metric_needs_are_reported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    of = stream("roc_auc")
    log = Log(of)
    for row in range(2 * WINDOW):
        log.outcome(row, partition=row % 2, said="a", label="ab"[row % 2])
    events = play(of, Packages({}), log.messages).windows()
    windows = [event for event in events if isinstance(event, PerformanceWindow)]
    assert windows
    assert all(window.value is None and not window.groups for window in windows)
    assert "without the probability that metric roc_auc needs" in caplog.text


def test_windows_without_the_positive_class_have_no_metric_and_resolve_nothing() -> None:
    of = stream("average_precision")
    log = Log(of)
    for row in range(2 * WINDOW):
        scores = {"a": 0.1, "b": 0.9}
        log.outcome(row, partition=row % 2, said="b", label="b", scores=scores)
    driver = play(of, Packages({"a": held_out("average_precision")}), log.messages)
    windows = [event for event in driver.windows() if isinstance(event, PerformanceWindow)]
    assert [(w.value, w.groups[0].error, w.groups[0].p_value) for w in windows] == [
        (None, None, None)
    ] * len(windows)
    assert not driver.drift()


def test_a_changed_metric_never_mixes_losses() -> None:
    """Aggregates and panes of the earlier metric are ignored, and the detectors start again."""
    data, before, after = Outcomes("accuracy", 3 * WINDOW), stream("accuracy"), stream("log_loss")
    driver = Driver(before, Packages({"a": held_out("accuracy")}), data.log(before).messages)
    for _ in range(3):  # outcomes, then their aggregates, then the first window
        for partition in driver.partitions:
            if (
                partition.topic != driver.topics.outcomes
                or not driver.published[driver.topics.parts]
            ):
                driver.deliver(partition, WINDOW)
        driver.turn()
        driver.commit()
    driver.restart(after)
    driver.drain()
    windows = [event for event in driver.windows() if isinstance(event, PerformanceWindow)]
    assert {window.metric for window in windows} == {"accuracy", "log_loss"}
    panes = [event for event in driver.windows() if isinstance(event, PerformancePane)]
    for pane in panes:
        is_count = set(pane.errors) <= {0.0, 1.0}
        assert is_count == (pane.loss == "")
    for window in windows[1:]:
        own = [p for p in panes if window.start <= p.start < window.end and p.loss == "log_loss"]
        errors = [error for pane in own for error in pane.errors]
        assert window.records == len(errors)
        assert window.value == pytest.approx(np.mean(errors))
    assert not driver.drift()
