"""Predictions are read as arrays with the same content as their events one by one."""

import logging
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from driftline.broker.port import Message
from driftline.config.stream import Stream, loads
from driftline.wire.events import Prediction, Source, Watermark
from driftline.wire.feature_records import RecordCodec
from monitor.partition_windows.read_predictions import ScoredReader

EVENT = st.one_of(
    st.builds(Watermark, position=st.integers(-(2**60), 2**60)),
    st.builds(
        lambda row, value, offset, model: prediction(row, value, offset, model),
        st.one_of(st.none(), st.integers(0, 2**53 - 1)),
        st.one_of(st.none(), st.integers(-9, 9), st.floats(allow_nan=False), st.just("wide")),
        st.integers(0, 2**40),
        st.sampled_from(["sha256:a", "sha256:b"]),
    ),
)


def stream(column: str = "a", **sections: str) -> Stream:
    body = "\n".join(f"[{name}]\n{text}" for name, text in sections.items())
    return loads(
        'version = 1\nname = "s"\ntask = "classification"\ntarget = "y"\n'
        f'[features]\n{msgspec.json.encode(column).decode()} = "number"\nc = "category"\n{body}\n'
    )


def prediction(
    row: int | None,
    value: object = 0.0,
    offset: int = 0,
    model: str = "m",
    column: str = "a",
    time: str | None = None,
) -> Prediction:
    record = msgspec.json.encode({"@row": row, column: value, "c": "Malmö", "y": [1], "at": time})
    return Prediction(
        record_id=str(row), time=time, row=row, prediction="no", scores={"no": 1.0}, model=model,
        source=Source("s.features", 0, offset), record=msgspec.Raw(record),
    )  # fmt: skip


def messages(events: list[Any]) -> list[Message]:
    return [
        Message("s.predictions", 0, 7 * place, None, value)
        for place, event in enumerate(events)
        for value in [
            event if event is None or isinstance(event, bytes) else msgspec.json.encode(event)
        ]
    ]


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.one_of(EVENT, st.just(b"{"), st.none()), max_size=12))
def test_a_batch_is_read_like_its_events_one_by_one(events: list[Any]) -> None:
    assert check(events, stream(), whole=False) == check(events, stream(), whole=True)


def test_column_names_that_the_decoder_does_not_support_are_read_too() -> None:
    name = 'a "quoted" name'
    events = [
        Watermark(position=3), prediction(1, 2.0, 7, "m", name), b"{", None,
        prediction(2, "wide", 8, "m", name), prediction(3, 4.0, 9, "m", name),
    ]  # fmt: skip
    assert check(events, stream(name), whole=True) == [1, 3]


def check(events: list[Any], of: Stream, *, whole: bool) -> list[int | None]:
    """Check a batch against its events; return the rows whose columns are readable."""
    reader = ScoredReader(of)
    found = reader.read(messages(events), whole=whole)
    placed = [
        (7 * place, event)
        for place, event in enumerate(events)
        if isinstance(event, Prediction) and event.row is not None
    ]
    assert found.offsets.tolist() == [offset for offset, _ in placed]
    assert found.positions.on_axis.tolist() == [event.row for _, event in placed]
    assert (found.ids, found.models) == (
        [event.record_id for _, event in placed], [event.model for _, event in placed]
    )  # fmt: skip
    arrivals = found.arrivals
    assert arrivals.sources is not None
    together = {offset: (event.row, event.source.offset) for offset, event in placed} | {
        7 * place: (event.position, -1)
        for place, event in enumerate(events)
        if isinstance(event, Watermark)
    }
    pairs = zip(arrivals.positions.tolist(), arrivals.sources.tolist(), strict=True)
    assert dict(zip(arrivals.offsets.tolist(), pairs, strict=True)) == together
    assert arrivals.offsets.tolist() == sorted(together)

    one_by_one = RecordCodec(of)
    details = reader.details(found, 0, np.arange(len(found)))
    readable: list[int | None] = []
    for place, (_, event) in enumerate(placed):
        alone = one_by_one.decode([bytes(event.record)])
        if not alone.kept:
            assert place not in details.at
            continue
        at = len(readable)
        readable.append(event.row)
        assert (details.at[at], details.predictions[at]) == (place, event.prediction)
        for name, column in alone.columns.numbers.items():
            np.testing.assert_array_equal(details.columns.numbers[name][at], column[0])
        assert details.columns.categories["c"][at] == "Malmö"
    assert len(readable) == len(details.columns)
    return readable


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b'{"type": "outcome"}', "column 'type': invalid value 'outcome'"),
        (b'{"type": "prediction", "record": {}}', "object missing required field `record_id`"),
        (msgspec.json.encode(prediction(None)), "its row is null"),
        (msgspec.json.encode(prediction(2**63)), "column 'row': expected"),
    ],
)
def test_a_prediction_without_a_usable_position_is_skipped_with_a_reason(
    value: bytes, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        found = ScoredReader(stream()).read(messages([prediction(1), value]))
    assert found.ids == ["1"]
    (said,) = caplog.messages
    assert said.startswith(f"skipping unreadable event s.predictions[0]@7: {reason}")


def test_a_record_with_unreadable_columns_has_a_position_but_no_values(
    caplog: pytest.LogCaptureFixture,
) -> None:
    reader = ScoredReader(stream())
    found = reader.read(messages([prediction(1), prediction(2, "wide"), prediction(3)]))
    assert found.positions.on_axis.tolist() == [1, 2, 3]
    with caplog.at_level(logging.WARNING):
        details = reader.details(found, 0, np.array([1, 2]))
    assert details.at.tolist() == [2]
    (said,) = caplog.messages
    assert said.startswith("s.predictions[0]@7 is counted, but not sampled: column 'a': expected")


def test_scores_belong_to_the_records_that_have_them() -> None:
    events = [prediction(1), msgspec.structs.replace(prediction(2), scores=None), prediction(3)]
    odd = msgspec.json.encode(prediction(4)).replace(b'{"no":1.0}', b'"high"')
    reader = ScoredReader(stream())
    for whole in (False, True):
        found = reader.read(messages([*events, odd]), whole=whole)
        details = reader.details(found, 0, np.arange(4))
        assert len(details.scores) == 4
        assert details.scores.own("no").tolist() == [65534, 65535, 65534, 65535]


def test_times_are_taken_from_the_predictions_of_inference() -> None:
    of = stream(time='column = "at"', windows='span = "1h"')
    times = ["1970-01-01T00:00:01Z", "1970-01-01T00:00:00.500000Z", None]
    events: list[Any] = [prediction(row, time=time) for row, time in enumerate(times)]
    events.append(msgspec.json.encode(events[0]).replace(b'"1970-01-01T00:00:01Z"', b'"soon"'))
    found = ScoredReader(of).read(messages(events))
    assert found.positions.on_axis.tolist() == [1_000_000, 500_000]
    assert found.positions.rows.tolist() == [0, 1]
