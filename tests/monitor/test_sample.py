"""Samples are the same whatever way their records were gathered."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from driftline.codec.columns import Columns
from monitor.sample import Chunk, Sample, SampleBuilder, hash_of, merge


def chunk(partition: int, rows: list[tuple[int, int]]) -> Chunk:
    """Records as (offset, position); the id is the position, the value too."""
    positions = np.array([position for _, position in rows], dtype=np.int64)
    return Chunk(
        partition=partition,
        offsets=np.array([offset for offset, _ in rows], dtype=np.int64),
        positions=positions,
        ids=[str(position) for position in positions],
        columns=Columns({"x": positions.astype(np.float64)}, {}),
        predictions=positions.astype(np.float64),
    )


def values(sample: Sample) -> list[float]:
    assert (sample.columns.numbers["x"] == sample.predictions).all()
    return list(sample.columns.numbers["x"])


@given(
    positions=st.lists(st.integers(0, 10_000), min_size=1, max_size=200),
    cuts=st.lists(st.integers(1, 40), min_size=1),
    limit=st.integers(1, 60),
)
def test_batches_and_partitions_do_not_change_the_sample(
    positions: list[int], cuts: list[int], limit: int
) -> None:
    placed = [(position % 3, offset, position) for offset, position in enumerate(positions)]
    smallest = sorted(placed, key=lambda r: (hash_of(str(r[2])), r[0], r[1]))[:limit]
    expected = [float(r[2]) for r in sorted(smallest, key=lambda r: (r[2], r[0], r[1]))]
    builders = [SampleBuilder(limit) for _ in range(3)]
    for partition, builder in enumerate(builders):
        own = [(offset, position) for at, offset, position in placed if at == partition]
        step = cuts[partition % len(cuts)]
        for start in range(0, len(own), step):
            builder.add(chunk(partition, own[start : start + step]))
            assert sum(map(len, builder.chunks)) <= 2 * limit + step
    assert values(merge(builders, limit)) == expected


def test_the_hash_is_the_same_for_ever() -> None:
    assert hash_of("flower-000017") == 4_308_170_284_312_274_290
