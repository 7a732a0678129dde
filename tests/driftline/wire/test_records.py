"""Feature records are decoded with any columns, or rejected with a reason."""

import math
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftline.config.stream import Stream, loads
from driftline.config.stream_keys import quoted, quoted_key
from driftline.wire.feature_records import RecordCodec
from driftline.wire.values import MAX_NUMBER, format_time, parse_time, pattern_reader, text

names = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=12
).filter(lambda name: name not in ("@row", "@id", "@at", "id", "y"))
numbers = st.one_of(st.none(), st.integers(-(2**70), 2**70), st.floats(-MAX_NUMBER, MAX_NUMBER))
scalars = st.one_of(
    st.none(),
    st.text(st.characters(codec="utf-8"), max_size=8),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
)


def stream(features: str, more: str = "", **record: str) -> Stream:
    policies = "\n".join(f"{key} = {quoted(value)}" for key, value in record.items())
    return loads(
        'version = 1\nname = "s"\ntask = "classification"\ntarget = "y"\n'
        f'{more}\n[record]\nid = "id"\n{policies}\n[features]\n{features}'
    )


@given(
    st.lists(names, min_size=2, max_size=6, unique=True).flatmap(
        lambda found: st.tuples(
            st.just(found),
            st.lists(
                st.tuples(*[numbers if i % 2 else scalars for i in range(len(found))]),
                max_size=8,
            ),
        )
    )
)
def test_records_with_any_column_names_and_values_are_decoded_unchanged(
    case: tuple[list[str], list[tuple[Any, ...]]],
) -> None:
    columns, rows = case
    features = "\n".join(
        f"{quoted_key(name)} = {quoted('number' if i % 2 else 'category')}"
        for i, name in enumerate(columns)
    )
    codec = RecordCodec(stream(features, missing="impute"))
    values = [
        msgspec.json.encode({"id": i, "@row": i, **dict(zip(columns, row, strict=True))})
        for i, row in enumerate(rows)
    ]
    batch = codec.decode(values)
    assert batch.rejected == []
    assert batch.ids == [str(i) for i in range(len(rows))]
    assert batch.rows == list(range(len(rows)))
    for i, name in enumerate(columns):
        expected = [row[i] for row in rows]
        if i % 2:
            got = batch.columns.numbers[name].tolist()
            assert [None if math.isnan(v) else v for v in got] == [
                None if v is None else float(v) for v in expected
            ]
        else:
            assert batch.columns.categories[name].tolist() == [
                None if v is None else text(v) for v in expected
            ]


@given(st.lists(st.one_of(st.binary(max_size=30), st.none()), max_size=10))
def test_any_bytes_are_decoded_or_rejected(values: list[bytes | None]) -> None:
    batch = RecordCodec(stream('a = "number"')).decode(values)
    rejected = [item.index for item in batch.rejected]
    assert sorted(batch.kept + rejected) == list(range(len(values)))
    assert rejected == sorted(rejected)
    assert all(item.reason for item in batch.rejected)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "no value: the record is empty"),
        (b"", "not JSON: Input data was truncated"),
        (b"\xff", "not JSON: not UTF-8 at byte 0"),
        (b'{"x": "\xff"}', "not JSON: not UTF-8 at byte 7"),
        (b"[1]", "not a JSON object: got array"),
        (
            b'{"id": 1, "@row": 0, "a": "x", "c": "r"}',
            "column 'a': expected a number or null, got str",
        ),
        (
            b'{"id": 1, "@row": 0, "a": true, "c": "r"}',
            "column 'a': expected a number or null, got bool",
        ),
        (b'{"id": 1, "@row": 0, "a": 1e999, "c": "r"}', "column 'a': number out of range"),
        (
            b'{"id": 1, "@row": 0, "a": 1, "c": [1]}',
            "column 'c': expected true or false, a number, text or null, got array",
        ),
        (b'{"id": 1, "@row": 0, "c": "r"}', "missing value: column 'a' is null or absent"),
        (
            b'{"id": 1, "@row": 0, "a": 1, "c": null}',
            "missing value: column 'c' is null or absent",
        ),
        (b'{"@row": 0, "a": 1, "c": "r"}', "missing id: column 'id' is null or absent"),
        (
            b'{"id": 1, "a": 1, "c": "r"}',
            "missing number: field '@row' is null or absent; producers set it",
        ),
        (
            b'{"id": 1, "@row": -1, "a": 1, "c": "r"}',
            "field '@row': expected 0 to 9007199254740991, got -1",
        ),
        (
            b'{"id": 1, "@row": 0, "a": 0, "c": "r"}',
            "missing value: derived feature 'inverse' has no finite value",
        ),
        (b'{"id": 1, "@row": 0, "a": 1, "c": "r", "z": 1}', "unknown column 'z'"),
    ],
)
def test_a_record_that_cannot_be_scored_is_rejected_with_the_reason(
    value: bytes | None, reason: str
) -> None:
    codec = RecordCodec(
        stream(
            'a = "number"\nc = "category"',
            'derived = { inverse = "1 / a" }',
            unknown_columns="refuse",
        )
    )
    good = b'{"id": 1, "@row": 0, "a": 2, "c": "r"}'
    batch = codec.decode([good, value, good])
    assert [item.reason for item in batch.rejected] == [reason]
    assert batch.kept == [0, 2]
    assert batch.columns.numbers["inverse"].tolist() == [0.5, 0.5]


def test_a_record_that_is_nested_too_deeply_is_rejected() -> None:
    batch = RecordCodec(stream('a = "number"')).decode([b'{"x": ' + b"[" * 100_000])
    assert batch.rejected[0].reason == "not JSON: nested too deeply"


def test_a_record_with_missing_values_is_accepted_if_they_are_imputed() -> None:
    codec = RecordCodec(
        stream('a = "number"\nc = "category"', 'derived = { inverse = "1 / a" }', missing="impute")
    )
    batch = codec.decode([b'{"id": 1, "@row": 0}', b'{"id": 2, "@row": 1, "a": 0, "c": ""}'])
    assert batch.rejected == []
    assert np.isnan(batch.columns.numbers["inverse"]).all()
    assert batch.columns.categories["c"].tolist() == [None, ""]


def test_one_column_may_be_id_key_time_and_feature_at_once() -> None:
    codec = RecordCodec(
        stream(
            'id = "number"',
            'time = { column = "id", format = "unix_s" }',
            key="id",
        )
    )
    batch = codec.decode([b'{"id": 3, "@row": 0}', b'{"id": "4", "@row": 1}', b'{"id": "x"}'])
    assert batch.ids == ["3"]
    assert batch.times_us == [3_000_000]
    assert batch.columns.numbers["id"].tolist() == [3.0]
    assert batch.rejected[0].reason == "column 'id': expected a number or null, got str"
    assert batch.rejected[1].reason.startswith("missing number: field '@row'")


def test_an_escaped_column_name_is_the_same_column() -> None:
    codec = RecordCodec(stream('"é" = "number"'))
    batch = codec.decode([b'{"id": 1, "@row": 0, "\\u00e9": 2}'])
    assert batch.columns.numbers["é"].tolist() == [2.0]


@pytest.mark.parametrize(
    ("time", "field", "expected_us"),
    [
        ('column = "t"', '"1970-01-01T00:00:01Z"', 1_000_000),
        ('column = "t"', '"1970-01-01T00:00:01"', None),
        ('column = "t"', '"yesterday"', None),
        ('column = "t"', "null", None),
        ('column = "t"\nformat = "unix_ms"', "1500", 1_500_000),
        ('column = "t"\nformat = "unix_s"', '"1.5"', 1_500_000),
        ('column = "t"\nformat = "unix_s"', "1e300", None),
        ('column = "t"\nformat = "%d.%m.%Y"', '"02.01.1970"', 86_400_000_000),
        ('column = "t"\nstart = 1970-01-01T00:00:00Z\nstep = "1m"', "2", 120_000_000),
        ('start = 1970-01-01T00:00:00Z\nstep = "1m"', '"not used"', 180_000_000),
    ],
)
def test_the_event_time_is_read_in_each_format(
    time: str, field: str, expected_us: int | None
) -> None:
    codec = RecordCodec(stream('a = "number"', f"[time]\n{time}"))
    batch = codec.decode([f'{{"id": 1, "@row": 3, "a": 1, "t": {field}}}'.encode()])
    assert batch.times_us == ([] if expected_us is None else [expected_us])
    assert batch.positions("time") == batch.times_us
    if expected_us is None:
        assert "time" in batch.rejected[0].reason
        assert "'t'" in batch.rejected[0].reason


@given(st.datetimes())
def test_the_fast_parser_of_a_pattern_gives_the_same_time_as_strptime(moment: Any) -> None:
    for pattern in ("%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M:%S.%f", "%Y-%m-%dT%H:%M", "%Y-%m-%d"):
        written = moment.strftime(pattern)
        if moment.year < 1000:
            continue  # strftime omits leading zeros of the year, which strptime requires
        read_back = pattern_reader(pattern)(written)
        assert read_back == pattern_reader(pattern + " ")(written + " ")


@given(st.integers(-(10**16), 10**17))
def test_formatted_times_are_parsed_to_the_same_value(us: int) -> None:
    assert parse_time(format_time(us)) == us
