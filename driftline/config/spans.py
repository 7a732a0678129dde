"""Parse the spans in a stream file: durations in event time, or numbers of records."""

import re
from typing import Final

DAY_US: Final = 86_400_000_000
# The longest duration is a thousand years, so that positions and multiples of spans, in
# microseconds, fit into 64 bits.
_LONGEST_DAYS: Final = 1000 * 366
_LONGEST_US: Final = _LONGEST_DAYS * DAY_US
_UNITS_US = {
    "ms": 1_000,
    "s": 1_000_000,
    "m": 60_000_000,
    "h": 3_600_000_000,
    "d": 86_400_000_000,
    "w": 604_800_000_000,
}


class Span:
    """The length of a part of the stream: a duration in event time, or a number of records.

    >>> Span.parse("30m").us, Span.parse(500).records
    (1800000000, 500)
    """

    __slots__ = ("records", "us")

    def __init__(self, *, us: int | None = None, records: int | None = None) -> None:
        if (us is None) == (records is None):
            raise ValueError("a span is either a duration or a number of records")
        self.us = us
        self.records = records

    @classmethod
    def parse(cls, value: object) -> "Span":
        """Parse a duration such as `"30m"`, or a whole number of records. Raises ValueError."""
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return cls(records=value)
        if isinstance(value, str) and (
            found := re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)", value)
        ):
            amount_us = float(found[1]) * _UNITS_US[found[2]]
            if amount_us <= _LONGEST_US:
                return cls(us=round(amount_us))
            raise ValueError(f"Expected a duration of at most {_LONGEST_DAYS}d, got {value!r}")
        raise ValueError(
            f'Expected a duration such as "90s", "30m", "7d" or a number of records, got {value!r}'
        )

    def __str__(self) -> str:
        if self.us is None:
            return f"{self.records} records"
        for unit in ("w", "d", "h", "m", "s"):
            if self.us and self.us % _UNITS_US[unit] == 0:
                return f"{self.us // _UNITS_US[unit]}{unit}"
        return f"{self.us / 1000:g}ms"

    __repr__ = __str__

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Span):
            return NotImplemented
        return (self.us, self.records) == (other.us, other.records)

    def __hash__(self) -> int:
        return hash((self.us, self.records))


def amount(value: Span | int | None) -> int:
    """Return a span as a number of microseconds or records, or 0 if the span is None."""
    if isinstance(value, Span):
        return value.us if value.us is not None else value.records or 0
    return value or 0
