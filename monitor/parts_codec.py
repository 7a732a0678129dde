"""Encode partial aggregates as Kafka records below the size limit, and decode their samples.

Input: a sample's rows. Output: structs from `driftline.wire.partial_aggregates`. Large aggregates
are split into chunks that can be merged again. Arrays are encoded as base64 of their little-endian
bytes: a record with 20 numbers takes 213 bytes and 0.2 µs to encode. JSON numbers would take up to
390 bytes and 1.2 µs, and zlib compression 150 bytes and 4 µs. A class score takes 2.7 bytes.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from driftline.broker.port import Outgoing
from driftline.wire.envelope import encode
from driftline.wire.partial_aggregates import (
    Codes,
    DataAggregates,
    PaneAggregate,
    PerformanceAggregates,
    SampledErrors,
    SampledRecords,
    SlideAggregate,
)
from driftline.wire.topics import MAX_KEY_AND_VALUE_BYTES
from monitor.bottom_k_sample import Rows
from monitor.class_scores import ClassScores
from monitor.watched_columns import WatchedColumn

# Maximum total size of a record's chunks, which leaves room for the record's other fields.
_MAX_BYTES: Final = MAX_KEY_AND_VALUE_BYTES - 1024
# Maximum size of a chunk's sample. The other half of the chunk is reserved for
# counts, whose size grows with the number of columns and classes.
_MAX_SAMPLE_BYTES: Final = _MAX_BYTES // 2
# Maximum number of label-prediction pairs in a chunk.
MAX_PAIRS: Final = 1000

_INT = np.dtype("<i8")
_FLOAT = np.dtype("<f8")
_HASH = np.dtype("<u4")
_CODE = np.dtype("<i4")
_SCORE = np.dtype("<u2")


# ---- Kafka records ------------------------------------------------------------------------------


def records(
    topic: str,
    end: DataAggregates | PerformanceAggregates,
    chunks: Sequence[SlideAggregate | PaneAggregate],
) -> list[Outgoing]:
    """Pack the chunks, in order, into as few records as possible. Only the last record contains
    `end.passed`."""
    bodies: list[list[bytes]] = [[]]
    size = 0
    for chunk in map(encode, chunks):
        if bodies[-1] and size + len(chunk) > _MAX_BYTES:
            bodies.append([])
            size = 0
        bodies[-1].append(chunk)
        size += len(chunk) + 1
    open_end = msgspec.structs.replace(end, passed=None)
    heads = [*[encode(open_end)] * (len(bodies) - 1), encode(end)]
    return [
        # The last field of `end` is an empty list. Insert the encoded chunks into this list.
        Outgoing(topic, head[:-2] + b",".join(body) + b"]}", partition=0)
        for head, body in zip(heads, bodies, strict=True)
    ]


# ---- samples ------------------------------------------------------------------------------------


def pack_records(rows: Rows, names: Sequence[str]) -> Iterator[SampledRecords]:
    """Yield the sample in chunks. `rows.values` contains the columns `names`, followed by the
    predictions."""
    columns = [_pack(values) for values in rows.values]
    packed = SampledRecords(
        hashes=_bytes(rows.hashes, _HASH),
        positions=_bytes(rows.positions, _INT),
        offsets=_bytes(rows.offsets, _INT),
        columns=dict(zip(names, columns[:-1], strict=True)),
        prediction=columns[-1],
        scores={}
        if rows.scores is None
        else {name: _bytes(own, _SCORE) for name, own in rows.scores.by_class.items()},
    )
    if len(rows) < 2 or _size(packed) <= _MAX_SAMPLE_BYTES:
        yield packed
        return
    for half in _halves(rows):
        yield from pack_records(half, names)


def unpack_records(
    packed: SampledRecords, partition: int, columns: Sequence[WatchedColumn]
) -> Rows | None:
    """Return a chunk's rows. Return None if a column is missing or has a different kind, which
    happens if the stream file has changed since the chunk was written."""
    for name, kind, _ in columns:
        if isinstance(packed.columns.get(name), bytes if kind == "number" else Codes):
            continue
        return None
    hashes = np.frombuffer(packed.hashes, _HASH)
    return Rows(
        hashes,
        np.frombuffer(packed.positions, _INT),
        np.full(len(hashes), partition),
        np.frombuffer(packed.offsets, _INT),
        (*(_unpack(packed.columns[column.name]) for column in columns), _unpack(packed.prediction)),
        ClassScores(
            {name: np.frombuffer(own, _SCORE) for name, own in packed.scores.items()}, len(hashes)
        ),
    )


def pack_errors(rows: Rows) -> Iterator[SampledErrors]:
    """Yield the sample in chunks. `rows.values` contains the records' positions, followed by
    their errors and, for ranking metrics, by the codes of their scores."""
    packed = SampledErrors(
        hashes=_bytes(rows.hashes, _HASH),
        positions=_bytes(rows.positions, _INT),
        records=_bytes(rows.values[0], _INT),
        offsets=_bytes(rows.offsets, _INT),
        errors=_bytes(rows.values[1], _FLOAT),
        scores=_bytes(rows.values[2], _SCORE) if len(rows.values) > 2 else b"",
    )
    if (
        len(rows) < 2
        or sum(map(len, msgspec.structs.astuple(packed))) * 4 // 3 <= _MAX_SAMPLE_BYTES
    ):
        yield packed
        return
    for half in _halves(rows):
        yield from pack_errors(half)


def unpack_errors(packed: SampledErrors, partition: int) -> Rows:
    """Return a chunk's rows."""
    hashes = np.frombuffer(packed.hashes, _HASH)
    values: list[NDArray[Any]] = [
        np.frombuffer(packed.records, _INT),
        np.frombuffer(packed.errors, _FLOAT),
    ]
    if packed.scores:
        values.append(np.frombuffer(packed.scores, _SCORE))
    return Rows(
        hashes,
        np.frombuffer(packed.positions, _INT),
        np.full(len(hashes), partition),
        np.frombuffer(packed.offsets, _INT),
        tuple(values),
    )


def _halves(rows: Rows) -> tuple[Rows, Rows]:
    middle = len(rows) // 2
    return rows.take(slice(middle)), rows.take(slice(middle, None))


def _size(packed: SampledRecords) -> int:
    """Estimate the JSON size in bytes. The estimate ignores JSON escapes, because the half of a
    chunk that is not reserved for the sample has room for them."""
    size = len(packed.hashes) + len(packed.positions) + len(packed.offsets)
    size += sum(map(len, packed.scores.values()))
    texts = sum(len(name.encode()) + 6 for name in packed.scores)
    for column in (*packed.columns.values(), packed.prediction):
        if isinstance(column, bytes):
            size += len(column)
        else:
            size += len(column.codes)
            texts += sum(len(level.encode()) + 3 for level in column.levels)
    return size * 4 // 3 + texts


def _bytes(values: NDArray[Any], kind: np.dtype[Any]) -> bytes:
    return np.ascontiguousarray(values, kind).tobytes()


def _pack(values: NDArray[Any]) -> bytes | Codes:
    if values.dtype.kind == "f":
        return _bytes(values, _FLOAT)
    levels: dict[str | None, int] = {None: -1}
    codes = [levels.setdefault(value, len(levels) - 1) for value in values]
    del levels[None]
    return Codes(levels=tuple(map(str, levels)), codes=_bytes(np.array(codes), _CODE))


def _unpack(column: bytes | Codes) -> NDArray[Any]:
    if isinstance(column, bytes):
        return np.frombuffer(column, _FLOAT)
    # Code -1 represents a missing value: as an index, it selects the last element, None.
    levels = np.array([*column.levels, None], dtype=object)
    values: NDArray[np.object_] = levels[np.frombuffer(column.codes, _CODE)]
    return values
