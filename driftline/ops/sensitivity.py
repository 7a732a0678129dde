"""Find the columns in which the monitor can see only large shifts, or cannot set a threshold.

Input: the newest messages of the topic `windows`. Output: the columns' names, as the monitor states
them in the newest tested window.
"""

from collections.abc import Iterable

from driftline.broker.port import Message
from driftline.wire.envelope import decode_or_skip, windows_decoder
from driftline.wire.window_events import DataWindow, Limits


def newest_limits(messages: Iterable[Message]) -> Limits | None:
    """Return the newest limits in `messages`, or None if no window has limits."""
    newest = None
    for message in messages:
        event = decode_or_skip(windows_decoder, message)
        if isinstance(event, DataWindow):
            for group in event.groups:
                newest = group.limits or newest
    return newest


def weak_columns(limits: Limits) -> str:
    """Describe the uncalibrated and insensitive columns. Return an empty text if there are none.

    >>> weak_columns(Limits(1.0, 1.2, uncalibrated=("load",), insensitive=("load", "x")))
    'uncalibrated, because the reference is too short: load; insensitive to shifts of 1 sd: load, x'
    """
    parts = []
    if limits.uncalibrated:
        names = ", ".join(limits.uncalibrated)
        parts.append(f"uncalibrated, because the reference is too short: {names}")
    if limits.insensitive:
        parts.append(f"insensitive to shifts of 1 sd: {', '.join(limits.insensitive)}")
    return "; ".join(parts)
