"""Detect the time format of a data column, and count unreadable times and times out of order.

Input: the column's name and values. Output: a `TimeColumn`. This module reads no files.
"""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

import msgspec

from driftline.wire.values import parse_time, pattern_reader, to_time_us
from producers.shaping import as_number

# The patterns are tried in this order. If both a day-first and a month-first pattern fit, the
# day-first pattern is used, and a note reports the choice.
_PATTERNS: Final = (
    "%Y-%m-%d %H:%M:%S.%f",
    "%Y-%m-%d %H:%M:%S",
    "%Y-%m-%d %H:%M",
    "%Y-%m-%d",
    "%Y-%m-%dT%H:%M:%S.%f",
    "%Y-%m-%dT%H:%M:%S",
    "%Y-%m-%dT%H:%M",
    "%Y-%m-%d %H:%M:%S%z",
    "%Y-%m-%d %H:%M:%S.%f%z",
    "%Y/%m/%d %H:%M:%S",
    "%Y/%m/%d %H:%M",
    "%Y/%m/%d",
    "%d.%m.%Y %H:%M:%S",
    "%d.%m.%Y %H:%M",
    "%d.%m.%Y",
    "%d/%m/%Y %H:%M:%S",
    "%d/%m/%Y %H:%M",
    "%d/%m/%Y",
    "%m/%d/%Y %H:%M:%S",
    "%m/%d/%Y %H:%M",
    "%m/%d/%Y",
    "%m/%d/%Y %I:%M:%S %p",
    "%d-%b-%Y",
    "%d %b %Y",
    "%b %d, %Y",
)
# The range of plausible Unix times (1980 to 2100), in seconds and in milliseconds.
_UNIX_S: Final = (315_532_800, 4_102_444_800)
_UNIX_MS: Final = (_UNIX_S[0] * 1000, _UNIX_S[1] * 1000)
# A format is accepted if it fits at least this share of the times. Records with unreadable times
# become dead letters.
_ENOUGH: Final = 0.95
_TRIED: Final = 1000


class TimeColumn(msgspec.Struct, frozen=True):
    """A column's time format: `format`, or `start` and `step` (time = `start` + `step` × value).

    `backwards` is the number of rows whose time precedes an earlier row's time. `unreadable` is the
    number of rows whose time cannot be parsed.
    """

    column: str
    format: str | None
    start: str | None
    step: str | None
    backwards: int
    unreadable: int
    notes: tuple[str, ...]


def look_at_clock(column: str, values: Sequence[Any]) -> TimeColumn:
    """Detect a time column's format, and count times that are unreadable or out of order."""
    known = [value for value in values if value is not None]
    numbers = [_number(value) for value in values]
    notes: list[str] = []
    format_: str | None = None
    start = step = None
    if any(isinstance(value, datetime | date) for value in known):
        format_, times = "rfc3339", [_of_moment(value) for value in values]
    elif known and sum(number is not None for number in numbers) == len(known):
        middle = sorted(value for value in numbers if value is not None)[len(known) // 2]
        if _UNIX_S[0] <= middle <= _UNIX_S[1]:
            format_ = "unix_s"
        elif _UNIX_MS[0] <= middle <= _UNIX_MS[1]:
            format_ = "unix_ms"
        else:
            start, step = "2000-01-01T00:00:00Z", _guess_step(column)
            notes.append(
                f"{column} counts steps; assumed: {step} per step, starting at {start}; correct "
                "[time] if this is wrong"
            )
        times = [None if value is None else round(value * 1000) for value in numbers]
    else:
        format_, times = _text_format([None if v is None else str(v) for v in values], notes)
    unreadable = sum(time is None for time in times)
    backwards, furthest = _backwards(times)
    if unreadable:
        notes.append(
            f"{column} is not a valid time in {unreadable} rows: they will be dead-lettered"
        )
    if backwards:
        by = f" by up to {timedelta(microseconds=furthest)}" if format_ and not step else ""
        notes.append(f"{column} runs backwards in {backwards} rows{by}")
    return TimeColumn(column, format_, start, step, backwards, unreadable, tuple(notes))


def are_times(values: Sequence[Any]) -> bool:
    """Return whether nearly all values are times as text, in a known format, or time objects."""
    tried = values[:: max(1, len(values) // 100)]
    if any(isinstance(value, datetime | date) for value in tried):
        return True
    texts: list[str | None] = [value for value in tried if isinstance(value, str)]
    return len(texts) == len(tried) > 0 and _text_format(texts, [])[0] is not None


def _number(value: Any) -> float | None:
    if isinstance(value, str):
        value = as_number(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value)


def _of_moment(value: Any) -> int | None:
    if isinstance(value, datetime):
        return to_time_us(value if value.tzinfo else value.replace(tzinfo=UTC))
    if isinstance(value, date):
        return to_time_us(datetime(value.year, value.month, value.day, tzinfo=UTC))
    return None


def _text_format(values: list[str | None], notes: list[str]) -> tuple[str | None, list[int | None]]:
    known = [value for value in values if value is not None]
    # Try evenly spaced values, because later lines may differ from the first lines.
    tried = known[:: max(1, len(known) // _TRIED)]
    if tried and _share(parse_time, tried) >= _ENOUGH:
        return "rfc3339", [_read(parse_time, value) for value in values]
    fitting = [p for p in _PATTERNS if tried and _share(pattern_reader(p), tried) >= _ENOUGH]
    if not fitting:
        example = f" (first value: {known[0]!r})" if known else ""
        notes.append(f"the time format is not recognised{example}: set [time] format manually")
        return None, [None] * len(values)
    # An ISO pattern that ends in `.%f` precedes the same pattern without it. The longer pattern
    # also matches times without a fraction of a second, so it fits a column in which only some
    # times have a fraction.
    chosen = fitting[0]
    if any("%d/%m" in p for p in fitting) and any("%m/%d" in p for p in fitting):
        notes.append("day and month cannot be distinguished: the day is assumed to come first")
    reader = pattern_reader(chosen)
    return chosen, [_read(reader, value) for value in values]


def _share(reader: Any, values: Sequence[str]) -> float:
    return sum(_read(reader, value) is not None for value in values) / len(values)


def _read(reader: Any, value: str | None) -> int | None:
    if value is None:
        return None
    try:
        return int(reader(value))
    except (ValueError, OverflowError):
        return None


def _guess_step(column: str) -> str:
    name = column.lower()
    for word, step in (("hour", "1h"), ("day", "1d"), ("date", "1d"), ("sec", "1s"), ("ms", "1ms")):
        if word in name:
            return step
    return "1m"


def _backwards(times: Sequence[int | None]) -> tuple[int, int]:
    """Return the number of rows dated before an earlier row, and the largest difference in µs."""
    count = furthest = 0
    newest: int | None = None
    for time in times:
        if time is None:
            continue
        if newest is not None and time < newest:
            count += 1
            furthest = max(furthest, newest - time)
        else:
            newest = time
    return count, furthest
