"""Feature records: the user's own flat JSON, decoded by a stream's schema.

In: bytes as they lie in the topic. Out: column arrays, with what was rejected and why. A record is
read in one pass; nothing is dropped in silence.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import numpy as np
from msgspec.structs import astuple
from numpy.typing import NDArray

from driftline.codec.columns import Batch, Columns, Rejected
from driftline.codec.labels import AT, Label, LabelCodec
from driftline.codec.schema import DECODE_ERRORS, IdType, Scalar, make_decoder, reason_of
from driftline.codec.values import format_time, key_bytes, parse_time, text, time_reader
from driftline.expressions import Expression
from driftline.stream import ID, ROW, Stream

__all__ = [
    "AT",
    "Batch",
    "Columns",
    "Label",
    "LabelCodec",
    "RecordCodec",
    "Rejected",
    "decode_all",
    "format_time",
    "key_bytes",
    "parse_time",
    "text",
]


class RecordCodec:
    """Decodes the feature records of one stream.

    >>> from driftline.stream import loads
    >>> stream = loads('''
    ... version = 1
    ... name = "iris"
    ... task = "classification"
    ... target = "species"
    ... record = { id = "flower" }
    ... features = { "petal width" = "number" }
    ... derived = { double = "2 * `petal width`" }
    ... ''')
    >>> batch = RecordCodec(stream).decode([
    ...     b'{"flower": 7, "@row": 0, "petal width": 0.2}',
    ...     b'{"flower": 8, "@row": 1, "petal width": "wide"}',
    ... ])
    >>> batch.ids, batch.columns.numbers["double"], batch.rejected[0].reason
    (['7'], array([0.4]), "column 'petal width': expected a number or null, got str")
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        record, time = stream.record, stream.time
        self._time_column = (time.column or ROW) if stream.has_time else None
        self._read_time = time_reader(stream)
        self._numbers = [n for n, spec in stream.inputs.items() if spec.kind == "number"]
        self._categories = [n for n, spec in stream.inputs.items() if spec.kind == "category"]
        kinds = {name: spec.kind for name, spec in stream.inputs.items()}
        self._derived = {
            name: Expression(expression, kinds) for name, expression in stream.derived.items()
        }
        roles: dict[str, list[Any]] = {ROW: [int | None]}
        roles.setdefault(record.id, []).append(IdType)
        if record.key != ID:
            roles.setdefault(record.key, []).append(Scalar)
        if self._time_column is not None:
            roles.setdefault(self._time_column, []).append(IdType)
        for name in self._numbers:
            roles.setdefault(name, []).append(float | None)
        for name in self._categories:
            roles.setdefault(name, []).append(Scalar)
        # One column may serve as several; then its values are checked below, not by the decoder.
        self._shared = {name for name, types in roles.items() if len(types) > 1 and name != ROW}
        self._place = {name: place for place, name in enumerate(roles)}
        self._decode = make_decoder(
            {
                name: types[0] if len(types) == 1 or name == ROW else Scalar
                for name, types in roles.items()
            },
            refuse_unknown=record.unknown_columns == "refuse",
        )

    def decode(self, values: Sequence[bytes | None]) -> Batch:
        """Decode, check and derive. Everything is in the result; nothing is raised for bad data."""
        decode = self._decode
        structs: list[Any] = []
        kept: list[int] = []
        rejected: list[Rejected] = []
        for index, value in enumerate(values):
            if value is None:
                rejected.append(Rejected(index, "no value: the record is empty"))
                continue
            try:
                if not value.isascii():
                    value.decode()  # what the schema skips must be UTF-8 too: it is passed on
                structs.append(decode(value))
            except DECODE_ERRORS as error:
                rejected.append(Rejected(index, reason_of(error)))
            else:
                kept.append(index)
        fields: list[tuple[Any, ...]] = (
            list(zip(*map(astuple, structs), strict=True)) if structs else [() for _ in self._place]
        )
        problems: dict[int, str] = {}  # place among `kept` → the first reason
        ids = self._ids(fields, problems)
        rows = self._rows(fields, problems)
        times_us = self._times(fields, problems)
        columns = self._columns(fields, len(kept), problems)
        if not problems:
            return Batch(ids, times_us, rows, columns, kept, rejected)
        rejected.extend(Rejected(kept[place], reason) for place, reason in problems.items())
        rejected.sort(key=lambda item: item.index)
        good = [place for place in range(len(kept)) if place not in problems]
        return Batch(
            [ids[place] for place in good],
            [times_us[place] for place in good],
            [rows[place] for place in good],
            columns.take(good),
            [kept[place] for place in good],
            rejected,
        )

    def _ids(self, fields: list[tuple[Any, ...]], problems: dict[int, str]) -> list[str]:
        column = self._stream.record.id
        ids = [
            value if type(value) is str else text(value) for value in fields[self._place[column]]
        ]
        for place, value in enumerate(fields[self._place[column]]):
            if value is None or value == "" or value is True or value is False:
                problems.setdefault(place, f"missing id: column {column!r} is {_shown(value)}")
        return ids

    def _rows(self, fields: list[tuple[Any, ...]], problems: dict[int, str]) -> list[int | None]:
        rows = list(fields[self._place[ROW]])
        for place, row in enumerate(rows):
            if row is None:
                if self._stream.needs_row:
                    problems.setdefault(
                        place, f"missing number: field {ROW!r} is null or absent; producers set it"
                    )
            elif not 0 <= row < 2**63:
                problems.setdefault(place, f"field {ROW!r}: expected 0 to 2**63 - 1, got {row}")
        return rows

    def _times(self, fields: list[tuple[Any, ...]], problems: dict[int, str]) -> list[int | None]:
        column = self._time_column
        if column is None:
            return [None] * len(fields[0])
        read = self._read_time
        result: list[int | None] = []
        for place, value in enumerate(fields[self._place[column]]):
            try:
                result.append(read(value))
            except (ValueError, OverflowError) as error:
                result.append(None)
                problems.setdefault(
                    place,
                    f"missing time: column {column!r} is null or absent"
                    if value is None
                    else f"time column {column!r}: {error}",
                )
        return result

    def _columns(
        self, fields: list[tuple[Any, ...]], length: int, problems: dict[int, str]
    ) -> Columns:
        must = self._stream.record.missing == "dead_letter"
        numbers: dict[str, NDArray[np.float64]] = {}
        for name in self._numbers:
            values: Sequence[Any] = fields[self._place[name]]
            if name in self._shared:
                values = _only_numbers(name, values, problems)
            numbers[name] = np.array(values, dtype=np.float64)
            if must:
                _mark_missing(name, np.isnan(numbers[name]), problems)
        categories: dict[str, NDArray[np.object_]] = {}
        for name in self._categories:
            array = np.empty(length, dtype=object)
            array[:] = [
                value if value is None or type(value) is str else text(value)
                for value in fields[self._place[name]]
            ]
            categories[name] = array
            if must:
                _mark_missing(
                    name, np.array([value is None for value in array], dtype=bool), problems
                )
        for name, expression in self._derived.items():
            derived = expression.evaluate(numbers, categories)
            derived[~np.isfinite(derived)] = np.nan
            numbers[name] = derived
            if must:
                _mark_missing(name, np.isnan(derived), problems, "derived feature")
        return Columns(numbers, categories, length)


def _only_numbers(name: str, values: Sequence[Any], problems: dict[int, str]) -> list[float | None]:
    result: list[float | None] = []
    for place, value in enumerate(values):
        good = value is None or (isinstance(value, int | float) and not isinstance(value, bool))
        if not good:
            problems.setdefault(
                place, f"column {name!r}: expected a number or null, got {type(value).__name__}"
            )
        result.append(value if good else None)
    return result


def _mark_missing(
    name: str, missing: NDArray[np.bool_], problems: dict[int, str], what: str = "column"
) -> None:
    if missing.any():
        for place in np.flatnonzero(missing):
            found = "is null or absent" if what == "column" else "has no finite value"
            problems.setdefault(int(place), f"missing value: {what} {name!r} {found}")


def _shown(value: object) -> str:
    return "null or absent" if value is None else repr(value)


def decode_all(codec: RecordCodec, values: Iterable[bytes], *, batch: int = 5000) -> Batch:
    """Decode many records in batches and join the results; `kept` counts through all of them."""
    parts: list[Batch] = []
    pending: list[bytes] = []
    start = 0
    for value in values:
        pending.append(value)
        if len(pending) >= batch:
            parts.append(_shifted(codec.decode(pending), start))
            start += len(pending)
            pending = []
    parts.append(_shifted(codec.decode(pending), start))
    return Batch(
        [i for part in parts for i in part.ids],
        [t for part in parts for t in part.times_us],
        [r for part in parts for r in part.rows],
        Columns.concat([part.columns for part in parts]),
        [k for part in parts for k in part.kept],
        [r for part in parts for r in part.rejected],
    )


def _shifted(batch: Batch, start: int) -> Batch:
    return msgspec.structs.replace(
        batch,
        kept=[index + start for index in batch.kept],
        rejected=[Rejected(item.index + start, item.reason) for item in batch.rejected],
    )
