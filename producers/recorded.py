"""Parse the fields `@row` and `@at` of recorded data (`[simulate] label_delay = "@at"`).

Input: a field's value. Output: the number or time, or `Unusable` for a value that the stream's
decoders would reject. An unusable value is sent unchanged, so that its record or label becomes a
dead letter.
"""

import math
from datetime import UTC, datetime
from typing import Any

from driftline.wire.events import MAX_ROW
from driftline.wire.values import parse_time, to_time_us
from producers.shaping import Unusable, as_number


def recorded_row(value: Any, *, textual: bool) -> int | Unusable | None:
    """Return a recorded `@row`, or None if it is missing.

    `textual` is true if the source contains only text, as a CSV file does.

    >>> recorded_row(7.0, textual=False), recorded_row("7", textual=True)
    (7, 7)
    >>> recorded_row(-5, textual=False)
    Unusable(value=-5)
    """
    if textual and isinstance(value, str):
        value = as_number(value)
    if isinstance(value, float):
        if math.isnan(value):
            return None
        # If values are missing in a column of whole numbers, pandas stores the column as floats.
        if value.is_integer() and abs(value) <= MAX_ROW:
            value = int(value)
        elif math.isinf(value):
            return Unusable(str(value))  # JSON has no infinities
    if value is None or (type(value) is int and 0 <= value <= MAX_ROW):
        return value
    return Unusable(value)


def recorded_time(value: Any) -> int | Unusable | None:
    """Return a recorded `@at` time in microseconds since 1970 UTC, or None if it is missing.

    >>> recorded_time("1970-01-01T00:00:01Z"), recorded_time("soon")
    (1000000, Unusable(value='soon'))
    """
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, datetime):
        return to_time_us(value if value.tzinfo else value.replace(tzinfo=UTC))
    try:
        return parse_time(value) if isinstance(value, str) else Unusable(value)
    except ValueError:
        return Unusable(value)
