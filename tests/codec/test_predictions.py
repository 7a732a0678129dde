"""Predictions read as columns are what their events and records say, one by one."""

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftline.codec.columns import Batch, Columns
from driftline.codec.envelope import predictions_decoder
from driftline.codec.predictions import PredictionCodec, PredictionEncoder
from driftline.codec.records import RecordCodec
from driftline.codec.values import format_time
from driftline.events import Prediction, Source, Watermark
from driftline.stream import Stream, loads

EVENT = st.one_of(
    st.builds(Watermark, position=st.integers(-(2**63), 2**63 - 1)),
    st.builds(
        lambda row, value, offset, model: prediction(row, value, offset, model),
        st.integers(0, 2**63 - 1),
        st.one_of(st.none(), st.integers(-9, 9), st.floats(allow_nan=False), st.just("wide")),
        st.integers(0, 2**40),
        st.sampled_from(["sha256:a", "sha256:b"]),
    ),
)


def stream(name: str) -> Stream:
    return loads(
        'version = 1\nname = "s"\ntask = "classification"\ntarget = "y"\n'
        f'[features]\n{msgspec.json.encode(name).decode()} = "number"\nc = "category"\n'
    )


def prediction(row: int, value: object, offset: int, model: str, name: str = "a") -> Prediction:
    record = msgspec.json.encode({"@row": row, name: value, "c": "Malmö", "y": [1]})
    return Prediction(
        record_id=str(row), time=None, row=row, prediction="no", scores={"no": 1.0}, model=model,
        source=Source("s.features", 0, offset), record=msgspec.Raw(record),
    )  # fmt: skip


@given(st.lists(st.one_of(EVENT, st.just(b"{"), st.none()), max_size=12))
def test_a_batch_says_what_its_events_say_one_by_one(events: list[Any]) -> None:
    check(events, stream("a"))


def test_names_that_the_decoder_cannot_take_are_read_too() -> None:
    name = 'a "quoted" name'
    events = [
        Watermark(position=3), prediction(1, 2.0, 7, "m", name), b"{", None,
        prediction(2, "wide", 8, "m", name), prediction(3, 4.0, 9, "m", name),
    ]  # fmt: skip
    found = check(events, stream(name))
    assert found == [1, 5]


def check(events: list[Any], of: Stream) -> list[int]:
    values = [
        event if event is None or isinstance(event, bytes) else msgspec.json.encode(event)
        for event in events
    ]
    found = PredictionCodec(of).decode(values)
    one_by_one = RecordCodec(of)
    place = 0
    for index, event in enumerate(events):
        if isinstance(event, Watermark):
            assert (index, event.position) in found.watermarks
            continue
        alone = one_by_one.decode([bytes(event.record) if isinstance(event, Prediction) else None])
        if not alone.kept:
            assert index in [item.index for item in found.records.rejected]
            continue
        assert found.records.kept[place] == index
        assert found.records.ids[place] == event.record_id
        assert found.records.rows[place] == event.row
        assert found.models[place] == event.model
        assert found.sources[place] == event.source.offset
        assert found.predictions[place] == event.prediction
        for name, column in alone.columns.numbers.items():
            np.testing.assert_array_equal(found.records.columns.numbers[name][place], column[0])
        assert found.records.columns.categories["c"][place] == "Malmö"
        place += 1
    assert place == len(found.records) == len(found.models)
    assert len(found.watermarks) + place + len(found.records.rejected) == len(events)
    return found.records.kept


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b'{"type": "outcome"}', "column 'type': invalid value 'outcome'"),
        (b'{"type": "prediction", "record": {}}', "object missing required field `prediction`"),
    ],
)
def test_what_is_no_prediction_is_rejected_with_a_reason(value: bytes, reason: str) -> None:
    (rejected,) = PredictionCodec(stream("a")).decode([value]).records.rejected
    assert rejected.reason == reason


TEXT = st.text(max_size=6) | st.sampled_from(['","', "%b", "a,b", 'say "so"', "\\"])


@given(st.data())
def test_what_is_encoded_as_a_batch_is_what_the_events_say(data: st.DataObject) -> None:
    classes = data.draw(st.lists(TEXT, min_size=2, max_size=3, unique=True))
    size = data.draw(st.integers(1, 5))

    def drawn(values: st.SearchStrategy[Any]) -> list[Any]:
        return data.draw(st.lists(values, min_size=size, max_size=size))

    ids, offsets, partitions = drawn(TEXT), drawn(st.integers(0, 2**62)), drawn(st.integers(0, 99))
    rows, times = drawn(st.none() | st.integers(0, 2**62)), drawn(st.none() | st.integers(0, 2**50))
    batch = Batch(ids, times, rows, Columns({}, {}, size), list(range(size)), [])
    records = drawn(st.sampled_from([b'{"%b": 1}', b' {"a":\n[2]}', b"{}"]))
    predictions: Any = drawn(st.sampled_from(classes))
    probabilities = None
    match data.draw(st.sampled_from(["classes", "scores", "numbers"])):
        case "scores":
            probabilities = np.array(
                drawn(st.lists(st.floats(0, 1), min_size=len(classes), max_size=len(classes)))
            ).round(6)
        case "numbers":
            predictions = np.array(drawn(st.floats(allow_nan=False, allow_infinity=False)))
    encoded = PredictionEncoder("sha256:a", classes, "s%.features").encode(
        partitions, offsets, records, batch, predictions, probabilities
    )
    for i, value in enumerate(encoded):
        time_us = times[i]
        assert predictions_decoder.decode(value) == Prediction(
            record_id=ids[i],
            time=None if time_us is None else format_time(time_us),
            row=rows[i],
            prediction=predictions[i],
            scores=None
            if probabilities is None
            else dict(zip(classes, probabilities[i].tolist(), strict=True)),
            model="sha256:a",
            source=Source("s%.features", partitions[i], offsets[i]),
            record=msgspec.Raw(records[i].strip()),
        )
