"""A bottom-k sample does not depend on how its records were collected."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftline.config.stream_sections import Kind
from driftline.wire.envelope import encode, parts_decoder
from driftline.wire.partial_aggregates import DataAggregates, GroupAggregate, SlideAggregate
from driftline.wire.topics import MAX_RECORD_BYTES
from monitor.bottom_k_sample import BottomKSample, Rows, hashes_of
from monitor.class_scores import ClassScores
from monitor.parts_codec import pack_errors, pack_records, records, unpack_errors, unpack_records
from monitor.watched_columns import WatchedColumn


def rows_of(partition: int, records: list[tuple[int, int]]) -> Rows:
    """Return records as (offset, position); the position is also their id and their value."""
    positions = np.array([position for _, position in records], dtype=np.int64)
    return Rows(
        hashes_of([str(position) for position in positions]),
        positions,
        np.full(len(records), partition),
        np.array([offset for offset, _ in records], dtype=np.int64),
        (positions.astype(np.float64),),
    )


@given(
    positions=st.lists(st.integers(0, 10_000), min_size=1, max_size=200),
    cuts=st.lists(st.integers(1, 40), min_size=1),
    limit=st.integers(1, 60),
)
def test_batches_and_partitions_do_not_change_the_sample(
    positions: list[int], cuts: list[int], limit: int
) -> None:
    placed = [(position % 3, offset, position) for offset, position in enumerate(positions)]

    def smallest_first(record: tuple[int, int, int]) -> tuple[int, int, int, int]:
        return (int(hashes_of([str(record[2])])[0]), record[2], record[0], record[1])

    expected = sorted(float(r[2]) for r in sorted(placed, key=smallest_first)[:limit])
    whole = BottomKSample(limit)
    for partition in range(3):
        own = [(offset, position) for at, offset, position in placed if at == partition]
        partial = BottomKSample(limit)
        step = cuts[partition % len(cuts)]
        for start in range(0, len(own), step):
            partial.add(rows_of(partition, own[start : start + step]))
            assert len(partial) <= limit
        if own:
            whole.add(partial.rows())
    assert whole.rows().ordered().values[0].tolist() == expected


def test_the_hash_of_an_id_never_changes() -> None:
    assert hashes_of(["flower-000017", "17", "Malmö"]).tolist() == [
        2_001_907_529,
        1_024_455_050,
        3_380_099_599,
    ]


def test_the_hashes_of_consecutive_ids_are_spread_evenly() -> None:
    counted, _ = np.histogram(hashes_of([f"r{n}" for n in range(16_000)]), 16, (0, 2**32))
    assert counted.min() > 900  # 1,000 in each range, with a standard deviation of 31
    assert counted.max() < 1100


@given(
    values=st.lists(
        st.tuples(
            st.floats(),
            st.one_of(st.none(), st.text(max_size=5)),
            st.integers(-(2**62), 2**62),
        ),
        min_size=1,
    )
)
def test_a_sample_is_encoded_and_decoded_unchanged(
    values: list[tuple[float, str | None, int]],
) -> None:
    positions = np.array([position for _, _, position in values])
    names = np.empty(len(values), dtype=object)
    names[:] = [name for _, name, _ in values]
    sent = Rows(
        hashes_of(["x"] * len(values)),
        positions,
        np.full(len(values), 3),
        positions[::-1],
        (np.array([number for number, _, _ in values]), names, names[::-1]),
        ClassScores.of([{"a": abs(n) / 2**62} if name else None for _, name, n in values]),
    )
    (packed,) = pack_records(sent, ["number", "name"])
    came = unpack_records(
        packed,
        3,
        [WatchedColumn("number", "number", None), WatchedColumn("name", "category", None)],
    )
    assert came is not None
    for one, other in zip(came.values, sent.values, strict=True):
        np.testing.assert_array_equal(one, other)
    assert sent.scores is not None
    assert came.scores is not None
    np.testing.assert_array_equal(came.scores.own("a"), sent.scores.own("a"))
    for name in ("hashes", "positions", "partitions", "offsets"):
        np.testing.assert_array_equal(getattr(came, name), getattr(sent, name))
    errors = Rows(sent.hashes, positions, sent.partitions, positions, (positions, sent.values[0]))
    (sent_errors,) = pack_errors(errors)
    for one, other in zip(unpack_errors(sent_errors, 3).values, errors.values, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", ["numbers", "texts"])
def test_a_sample_too_large_for_a_record_is_split_into_chunks(kind: str) -> None:
    count = 30_000
    numbers = np.random.default_rng(0).normal(size=count)
    texts = np.array([f"a category of its own, number {n}" for n in range(count)], dtype=object)
    places = np.arange(count)
    sent = Rows(
        hashes_of([str(place) for place in places]),
        places,
        np.zeros(count, dtype=np.int64),
        places,
        (numbers, numbers, numbers) if kind == "numbers" else (texts, texts, numbers),
    )
    samples = list(pack_records(sent, ["a", "b"]))
    chunks = [
        SlideAggregate(index=0, groups=(GroupAggregate(model="m", sample=sample),))
        for sample in samples
    ]
    outgoing = records(
        "parts", DataAggregates(partition=0, grid="100/5", passed=1, slices=()), chunks
    )
    values = [record.value or b"" for record in outgoing]
    assert max(map(len, values)) < MAX_RECORD_BYTES
    assert len(outgoing) < len(chunks)
    column: Kind = "number" if kind == "numbers" else "category"
    columns = [WatchedColumn("a", column, None), WatchedColumn("b", column, None)]
    came = BottomKSample(count)
    for value in values:
        event = parts_decoder.decode(value)
        assert isinstance(event, DataAggregates)
        assert event.passed == (1 if value is values[-1] else None)
        for chunk in event.slices:
            (group,) = chunk.groups
            assert group.sample is not None
            rows = unpack_records(group.sample, 0, columns)
            assert rows is not None
            came.add(rows)
    for one, other in zip(came.rows().values, sent.values, strict=True):
        np.testing.assert_array_equal(one, other)
    assert encode(DataAggregates(partition=0, grid="100/5", passed=1, slices=())).endswith(b"[]}")
