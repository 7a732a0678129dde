"""The verdict on a window: tests against the reference with a common correction, and quality."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from driftline.wire.columns import Columns
from driftline.wire.window_events import DataGroup, Limits
from monitor.bottom_k_sample import Sample
from monitor.reference import domain_classifier
from monitor.reference.judge import Judge
from monitor.reference.profile import Measured, ReferenceProfile
from monitor.reference.quality import (
    Before,
    faults_of_categories,
    faults_of_numbers,
    is_stuck,
    longest_run,
    rising,
)
from monitor.watched_columns import watched
from tests.monitor.streams import columns, reference, small_stream

STREAM = small_stream(
    features='x = { kind = "number", min = -50 }\ncolour = "category"\n'
    'unwatched = { kind = "number", watch = false }',
    derived='double = "2 * x"',
)
RNG = np.random.default_rng(1)


def data(size: int, shift: float = 0.0, colours: str = "rb", missing: float = 0.0) -> Columns:
    made = columns(RNG.normal(shift, 1.0, size).tolist(), RNG.choice(list(colours), size).tolist())
    made.numbers["double"] = 2 * made.numbers["x"]
    made.numbers["x"][: int(missing * size)] = np.nan
    return made


OLD = ReferenceProfile(STREAM, reference(data(10_000), ["yes", "no"] * 5000))


def verdict(current: Columns, said: str = "yes no") -> DataGroup:
    predictions = np.resize(np.array(said.split(), dtype=object), len(current))
    return Judge(STREAM).test("a", len(current), Sample(current, predictions), OLD)


def test_declared_and_derived_columns_are_watched_unless_watch_is_false() -> None:
    assert [column.name for column in watched(STREAM)] == ["x", "colour", "double"]


def test_data_like_those_of_the_reference_are_not_drift() -> None:
    group = verdict(data(500))
    assert group.tested
    assert group.prediction is not None
    assert not any(column.drifted or column.quality for column in group.columns)
    assert not group.prediction.drifted


def test_a_shift_is_found_in_the_right_column() -> None:
    group = verdict(data(500, shift=1.0))
    drifted = {column.column: column.effect for column in group.columns if column.drifted}
    assert drifted == {"x": pytest.approx(1.0, abs=0.15), "double": pytest.approx(1.0, abs=0.15)}


def test_a_shift_below_the_effect_size_is_not_drift_even_if_significant() -> None:
    group = verdict(data(20_000, shift=0.08))
    assert group.columns[0].p_value is not None
    assert group.columns[0].p_value < 0.001
    assert group.columns[0].effect < 0.1
    assert not group.columns[0].drifted


def test_drift_of_predictions_is_a_separate_result() -> None:
    group = verdict(data(500), said="yes yes yes yes no")
    assert group.prediction is not None
    assert group.prediction.column == "good"
    assert group.prediction.drifted
    assert not any(column.drifted for column in group.columns)


def test_missing_unseen_and_out_of_range_values_are_counted_and_judged() -> None:
    current = data(500, colours="rbbbbbbbbg", missing=0.1)
    current.numbers["x"][400:420] = -100.0
    by_name = {column.column: column for column in verdict(current).columns}
    assert (by_name["x"].missing, by_name["x"].out_of_range) == (50, 20)
    assert by_name["x"].quality == ("missing", "out_of_range")
    assert by_name["colour"].unseen > 20
    assert by_name["colour"].quality == ("unseen",)
    (level,) = by_name["colour"].unseen_levels
    assert (level.level, level.records) == ("g", by_name["colour"].unseen)


def test_quality_is_judged_on_the_sample_however_large_the_window_is() -> None:
    predictions = np.resize(np.array(["yes", "no"], dtype=object), 500)
    sample = Sample(data(500, missing=0.1), predictions)
    group = Judge(STREAM).test("a", 1_000_000, sample, OLD)
    assert (group.records, group.sampled, group.columns[0].missing) == (1_000_000, 500, 50)
    assert group.columns[0].quality == ("missing",)


def test_a_completely_missing_column_is_only_a_quality_problem() -> None:
    current = data(500, missing=1.0)
    column = verdict(current).columns[0]
    assert (column.p_value, column.effect, column.drifted) == (None, 0.0, False)
    assert column.quality == ("missing",)


def test_a_column_that_the_reference_lacks_is_not_tested() -> None:
    bare = ReferenceProfile(STREAM, reference(Columns({}, {}, 100), ["yes", "no"] * 50))
    current = data(100)
    sample = Sample(current, np.array(["yes", "no"] * 50, dtype=object))
    group = Judge(STREAM).test("a", 100, sample, bare)
    assert not any(column.drifted or column.quality for column in group.columns)


def test_tests_by_distance_use_only_the_effect_size() -> None:
    stream = small_stream(drift='number_test = "psi"\neffect_size = 0.2')
    profile = ReferenceProfile(stream, reference(data(2000), ["yes", "no"] * 1000))
    results = []
    for shift in (0.0, 1.0):
        current = data(1000, shift)
        sample = Sample(current, np.array(["yes", "no"] * 500, dtype=object))
        group = Judge(stream).test("a", 1000, sample, profile)
        results.append(group.columns[0])
    assert [result.drifted for result in results] == [False, True]
    assert [result.p_value for result in results] == [None, None]


class WithoutWarnings(ReferenceProfile):
    """A reference whose calibrated scores never become a warning."""

    def measure(self, sample: Sample) -> Measured:
        return super().measure(sample)._replace(limits=Limits(math.inf, None))


@pytest.mark.parametrize("test", ["ks", "wasserstein"])
@pytest.mark.parametrize(("decided_by", "found"), [("score", []), ("test", ["x"])])
def test_the_stream_file_can_let_evidently_decide(
    test: str, decided_by: str, found: list[str]
) -> None:
    stream = small_stream(drift=f'number_test = "{test}"\ndecided_by = "{decided_by}"')
    profile = WithoutWarnings(stream, reference(data(2000), ["yes", "no"] * 1000))
    judged = []
    for shift in (0.0, 1.0):
        sample = Sample(data(1000, shift), np.array(["yes", "no"] * 500, dtype=object))
        judged.append(Judge(stream).test("a", 1000, sample, profile))
    drifted = [[c.column for c in group.columns if c.drifted] for group in judged]
    assert drifted == [[], found]
    # Without limits, a finding needs no second window.
    assert {group.limits is None for group in judged} == {decided_by == "test"}


def test_missing_unseen_and_out_of_range_values_are_faults() -> None:
    def counts(faults: tuple[NDArray[np.bool_], ...]) -> list[int]:
        return [int(fault.sum()) for fault in faults]

    numbers = np.array([np.nan, -51.0, 0.0])
    assert counts(faults_of_numbers(numbers, STREAM.inputs["x"])) == [1, 0, 1]
    assert counts(faults_of_numbers(numbers, None)) == [1, 0, 0]
    categories = np.array([None, "r", "?"], dtype=object)
    assert counts(faults_of_categories(categories, {"r"})) == [1, 1, 0]


def test_a_share_must_increase_significantly_and_by_enough() -> None:
    def rose(count: int, records: int, known: int, per_run: float = 1.0) -> bool:
        reference = (Before(known, per_run), Before(0, 1.0), Before(0, 1.0))
        return rising((count, 0, 0), records, reference, 10_000, 1e-3) == ("missing",)

    assert rose(20, 1000, 0)
    assert not rose(40, 10_000, 0)  # too small to matter
    assert not rose(1, 20, 0)  # may be chance
    assert not rose(100, 1000, 1000)  # as before
    assert rose(80, 1000, 200)
    assert not rose(80, 1000, 200, per_run=40.0)  # two runs of 40 rows
    assert rose(950, 1000, 200, per_run=500.0)  # an outage


def test_dependence_drift_of_a_pair_is_found_though_neither_column_shifted() -> None:
    stream = small_stream(features='x = "number"\ny = "number"\nz = "number"')

    def rows(size: int, correlation: float) -> Columns:
        x, noise, z = RNG.normal(size=(3, size))
        y = correlation * x + np.sqrt(1 - correlation**2) * noise
        return Columns({"x": x, "y": y, "z": z}, {})

    said = np.array(["yes", "no"] * 500, dtype=object)
    profile = ReferenceProfile(stream, reference(rows(5000, 0.8), ["yes", "no"] * 2500))
    as_before = Judge(stream).test("a", 1000, Sample(rows(1000, 0.8), said), profile)
    turned = Judge(stream).test("a", 1000, Sample(rows(1000, -0.2), said), profile)
    assert as_before.relations == ()
    assert not any(column.drifted for column in turned.columns)
    assert [relation.columns for relation in turned.relations] == [("x", "y")]
    assert turned.limits is not None
    assert turned.limits.alarm is not None
    assert turned.relations[0].score > turned.limits.alarm
    assert turned.relations[0].effect > 0.1


def test_the_classifier_finds_a_change_that_no_pair_of_columns_shows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        domain_classifier, "NULLS", 12
    )  # fewer than 60 are enough to find a large change
    features = 'x = "number"\ny = "number"\nz = "number"\nw = "number"'
    stream = small_stream(features=features, drift="classifier = true")
    without = small_stream(features=features)
    rng = np.random.default_rng(1)

    def rows(size: int, *, signs: bool) -> Columns:
        values = rng.normal(size=(4, size))
        if signs:
            values[2] = np.abs(values[2]) * np.sign(values[0] * values[1])
        return Columns(dict(zip("xyzw", values, strict=True)), {})

    said = np.array(["yes", "no"] * 500, dtype=object)
    known = reference(rows(3000, signs=False), ["yes", "no"] * 1500)
    profile = ReferenceProfile(stream, known)
    as_before = Judge(stream).test("a", 1000, Sample(rows(1000, signs=False), said), profile)
    other = Sample(rows(1000, signs=True), said)
    seen = Judge(stream).test("a", 1000, other, profile)
    assert as_before.relations == ()
    (relation,) = seen.relations
    assert sorted(relation.columns) == ["x", "y", "z"]
    assert relation.effect > 0.1
    assert seen.limits is not None
    assert seen.limits.alarm is not None
    assert relation.score > seen.limits.alarm
    assert Judge(stream).test("a", 1000, other, ReferenceProfile(stream, known)) == seen, (
        "always the same"
    )
    assert Judge(without).test("a", 1000, other, ReferenceProfile(without, known)).relations == ()


def test_a_shift_of_a_column_is_not_also_reported_as_dependence_drift() -> None:
    group = verdict(data(500, shift=1.0))
    assert [column.column for column in group.columns if column.drifted] == ["x", "double"]
    assert group.relations == ()


def test_a_stuck_sensor_is_a_quality_problem() -> None:
    current = data(500)
    current.numbers["x"][200:240] = 0.25
    column = verdict(current).columns[0]
    assert (column.stuck, column.quality) == (40, ("stuck",))


def test_a_column_that_becomes_constant_is_stuck() -> None:
    current = data(500, colours="r")
    colour = verdict(current).columns[1]
    assert (colour.column, colour.stuck, colour.quality) == ("colour", 500, ("stuck",))


def test_a_column_that_was_constant_in_training_is_not_stuck() -> None:
    assert longest_run(np.array([None, "a", "a", None, "a"], dtype=object)) == 2
    assert longest_run(np.array([np.nan, np.nan])) == 0
    assert is_stuck(60, 1000, 20)
    assert not is_stuck(60, 1000, 21)
    assert not is_stuck(49, 1000, 1)  # 50 is a twentieth of the window
    assert not is_stuck(19, 100, 1)
