"""Find numbers in a stream file that have the right type but are not usable.

Input: the parsed TOML, or the `Stream` made from it. Output: the wrong key and the reason, or None.
"""

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from driftline.config.stream_keys import quoted_key, toml

if TYPE_CHECKING:
    from driftline.config.stream import Stream

# Larger numbers lose digits in JSON, and no stream is that long. Sums of such numbers fit into 64
# bits.
_MOST: Final = 2**53


def unusable_number(raw: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return the key of the first number that is too large or not finite, and the reason, or None.

    Only the bounds of a feature may be infinite.

    >>> unusable_number({"retrain": {"renew": float("nan")}})
    ('retrain.renew', 'Expected a number, got nan')
    """
    for key, value in _numbers(raw, ""):
        if isinstance(value, int) and abs(value) > _MOST:
            limit = f"at most {_MOST}" if value > 0 else f"at least {-_MOST}"
            return key, f"Expected a number of {limit}, got {_short(value)}"
        is_bound = key.startswith("features.") and key.endswith((".min", ".max"))
        if math.isnan(value) or (math.isinf(value) and not is_bound):
            return key, f"Expected a number, got {value}"
    return None


def unusable_span(stream: "Stream") -> tuple[str, str] | None:
    """Return the key of the first span that must be positive and is zero, and the reason, or None.

    `windows.idle` must also be a duration.
    """
    budget = stream.retrain.budget
    for key, span in (
        ("time.step", stream.time.step),
        ("windows.span", stream.windows.span),
        ("windows.slide", stream.windows.slide),
        ("windows.max_ahead", stream.windows.max_ahead),
        ("windows.idle", stream.windows.idle),
        ("drift.block", stream.drift.block),
        ("retrain.every", stream.retrain.every),
        ("retrain.train_on", stream.retrain.train_on),
        ("retrain.budget.per", budget.per if budget else None),
        ("kafka.retention", stream.kafka.retention),
    ):
        if span is not None and not (span.us or span.records):
            return key, f"Expected more than 0, got {toml(span)}"
    if stream.windows.idle.us is None:
        return "windows.idle", f'Expected a duration such as "10s", got {toml(stream.windows.idle)}'
    return None


def _numbers(value: Any, key: str) -> Iterator[tuple[str, int | float]]:
    """Yield all numbers in a parsed TOML with their keys."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _numbers(item, f"{key}.{quoted_key(name)}" if key else quoted_key(name))
    elif isinstance(value, list):
        for place, item in enumerate(value):
            yield from _numbers(item, f"{key}[{place}]")
    elif isinstance(value, int | float):
        yield key, value


def _short(value: int) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"a number of {len(text)} characters"
