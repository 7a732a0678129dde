"""Convert a data source's rows to feature records, with their target, id, key and event time.

Input: rows of a source, and the stream. Output: `Shaped`. An unreadable value is left unchanged, so
that inference dead-letters its record. This module never repairs a value or drops a row.
"""

import math
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any, Final

import msgspec

from driftline.config.stream import Stream
from driftline.config.stream_sections import AT, ID, ROW
from driftline.errors import DataError
from driftline.wire.events import MAX_ROW
from driftline.wire.labels import LabelCodec
from driftline.wire.values import key_bytes, text, time_reader

# Texts that represent a missing number in data files. In a category column, they are kept as
# values, because a category may be called "None" or "NA".
MISSING_NUMBERS: Final = frozenset({"NA", "N/A", "NaN", "nan", "null", "NULL", "None", "?"})


class Shaped(msgspec.Struct, frozen=True, gc=False):
    """A row converted to a stream's feature record.

    `target` and `record_id` are None if the row has none; `time_us` is None if the event time is
    missing or unreadable.
    """

    value: bytes
    key: bytes
    record_id: str | None
    key_value: Any
    target: Any
    time_us: int | None


class Unusable(msgspec.Struct, frozen=True):
    """A recorded `@row` or `@at` to send unchanged, so that its record or label is rejected."""

    value: Any


class Shaper:
    """Convert one source's rows to one stream's feature records."""

    def __init__(self, stream: Stream, *, textual: bool) -> None:
        self._stream = stream
        self._textual = textual
        drop = {*stream.record.drop, stream.target, ROW}
        self._drop = frozenset(drop | {AT} if stream.simulate.label_delay == AT else drop)
        self._time_column = (stream.time.column or ROW) if stream.has_time else None
        self._read_time = time_reader(stream)
        self._write_time = _time_writer(stream.time.format)
        numbers = {name for name, spec in stream.inputs.items() if spec.kind == "number"}
        if stream.time.format in ("unix_s", "unix_ms") or stream.time.start is not None:
            numbers.add(stream.time.column or ROW)
        if stream.task == "regression":
            numbers.add(stream.target)
        self._numbers = frozenset(numbers)
        self._labels = LabelCodec(stream)

    def shape(self, row: Mapping[str, Any], number: int | Unusable) -> Shaped:
        """Convert a row to the feature record with this number.

        Raises DataError if the row cannot be encoded as JSON, or if inference would reject the
        number.
        """
        record: dict[str, Any] = {}
        target = None
        for name, value in row.items():
            if name not in self._drop:
                record[name] = self._value(name, value)
            elif name == self._stream.target:
                target = self._value(name, value)
        if self._stream.needs_row:
            if isinstance(number, Unusable):
                record[ROW] = number.value
            elif 0 <= number <= MAX_ROW:
                record[ROW] = number
            else:
                raise DataError(f"field {ROW!r}: expected 0 to {MAX_ROW}, got {number}")
        record_id = None
        if self._stream.record.id == ROW:
            record_id = text(number) if isinstance(number, int) else None
        elif (found := record.get(self._stream.record.id)) is not None:
            record_id = text(found)
        match self._stream.record.key:
            case key if key in (ID, self._stream.record.id):
                key_value: Any = record_id
            case key:
                key_value = record.get(key)
        try:
            value = msgspec.json.encode(record)
        except (TypeError, ValueError) as error:  # ValueError: the text is not valid Unicode
            raise DataError(f"row {number} cannot be written as JSON: {error}") from error
        return Shaped(
            value=value,
            key=b"" if key_value is None else key_bytes(key_value),
            record_id=record_id or None,
            key_value=key_value,
            target=None if target == "" else target,
            time_us=self._time(record),
        )

    def label(self, shaped: Shaped, record_id: str, at: int | Unusable | None) -> bytes:
        """Encode a converted row's label. A regression target that is not a number is left
        unchanged."""
        target = shaped.target
        if self._stream.task == "classification":
            target = text(target)
        position = None if isinstance(at, Unusable) else at
        value = self._labels.encode(record_id, target, at=position, key=shaped.key_value)
        if isinstance(at, Unusable):
            value = msgspec.json.encode({**msgspec.json.decode(value), AT: at.value})
        return value

    def label_value(self, shaped: Shaped) -> str | float | None:
        """Return the target for training. Return None if the target or the id is missing, or if a
        regression target is not a number."""
        if shaped.target is None or shaped.record_id is None:
            return None
        if self._stream.task == "classification":
            return text(shaped.target)
        is_number = isinstance(shaped.target, int | float) and not isinstance(shaped.target, bool)
        return float(shaped.target) if is_number else None

    def _time(self, record: dict[str, Any]) -> int | None:
        if self._time_column is None:
            return None
        try:
            return self._read_time(record.get(self._time_column))
        except (ValueError, OverflowError):
            return None

    def _value(self, name: str, value: Any) -> Any:
        if value is None or value == "":
            return None
        if self._textual:
            return as_number(value) if name in self._numbers else value
        if isinstance(value, str | bool | int):
            return value
        if isinstance(value, float):
            if math.isfinite(value):
                return value
            return None if math.isnan(value) else str(value)
        if isinstance(value, datetime | date):
            moment = value if isinstance(value, datetime) else datetime.combine(value, time())
            moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
            return self._write_time(moment) if name == self._time_column else _rfc3339(moment)
        if isinstance(value, Decimal):
            return float(value) if value.is_finite() else None
        if hasattr(value, "item"):  # a NumPy scalar
            return self._value(name, value.item())
        return value if isinstance(value, list | dict) else str(value)


def as_number(value: str) -> int | float | str | None:
    """Parse a CSV cell as a number. Return None for a missing number, and any other text unchanged.

    >>> [as_number(cell) for cell in ("3", "0.5", "NA", "inf", "wide", "1_000")]
    [3, 0.5, None, 'inf', 'wide', '1_000']
    """
    if value in MISSING_NUMBERS:
        return None
    if "_" in value:  # int() and float() accept underscores: int("1_000") is 1000
        return value
    try:
        return int(value)
    except ValueError:
        pass
    try:
        number = float(value)
    except ValueError:
        return value
    return number if math.isfinite(number) else value


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat()[:-6] + "Z"


def _time_writer(pattern: str | None) -> Callable[[datetime], object]:
    match pattern:
        case "rfc3339" | None:
            return _rfc3339
        case "unix_s":
            return lambda moment: moment.timestamp()
        case "unix_ms":
            return lambda moment: moment.timestamp() * 1000
    return lambda moment: moment.strftime(pattern)
