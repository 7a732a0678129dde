"""Predictions encoded as a batch are the same as when encoded one by one."""

from typing import Any

import msgspec
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from driftline.wire.columns import Batch, Columns
from driftline.wire.envelope import predictions_decoder
from driftline.wire.events import Prediction, Source
from driftline.wire.predictions import PredictionEncoder
from driftline.wire.values import format_time

TEXT = st.text(max_size=6) | st.sampled_from(['","', "%b", "a,b", 'say "so"', "\\"])


@given(st.data())
def test_a_batch_is_encoded_like_its_events_one_by_one(data: st.DataObject) -> None:
    classes = data.draw(st.lists(TEXT, min_size=2, max_size=3, unique=True))
    size = data.draw(st.integers(1, 5))

    def drawn(values: st.SearchStrategy[Any]) -> list[Any]:
        return data.draw(st.lists(values, min_size=size, max_size=size))

    ids, offsets, partitions = drawn(TEXT), drawn(st.integers(0, 2**62)), drawn(st.integers(0, 99))
    rows, times = (
        drawn(st.none() | st.integers(0, 2**53 - 1)),
        drawn(st.none() | st.integers(0, 2**50)),
    )
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
