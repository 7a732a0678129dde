"""Convert single values to and from the wire format: classes, categories, ids, keys and times."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from driftline.config.stream import Stream

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def to_time_us(value: datetime) -> int:
    """Convert a timezone-aware datetime to microseconds since 1970 UTC.

    >>> to_time_us(datetime(1970, 1, 2, tzinfo=UTC))
    86400000000
    """
    return (value - _EPOCH) // timedelta(microseconds=1)


_MIN_US: Final = to_time_us(datetime.min.replace(tzinfo=UTC))
MAX_TIME_US: Final = to_time_us(datetime.max.replace(tzinfo=UTC))
# Floats represent every whole number up to 2^53 exactly. A larger float may differ from the
# identifier that it was parsed from.
_EXACT: Final = 2.0**53
# The largest allowed value of a feature or label: the largest float32. Models calculate in float32,
# and powers of larger numbers can become infinite, which JSON cannot express.
MAX_NUMBER: Final = 3.4028234663852886e38
# The maximum length of a rejection reason, in characters. Reasons quote the record's values, which
# may be a million characters long.
_MAX_REASON_LENGTH: Final = 300


def shortened(reason: str) -> str:
    """Shorten a long reason by cutting out its middle, because its end often names the field.

    >>> shortened("Invalid value '" + 1_000 * "x" + "' - at `$.type`").count("x")
    269
    """
    if len(reason) <= _MAX_REASON_LENGTH:
        return reason
    end = _MAX_REASON_LENGTH // 3
    return f"{reason[: _MAX_REASON_LENGTH - end - 1]}…{reason[-end:]}"


def shown(value: object) -> str:
    """Format a value for an error message, shortened if it is long.

    >>> shown(None), shown("abc")
    ('null or absent', "'abc'")
    """
    return "null or absent" if value is None else shortened(repr(value))


def text(value: object) -> str:
    """Format a class, category or id as the text that the wire format uses.

    >>> [text(value) for value in ("a", True, 3, 3.0, 0.5)]
    ['a', 'true', '3', '3', '0.5']
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) <= _EXACT else repr(value)
    return str(value)


def format_time(us: int) -> str:
    """Format microseconds since 1970 UTC as an RFC 3339 time.

    Raises ValueError if the time is outside the years 1 to 9999.

    >>> format_time(1_500_000)
    '1970-01-01T00:00:01.500000Z'
    """
    try:
        return (_EPOCH + timedelta(microseconds=us)).isoformat()[:-6] + "Z"
    except OverflowError as error:
        raise ValueError(f"{us} µs is outside the years 1 to 9999") from error


def moment_of(us: int) -> datetime | None:
    """Convert microseconds since 1970 UTC to a datetime.

    Return None for a time outside the years 1 to 9999.

    >>> moment_of(1_500_000)
    datetime.datetime(1970, 1, 1, 0, 0, 1, 500000, tzinfo=datetime.timezone.utc)
    >>> moment_of(2**60) is None
    True
    """
    return _EPOCH + timedelta(microseconds=us) if _MIN_US <= us <= MAX_TIME_US else None


def shown_time(us: int) -> str:
    """Format microseconds since 1970 UTC for display.

    A time outside the years 1 to 9999 is shown as a number of microseconds.

    >>> shown_time(1_500_000), shown_time(2**60)
    ('1970-01-01T00:00:01.500000Z', '1152921504606846976 µs')
    """
    return f"{us} µs" if moment_of(us) is None else format_time(us)


def publish_time(timestamp_ms: int, *, timespec: str = "seconds") -> str:
    """Format a message's timestamp for display. If it is not a valid time, show the plain number.

    Clients may set any number as the timestamp. It is -1 if a message has no timestamp.

    >>> publish_time(1_500, timespec="milliseconds"), publish_time(-1)
    ('1970-01-01T00:00:01.500+00:00', '-1 ms')
    """
    moment = moment_of(timestamp_ms * 1000) if timestamp_ms >= 0 else None
    return f"{timestamp_ms} ms" if moment is None else moment.isoformat(timespec=timespec)


def parse_time(value: str) -> int:
    """Parse an RFC 3339 time as microseconds since 1970 UTC.

    Raises ValueError if the text is not an RFC 3339 time, or if the time is outside the years 1 to
    9999 UTC, which `format_time` cannot format.

    >>> parse_time("1970-01-01T01:00:01.5+01:00"), parse_time("1970-01-01t00:00:01.5z")
    (1500000, 1500000)
    """
    moment = None
    if len(value) >= 20:  # length of the shortest RFC 3339 time; `fromisoformat` also accepts dates
        try:
            # `fromisoformat` accepts any separator between date and time, but not a lower-case `z`.
            moment = datetime.fromisoformat(value[:-1] + "Z" if value[-1] == "z" else value)
        except ValueError:
            moment = None
    if moment is None:
        raise ValueError(
            f"Expected an RFC 3339 time such as 2025-03-01T08:00:00Z, got {shown(value)}"
        )
    if moment.tzinfo is None:
        raise ValueError(f"Expected an RFC 3339 time with a zone, got {value!r}")
    return bounded_time(to_time_us(moment))


# The strptime patterns for which `fromisoformat` is ten times as fast as `strptime`. Each pattern
# is mapped to the length of a time without fractional seconds.
_ISO_PATTERNS: Final = {
    "%Y-%m-%d": 10,
    "%Y-%m-%d %H:%M": 16,
    "%Y-%m-%d %H:%M:%S": 19,
    "%Y-%m-%d %H:%M:%S.%f": 19,
    "%Y-%m-%dT%H:%M": 16,
    "%Y-%m-%dT%H:%M:%S": 19,
    "%Y-%m-%dT%H:%M:%S.%f": 19,
}


def time_reader(stream: Stream) -> Callable[[Any], int]:
    """Return a function that converts a value of the time column to microseconds since 1970 UTC.

    The time column is `stream.time.column`, or `@row` if that key is not set. The function raises
    ValueError for an invalid value.
    """
    time = stream.time
    if time.start is not None and time.step is not None and time.step.us is not None:
        start_us, step_us = to_time_us(time.start), time.step.us
        return lambda value: bounded_time(start_us + _scaled(value, step_us))
    match time.format:
        case "rfc3339" | None:
            return lambda value: parse_time(_string(value))
        case "unix_s":
            return lambda value: bounded_time(_scaled(value, 1_000_000))
        case "unix_ms":
            return lambda value: bounded_time(_scaled(value, 1_000))
    return pattern_reader(time.format)


def pattern_reader(pattern: str) -> Callable[[Any], int]:
    """Return a function that parses a time with a strptime pattern, as microseconds since 1970 UTC.

    A time without a zone is assumed to be UTC. The function raises ValueError for an invalid time.
    """
    length = _ISO_PATTERNS.get(pattern)
    fraction, separator = pattern.endswith(".%f"), pattern[8:9]

    def read(value: Any) -> int:
        value = _string(value)
        moment = None
        if (
            length is not None
            and (len(value) == length or (fraction and value[length : length + 1] == "."))
            and value[10:11] == separator
        ):
            try:
                moment = datetime.fromisoformat(value)
            except ValueError:
                moment = None
        if moment is None:
            try:
                moment = datetime.strptime(value, pattern)
            except ValueError as error:
                raise ValueError(
                    f"Expected a time in the format {pattern!r}, got {shown(value)}"
                ) from error
        return bounded_time(to_time_us(moment if moment.tzinfo else moment.replace(tzinfo=UTC)))

    return read


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"Expected text, got {shown(value)}")
    return value


def _scaled(value: Any, by: int) -> int:
    number = value
    if isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            number = None
    if isinstance(number, int) and not isinstance(number, bool):
        return number * by
    if isinstance(number, float) and abs(number) < 1e18:  # also rejects NaN and infinities
        return round(number * by)
    raise ValueError(f"Expected a number, got {shown(value)}")


def bounded_time(us: int) -> int:
    """Check a time, and return it unchanged. Raises ValueError outside the years 1 to 9999 UTC.

    >>> bounded_time(1_500_000)
    1500000
    """
    if not _MIN_US <= us <= MAX_TIME_US:
        raise ValueError("Expected a time in years 1 to 9999 UTC")
    return us


def key_bytes(value: object) -> bytes:
    """Encode a record's key for Kafka, as UTF-8 text.

    >>> key_bytes(7), key_bytes("Malmö")
    (b'7', b'Malm\\xc3\\xb6')
    """
    return text(value).encode()
