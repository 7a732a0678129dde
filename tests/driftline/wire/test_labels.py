"""Labels are decoded exactly as they were encoded, or rejected with a reason."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftline.config.stream import Stream, loads
from driftline.config.stream_keys import quoted
from driftline.errors import DataError
from driftline.wire.labels import Label, LabelCodec
from driftline.wire.values import text

words = st.text(st.characters(codec="utf-8"), min_size=1, max_size=10)
# The id column must not begin with "@", unless it is "@row".
columns = words.filter(lambda name: not name.startswith("@") and name != "a")


def stream(
    *, id: str = "id", key: str = "@id", target: str = "y", task: str = "classification",
    windows: str = "records = 100",
) -> Stream:  # fmt: skip
    return loads(
        f'version = 1\nname = "s"\ntask = {quoted(task)}\ntarget = {quoted(target)}\n'
        f'features = {{ a = "number" }}\nrecord = {{ id = {quoted(id)}, key = {quoted(key)} }}\n'
        f'time = {{ column = "t" }}\n[windows]\n{windows}\n'
    )


@given(
    names=st.lists(columns.filter(lambda n: n != "t"), min_size=3, max_size=3, unique=True),
    record_id=words,
    label=st.one_of(words, st.booleans(), st.integers(), st.floats(allow_nan=False)),
    at=st.one_of(st.none(), st.integers(0, 2**53 - 1)),
    key=st.one_of(words, st.integers()),
)
def test_labels_with_any_names_and_values_are_decoded_unchanged(
    names: list[str], record_id: str, label: str | float, at: int | None, key: str | int
) -> None:
    id_column, key_column, target = names
    codec = LabelCodec(stream(id=id_column, key=key_column, target=target))
    if label in (float("inf"), float("-inf")):
        return  # JSON has no infinity
    encoded = codec.encode(record_id, label, at=at, key=key)
    assert codec.decode(encoded) == Label(record_id, text(label), at, text(key))


ordinary = st.fixed_dictionaries(
    {"id": words, "k": words, "y": words, "@at": st.integers(0, 2**53 - 1)}
)
anything = st.one_of(st.none(), st.booleans(), st.integers(-2, 2**64), words, st.just(""))
odd = st.fixed_dictionaries({}, optional=dict.fromkeys(("id", "k", "y", "@at"), anything))


@given(
    labels=st.lists(ordinary, max_size=4).flatmap(
        lambda usual: st.lists(odd, max_size=2).map(lambda more: [*usual, *more])
    ),
    key=st.sampled_from(["k", "@id"]),
)
def test_labels_are_decoded_in_a_batch_as_one_by_one(
    labels: list[dict[str, object]], key: str
) -> None:
    codec = LabelCodec(stream(key=key))
    values = [msgspec.json.encode(label) for label in labels]
    kept: list[tuple[int, Label]] = []
    rejected = []
    for index, value in enumerate(values):
        try:
            kept.append((index, codec.decode(value)))
        except DataError as error:
            rejected.append((index, error.message))
    found = codec.decode_all(values)
    assert list(zip(found.kept, found.items, strict=True)) == kept
    assert [(item.index, item.reason) for item in found.rejected] == rejected


def test_on_the_time_axis_the_time_of_a_label_is_written_as_rfc_3339() -> None:
    codec = LabelCodec(stream(windows='span = "1h"', task="regression"))
    encoded = codec.encode("r", 1.5, at=90_000_000)
    assert encoded == b'{"id":"r","y":1.5,"@at":"1970-01-01T00:01:30Z"}'
    assert codec.decode(encoded) == Label("r", 1.5, 90_000_000)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "the label is empty"),
        (b"?", "not JSON"),
        (b'{"y": 1}', "missing id: column 'id' is null or absent"),
        (b'{"id": "r"}', "missing label: column 'y' is null or absent"),
        (b'{"id": "r", "y": "high"}', "column 'y': expected a number or null, got str"),
        (b'{"id": "r", "y": 1, "@at": "1970-01-01T00:00:00Z"}', "expected a record number"),
        (b'{"id": "r", "y": 1, "@at": -1}', "expected a record number"),
    ],
)
def test_an_unusable_label_is_rejected_with_the_reason(value: bytes | None, reason: str) -> None:
    with pytest.raises(DataError) as caught:
        LabelCodec(stream(task="regression")).decode(value)
    assert reason in caught.value.message


def test_a_label_time_without_a_zone_is_rejected() -> None:
    with pytest.raises(DataError, match="RFC 3339"):
        LabelCodec(stream(windows='span = "1h"')).decode(
            b'{"id": "r", "y": 1, "@at": "1970-01-01 00:00:00"}'
        )
