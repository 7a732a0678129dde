"""Decoders either reject bytes with a reason or return a value that can be written and read again.

They never raise any other error, whatever the bytes are."""

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumers.outcomes import handler
from driftline.audit import lineage, reconcile_tables, trace
from driftline.broker.port import Message
from driftline.config.stream import Stream, loads
from driftline.errors import DataError
from driftline.wire import envelope, events, partial_aggregates, window_events
from driftline.wire.events import MAX_ROW
from driftline.wire.feature_records import RecordCodec
from driftline.wire.labels import LabelCodec
from driftline.wire.predictions import PredictionEncoder
from driftline.wire.values import format_time, parse_time
from monitor.partition_windows import read_outcomes, read_predictions
from tests.driftline.wire.test_wire import DECODERS, EVENTS

# Valid or almost valid JSON that may break a decoder.
NASTY = (
    *(
        "null",
        "true",
        "false",
        "0",
        "-0",
        "-1",
        "0.5",
        "-0.0",
        "[]",
        "{}",
        "[1]",
        "NaN",
        "Infinity",
    ),
    *("Infinity", "1e308", "-1e308", "1e400", "1e-400", "3.5e38", '""', '"a"', '"nan"'),
    *(r'"\u0000"', r'"\ud800"', r'"\udfff\ud800"'),
    *('"0001-01-01T00:00:00+01:00"', '"9999-12-31T23:59:59-01:00"', '"0000-01-01T00:00:00Z"'),
    *('"9999-12-31T23:59:59.9999999Z"', '"2025-01-01T00:00:60Z"', '"2025-01-01T00:00:00+99:99"'),
    *('"2025-W01-1T00:00:00Z"', '"1970-01-01"'),
    *(str(number) for power in (31, 53, 60, 62, 63, 64) for number in (2**power, -(2**power))),
    *(str(2**power - 1) for power in (31, 53, 63, 64)),
    *("1" + "0" * 400, "-1" + "0" * 400, "9" * 5000),
    *("[" * 3000 + "]" * 3000, '{"a":' * 3000 + "0" + "}" * 3000),
)
nasty = st.one_of(
    st.sampled_from(NASTY),
    st.integers().map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.text(max_size=5).map(json.dumps),
    st.datetimes().map(lambda moment: json.dumps(moment.isoformat() + "Z")),
)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Return (container, key) of every value inside a JSON value."""
    found: list[tuple[Any, Any]] = []
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        found.append((value, key))
        if isinstance(item, dict | list):
            found += places(item)
    return found


@st.composite
def damaged(draw: st.DrawFn, examples: list[bytes]) -> bytes:
    """Draw an example with values replaced, truncated or with bytes changed, or arbitrary bytes."""
    kind = draw(st.sampled_from(["values", "values", "values", "bytes", "cut", "any"]))
    example = draw(st.sampled_from(examples))
    if kind == "any":
        return draw(st.binary(max_size=40))
    if kind == "cut":
        return example[: draw(st.integers(0, len(example)))]
    if kind == "bytes":
        at = draw(st.integers(0, len(example) - 1))
        return example[:at] + draw(st.binary(min_size=1, max_size=3)) + example[at + 1 :]
    value = json.loads(example)
    texts: list[str] = []
    for _ in range(draw(st.integers(1, 3))):
        container, key = draw(st.sampled_from(places(value)))
        texts.append(draw(nasty))
        container[key] = f"@@{len(texts) - 1}@@"
    whole = json.dumps(value)
    for place, text in enumerate(texts):
        whole = whole.replace(f'"@@{place}@@"', text)
    return whole.encode("utf-8", "surrogatepass")


def examples_of(topic: str) -> list[bytes]:
    return [path.read_bytes().strip() for path in EVENTS if path.name.startswith(f"{topic}.")]


@pytest.mark.parametrize("topic", sorted(DECODERS))
@given(data=st.data())
@settings(max_examples=200)
def test_a_damaged_event_is_read_back_unchanged_or_rejected(
    topic: str, data: st.DataObject
) -> None:
    value = data.draw(damaged(examples_of(topic)))
    reason = ""
    try:
        event = envelope.decode(DECODERS[topic], Message(topic, 0, 0, None, value))
    except DataError as error:
        event, reason = None, error.message
    if event is None:
        assert reason.startswith(f"{topic}[0]@0: ")
        return
    assert DECODERS[topic].decode(envelope.encode(event)) == event


def stream(*, axis: str, task: str, key: str, missing: str) -> Stream:
    windows = 'span = "1h"' if axis == "time" else "records = 100"
    return loads(f"""
        version = 1
        name = "s"
        task = "{task}"
        target = "y"
        record = {{ id = "id", key = "{key}", missing = "{missing}" }}
        time = {{ column = "t" }}
        features = {{ a = "number", b = "number", c = "category" }}
        derived = {{ d = "a * b * b" }}
        windows = {{ {windows} }}
        """)


streams = st.builds(
    stream,
    axis=st.sampled_from(["time", "row"]),
    task=st.sampled_from(["classification", "regression"]),
    key=st.sampled_from(["@id", "a", "c"]),
    missing=st.sampled_from(["dead_letter", "impute"]),
)
RECORD = b'{"id":"r1","@row":1,"t":"2025-01-01T00:00:00Z","a":1.5,"b":2,"c":"x"}'


@given(stream=streams, values=st.lists(damaged([RECORD]), min_size=1, max_size=4))
@settings(max_examples=500)
def test_an_accepted_feature_record_becomes_a_prediction_that_can_be_read(
    stream: Stream, values: list[bytes]
) -> None:
    batch = RecordCodec(stream).decode(values)
    assert sorted([*batch.kept, *(item.index for item in batch.rejected)]) == [*range(len(values))]
    assert all(item.reason for item in batch.rejected)
    for numbers in batch.columns.numbers.values():
        assert not np.isinf(numbers).any()
    if not batch.kept:
        return
    encoded = PredictionEncoder("sha256:1", ("no", "yes"), "s.features").encode(
        [0] * len(batch), batch.kept, [values[at] for at in batch.kept], batch,
        ["yes"] * len(batch), np.full((len(batch), 2), 0.5),
    )  # fmt: skip
    messages = []
    for place, value in enumerate(encoded):
        event = envelope.predictions_decoder.decode(value)
        assert event.record_id == batch.ids[place]  # type: ignore[union-attr]
        assert event.row == batch.rows[place]  # type: ignore[union-attr]
        time_us = batch.times_us[place]
        assert event.time == (None if time_us is None else format_time(time_us))  # type: ignore[union-attr]
        messages.append(Message("s.predictions", 0, place, None, value))
    scored = read_predictions.ScoredReader(stream).read(messages)
    assert scored.positions.on_axis.tolist() == batch.positions(stream.axis)


@given(stream=streams, value=st.data())
@settings(max_examples=500)
def test_an_accepted_label_is_read_back_unchanged(stream: Stream, value: st.DataObject) -> None:
    codec = LabelCodec(stream)
    truth = '"yes"' if stream.task == "classification" else "1.5"
    at = 1 if stream.axis == "row" else '"2025-01-01T00:00:00Z"'
    raw = value.draw(damaged([f'{{"id":"r1","a":1.5,"c":"x","y":{truth},"@at":{at}}}'.encode()]))
    found = codec.decode_all([raw])
    if found.rejected:
        with pytest.raises(DataError, match=re.escape(found.rejected[0].reason)):
            codec.decode(raw)
        return
    label = codec.decode(raw)
    assert found.items == [label]
    again = codec.encode(label.record_id, label.label, at=label.at, key=label.key)
    assert codec.decode(again) == label


@given(value=damaged(examples_of("outcomes")), axis=st.sampled_from(["time", "row"]))
@settings(max_examples=300)
def test_the_monitor_reads_or_skips_any_damaged_outcome(value: bytes, axis: str) -> None:
    read = read_outcomes.read_outcomes(
        [Message("s.outcomes", 0, 0, None, value)],
        stream(axis=axis, task="classification", key="@id", missing="impute"),
    )
    for time_us in read.times_us.tolist():
        assert time_us < -(2**61) or parse_time(format_time(time_us)) == time_us


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("t", '"0001-01-01T00:00:00+01:00"', "time column 't': Expected a time in years 1 to 9999"),
        ("t", '"9999-12-31T23:59:59-01:00"', "time column 't': Expected a time in years 1 to 9999"),
        ("@row", str(2**63 - 1), f"field '@row': expected 0 to {MAX_ROW}"),
        ("@row", "-1", f"field '@row': expected 0 to {MAX_ROW}"),
        ("a", "1" + "0" * 400, "column 'a': expected a number from -3.402823e+38 to 3.402823e+38"),
        ("a", "-3.5e38", "column 'a': expected a number from -3.402823e+38 to 3.402823e+38"),
        ("a", "1e400", "column 'a': number out of range"),
        ("z", "[" * 3000 + "]" * 3000, "not JSON: nested too deeply"),
    ],
)
def test_a_record_with_a_value_out_of_bounds_is_rejected_with_the_reason(
    field: str, value: str, reason: str
) -> None:
    record = json.loads(RECORD) | {field: "@@"}
    batch = RecordCodec(
        stream(axis="row", task="classification", key="a", missing="impute")
    ).decode([json.dumps(record).replace('"@@"', value).encode()])
    assert len(batch.rejected) == 1
    assert batch.rejected[0].reason.startswith(reason)


def _values_of(annotation: Any) -> list[msgspec.inspect.Type]:
    """Return a type and all types inside it, but not the types inside structs."""
    found = [annotation]
    for name in ("types", "item_types"):
        for inner in getattr(annotation, name, ()):
            found += _values_of(inner)
    for name in ("item_type", "key_type", "value_type"):
        inner = getattr(annotation, name, None)
        if inner is not None:
            found += _values_of(inner)
    return found


MODULES_OF_EVENTS = (events, window_events, partial_aggregates)


def _structs() -> list[type[msgspec.Struct]]:
    """Return all structs of events, including those with which services read part of an event."""
    modules = [
        *(*MODULES_OF_EVENTS, envelope, reconcile_tables, trace, lineage),
        *(read_predictions, read_outcomes, handler),
    ]
    found = {
        kind
        for module in modules
        for kind in vars(module).values()
        if isinstance(kind, type)
        and issubclass(kind, msgspec.Struct)
        and (module in MODULES_OF_EVENTS or kind.__name__ in PARTS_OF_EVENTS)
    }
    return sorted(found, key=lambda kind: (kind.__module__, kind.__name__))


PARTS_OF_EVENTS = {
    *("DeadLetterOrigin", "_PredictionHead", "_OutcomeHead", "_Scored", "_Window", "Read"),
    *("_Source", "_Outcome", "_Prediction"),
}


@pytest.mark.parametrize("kind", _structs(), ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_every_integer_in_an_event_fits_into_64_bits(kind: type[msgspec.Struct]) -> None:
    info = msgspec.inspect.type_info(kind)
    assert isinstance(info, msgspec.inspect.StructType)
    for field in info.fields:
        for inner in _values_of(field.type):
            if isinstance(inner, msgspec.inspect.IntType):
                assert inner.ge is not None, field.name
                assert inner.le is not None, field.name
                assert -(2**63) <= inner.ge <= inner.le < 2**63, field.name


BAD_TIMES = ("0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00", "yesterday", "2025-01-01")


@pytest.mark.parametrize("path", EVENTS, ids=lambda path: path.stem)
def test_an_event_with_an_impossible_time_is_rejected(path: Path) -> None:
    topic = path.name.split(".")[0]
    example = json.loads(path.read_bytes())
    times = [(at, key) for at, key in places(example) if key in ("time", "label_time")]
    for container, key in times:
        before = container[key]
        for bad in BAD_TIMES:
            container[key] = bad
            with pytest.raises(msgspec.ValidationError):
                DECODERS[topic].decode(json.dumps(example).encode())
        container[key] = before


STRUCTS = {
    name: kind
    for module in MODULES_OF_EVENTS
    for name, kind in vars(module).items()
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct)
}


@pytest.mark.parametrize("kind", STRUCTS.values(), ids=STRUCTS)
def test_every_struct_with_a_time_validates_it(kind: type[msgspec.Struct]) -> None:
    times = {"time", "label_time"} & set(kind.__struct_fields__)
    assert bool(times) == hasattr(kind, "__post_init__"), kind


LONG = 200_000


@pytest.mark.parametrize(
    "field",
    [
        '"id":"r1","a":"%s"',
        '"id":"r1","%s":1',
        '"id":"r1","t":"%s"',
        '"id":"r1","t":"2025-01-01T00:00:00Z%s"',
        '"id":"","t":"%s"',
        '"id":"r1","@row":"%s"',
        '%s"',
    ],
)
@pytest.mark.parametrize("axis", ["time", "row"])
def test_the_reason_of_a_rejection_is_short_however_long_the_record_is(
    field: str, axis: str
) -> None:
    of = stream(axis=axis, task="regression", key="@id", missing="dead_letter")
    value = ("{" + field % ("x" * LONG) + "}").encode()
    reasons = [item.reason for item in RecordCodec(of).decode([value]).rejected]
    label = value.replace(b'"t"', b'"y":1,"@at"').replace(b'"a"', b'"y"')
    reasons += [item.reason for item in LabelCodec(of).decode_all([label]).rejected]
    for topic, decoder in DECODERS.items():
        with pytest.raises(DataError) as error:
            envelope.decode(decoder, Message(topic, 0, 0, None, b'{"type":"' + value))
        reasons.append(error.value.message)
        with pytest.raises(DataError) as error:
            envelope.decode(decoder, Message(topic, 0, 0, None, b'{"type":"' + b"x" * LONG + b'"}'))
        reasons.append(error.value.message)
    letter = envelope.dead_letter(
        "d", Message("s", 0, 0, None, value), reason="x" * LONG, service="s"
    )
    reasons += [header.decode() for _, header in letter.headers]

    assert max(map(len, reasons)) < 400
