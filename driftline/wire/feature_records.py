"""Decode feature records (flat JSON from Kafka) into arrays, one per column of the stream file.

Input: the bytes of records from the features topic. Output: column arrays, and the rejected records
with the reasons. Each record is parsed once, and every record is either accepted or rejected.
"""

import struct
from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import numpy as np
from msgspec.structs import astuple
from numpy.typing import NDArray

from driftline.config.expressions import Expression
from driftline.config.stream import Stream
from driftline.config.stream_sections import ID, ROW
from driftline.wire.batch_decoding import Decoded, decode_each
from driftline.wire.column_decoders import DECODE_ERRORS, IdType, Scalar, make_decoder, make_struct
from driftline.wire.columns import Batch, Columns, Rejected
from driftline.wire.events import MAX_ROW
from driftline.wire.values import (
    MAX_NUMBER,
    shortened,
    shown,
    text,
    time_reader,
)

Rows = Sequence[tuple[Any, ...]]
"""Records as tuples, with values in the order of the decoder's fields."""


class RecordCodec:
    """Decode one stream's feature records.

    >>> from driftline.config.stream import loads
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
        roles: dict[str, list[Any]] = {name: [float | None] for name in self._numbers}
        roles.setdefault(ROW, []).append(int | None)
        roles.setdefault(record.id, []).append(IdType)
        if record.key != ID:
            roles.setdefault(record.key, []).append(Scalar)
        if self._time_column is not None:
            roles.setdefault(self._time_column, []).append(IdType)
        for name in self._categories:
            roles.setdefault(name, []).append(Scalar)
        # A column can have several roles with different types. For such a column, the decoder
        # accepts any scalar, and the methods below check the values.
        self._shared = {name for name, types in roles.items() if len(types) > 1 and name != ROW}
        self._types = {
            name: types[0] if len(types) == 1 or name == ROW else Scalar
            for name, types in roles.items()
        }
        self._place = {name: place for place, name in enumerate(roles)}  # number columns come first
        self._pack = struct.Struct(f"{len(self._numbers)}d").pack
        refuse = record.unknown_columns == "refuse"
        self._decode = make_decoder(self._types, refuse_unknown=refuse)
        on_axis = ROW if stream.axis == "row" else self._time_column
        self._decode_position = (
            None if on_axis is None else make_decoder({on_axis: IdType}, refuse_unknown=False)
        )
        self.type = make_struct(self._types, refuse_unknown=refuse)

    def decode(self, values: Sequence[bytes | None]) -> Batch:
        """Decode and check records, and compute derived features. Never raises for invalid data."""
        return self.checked(decode_each(self._decode, values))

    def position(self, value: bytes | None) -> int | None:
        """Return a rejected record's position, or None if the position is unreadable.

        Only the field with the position is decoded, so errors in other fields do not matter.
        """
        if self._decode_position is None or value is None:
            return None
        try:
            found = self._decode_position(value).f0
            if self._stream.axis == "time":
                return self._read_time(found)
        except (*DECODE_ERRORS, ValueError, OverflowError):
            return None
        return found if type(found) is int and 0 <= found <= MAX_ROW else None

    def checked(self, decoded: Decoded[Any]) -> Batch:
        """Check records that were decoded to `self.type`, and compute their derived features."""
        kept, rejected = decoded.kept, decoded.rejected
        rows_of = list(map(astuple, decoded.items))
        problems: dict[int, str] = {}  # index in `kept` → first reason to reject the record
        ids = self._ids(rows_of, problems)
        rows = self._rows(rows_of, problems)
        times_us = self._times(rows_of, problems)
        columns = self._columns(rows_of, problems)
        if not problems:
            return Batch(ids, times_us, rows, columns, kept, rejected)
        rejected = [
            *rejected,
            *(Rejected(kept[place], shortened(reason)) for place, reason in problems.items()),
        ]  # fmt: skip
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

    def _column(self, name: str, rows_of: Rows) -> list[Any]:
        return list(map(itemgetter(self._place[name]), rows_of))

    def _ids(self, rows_of: Rows, problems: dict[int, str]) -> list[str]:
        column = self._stream.record.id
        found = self._column(column, rows_of)
        types = set(map(type, found))
        if types <= {str} and all(found):
            return found
        if types == {int}:
            return list(map(str, found))
        for place, value in enumerate(found):
            if value is None or value == "" or value is True or value is False:
                problems.setdefault(place, f"missing id: column {column!r} is {shown(value)}")
        return [value if type(value) is str else text(value) for value in found]

    def _rows(self, rows_of: Rows, problems: dict[int, str]) -> list[int | None]:
        rows: list[Any] = self._column(ROW, rows_of)
        if rows and None not in rows and min(rows) >= 0 and max(rows) <= MAX_ROW:
            return rows
        for place, row in enumerate(rows):
            if row is None:
                if self._stream.needs_row:
                    problems.setdefault(
                        place, f"missing number: field {ROW!r} is null or absent; producers set it"
                    )
            elif not 0 <= row <= MAX_ROW:
                problems.setdefault(place, f"field {ROW!r}: expected 0 to {MAX_ROW}, got {row}")
        return rows

    def _times(self, rows_of: Rows, problems: dict[int, str]) -> list[int | None]:
        column = self._time_column
        if column is None:
            return [None] * len(rows_of)
        read = self._read_time
        result: list[int | None] = []
        for place, value in enumerate(self._column(column, rows_of)):
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

    def _columns(self, rows_of: Rows, problems: dict[int, str]) -> Columns:
        must = self._stream.record.missing == "dead_letter"
        matrix = self._matrix(rows_of, problems)
        numbers: dict[str, NDArray[np.float64]] = dict(zip(self._numbers, matrix, strict=True))
        if (matrix > MAX_NUMBER).any() or (matrix < -MAX_NUMBER).any():
            for name, values in numbers.items():
                _mark_too_large(name, values, problems)
        if must and np.isnan(matrix).any():
            for name, values in numbers.items():
                _mark_missing(name, np.isnan(values), problems)
        categories: dict[str, NDArray[np.object_]] = {}
        for name in self._categories:
            array = np.empty(len(rows_of), dtype=object)
            array[:] = [
                value if value is None or type(value) is str else text(value)
                for value in self._column(name, rows_of)
            ]
            categories[name] = array
            if must:
                _mark_missing(
                    name, np.array([value is None for value in array], dtype=bool), problems
                )
        for name, expression in self._derived.items():
            derived = expression.evaluate(numbers, categories)
            derived[~(np.abs(derived) <= MAX_NUMBER)] = np.nan
            numbers[name] = derived
            if must:
                _mark_missing(name, np.isnan(derived), problems, "derived feature")
        return Columns(numbers, categories, len(rows_of))

    def _matrix(self, rows_of: Rows, problems: dict[int, str]) -> NDArray[np.float64]:
        """Return the number columns of n records as a float64 array (columns, n)."""
        count = len(self._numbers)
        if not self._shared.isdisjoint(self._numbers):
            found = [
                _only_numbers(name, self._column(name, rows_of), problems)
                if name in self._shared
                else self._column(name, rows_of)
                for name in self._numbers
            ]
            return np.array(found, dtype=np.float64).reshape(count, len(rows_of))
        try:
            # Packing a row takes half as long as converting its numbers one by one.
            pack = self._pack
            packed = b"".join([pack(*row[:count]) for row in rows_of])
            by_row = np.frombuffer(packed, dtype=np.float64)
        except struct.error:  # a value is None, which numpy converts to NaN
            by_row = np.array([row[:count] for row in rows_of], dtype=np.float64)
        return np.ascontiguousarray(by_row.reshape(len(rows_of), count).T)


def _only_numbers(name: str, values: Sequence[Any], problems: dict[int, str]) -> list[float | None]:
    result: list[float | None] = []
    for place, value in enumerate(values):
        good = value is None or (isinstance(value, int | float) and not isinstance(value, bool))
        if not good:
            problems.setdefault(
                place, f"column {name!r}: expected a number or null, got {type(value).__name__}"
            )
        try:
            result.append(float(value) if good and value is not None else None)
        except OverflowError:
            problems.setdefault(place, _too_large(name))
            result.append(None)
    return result


def _mark_too_large(name: str, values: NDArray[np.float64], problems: dict[int, str]) -> None:
    for place in np.flatnonzero(np.abs(values) > MAX_NUMBER):
        problems.setdefault(int(place), _too_large(name))


def _too_large(name: str) -> str:
    return f"column {name!r}: expected a number from -{MAX_NUMBER:.7g} to {MAX_NUMBER:.7g}"


def _mark_missing(
    name: str, missing: NDArray[np.bool_], problems: dict[int, str], what: str = "column"
) -> None:
    if missing.any():
        for place in np.flatnonzero(missing):
            found = "is null or absent" if what == "column" else "has no finite value"
            problems.setdefault(int(place), f"missing value: {what} {name!r} {found}")
