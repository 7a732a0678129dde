"""Collecting, cleaning and splitting the outcomes from which a model is trained."""

import random as python_random
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftline.broker.memory import MemoryBroker
from driftline.broker.port import Outgoing
from driftline.config.spans import Span
from driftline.config.stream import Stream, loads
from driftline.wire.envelope import encode
from driftline.wire.events import Outcome, Removed, Watermark
from driftline.wire.topics import Topics, apply
from tests.training import CLASSIFICATION, REGRESSION, outcome, record
from trainer.clean import clean
from trainer.collect import BrokerOutcomeLog, collect, from_records
from trainer.rows import TrainingRows
from trainer.split import split


def outcomes(count: int, stream: Stream = CLASSIFICATION) -> list[Outcome]:
    return [outcome(stream, i) for i in range(count)]


def replaced(i: int, **fields: Any) -> Outcome:
    """Return outcome `i` with other fields in its record."""
    changed = msgspec.json.encode(msgspec.json.decode(record(i)) | fields)
    return msgspec.structs.replace(outcome(CLASSIFICATION, i), record=msgspec.Raw(changed))


def ids(rows: TrainingRows) -> list[str]:
    return list(rows.ids)


# ---- collect -------------------------------------------------------------------------------------


def test_the_newest_within_the_range_are_collected() -> None:
    found = collect(outcomes(1500), CLASSIFICATION)
    assert len(found.rows) == 1000
    assert (int(found.rows.rows.min()), int(found.rows.rows.max())) == (500, 1499)
    assert found.removed == ()
    assert [msgspec.json.decode(r)["id"] for r in found.rows.newest][-1] == "r1499"


def test_a_range_may_be_a_duration() -> None:
    stream = loads("""
version = 1
name = "paint"
task = "classification"
target = "sold"
features = { price = "number" }
time = { start = 2020-01-01T00:00:00Z, step = "1h" }
windows = { records = 100 }
retrain = { train_on = "2d" }
""")
    found = collect(outcomes(200), stream)
    assert sorted(found.rows.rows.tolist()) == list(range(152, 200))


def test_records_that_do_not_match_the_stream_file_are_counted_with_the_reason() -> None:
    found = collect([outcome(CLASSIFICATION, 0), replaced(1, price="dear")], CLASSIFICATION)
    assert ids(found.rows) == ["r0"]
    reason = "error: column 'price': expected a number or null, got str"
    assert found.removed == (Removed(reason, 1),)


def test_no_outcomes_give_no_rows() -> None:
    assert len(collect([], CLASSIFICATION).rows) == 0


def test_several_chunks_give_the_same_rows_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = collect(outcomes(400), CLASSIFICATION)
    monkeypatch.setattr("trainer.collect._CHUNK", 7)
    parts = collect(outcomes(400), CLASSIFICATION)
    assert ids(parts.rows) == ids(whole.rows)
    assert parts.rows.newest == whole.rows.newest


def test_only_the_newest_rows_are_kept_above_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.collect.MAX_OUTCOMES", 100)
    found = collect(outcomes(250), CLASSIFICATION)
    assert sorted(found.rows.rows.tolist()) == list(range(150, 250))
    assert found.removed == (Removed("older than the newest 100", 150),)


def test_a_file_is_used_completely() -> None:
    records = [record(i) for i in range(1500)]
    assert len(from_records(CLASSIFICATION, [(value, "yes") for value in records]).rows) == 1500


def test_the_topic_is_read_to_its_end_at_the_start_and_watermarks_are_skipped() -> None:
    broker = MemoryBroker()
    topics = Topics(CLASSIFICATION)
    apply(broker.admin(), topics)
    producer = broker.producer()
    for i in range(30):
        value = encode(outcome(CLASSIFICATION, i))
        producer.send(Outgoing(topics.outcomes, value, partition=i % 6))
    producer.send(Outgoing(topics.outcomes, encode(Watermark(position=7)), partition=2))
    outcome_log = BrokerOutcomeLog(broker, CLASSIFICATION)
    assert outcome_log.count() == 31
    reading = iter(outcome_log.read())
    first = next(reading)
    producer.send(Outgoing(topics.outcomes, encode(outcome(CLASSIFICATION, 99)), partition=0))
    found = {first.record_id, *(item.record_id for item in reading)}
    assert found == {f"r{i}" for i in range(30)}


def test_reading_may_continue_at_an_earlier_end_of_the_topic() -> None:
    broker = MemoryBroker()
    topics = Topics(CLASSIFICATION)
    apply(broker.admin(), topics)
    producer = broker.producer()
    outcome_log = BrokerOutcomeLog(broker, CLASSIFICATION)
    for i in range(30):
        if i == 20:
            ends = outcome_log.ends()
        value = encode(outcome(CLASSIFICATION, i))
        producer.send(Outgoing(topics.outcomes, value, partition=i % 6))
    found = {item.record_id for item in outcome_log.read(ends)}
    assert found == {f"r{i}" for i in range(20, 30)}
    beyond = dict.fromkeys(ends, 99)
    assert len(list(outcome_log.read(beyond))) == 30, "the topic was created again"


def test_the_errors_of_the_champion_are_those_that_it_made_while_it_served() -> None:
    wrong = msgspec.structs.replace(outcome(CLASSIFICATION, 1), prediction="maybe")
    other = msgspec.structs.replace(outcome(CLASSIFICATION, 2), model="sha256:other")
    log = [outcome(CLASSIFICATION, 0), wrong, other]
    rows = collect(log, CLASSIFICATION, outcome(CLASSIFICATION, 0).model).rows
    np.testing.assert_array_equal(rows.errors, [0.0, 1.0, np.nan])


# ---- clean ---------------------------------------------------------------------------------------


def test_the_highest_revision_of_a_record_is_kept() -> None:
    log = [
        outcome(CLASSIFICATION, 0, truth="no", revision=1),
        outcome(CLASSIFICATION, 0, truth="yes", revision=0),
        outcome(CLASSIFICATION, 1, truth="yes"),
        outcome(CLASSIFICATION, 1, truth="yes"),
    ]
    rows, removed = clean(collect(log, CLASSIFICATION).rows, CLASSIFICATION)
    assert list(zip(rows.ids, rows.labels, strict=True)) == [("r0", "no"), ("r1", "yes")]
    assert removed == (Removed("duplicate: a record id that is repeated or revised later", 2),)


def test_equal_records_with_different_ids_are_not_duplicates() -> None:
    same = {"price": 1.0, "size": 2.0, "colour": "red"}
    log = [replaced(i, **same) for i in range(20)]
    rows, removed = clean(collect(log, CLASSIFICATION).rows, CLASSIFICATION)
    assert (len(rows), removed) == (20, ())


def test_labels_of_the_wrong_type_are_removed_as_errors() -> None:
    log = [outcome(REGRESSION, 0), outcome(REGRESSION, 1, truth="dear")]
    rows, removed = clean(collect(log, REGRESSION).rows, REGRESSION)
    assert (ids(rows), removed) == (["r0"], (Removed("error: 'sold' is not a finite number", 1),))
    log = [outcome(CLASSIFICATION, 0), outcome(CLASSIFICATION, 1, truth=3.0)]
    rows, removed = clean(collect(log, CLASSIFICATION).rows, CLASSIFICATION)
    assert (ids(rows), removed) == (["r0"], (Removed("error: 'sold' is not a class name", 1),))


def test_a_rare_value_outside_its_declared_range_is_removed_as_noise() -> None:
    log = [*outcomes(199), replaced(199, size=-4)]
    rows, removed = clean(collect(log, CLASSIFICATION).rows, CLASSIFICATION)
    assert (len(rows), removed) == (199, (Removed("noise: 'size' outside [0, …]", 1),))


def test_frequent_values_outside_the_declared_range_are_drift_and_are_kept() -> None:
    log = [*outcomes(100), *(replaced(i, size=-4) for i in range(100, 200))]
    rows, removed = clean(collect(log, CLASSIFICATION).rows, CLASSIFICATION)
    assert (len(rows), removed) == (200, ())


@given(st.randoms(use_true_random=False))
def test_the_order_of_reading_makes_no_difference(shuffled: python_random.Random) -> None:
    log = [*outcomes(30), *(outcome(CLASSIFICATION, i, truth="no", revision=1) for i in (3, 9))]
    expected, _ = clean(collect(log, CLASSIFICATION).rows, CLASSIFICATION)
    shuffled.shuffle(log)
    rows, _ = clean(collect(log, CLASSIFICATION).rows, CLASSIFICATION)
    assert ids(rows) == ids(expected) == [f"r{i}" for i in range(30)]
    assert list(rows.labels) == list(expected.labels)
    assert (rows.columns.numbers["price"] == expected.columns.numbers["price"]).all()


# ---- split ---------------------------------------------------------------------------------------

labels = st.lists(st.sampled_from(["a", "b", "c"]), min_size=2, max_size=60)


@given(labels, st.floats(0.05, 0.95), st.sampled_from(["time", "stratified"]), st.integers(0, 9))
def test_a_split_puts_each_row_on_one_side_and_leaves_no_side_empty(
    given_labels: list[str], share: float, how: Any, seed: int
) -> None:
    array = np.array(given_labels, dtype=object)
    train, held = split(array, share=share, how=how, task="classification", seed=seed)
    assert sorted([*train, *held]) == list(range(len(array)))
    assert len(train)
    assert len(held)
    assert list(train) == sorted(train)


def test_a_split_by_time_holds_out_the_newest_rows() -> None:
    array = np.arange(100, dtype=np.float64)
    train, held = split(array, share=0.2, how="time", task="regression", seed=0)
    assert (train.max(), held.min(), len(held)) == (79, 80, 20)


def test_a_stratified_split_holds_out_the_same_share_of_each_class() -> None:
    array = np.array(["a"] * 90 + ["b"] * 10, dtype=object)
    _, held = split(array, share=0.2, how="stratified", task="classification", seed=0)
    assert list(array[held]).count("b") == 2
    assert len(held) == 20
    again = split(array, share=0.2, how="stratified", task="classification", seed=0)
    assert (again[1] == held).all()


def test_train_on_may_be_a_number_of_records() -> None:
    assert CLASSIFICATION.retrain.train_on == Span(records=1000)
