"""Find stream file values that have the right type but are invalid or contradict each other.

Input: the parsed TOML, or the `Stream` made from it. Output: `Problem`s.
"""

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from driftline.config.candidates import least_budget
from driftline.config.stream_keys import quoted, quoted_key, toml
from driftline.config.stream_sections import ROW
from driftline.errors import DataError

if TYPE_CHECKING:
    from driftline.config.spans import Span
    from driftline.config.stream import Stream

# The largest allowed number. Larger numbers would lose digits in JSON, and no stream needs them.
# Sums of allowed numbers fit into 64 bits.
_MOST: Final = 2**53
# Kafka limits topic names to 249 characters. A run's files are named after topics, with `-999.log`
# appended, and file names are limited to 255 characters.
_LONGEST_TOPIC: Final = 247
# The allowed numbers of slides per window: the divisors of 20, because a window has 20 panes.
_OVERLAPS: Final = (1, 2, 4, 5, 10, 20)
_METRICS: Final = {
    "classification": ("accuracy", "balanced_accuracy", "f1_macro"),
    "regression": ("mae", "rmse"),
}


class Problem(NamedTuple):
    """A stream file key with an invalid value: what was expected, and how to fix the value."""

    key: str
    reason: str
    hint: str = ""


def unusable_number(raw: Mapping[str, Any]) -> Problem | None:
    """Return a problem if any number is too large or not finite, otherwise None.

    Only a feature's bounds may be infinite.

    >>> unusable_number({"retrain": {"renew": float("nan")}})
    Problem(key='retrain.renew', reason='Expected a number, got nan', hint='')
    """
    for key, value in _numbers(raw, ""):
        if isinstance(value, int) and abs(value) > _MOST:
            limit = f"at most {_MOST}" if value > 0 else f"at least {-_MOST}"
            return Problem(key, f"Expected a number of {limit}, got {_short(value)}")
        is_bound = key.startswith("features.") and key.endswith((".min", ".max"))
        if math.isnan(value) or (math.isinf(value) and not is_bound):
            return Problem(key, f"Expected a number, got {value}")
    return None


def problems(stream: "Stream") -> Iterator[Problem]:
    """Yield the problems in a stream whose defaults have been filled in.

    Only the first problem is reliable, because it may cause the later problems.
    """
    yield from _zero_spans(stream)
    yield from _columns(stream)
    yield from _time(stream)
    yield from _windows(stream)
    try:
        _ = stream.simulate.delay
    except ValueError as error:
        yield Problem("simulate.label_delay", str(error))
    retrain = stream.retrain
    if retrain.policy != "drift" and retrain.on != type(retrain)().on:
        reason = f'Expected only with policy = "drift", got "{retrain.policy}"'
        yield Problem("retrain.on", reason)
    train_on = None if retrain.train_on is None else retrain.train_on.records
    if retrain.policy != "never" and train_on is not None and train_on < retrain.min_outcomes:
        reason = f"Expected at least `min_outcomes`, {retrain.min_outcomes}, got {train_on}"
        yield Problem("retrain.train_on", reason, "with fewer records, no model is ever trained")
    least = least_budget(stream.models.candidates)
    if stream.models.budget < least:
        reason = f"Expected at least {least}, got {stream.models.budget}"
        yield Problem("models.budget", reason, "with less, not every candidate could be trained")
    yield from _axes(stream)
    yield from _topics(stream)


def _zero_spans(stream: "Stream") -> Iterator[Problem]:
    """Yield a problem for each span that is 0 but must be positive, and for an idle time given as a
    number of records."""
    for key, span in (
        ("time.step", stream.time.step),
        ("windows.span", stream.windows.span),
        ("windows.slide", stream.windows.slide),
        ("windows.max_ahead", stream.windows.max_ahead),
        ("windows.idle", stream.windows.idle),
        ("drift.block", stream.drift.block),
        ("retrain.every", stream.retrain.every),
        ("retrain.train_on", stream.retrain.train_on),
        ("retrain.budget.per", _budget(stream)),
        ("kafka.retention", stream.kafka.retention),
    ):
        if span is not None and not _amount(span):
            yield Problem(key, f"Expected more than 0, got {toml(span)}")
    idle = stream.windows.idle
    if idle.us is None:
        yield Problem("windows.idle", f'Expected a duration such as "10s", got {toml(idle)}')


def _columns(stream: "Stream") -> Iterator[Problem]:
    allowed = _METRICS[stream.task]
    if stream.metric not in allowed:
        reason = f"Expected one of {', '.join(allowed)} for {stream.task}, got {stream.metric}"
        yield Problem("metric", reason)
    if not stream.features:
        yield Problem("features", "Expected at least one feature")
    for name, feature in stream.inputs.items():
        if feature.min is not None and feature.max is not None and feature.min > feature.max:
            reason = f"Expected at most `max`, {feature.max:g}, got {feature.min:g}"
            yield Problem(f"features.{quoted_key(name)}.min", reason)
    if stream.record.id.startswith("@") and stream.record.id != ROW:
        yield Problem("record.id", f'Expected a column or "{ROW}", got "{stream.record.id}"')
    if stream.target in stream.features:
        reason = f"Expected features without the target, {stream.target!r}"
        yield Problem("features", reason)
    if clash := set(stream.derived) & {*stream.features, stream.target}:
        reason = f"Expected new names, but {sorted(clash)[0]!r} is already a column"
        yield Problem("derived", reason)
    yield from _derived(stream)
    if wrong := set(stream.record.drop) & {*stream.features, stream.target, stream.record.id}:
        reason = f"Expected unused columns, but {sorted(wrong)[0]!r} is needed"
        yield Problem("record.drop", reason)


def _derived(stream: "Stream") -> Iterator[Problem]:
    if not stream.derived:
        return
    # Import `Expression` here, because only streams with derived features need it.
    from driftline.config.expressions import Expression

    kinds = {column: spec.kind for column, spec in stream.inputs.items()}
    for name, expression in stream.derived.items():
        try:
            Expression(expression, kinds)
        except DataError as error:
            yield Problem(f"derived.{quoted_key(name)}", error.message, error.hint)


def _time(stream: "Stream") -> Iterator[Problem]:
    time = stream.time
    if time.sequence is not None:
        if (time.column, time.start, time.step, time.format) != (None, None, None, None):
            yield Problem("time", "Expected either `sequence` or an event time, not both")
        return
    if (time.start is None) != (time.step is None):
        yield Problem("time", "Expected `start` and `step` together")
    if time.start is None and time.column is None:
        yield Problem("time", "Expected `column`, or `start` and `step`, or `sequence`")
    if time.step is not None and time.step.us is None:
        yield Problem("time.step", "Expected a duration")


def _windows(stream: "Stream") -> Iterator[Problem]:
    windows = stream.windows
    if windows.records is not None and windows.span is not None:
        yield Problem("windows", "Expected `records` or `span`, not both")
    if windows.span is not None and not stream.has_time:
        reason = "Expected `records` instead, because the stream has no event time"
        yield Problem("windows.span", reason, "for event time, set [time] column")
    elif windows.span is not None and windows.span.us is None:
        reason = f'Expected a duration such as "1h", got {toml(windows.span)}'
        yield Problem("windows.span", reason)
    by_row = windows.records is not None
    unit = "a number of records" if by_row else "a duration"
    if windows.lateness is not None and (windows.lateness.records is None) == by_row:
        yield Problem("windows.lateness", f"Expected {unit}")
    if windows.max_ahead is not None and (windows.max_ahead.records is None) == by_row:
        yield Problem("windows.max_ahead", f"Expected {unit} above 0")
    if windows.slide is not None:
        size, slide = stream.window_size, _amount(windows.slide)
        if (windows.slide.records is None) == by_row or size not in (n * slide for n in _OVERLAPS):
            yield Problem(
                "windows.slide",
                f"Expected the window of {windows.span or f'{size} records'}, or half, a quarter, "
                f"fifth, tenth or twentieth of it, got {windows.slide}",
            )


def _axes(stream: "Stream") -> Iterator[Problem]:
    """Yield a problem for each span whose unit does not fit the stream or its windows."""
    labels, block, retrain = stream.labels, stream.drift.block, stream.retrain
    if not stream.has_time:
        for key, span in (
            ("labels.horizon", labels.horizon),
            ("retrain.cooldown", retrain.cooldown),
            ("retrain.train_on", retrain.train_on),
            ("drift.block", block),
            ("retrain.every", retrain.every),
            ("retrain.budget.per", _budget(stream)),
        ):
            if span is not None and span.us is not None:
                yield Problem(key, "Expected a number of records: the stream has no event time")
    by_row = stream.axis == "row"
    numbered = by_row and not (stream.time.step is not None and stream.time.column is None)
    for key, span in (("labels.horizon", labels.horizon), ("drift.block", block)):
        if span is not None and span.us is not None and numbered:
            yield Problem(key, "Expected a number of records (a duration needs windows.span)")
        if span is not None and span.records is not None and not by_row:
            yield Problem(key, "Expected a duration, like windows.span")


def _topics(stream: "Stream") -> Iterator[Problem]:
    prefix = stream.kafka.topic_prefix
    if (length := len(f"{prefix}{stream.name}.deadletters")) > _LONGEST_TOPIC:
        yield Problem(
            "kafka.topic_prefix",
            f"Expected topic names of up to {_LONGEST_TOPIC} characters, got {length} with "
            f"{quoted(prefix[:20])}… and the name {quoted(stream.name)}",
        )
    if stream.kafka.retention is not None and stream.kafka.retention.us is None:
        yield Problem("kafka.retention", "Expected a duration")


def _budget(stream: "Stream") -> "Span | None":
    return stream.retrain.budget.per if stream.retrain.budget else None


def _amount(span: "Span") -> int:
    return span.us or span.records or 0


def _numbers(value: Any, key: str) -> Iterator[tuple[str, int | float]]:
    """Yield each number in the parsed TOML with its key."""
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
