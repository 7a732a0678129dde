"""Interpret a stream's `[simulate] label_delay` setting, and draw each label's delay at random."""

import numpy as np

from driftline.config.simulate_section import LabelDelay
from driftline.config.spans import Span
from driftline.config.stream import Stream
from driftline.config.stream_sections import AT
from driftline.errors import DataError


def delay_of(stream: Stream) -> Span | LabelDelay | None:
    """Return the label delay, or None for `"data"`. Raises DataError if the setting is invalid."""
    if stream.simulate.label_delay == AT:
        return Span(us=0) if stream.axis == "time" else Span(records=0)
    delay = stream.simulate.delay
    where = f"stream {stream.name}, simulate.label_delay"
    if isinstance(delay, LabelDelay):
        spans = [delay.mean] if delay.distribution == "exponential" else [delay.low, delay.high]
        needed = "`mean`" if delay.distribution == "exponential" else "`low` and `high`"
        if None in spans:
            raise DataError(f"{where}: distribution {delay.distribution} needs {needed}")
        if len({span.us is None for span in spans if span is not None}) > 1:
            raise DataError(f"{where}: expected two durations or two numbers of records")
    if delay is not None and is_duration(delay) and not stream.has_time:
        raise DataError(
            f"{where}: {stream.simulate.label_delay!r} is a duration, but the stream has no event "
            "time",
            hint="give a number of records",
        )
    return delay


def drawn(delay: Span | LabelDelay, random: np.random.Generator) -> int:
    """Draw one label's delay, in microseconds or records."""
    if isinstance(delay, Span):
        return _amount(delay)
    if delay.distribution == "exponential":
        return round(random.exponential(_amount(delay.mean)))
    return round(random.uniform(_amount(delay.low), _amount(delay.high)))


def is_duration(delay: Span | LabelDelay) -> bool:
    """Return whether a delay is a duration in event time rather than a number of records."""
    if isinstance(delay, Span):
        return delay.us is not None
    span = delay.mean or delay.high
    return span is not None and span.us is not None


def _amount(span: Span | None) -> int:
    if span is None:
        return 0
    return span.us if span.us is not None else span.records or 0
